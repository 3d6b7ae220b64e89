"""StatementService over the journal."""

from decimal import Decimal
from operator import attrgetter

from mo.customers.v1.customers_pb2 import CustomerBalance
from mo.journal.v1.journal_pb2 import Event
from mo.statements.v1 import statements_pb2, statements_pb2_grpc

from mo_grpc.customers import store as customers
from mo_grpc.customers.messages import balance_message
from mo_grpc.customers.rules import RESOURCE, Balance
from mo_grpc.db.engine import Database
from mo_grpc.errors import FieldViolation, InvalidFields
from mo_grpc.journal.periods import Entry, list_entries, sum_up
from mo_grpc.rpc.caller import require_customer
from mo_grpc.rpc.context import Context
from mo_grpc.rpc.conversions import moment, money, timestamp
from mo_grpc.rpc.pages import PageRequest


class StatementServicer(statements_pb2_grpc.StatementServiceServicer):
    """See `mo/statements/v1/statements.proto`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._customer = database.reader(customers.get_customers)

    async def GetStatement(self, request: statements_pb2.GetStatementRequest, context: Context) -> statements_pb2.Statement:
        external_id = request.customer_external_id
        require_customer(external_id, RESOURCE, external_id)
        page = PageRequest(request)
        start = moment(request.start_time, "start_time") if request.HasField("start_time") else None
        end = moment(request.end_time, "end_time") if request.HasField("end_time") else None
        if start and end and end < start:
            raise InvalidFields([FieldViolation("end_time", "must not be before start_time")])
        customer = await self._customer(external_id)
        period = await self._database.read(lambda c: sum_up(c, customer.id, start, end))
        after, last = page.after or period.number_before or 0, period.last_number or 0
        found = await self._database.read(lambda c: list_entries(c, customer.id, after, last, page.size + 1))
        entries, token = page.cut(found, attrgetter("number"))
        return statements_pb2.Statement(
            customer_external_id=external_id,
            start_time=timestamp(start),
            end_time=timestamp(period.end),
            opening_balance=_balance(external_id, period.score_before, period.debt_before),
            closing_balance=_balance(external_id, period.score_after, period.debt_after),
            lent=money(period.lent),
            rejected=money(period.rejected),
            repaid=money(period.repaid),
            bounced=money(period.bounced),
            entries_count=period.events,
            entries=map(to_message, entries),
            next_page_token=token,
        )


def to_message(entry: Entry) -> statements_pb2.StatementEntry:
    """An event of a period, as a message."""
    return statements_pb2.StatementEntry(
        number=entry.number,
        recorded_at=timestamp(entry.recorded_at),
        kind=Event.Kind.ValueType(entry.kind),
        loan_external_id=entry.loan_external_id or "",
        payment_external_id=entry.payment_external_id or "",
        amount="" if entry.amount is None else money(entry.amount),
        debt_change=money(entry.debt_change),
        debt_after=money(entry.debt_after),
    )


def _balance(external_id: str, score: Decimal | None, debt: Decimal | None) -> CustomerBalance | None:
    return None if score is None or debt is None else balance_message(Balance(external_id, score, debt))
