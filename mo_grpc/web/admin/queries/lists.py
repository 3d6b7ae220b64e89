"""Lists of a table, page by page: each page costs the same, however deep, and none counts the whole table."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import text

from mo_grpc.db.engine import Database

PAGE = 50
EXPORTED_AT_ONCE = 2000
COUNTED = 1000
"""Rows that match filters are counted up to here; for a whole table, the planner's estimate is shown."""

Rows = Sequence[Mapping[str, Any]]


class Listing(NamedTuple):
    """A table as it is listed. Every order and every filter has an index that serves it."""

    table: str
    columns: str
    """What is selected; `id` and, where the list can be searched, `external_id` are among it."""
    source: str
    key: str
    """By which it is ordered: a unique number that grows."""
    text_key: str = ""
    """By which it can be searched, and ordered instead."""
    filters: Mapping[str, str] = {}
    """From a filter's name to its condition."""


CUSTOMERS = Listing(
    "customers",
    "id, external_id, status, score, preapproved_at, created_at, updated_at",
    "customers",
    "customers.id",
    "customers.external_id",
    {"status": "customers.status = :status"},
)
_OF_CUSTOMER = "customer_id = (SELECT id FROM customers WHERE external_id = :customer)"
LOANS = Listing(
    "loans",
    """loans.id, loans.external_id, customers.external_id AS customer, amount, outstanding, loans.status, taken_at,
    maximum_payment_date, loans.created_at""",
    "loans JOIN customers ON customers.id = customer_id",
    "loans.id",
    "loans.external_id",
    {"status": "loans.status = :status", "customer": f"loans.{_OF_CUSTOMER}"},
)
PAYMENTS = Listing(
    "payments",
    """payments.id, payments.external_id, customers.external_id AS customer, total_amount, payments.status, paid_at,
    rejection_kind, rejection_reason, payments.created_at""",
    "payments JOIN customers ON customers.id = customer_id",
    "payments.id",
    "payments.external_id",
    {"status": "payments.status = :status", "customer": f"payments.{_OF_CUSTOMER}"},
)
IMPORTS = Listing(
    "imports",
    """id, file_name, source, state, lines_count, created_count, failed_count, bytes_done, bytes_total, created_by, created_at,
    started_at, finished_at""",
    "imports",
    "imports.id",
)
KEYS = Listing(
    "api_keys",
    "number AS id, api_keys.id AS key_id, name, scopes, created_at, created_by, expires_at, revoked_at, last_used_at",
    "api_keys",
    "api_keys.number",
)
USERS = Listing(
    "users",
    """id, email AS external_id, first_name, last_name, role, staff, must_change_password, locked_at, otp_enabled_at,
    last_login_at, created_at""",
    "users",
    "users.id",
    "users.email",
)
EVENTS = Listing(
    "events",
    "number AS id, at, kind, actor, subject, address, data",
    "events",
    "events.number",
    filters={"stream": "events.stream = :stream"},
)
HONEYPOT = Listing(
    "honeypot_attempts", "id, at, address, user_agent, path, username", "honeypot_attempts", "honeypot_attempts.id"
)


class ListQuery(NamedTuple):
    """Which rows, and in which order."""

    listing: Listing
    filters: Mapping[str, Any]
    search: str = ""
    """What the searched column begins with."""
    sort: str = "-id"
    """`-id`, `id`, `external_id` or `-external_id`."""

    @property
    def by_text(self) -> bool:
        """Whether the order is that of the searched column."""
        return bool(self.listing.text_key) and (bool(self.search) or self.sort.endswith("external_id"))

    @property
    def descending(self) -> bool:
        """Whether the order is from the greatest down."""
        return self.sort.startswith("-") and not (self.search and self.sort == "-id")


class Page(NamedTuple):
    """A page, and the cursors of its neighbours; empty where there is none."""

    rows: Rows
    before: str
    after: str


async def read_page(database: Database, query: ListQuery, before: str = "", after: str = "", limit: int = PAGE) -> Page:
    """The page after a cursor, or before one, or the first."""
    backwards = bool(before)
    rows = await _read(database, query, before or after, limit + 1, backwards=backwards)
    more = len(rows) > limit
    rows = rows[:limit]
    if backwards:
        rows = rows[::-1]
    earlier, later = (more, True) if backwards else (bool(after), more)
    name = "external_id" if query.by_text else "id"
    ends = (str(rows[0][name]), str(rows[-1][name])) if rows else ("", "")
    return Page(rows, ends[0] if earlier else "", ends[1] if later else "")


async def export(database: Database, query: ListQuery) -> AsyncIterator[Rows]:
    """All rows, in batches; no transaction stays open during a slow download."""
    after = ""
    while True:
        page = await read_page(database, query, after=after, limit=EXPORTED_AT_ONCE)
        yield page.rows
        after = page.after
        if not after:
            return


async def count(database: Database, query: ListQuery) -> str:
    """How many rows there are, as far as this can be found quickly."""
    conditions, values = _conditions(query)
    if not conditions:
        statement = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass(:table)"
        estimate = await _scalar(database, statement, {"table": query.listing.table})
        if estimate > COUNTED:
            return f"about {float(f'{estimate:.2g}'):,.0f}"
    found = f"SELECT 1 FROM {query.listing.source}{_where(conditions)} LIMIT {COUNTED + 1}"  # noqa: S608 - constants
    number = await _scalar(database, f"SELECT count(*) FROM ({found}) AS found", values)  # noqa: S608 - constants
    return f"more than {COUNTED:,}" if number > COUNTED else f"{number:,}"


async def _read(database: Database, query: ListQuery, cursor: str, limit: int, *, backwards: bool) -> Rows:
    conditions, values = _conditions(query)
    key = query.listing.text_key if query.by_text else query.listing.key
    down = query.descending != backwards
    if cursor:
        conditions.append(f"{key} {'<' if down else '>'} :cursor")
        values["cursor"] = cursor if query.by_text else int(cursor)
    statement = text(
        f"SELECT {query.listing.columns} FROM {query.listing.source}{_where(conditions)} "  # noqa: S608 - constants
        f"ORDER BY {key} {'DESC' if down else 'ASC'} LIMIT :limit"
    )
    rows = await database.read(lambda c: c.execute(statement, values | {"limit": limit}))
    return [dict(row) for row in rows.mappings()]


def _conditions(query: ListQuery) -> tuple[list[str], dict[str, Any]]:
    # Numbers stand in the statement itself: they are few, and only so an index of one of them alone can serve it.
    numbers = {name: str(value) for name, value in query.filters.items() if isinstance(value, int)}
    values = {name: value for name, value in query.filters.items() if name not in numbers}
    conditions = [query.listing.filters[name].replace(f":{name}", numbers.get(name, f":{name}")) for name in query.filters]
    if query.search:
        # A range, which the index serves however the statement is planned. The ids are ASCII and compare by bytes.
        key = query.listing.text_key
        conditions.append(f"{key} >= :search AND {key} < :search_end")
        values |= {"search": query.search, "search_end": f"{query.search}\x7f"}
    return conditions, values


def _where(conditions: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


async def _scalar(database: Database, statement: str, values: Mapping[str, Any]) -> int:
    found: int | None = await database.read(lambda c: c.scalar(text(statement), values))
    return found or 0
