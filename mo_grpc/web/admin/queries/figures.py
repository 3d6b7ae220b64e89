"""The figures of the dashboard. They read whole tables, so they are cached and shared by all users."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.customers.debt import debt_of, debts
from mo_grpc.db.engine import Database
from mo_grpc.journal.rules import Kind
from mo_grpc.loans.rules import Status as LoanStatus
from mo_grpc.payments.rules import Status as PaymentStatus

DAYS = 60
SAMPLED = 20_000
"""Customers whose utilisation is looked at; with more than that, a sample of so many stands for all."""
FRESH = 60.0
"""Seconds for which figures are fresh; older ones are shown once more while new ones are computed."""

_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

# These statements scan whole tables, which other statements of the service must never do.
_WHOLE_TABLES = text("SELECT set_config('enable_seqscan', 'on', true), set_config('jit', 'off', true)")

_OVERDUE = f"status = {LoanStatus.ACTIVE} AND maximum_payment_date < now()"
_LOANS = text(f"""
    SELECT status, count(*), sum(amount), sum(outstanding),
        count(*) FILTER (WHERE {_OVERDUE}), sum(outstanding) FILTER (WHERE {_OVERDUE})
    FROM loans GROUP BY status
""")  # noqa: S608 - constants
_PAYMENTS = text(f"""
    SELECT CAST(created_at AS date), count(*) FILTER (WHERE status = {PaymentStatus.COMPLETED}),
        count(*) FILTER (WHERE status = {PaymentStatus.REJECTED}),
        coalesce(sum(total_amount) FILTER (WHERE status = {PaymentStatus.COMPLETED}), 0)
    FROM payments WHERE created_at >= :since GROUP BY 1
""")  # noqa: S608 - constants
# What was lent, less what was repaid; a bounce takes back what its payment had repaid.
_OUTSTANDING = text(f"""
    SELECT CAST(recorded_at AS date), sum(CASE kind WHEN {Kind.PAYMENT_COMPLETED} THEN -amount ELSE amount END)
    FROM journal_events
    WHERE recorded_at >= :since AND kind IN ({Kind.LOAN_ACTIVATED}, {Kind.PAYMENT_COMPLETED}, {Kind.PAYMENT_BOUNCED})
    GROUP BY 1
""")  # noqa: S608 - constants
_TOP = text(f"""
    SELECT external_id, status, score, debt FROM ({debts()} ORDER BY debt DESC LIMIT 10) AS top
    JOIN customers ON customers.id = customer_id ORDER BY debt DESC, external_id
""")  # noqa: S608 - constants
_NOW_AND_ESTIMATE = text("SELECT now(), greatest(reltuples, 0) FROM pg_class WHERE oid = 'customers'::regclass")
# Ten bars of a tenth each, and one for customers above their line; -1 is for those without a line.
_UTILISATION = f"""
    SELECT CASE WHEN debt > score THEN 10 WHEN score = 0 THEN -1 ELSE least(9, floor(debt / score * 10)) END AS bar, count(*)
    FROM (SELECT score, {debt_of("customers.id")} AS debt FROM customers {{sample}}) AS used GROUP BY 1
"""  # noqa: S608 - constants
_WHOLE = text(_UTILISATION.format(sample=""))
_SAMPLE = text(_UTILISATION.format(sample="TABLESAMPLE SYSTEM (:percent)"))
_IMPORTS = text("""
    SELECT id, file_name, source, state, lines_count, created_count, failed_count, bytes_done, bytes_total, created_at
    FROM imports ORDER BY id DESC LIMIT 5
