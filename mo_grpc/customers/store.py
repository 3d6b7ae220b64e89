"""Every SQL statement about customers. Commands come in batches, and each has a result of its own, in order."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, false, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.customers import models
from mo_grpc.customers.accounts import Accounts, accounts
from mo_grpc.customers.debt import debt_of
from mo_grpc.customers.rules import RESOURCE, Balance, Customer, CustomerChange, NewCustomer, Status, change
from mo_grpc.db.batches import BatchWrite, Decision
from mo_grpc.db.locks import Locked, Locks
from mo_grpc.db.pipeline import Query, Rows, Statement, array, text_array
from mo_grpc.db.rows import NewRows, RowLock, get_by_id
from mo_grpc.errors import AlreadyExists, NotFound, ServiceError
from mo_grpc.journal import past
from mo_grpc.journal.rules import NO_HASH, Kind
from mo_grpc.rpc.binding import BoundCustomers

_TABLE = models.Customer.__table__

_COLUMNS = ", ".join(_TABLE.c.keys())

_EXISTING = Query("SELECT external_id FROM customers WHERE external_id = ANY(:external_ids)")

_ROWS = f"SELECT {_COLUMNS} FROM customers WHERE external_id = ANY(:external_ids)"  # noqa: S608 - constants
_GET = Query(_ROWS)
_LOCK = RowLock(_ROWS)
_ACCOUNTS = accounts("SELECT id FROM customers WHERE external_id = ANY(:external_ids)")
_NEW = NewRows(_TABLE, ["id", *(name for name in NewCustomer._fields if name in _TABLE.c)])

# Sorted by `external_id`, so that two batches with the same ids wait for each other and do not deadlock (docs/rules.md, R57).
_CREATE = Query(f"""
    INSERT INTO customers ({_NEW.columns}, created_at, updated_at)
    SELECT {_NEW.columns}, now, now
    FROM {_NEW.source}, CAST(:now AS timestamptz) AS now
    ORDER BY external_id
""")  # noqa: S608 - constants

_CHANGE = Query("""
    UPDATE customers
    SET status = new.status, score = new.score, preapproved_at = new.preapproved_at, version = new.version,
        updated_at = :now
    FROM unnest(CAST(:ids AS bigint[]), CAST(:statuses AS smallint[]), CAST(:scores AS numeric[]),
        CAST(:preapproved_ats AS timestamptz[]), CAST(:versions AS bigint[]))
        AS new (id, status, score, preapproved_at, version)
    WHERE customers.id = new.id
""")

_BALANCES = Query(f"""
    SELECT external_id, score, {debt_of("customers.id")} FROM customers WHERE external_id = ANY(:external_ids)
