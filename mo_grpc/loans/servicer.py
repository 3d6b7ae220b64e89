"""LoanService over the store of loans."""

from mo.loans.v1 import loans_pb2, loans_pb2_grpc

from mo_grpc.db.engine import Database
from mo_grpc.loans import store
from mo_grpc.loans.rules import Loan, NewLoan
from mo_grpc.wire import moment, money, page_size, page_token, parse_money, parse_page_token, timestamp


class LoanServicer(loans_pb2_grpc.LoanServiceServicer):
    """See `mo/loans/v1/loans.proto`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def CreateLoan(self, request: loans_pb2.CreateLoanRequest, context: object) -> loans_pb2.Loan:
        loan = request.loan
        command = NewLoan(
            external_id=loan.external_id,
            customer_external_id=loan.customer_external_id,
            amount=parse_money(loan.amount),
            contract_version=loan.contract_version if loan.HasField("contract_version") else None,
            maximum_payment_date=moment(loan.maximum_payment_date, "maximum_payment_date"),
        )
        return to_message(await self._database.write_one(store.create_loans, command))

    async def GetLoan(self, request: loans_pb2.GetLoanRequest, context: object) -> loans_pb2.Loan:
        return to_message(await self._database.read_one(store.get_loans, request.external_id))

    async def ListLoans(self, request: loans_pb2.ListLoansRequest, context: object) -> loans_pb2.ListLoansResponse:
        limit = page_size(request.page_size)
        filters = (request.customer_external_id, int(request.status))
        before = parse_page_token(request.page_token, filters)
        found = await self._database.read(lambda c: store.list_loans(c, *filters, before, limit + 1))
        page = found[:limit]
        return loans_pb2.ListLoansResponse(
            loans=map(to_message, page),
            next_page_token=page_token(page[-1].id, filters) if len(found) > limit else "",
        )

    async def ActivateLoan(self, request: loans_pb2.ActivateLoanRequest, context: object) -> loans_pb2.Loan:
        return to_message(await self._database.write_one(store.activate_loans, request.external_id))

    async def RejectLoan(self, request: loans_pb2.RejectLoanRequest, context: object) -> loans_pb2.Loan:
        return to_message(await self._database.write_one(store.reject_loans, request.external_id))


def to_message(loan: Loan) -> loans_pb2.Loan:
    """A stored loan, as the wire has it."""
    return loans_pb2.Loan(
        external_id=loan.external_id,
        customer_external_id=loan.customer_external_id,
        amount=money(loan.amount),
        outstanding=money(loan.outstanding),
        status=loans_pb2.Loan.Status.ValueType(loan.status),
        contract_version=loan.contract_version,
        taken_at=timestamp(loan.taken_at),
        maximum_payment_date=timestamp(loan.maximum_payment_date),
        created_at=timestamp(loan.created_at),
        updated_at=timestamp(loan.updated_at),
    )
