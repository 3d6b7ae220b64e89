"""Reads the events that have a position, in the order of the positions."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple, Self

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.journal.rules import Kind
from mo_grpc.rpc.binding import BoundCustomers

MAX_LOANS: Final = 20_000
"""How many loans the events of a page are about at most, so that it fits the 4 MiB that a gRPC client accepts; one event may
be about 10,000."""


NEAR: Final = 10_000
"""How many positions are looked at, one by one, before events of a span of time are looked for among all."""


class StoredEvent(NamedTuple):
    """An event with its position. The lists have an item for each loan that it is about, in the same order."""

    position: int
    customer_external_id: str
    number: int
    kind: int
    recorded_at: datetime
    actor: str
    request_id: str
    backfilled: bool
    payment_external_id: str | None
    amount: Decimal | None
    loan_external_ids: Sequence[str]
    loan_statuses_before: Sequence[int]
    loan_statuses_after: Sequence[int]
    outstandings_before: Sequence[Decimal]
    outstandings_after: Sequence[Decimal]
    score_before: Decimal | None
    score_after: Decimal
    debt_before: Decimal | None
    debt_after: Decimal
    status_before: int | None
    status_after: int | None
    preapproved_at: datetime | None
    hash: bytes


class EventFilter(NamedTuple):
    """What an event must be; what is empty does not filter. `customers` are those of the caller's bound key."""

    customer_external_id: str = ""
    loan_external_id: str = ""
    payment_external_id: str = ""
    kinds: Collection[int] = ()
    start: datetime | None = None
    end: datetime | None = None
    customers: BoundCustomers | None = None

    @property
    def by_time_alone(self) -> bool:
        """Whether a span of time is all that an index can find them by, or all but their kinds and a bound key's customers."""
        narrower = self.customer_external_id or self.loan_external_id or self.payment_external_id
        return bool((self.start or self.end) and not narrower)

    def passes(self, event: StoredEvent) -> bool:
        """Whether an event passes, for filters without a payment or times."""
        return (
            (not self.customer_external_id or event.customer_external_id == self.customer_external_id)
            and (not self.loan_external_id or self.loan_external_id in event.loan_external_ids)
            and (not self.kinds or event.kind in self.kinds)
            and (self.customers is None or self.customers.allows(event.customer_external_id))
        )


class Window(NamedTuple):
    """The positions to read: those behind `after` and, if it is not None, those before `before`, up to `limit` of them."""

    after: int
    limit: int
    before: int | None = None
    newest_first: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether it begins at a position."""
        return self.before is not None if self.newest_first else self.after > 0

    def near(self) -> Self:
        """The part of a window that goes on, next to where it begins."""
        if self.newest_first:
            return self._replace(after=max(self.after, (self.before or 0) - NEAR - 1))
        end = self.after + NEAR + 1
        return self._replace(before=end if self.before is None else min(self.before, end))


class Found(NamedTuple):
    """Events in the order that was asked for, and whether there are more of them behind the last one."""

    events: Sequence[StoredEvent]
    more: bool


_LAST = text("SELECT position FROM journal_head")

_EVENTS = """
    WITH page AS MATERIALIZED ({page}), found AS (
        SELECT page.position, event.*, count(*) OVER () AS events,
            sum(cardinality(event.loan_ids)) OVER (ORDER BY page.position {order}) AS loans
        FROM page JOIN journal_events AS event USING (customer_id, number)
    )
    SELECT events, found.position, customers.external_id, number, kind, recorded_at, actor, request_id, backfilled,
        (SELECT external_id FROM payments WHERE id = payment_id), amount,
        ARRAY(
            SELECT external_id FROM unnest(loan_ids) WITH ORDINALITY AS loan (id, place) JOIN loans USING (id) ORDER BY place
        ),
        loan_statuses_before, loan_statuses_after, outstandings_before, outstandings_after,
        score_before, score_after, debt_before, debt_after, status_before, status_after, found.preapproved_at, hash
    FROM found JOIN customers ON customers.id = customer_id
    WHERE loans <= :max_loans ORDER BY found.position {order}
"""
"""The events of a page, as long as their loans are not too many: the first one's never are."""

_CUSTOMER = "(SELECT id FROM customers WHERE external_id = :customer)"
_LOAN_CUSTOMER = "(SELECT customer_id FROM loans WHERE external_id = :loan)"
_POSITIONS = "SELECT position, customer_id, number FROM journal_positions AS place"
_WITH_EVENTS = f"{_POSITIONS} JOIN journal_events AS event USING (customer_id, number)"

_AT = text(_EVENTS.format(page=f"{_POSITIONS} WHERE position = ANY(:positions)", order="ASC"))


async def last_position(connection: AsyncConnection) -> int:
    """The position of the last event that has one; 0 if none has."""
    return int((await connection.execute(_LAST)).scalar_one())


async def find_events(connection: AsyncConnection, filters: EventFilter, window: Window) -> Found:
    """Read the events that pass the filters, in the order of positions or the reverse; fewer if they are about many loans."""
    if filters.by_time_alone and window.goes_on:
        # Behind the last page, there are mostly more events of the span.
        found = await _find(connection, filters, window.near(), by_time=False)
        if found.more:
            return found
    return await _find(connection, filters, window, by_time=filters.by_time_alone)