""")
_HEALTH = text("""
    SELECT current_setting('server_version') AS version, pg_database_size(current_database()) AS bytes,
        (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections,
        current_setting('max_connections')::int AS max_connections, pg_postmaster_start_time() AS started_at,
        (SELECT version_num FROM alembic_version) AS migration
""")


class LoanFigures(NamedTuple):
    """The loans of a status."""

    status: int
    number: int
    amount: Decimal
    outstanding: Decimal
    overdue: int
    overdue_outstanding: Decimal | None


class DayFigures(NamedTuple):
    """What was owed at the end of a day, and the payments of that day."""

    day: date
    outstanding: Decimal
    completed: int
    rejected: int
    repaid: Decimal


class Figures(NamedTuple):
    """All of them, as of a moment."""

    at: datetime
    loans: Sequence[LoanFigures]
    days: Sequence[DayFigures]
    utilisation: Mapping[int, int]
    """Customers by tenths of their line; 10 is above it."""
    sampled: int
    """How many customers a sample had; 0 if all were looked at."""
    top: Sequence[Mapping[str, Any]]
    customers: int

    def of(self, status: int) -> LoanFigures:
        """The loans of a status, if any."""
        found = [each for each in self.loans if each.status == status]
        return found[0] if found else LoanFigures(status, 0, Decimal(0), Decimal(0), 0, Decimal(0))


async def read_figures(database: Database) -> Figures:
    """Read them all, from one snapshot of their tables."""
    return await database.write(_read)


async def _read(connection: AsyncConnection) -> Figures:
    async def rows(statement: Any, parameters: Mapping[str, Any] | None = None) -> Sequence[Any]:
        return (await connection.execute(statement, parameters)).all()

    await connection.execute(_SNAPSHOT)
    await connection.execute(_WHOLE_TABLES)
    [(now, estimate)] = await rows(_NOW_AND_ESTIMATE)
    first = now.date() - timedelta(days=DAYS - 1)
    since = {"since": datetime(first.year, first.month, first.day, tzinfo=UTC)}
    sampled = estimate > 2 * SAMPLED
    loans = [LoanFigures(*row) for row in await rows(_LOANS)]
    payments = {row[0]: row[1:] for row in await rows(_PAYMENTS, since)}
    changes = {row[0]: row[1] for row in await rows(_OUTSTANDING, since)}
    bars = await rows(_SAMPLE, {"percent": 100 * SAMPLED / estimate}) if sampled else await rows(_WHOLE)
    top = [dict(row._mapping) for row in await rows(_TOP)]
    looked_at = sum(number for _, number in bars)
    factor = estimate / looked_at if sampled and looked_at else 1
    utilisation = {int(bar): round(number * factor) for bar, number in bars}
    outstanding = sum((each.outstanding for each in loans if each.status == LoanStatus.ACTIVE), Decimal(0))
    days = _days(now.date(), outstanding, changes, payments)
    return Figures(now, loans, days, utilisation, looked_at if sampled else 0, top, sum(utilisation.values()))


def _days(
    today: date,
    outstanding: Decimal,
    changes: Mapping[date, Decimal],
    payments: Mapping[date, Sequence[Any]],
) -> list[DayFigures]:
    """Go back from what is outstanding now, day by day, by what the journal says changed it."""
    days = []
    for back in range(DAYS):
        day = today - timedelta(days=back)
        completed, rejected, amount = payments.get(day, (0, 0, Decimal(0)))
        days.append(DayFigures(day, outstanding, completed, rejected, amount))
        outstanding -= changes.get(day, Decimal(0))
    return days[::-1]


async def latest_imports(connection: AsyncConnection) -> Sequence[Mapping[str, Any]]:
    """The newest imports."""
    return [dict(row) for row in (await connection.execute(_IMPORTS)).mappings()]


async def health(connection: AsyncConnection) -> Mapping[str, Any]:
    """How the database is."""
    return dict((await connection.execute(_HEALTH)).mappings().one())


class CachedFigures:
    """Caches figures. Old ones are still returned at once, while new ones are computed for the next request."""

    def __init__(self, make: Callable[[], Awaitable[Figures]], fresh: float = FRESH) -> None:
        self._make = make
        self._fresh = fresh
        self._made_at = 0.0
        self._kept: Figures | None = None
        self._task: asyncio.Future[Figures] | None = None

    async def get(self) -> Figures:
        """The figures; only the very first request waits for them.

        Raises:
            ServiceError: they could not be computed, and there are none from before.
        """
        old = time.monotonic() - self._made_at > self._fresh
        if old and (self._task is None or self._task.done()):
            self._task = asyncio.ensure_future(self._renew())
        if self._kept is not None:
            return self._kept
        assert self._task is not None  # noqa: S101 - nothing was kept, so it was old
        return await asyncio.shield(self._task)

    async def _renew(self) -> Figures:
        self._kept = await self._make()
        self._made_at = time.monotonic()
        return self._kept
