"""Every SQL statement about customers. Commands come in sets, and each has a result of its own, in order."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.customers import models
from mo_grpc.customers.rules import RESOURCE, Balance, Customer, CustomerChange, NewCustomer, change
from mo_grpc.db.coalescing import Locked, Locks
from mo_grpc.errors import AlreadyExists, NotFound, ServiceError

_TABLE = models.Customer.__table__

_LOCK = """
    SELECT id, external_id, status, score, preapproved_at, version, created_at, updated_at
    FROM customers WHERE external_id = ANY(:external_ids) ORDER BY id FOR NO KEY UPDATE
"""
_LOCK_ALL = text(_LOCK)
_LOCK_FREE = text(f"{_LOCK} SKIP LOCKED")

_EXISTING = text("SELECT external_id FROM customers WHERE external_id = ANY(:external_ids)")

_GET = text("""
    SELECT id, external_id, status, score, preapproved_at, version, created_at, updated_at
    FROM customers WHERE external_id = ANY(:external_ids)
""")

# Sorted by the new ids, so that two sets with the same ids wait for each other instead of deadlocking.
_CREATE = text("""
    INSERT INTO customers (external_id, score, preapproved_at, created_at, updated_at)
    SELECT external_id, score, preapproved_at, now, now
    FROM unnest(CAST(:external_ids AS text[]), CAST(:scores AS numeric[]), CAST(:preapproved_ats AS timestamptz[]))
        WITH ORDINALITY AS new (external_id, score, preapproved_at, position), mo_clock() AS now
    ORDER BY external_id, position
    ON CONFLICT (external_id) DO NOTHING
    RETURNING id, external_id, status, score, preapproved_at, version, created_at, updated_at
""")

_CHANGE = text("""
    UPDATE customers
    SET status = new.status, score = new.score, preapproved_at = new.preapproved_at, version = new.version,
        updated_at = new.updated_at
    FROM unnest(CAST(:ids AS bigint[]), CAST(:statuses AS smallint[]), CAST(:scores AS numeric[]),
        CAST(:preapproved_ats AS timestamptz[]), CAST(:versions AS bigint[]), CAST(:updated_ats AS timestamptz[]))
        AS new (id, status, score, preapproved_at, version, updated_at)
    WHERE customers.id = new.id
""")

_NOW = text("SELECT mo_clock()")

_BALANCES = text("""
    SELECT external_id, score, (
        SELECT coalesce(sum(outstanding), 0.00) FROM loans WHERE customer_id = customers.id AND status IN (1, 2)
    )
    FROM customers WHERE external_id = ANY(:external_ids)
""")


class LockedCustomers(NamedTuple):
    """The customers that a transaction has locked, and the ids of those that it could not lock."""

    customers: dict[str, Customer]
    elsewhere: set[str]

    def missing(self, external_id: str) -> NotFound | Locked:
        """Why a customer is not among the locked ones."""
        return Locked.LOCKED if external_id in self.elsewhere else NotFound(RESOURCE, external_id)


async def lock(connection: AsyncConnection, external_ids: Iterable[str], locks: Locks) -> LockedCustomers:
    """Lock the customers, by id in order, until the transaction ends; the caller must read whatever it decides on after this.

    Every change to a customer, its loans and its payments holds this lock.
    """
    wanted = sorted(set(external_ids))
    rows = await connection.execute(_LOCK_FREE if locks is Locks.SKIP else _LOCK_ALL, {"external_ids": wanted})
    customers = {customer.external_id: customer for customer in map(Customer._make, rows)}
    missing = [external_id for external_id in wanted if external_id not in customers]
    if locks is Locks.SKIP and missing:
        existing = await connection.execute(_EXISTING, {"external_ids": missing})
        return LockedCustomers(customers, set(existing.scalars()))
    return LockedCustomers(customers, set())


async def get_customers(connection: AsyncConnection, external_ids: Sequence[str]) -> list[Customer | NotFound]:
    """Get customers by id."""
    rows = await connection.execute(_GET, {"external_ids": list(set(external_ids))})
    found = {customer.external_id: customer for customer in map(Customer._make, rows)}
    return [found.get(external_id) or NotFound(RESOURCE, external_id) for external_id in external_ids]


async def get_balances(connection: AsyncConnection, external_ids: Sequence[str]) -> list[Balance | NotFound]:
    """Get what customers owe, each with its score from one snapshot."""
    rows = await connection.execute(_BALANCES, {"external_ids": list(set(external_ids))})
    found = {balance.external_id: balance for balance in map(Balance._make, rows)}
    return [found.get(external_id) or NotFound(RESOURCE, external_id) for external_id in external_ids]


async def list_customers(connection: AsyncConnection, before: int | None, limit: int) -> list[Customer]:
    """List customers, newest first, from below the id `before`."""
    statement = select(*_TABLE.c).order_by(_TABLE.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(_TABLE.c.id < before)
    return [Customer._make(row) for row in await connection.execute(statement)]


async def create_customers(
    connection: AsyncConnection, commands: Sequence[NewCustomer], _locks: Locks
) -> list[Customer | ServiceError]:
    """Create ACTIVE customers; of those with the same id, the first."""
    rows = await connection.execute(
        _CREATE,
        {
            "external_ids": [command.external_id for command in commands],
            "scores": [command.score for command in commands],
            "preapproved_ats": [command.preapproved_at for command in commands],
        },
    )
    created = {customer.external_id: customer for customer in map(Customer._make, rows)}
    results: list[Customer | ServiceError] = []
    for command in commands:
        customer = created.pop(command.external_id, None)
        results.append(customer or AlreadyExists(RESOURCE, command.external_id))
    return results


async def change_customers(
    connection: AsyncConnection, commands: Sequence[CustomerChange], locks: Locks
) -> list[Customer | ServiceError | Locked]:
    """Change customers, one command after the other."""
    locked = await lock(connection, (command.external_id for command in commands), locks)
    now = (await connection.execute(_NOW)).scalar_one()
    results: list[Customer | ServiceError | Locked] = []
    changed: dict[int, Customer] = {}
    for command in commands:
        customer = locked.customers.get(command.external_id)
        result = change(customer, command, now) if customer else locked.missing(command.external_id)
        if isinstance(result, Customer):
            locked.customers[command.external_id] = changed[result.id] = result
        results.append(result)
    if changed:
        new = changed.values()
        await connection.execute(
            _CHANGE,
            {
                "ids": list(changed),
                "statuses": [int(customer.status) for customer in new],
                "scores": [customer.score for customer in new],
                "preapproved_ats": [customer.preapproved_at for customer in new],
                "versions": [customer.version for customer in new],
                "updated_ats": [customer.updated_at for customer in new],
            },
        )
    return results