""")  # noqa: S608 - constants


def insert_selected(source: str, condition: str, order: str) -> str:
    """The SQL that creates customers of the rows of a table or CTE, whose columns have the same names, as texts.

    Rows whose `external_id` is taken create none; it returns those created, for `record_selected`.
    """
    return f"""
        INSERT INTO customers (external_id, score, preapproved_at, created_at, updated_at)
        SELECT external_id, CAST(score AS numeric), CAST(preapproved_at AS timestamptz), now, now
        FROM {source}, mo_clock() AS now WHERE {condition} ORDER BY {order}
        ON CONFLICT (external_id) DO NOTHING
        RETURNING id, external_id, status, score, preapproved_at, version, created_at
    """  # noqa: S608 - constants


def record_selected(source: str, actor: str) -> str:
    """The SQL that records, as done by an actor, the creation of the customers that a CTE has created with `insert_selected`.

    It writes what `Accounts.record_customer` would: the lines of the hash are those of `journal.rules`.
    """
    created_at, preapproved_at = (
        f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        for column in ("created_at", "preapproved_at")
    )
    kind = Kind.CUSTOMER_CREATED
    return f"""
        INSERT INTO journal_events (customer_id, number, kind, recorded_at, actor, request_id, backfilled, score_after,
            debt_after, loan_ids, loan_statuses_before, loan_statuses_after, outstandings_before, outstandings_after,
            status_after, preapproved_at, version, hash)
        SELECT id, 1, {kind}, created_at, {actor}, '', false, score, 0, '{{}}', '{{}}', '{{}}', '{{}}', '{{}}',
            status, preapproved_at, version,
            sha256(decode('{NO_HASH.hex()}', 'hex') || convert_to(concat_ws(E'\n', external_id, 1, '{kind.name}',
                {created_at}, {actor}, '', '', '', '', score || ' 0.00', '0 ' || status,
                coalesce({preapproved_at}, ''), ''), 'UTF8'))
        FROM {source}
    """  # noqa: S608 - constants


class LockedCustomers(NamedTuple):
    """The customers that a transaction has locked, and the ids of those that it could not lock."""

    customers: dict[str, Customer]
    elsewhere: set[str]

    def missing(self, external_id: str) -> NotFound | Locked:
        """Why a customer is not among the locked ones."""
        return Locked.LOCKED if external_id in self.elsewhere else NotFound(RESOURCE, external_id)


def lock(external_ids: Iterable[str], locks: Locks) -> list[Statement]:
    """Lock the customers, in the order of their ids, until the transaction ends; decisions need rows that are read after this.

    Every change to a customer, its loans and its payments holds this lock (docs/rules.md, R56).
    """
    wanted = {"external_ids": array(sorted(set(external_ids)))}
    lock = _LOCK.statement(wanted, locks)
    return [lock, Statement(_EXISTING, wanted)] if locks is Locks.SKIP else [lock]


def read_accounts(external_ids: Iterable[str]) -> Statement:
    """Read the accounts of customers, who must be locked first; `Accounts.read` takes the rows."""
    return Statement(_ACCOUNTS, {"external_ids": array(sorted(set(external_ids)))})


def locked(rows: Iterator[Rows], locks: Locks) -> LockedCustomers:
    """What `lock` has locked, by the rows of its statements."""
    customers = _customers(rows)
    return LockedCustomers(customers, {row[0] for row in next(rows)} if locks is Locks.SKIP else set())


def owners_of(table: str) -> str:
    """The ids of the customers that own the rows of a table with the `external_ids`: a query."""
    return f"SELECT customer_id FROM {table} WHERE external_id = ANY(:external_ids)"  # noqa: S608 - a constant


def owner_accounts(table: str) -> Query:
    """The query for the accounts of the customers that own rows of a table, by the rows' `external_ids`."""
    return accounts(f"SELECT DISTINCT customer_id FROM {table} WHERE external_id = ANY(:external_ids)")  # noqa: S608 - constants


def owner_lock(table: str) -> RowLock:
    """The lock of the customers that own rows of a table, like `lock`, by the rows' `external_ids`."""
    return RowLock(f"SELECT {_COLUMNS} FROM customers WHERE id IN ({owners_of(table)})")  # noqa: S608 - constants


def locked_owners(rows: Iterator[Rows]) -> dict[int, Customer]:
    """What an `owner_lock` has locked, by the rows of its statement."""
    return {row[0]: Customer(*row) for row in next(rows)}


def _customers(rows: Iterator[Rows]) -> dict[str, Customer]:
    return {row[1]: Customer(*row) for row in next(rows)}


get_customers = get_by_id(RESOURCE, [_GET], _customers)
"""Get customers by id."""


def _balances(rows: Iterator[Rows]) -> dict[str, Balance]:
    return {row[0]: Balance._make(row) for row in next(rows)}


get_balances = get_by_id(RESOURCE, [_BALANCES], _balances)
"""Get what customers owe, each with its score from one snapshot."""


def among(bound: BoundCustomers) -> ColumnElement[bool]:
    """The condition that a row of `customers` is one of those that a key is bound to; the index of their ids serves it."""
    external_id = _TABLE.c.external_id
    named = external_id.in_(sorted(bound.external_ids)) if bound.external_ids else false()
    if not bound.prefix:
        return named
    return or_(named, and_(external_id >= bound.prefix, external_id < bound.prefix_end))


