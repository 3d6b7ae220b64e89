"""LoanService over the store of loans."""

from operator import attrgetter

from mo.loans.v1 import loans_pb2, loans_pb2_grpc

from mo_grpc.db.engine import Database
from mo_grpc.idempotency.writer import Writer, request_key
from mo_grpc.loans import store
from mo_grpc.loans.rules import Loan, NewLoan
from mo_grpc.rpc.context import Context
from mo_grpc.rpc.conversions import moment, money, parse_money, timestamp
from mo_grpc.rpc.pages import PageRequest


class LoanServicer(loans_pb2_grpc.LoanServiceServicer):
    """See `mo/loans/v1/loans.proto`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._get = database.reader(store.get_loans)
        self._create = Writer(database, store.create_loans, attrgetter("customer_external_id"), to_message, loans_pb2.Loan)
        self._activate = Writer(database, store.activate_loans, str, to_message, loans_pb2.Loan)
        self._reject = Writer(database, store.reject_loans, str, to_message, loans_pb2.Loan)

    async def CreateLoan(self, request: loans_pb2.CreateLoanRequest, context: Context) -> loans_pb2.Loan:
        loan = request.loan
        command = NewLoan(
            external_id=loan.external_id,
            customer_external_id=loan.customer_external_id,
            amount=parse_money(loan.amount),
            contract_version=loan.contract_version if loan.HasField("contract_version") else None,
            maximum_payment_date=moment(loan.maximum_payment_date, "maximum_payment_date"),
        )
        return await self._create(command, request_key(request, context), context)

    async def GetLoan(self, request: loans_pb2.GetLoanRequest, context: Context) -> loans_pb2.Loan:
        return to_message(await self._get(request.external_id))

    async def ListLoans(self, request: loans_pb2.ListLoansRequest, context: Context) -> loans_pb2.ListLoansResponse:
        page = PageRequest(request)
        filters = (request.customer_external_id, int(request.status))
        found = await self._database.read(lambda c: store.list_loans(c, *filters, page.after, page.size + 1))
        rows, token = page.cut(found, attrgetter("id"))
        return loans_pb2.ListLoansResponse(loans=map(to_message, rows), next_page_token=token)

    async def ActivateLoan(self, request: loans_pb2.ActivateLoanRequest, context: Context) -> loans_pb2.Loan:
        return await self._activate(request.external_id, request_key(request, context), context)

    async def RejectLoan(self, request: loans_pb2.RejectLoanRequest, context: Context) -> loans_pb2.Loan:
        return await self._reject(request.external_id, request_key(request, context), context)


def to_message(loan: Loan) -> loans_pb2.Loan:
    """A stored loan, as a message."""
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
