"""LoanService over the store of loans."""

from operator import attrgetter

from mo.loans.v1 import loans_pb2, loans_pb2_grpc

from mo_grpc.customers.messages import balance_after
from mo_grpc.customers.rules import RESOURCE as CUSTOMER
from mo_grpc.db.engine import Database
from mo_grpc.idempotency.writer import request_key
from mo_grpc.journal.origin import origin
from mo_grpc.journal.past import Instant
from mo_grpc.journal.previews import PreviewedWriter
from mo_grpc.loans import store
from mo_grpc.loans.rules import RESOURCE, Loan, LoanTransition, NewLoan
from mo_grpc.rpc.caller import caller, require_customer
from mo_grpc.rpc.context import Context
from mo_grpc.rpc.conversions import moment, money, parse_money, timestamp
from mo_grpc.rpc.pages import PageRequest


class LoanServicer(loans_pb2_grpc.LoanServiceServicer):
    """See `mo/loans/v1/loans.proto`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._get = database.reader(store.get_loans)
        self._create = PreviewedWriter(
            database, store.create_loans, attrgetter("customer_external_id"), to_message, loans_pb2.Loan
        )
        by_id = attrgetter("external_id")
        self._activate = PreviewedWriter(database, store.activate_loans, by_id, to_message, loans_pb2.Loan)
        self._reject = PreviewedWriter(database, store.reject_loans, by_id, to_message, loans_pb2.Loan)

    async def CreateLoan(self, request: loans_pb2.CreateLoanRequest, context: Context) -> loans_pb2.Loan:
        loan = request.loan
        command = NewLoan(
            external_id=loan.external_id,
            customer_external_id=loan.customer_external_id,
            amount=parse_money(loan.amount),
            contract_version=loan.contract_version if loan.HasField("contract_version") else None,
            maximum_payment_date=moment(loan.maximum_payment_date, "maximum_payment_date"),
            origin=origin(request),
        )
        require_customer(command.customer_external_id, CUSTOMER, command.customer_external_id)
        return await self._create(command, request, request_key(request, context), context)

    async def GetLoan(self, request: loans_pb2.GetLoanRequest, context: Context) -> loans_pb2.Loan:
        loan = await self._find(request.external_id)
        if request.HasField("as_of"):
            instant = Instant.of(request.as_of)
            loan = await self._database.read(lambda c: store.loan_as_of(c, loan, instant))
        return to_message(loan)

    async def ListLoans(self, request: loans_pb2.ListLoansRequest, context: Context) -> loans_pb2.ListLoansResponse:
        page, bound = PageRequest(request), caller().customers
        asked = (request.customer_external_id, int(request.status), page.after, page.size + 1, bound)
        if request.HasField("as_of"):
            instant = Instant.of(request.as_of)
            found = await self._database.read(lambda c: store.list_loans_as_of(c, *asked, instant))
        else:
            found = await self._database.read(lambda c: store.list_loans(c, *asked))
        rows, token = page.cut(found, attrgetter("id"))
        return loans_pb2.ListLoansResponse(loans=map(to_message, rows), next_page_token=token)

    async def ActivateLoan(self, request: loans_pb2.ActivateLoanRequest, context: Context) -> loans_pb2.Loan:
        await self._require(request.external_id)
        command = LoanTransition(request.external_id, origin(request))
        return await self._activate(command, request, request_key(request, context), context)

    async def RejectLoan(self, request: loans_pb2.RejectLoanRequest, context: Context) -> loans_pb2.Loan:
        await self._require(request.external_id)
        command = LoanTransition(request.external_id, origin(request))
        return await self._reject(command, request, request_key(request, context), context)

    async def _find(self, external_id: str) -> Loan:
        loan = await self._get(external_id)
        require_customer(loan.customer_external_id, RESOURCE, external_id)
        return loan

    async def _require(self, external_id: str) -> None:
        """Refuse to change a loan that is hidden from a bound key, before it is locked; its customer never changes."""
        if caller().customers is not None:
            await self._find(external_id)


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
        balance_after=balance_after(loan.customer_external_id, loan.recorded),
    )