async def customer_as_of(connection: AsyncConnection, customer: Customer, instant: past.Instant) -> Customer:
    """A customer as of an instant; the ids and the time of the creation never change.

    Raises:
        OutOfRange: the instant is in the future.
        PreconditionFailed: the customer did not exist yet.
    """
    standing = await past.standing(connection, customer.id, instant)
    state = await past.customer_state(connection, customer.id, standing.number) if standing else None
    if standing is None or state is None:
        raise past.not_yet_created(RESOURCE, customer.external_id)
    return customer._replace(
        status=state.status,
        score=standing.score,
        preapproved_at=state.preapproved_at,
        version=state.version,
        updated_at=state.recorded_at,
    )


async def balance_as_of(connection: AsyncConnection, customer: Customer, instant: past.Instant) -> Balance:
    """What a customer owed as of an instant; raises what `customer_as_of` does."""
    standing = await past.standing(connection, customer.id, instant)
    if standing is None:
        raise past.not_yet_created(RESOURCE, customer.external_id)
    return Balance(customer.external_id, standing.score, standing.debt)


async def list_customers(
    connection: AsyncConnection, before: int | None, limit: int, bound: BoundCustomers | None = None
) -> list[Customer]:
    """List customers, newest first, with ids below `before`; of a bound key, its own alone."""
    statement = select(*_TABLE.c).order_by(_TABLE.c.id.desc()).limit(limit)
    if bound is not None:
        statement = statement.where(among(bound))
    if before is not None:
        statement = statement.where(_TABLE.c.id < before)
    return [Customer(*row) for row in await connection.execute(statement)]


def _prepare_customers(commands: Sequence[NewCustomer], _: Locks) -> list[Statement]:
    return [_NEW.statement([command.external_id for command in commands])]


def _create_customers(commands: Sequence[NewCustomer], rows: Iterator[Rows], _: Locks) -> Decision[Customer]:
    now, taken, ids = NewRows.prepared(rows)
    new_accounts = Accounts(now)
    results: list[Customer | ServiceError | Locked] = []
    created: list[Customer] = []
    for customer_id, command in zip(ids, commands, strict=False):
        if command.external_id in taken:
            results.append(AlreadyExists(RESOURCE, command.external_id))
            continue
        taken.add(command.external_id)
        customer = Customer(customer_id, command.external_id, Status.ACTIVE, command.score, command.preapproved_at, 1, now, now)
        customer = new_accounts.record_customer(Kind.CUSTOMER_CREATED, None, customer, command.origin)
        created.append(customer)
        results.append(customer)
    if not created:
        return Decision(results)
    return Decision(results, [Statement(_CREATE, {"now": now, **_NEW.parameters(created)}), *new_accounts.events()])


create_customers = BatchWrite(_prepare_customers, _create_customers)
"""Create ACTIVE customers; of those with the same id, the first."""


def _lock_customers(commands: Sequence[CustomerChange], locks: Locks) -> list[Statement]:
    wanted = {command.external_id for command in commands}
    return [*lock(wanted, locks), read_accounts(wanted)]


def _change_customers(commands: Sequence[CustomerChange], rows: Iterator[Rows], locks: Locks) -> Decision[Customer]:
    found = locked(rows, locks)
    found_accounts = Accounts.read(rows)
    now = found_accounts.now
    results: list[Customer | ServiceError | Locked] = []
    changed: dict[int, Customer] = {}
    for command in commands:
        customer = found.customers.get(command.external_id)
        result = change(customer, command, now) if customer else found.missing(command.external_id)
        if customer and isinstance(result, Customer):
            if stale := found_accounts.stale(customer.id, command.origin):
                results.append(stale)
                continue
            result = found_accounts.record_customer(Kind.CUSTOMER_CHANGED, customer, result, command.origin)
            found.customers[command.external_id] = changed[result.id] = result
        results.append(result)
    if not changed:
        return Decision(results)
    new = {
        "now": now,
        "ids": array(changed),
        "statuses": array(int(customer.status) for customer in changed.values()),
        "scores": array(customer.score for customer in changed.values()),
        "preapproved_ats": text_array(customer.preapproved_at for customer in changed.values()),
        "versions": array(customer.version for customer in changed.values()),
    }
    return Decision(results, [Statement(_CHANGE, new), *found_accounts.events()])


change_customers = BatchWrite(_lock_customers, _change_customers)
"""Change customers, one command after the other."""