async def _find(connection: AsyncConnection, filters: EventFilter, window: Window, *, by_time: bool) -> Found:
    order = "DESC" if window.newest_first else "ASC"
    parameters: dict[str, Any] = {"after": window.after, "before": window.before, "limit": window.limit + 1}
    page = _page(filters, window, order, parameters, by_time=by_time)
    statement = text(_EVENTS.format(page=page, order=order))
    rows = (await connection.execute(statement, parameters | {"max_loans": MAX_LOANS})).all()
    events = [StoredEvent(*row[1:]) for row in rows[: window.limit]]
    return Found(events, bool(rows) and len(events) < rows[0][0])


async def events_at(connection: AsyncConnection, positions: Collection[int]) -> dict[int, StoredEvent]:
    """Read the events that have these positions, by position."""
    rows = (await connection.execute(_AT, {"positions": sorted(set(positions)), "max_loans": 2**62})).all()
    return {row[1]: StoredEvent(*row[1:]) for row in rows}


def _page(filters: EventFilter, window: Window, order: str, parameters: dict[str, Any], *, by_time: bool) -> str:
    """The SQL that finds the positions of a page by the index that serves it best."""
    conditions = list(_conditions(filters, window, parameters))
    if by_time:
        span = " AND ".join(condition for condition in conditions if condition.startswith("recorded_at"))
        return f"""
            WITH event AS MATERIALIZED (SELECT customer_id, number, recorded_at FROM journal_events WHERE {span})
            SELECT position, customer_id, number FROM event JOIN journal_positions AS place USING (customer_id, number)
            WHERE {" AND ".join(conditions)} ORDER BY position {order} LIMIT :limit
        """  # noqa: S608 - constants
    with_events = bool(filters.loan_external_id or filters.payment_external_id or filters.start or filters.end)
    source = _WITH_EVENTS if with_events else _POSITIONS
    owner = _CUSTOMER if filters.customer_external_id else _LOAN_CUSTOMER if filters.loan_external_id else ""
    if filters.payment_external_id:
        # A few events, whose order is made afterwards.
        return f"""
            SELECT * FROM ({source} WHERE {" AND ".join(conditions)} OFFSET 0) AS found
            ORDER BY position {order} LIMIT :limit
        """  # noqa: S608 - constants
    if owner:
        return f"{source} WHERE {' AND '.join([*conditions, *_numbers(owner, window)])} ORDER BY number {order} LIMIT :limit"
    rare = sorted(filters.kinds)
    if rare and Kind.PAYMENT_COMPLETED not in rare:
        # For each kind, what its index has in order.
        indexed = f"place.kind <> {Kind.PAYMENT_COMPLETED:d}"
        branches = (
            f"({source} WHERE {' AND '.join([f'place.kind = {kind:d}', indexed, *conditions])}"
            f" ORDER BY position {order} LIMIT :limit)"
            for kind in rare
        )
        return f"SELECT * FROM ({' UNION ALL '.join(branches)}) AS found ORDER BY position {order} LIMIT :limit"  # noqa: S608
    return f"{source} WHERE {' AND '.join(conditions)} ORDER BY position {order} LIMIT :limit"


def _conditions(filters: EventFilter, window: Window, parameters: dict[str, Any]) -> Iterator[str]:
    yield "position > :after"
    if window.before is not None:
        yield "position < :before"
    if filters.customer_external_id:
        parameters["customer"] = filters.customer_external_id
        yield f"place.customer_id = {_CUSTOMER}"
    if filters.loan_external_id:
        parameters["loan"] = filters.loan_external_id
        yield f"place.customer_id = {_LOAN_CUSTOMER}"
        yield "(SELECT id FROM loans WHERE external_id = :loan) = ANY(loan_ids)"
    if filters.payment_external_id:
        parameters["payment"] = filters.payment_external_id
        yield "payment_id = (SELECT id FROM payments WHERE external_id = :payment)"
    if filters.kinds:
        parameters["kinds"] = sorted(filters.kinds)
        yield "place.kind = ANY(:kinds)"
    if filters.start:
        parameters["start"] = filters.start
        yield "recorded_at >= :start"
    if filters.end:
        parameters["end"] = filters.end
        yield "recorded_at < :end"
    if filters.customers:
        parameters["named"] = sorted(filters.customers.external_ids)
        named = "external_id = ANY(:named)"
        if filters.customers.prefix:
            parameters |= {"prefix": filters.customers.prefix, "prefix_end": filters.customers.prefix_end}
            named = f"({named} OR external_id >= :prefix AND external_id < :prefix_end)"
        yield f"place.customer_id IN (SELECT id FROM customers WHERE {named})"  # noqa: S608 - constants


def _numbers(owner: str, window: Window) -> Iterator[str]:
    """Conditions by which a page of a customer's events begins at the event that the one before ended with."""
    number = f"(SELECT number FROM journal_positions WHERE position = :{{}} AND customer_id = {owner})"  # noqa: S608
    if window.after:
        yield f"place.number > coalesce({number.format('after')}, 0)"
    if window.before is not None:
        yield f"place.number < coalesce({number.format('before')}, {2**63 - 1})"
