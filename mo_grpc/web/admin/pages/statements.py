"""A customer's statement: a page that prints well, and a file."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, NamedTuple

from starlette.responses import Response, StreamingResponse

from mo_grpc.journal.periods import Entry, Period, list_entries, sum_up
from mo_grpc.journal.rules import Kind
from mo_grpc.spreadsheets import csv_lines
from mo_grpc.web.admin.context import RequestContext
from mo_grpc.web.admin.filters import words
from mo_grpc.web.admin.pages.finding import find_one
from mo_grpc.web.admin.queries import resources
from mo_grpc.web.admin.site import Site

MAX_SHOWN: Final = 500
"""Entries on the page; the file has all."""
_READ_AT_ONCE: Final = 1000
_COLUMNS: Final = ("number", "recorded_at", "what", "loan", "payment", "amount", "debt_change", "debt_after")
_LAST_DAY: Final = date(9999, 12, 30)


class Days(NamedTuple):
    """The days of a statement, both included, in UTC."""

    first: date
    last: date

    @property
    def start(self) -> datetime:
        """When the first day begins."""
        return datetime.combine(self.first, time(), UTC)

    @property
    def end(self) -> datetime:
        """When the last day ends."""
        return datetime.combine(self.last + timedelta(days=1), time(), UTC)


class StatementPages:
    """The statement of a customer, from the first of this month until today if the address does not say otherwise."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._database = site.database

    async def show(self, context: RequestContext) -> Response:
        """The page."""
        customer = await find_one(self._database, context, resources.find_customer, "customer")
        days, fault = _days(context)
        period = await self._database.read(lambda c: sum_up(c, customer["id"], days.start, days.end))
        entries = await self._entries(customer["id"], period, period.number_before or 0, MAX_SHOWN)
        return self._site.render.page(
            context, "statement.html", customer=customer, days=days, fault=fault, period=period, entries=entries, most=MAX_SHOWN
        )

    async def download(self, context: RequestContext) -> Response:
        """All entries as a CSV file, sent while they are read."""
        customer = await find_one(self._database, context, resources.find_customer, "customer")
        days, _ = _days(context)
        name = f"statement-{customer['external_id']}-{days.first}-{days.last}.csv"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(self._lines(customer["id"], days), headers=headers, media_type="text/csv; charset=utf-8")

    async def _lines(self, customer_id: int, days: Days) -> AsyncIterator[str]:
        yield csv_lines([_COLUMNS])
        period = await self._database.read(lambda c: sum_up(c, customer_id, days.start, days.end))
        after = period.number_before or 0
        while entries := await self._entries(customer_id, period, after, _READ_AT_ONCE):
            yield csv_lines(map(_row, entries))
            after = entries[-1].number

    async def _entries(self, customer_id: int, period: Period, after: int, limit: int) -> list[Entry]:
        last = period.last_number or 0
        return await self._database.read(lambda c: list_entries(c, customer_id, after, last, limit))


def _days(context: RequestContext) -> tuple[Days, str]:
    """The days that the address asks for, and what is wrong with them."""
    today = datetime.now(UTC).date()
    usual = Days(today.replace(day=1), today)
    query = context.request.query_params
    try:
        first, last = (date.fromisoformat(query.get(name) or f"{usual[place]}") for place, name in enumerate(("from", "to")))
    except ValueError:
        return usual, "These are no days."
    if last < first or last > _LAST_DAY:
        return usual, "The last day is before the first."
    return Days(first, last), ""


def _row(entry: Entry) -> tuple[object, ...]:
    kind = words(Kind(entry.kind))
    about = (entry.loan_external_id, entry.payment_external_id, entry.amount)
    return (entry.number, entry.recorded_at, kind, *about, entry.debt_change, entry.debt_after)
