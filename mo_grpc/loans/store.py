"""Every SQL statement about loans. Commands come in sets, and each has a result of its own, in order."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Select, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.customers import models as customer_models
from mo_grpc.customers import store as customers
from mo_grpc.customers.rules import Customer
from mo_grpc.db.coalescing import Locked, Locks
from mo_grpc.errors import AlreadyExists, NotFound, PreconditionFailed, ServiceError
from mo_grpc.loans import models, rules
from mo_grpc.loans.rules import RESOURCE, Debt, Loan, NewLoan, Status

_Decision = Callable[[Loan, Customer, Debt, datetime], Loan | PreconditionFailed]

_TABLE = models.Loan.__table__
_CUSTOMERS = customer_models.Customer.__table__

_GET = text("""
    SELECT loans.id, customer_id, loans.external_id, customers.external_id, amount, outstanding, loans.status,
        contract_version, taken_at, maximum_payment_date, loans.created_at, loans.updated_at
    FROM loans JOIN customers ON customers.id = customer_id
    WHERE loans.external_id = ANY(:external_ids)
""")

_DEBTS = text("""
    SELECT customer_id, sum(outstanding), count(*) FROM loans
    WHERE customer_id = ANY(:customer_ids) AND status IN (1, 2) GROUP BY customer_id
""")

# The ids are drawn beforehand, so that they follow the order of the commands though the rows are inserted in another.
_PREPARE = text("""
    SELECT mo_clock(),
        ARRAY(SELECT external_id FROM loans WHERE external_id = ANY(:external_ids)),
        ARRAY(SELECT nextval('loans_id_seq') FROM generate_series(1, :count))
""")

_CREATE = text("""
    INSERT INTO loans (id, customer_id, external_id, amount, outstanding, status, contract_version, maximum_payment_date,
        created_at, updated_at)
    SELECT id, customer_id, external_id, amount, amount, 1, contract_version, maximum_payment_date, created_at, created_at
    FROM unnest(CAST(:ids AS bigint[]), CAST(:customer_ids AS bigint[]), CAST(:external_ids AS text[]),
        CAST(:amounts AS numeric[]), CAST(:contract_versions AS text[]), CAST(:maximum_payment_dates AS timestamptz[]),
        CAST(:created_ats AS timestamptz[]))
        AS new (id, customer_id, external_id, amount, contract_version, maximum_payment_date, created_at)
    ORDER BY external_id
""")

_LOCK_OWNERS = """
    SELECT id, external_id, status, score, preapproved_at, version, created_at, updated_at FROM customers
    WHERE id IN (SELECT customer_id FROM loans WHERE external_id = ANY(:external_ids)) ORDER BY id FOR NO KEY UPDATE
"""
_LOCK_ALL_OWNERS = text(_LOCK_OWNERS)
_LOCK_FREE_OWNERS = text(f"{_LOCK_OWNERS} SKIP LOCKED")

# The time, once, and beside it whatever debts there are.
_NOW_AND_DEBTS = text("""
    SELECT now, customer_id, total, open_loans FROM mo_clock() AS now LEFT JOIN (
        SELECT customer_id, sum(outstanding) AS total, count(*) AS open_loans FROM loans
        WHERE customer_id = ANY(:customer_ids) AND status IN (1, 2) GROUP BY customer_id
    ) AS debts ON true
""")

_CHANGE = text("""
    UPDATE loans SET status = new.status, taken_at = new.taken_at, updated_at = new.updated_at
    FROM unnest(CAST(:ids AS bigint[]), CAST(:statuses AS smallint[]), CAST(:taken_ats AS timestamptz[]),
        CAST(:updated_ats AS timestamptz[])) AS new (id, status, taken_at, updated_at)
    WHERE loans.id = new.id
""")


async def get_loans(connection: AsyncConnection, external_ids: Sequence[str]) -> list[Loan | NotFound]:
    """Get loans by id."""
    rows = await connection.execute(_GET, {"external_ids": list(set(external_ids))})
    found = {loan.external_id: loan for loan in map(Loan._make, rows)}
    return [found.get(external_id) or NotFound(RESOURCE, external_id) for external_id in external_ids]


async def list_loans(
    connection: AsyncConnection, customer_external_id: str, status: int, before: int | None, limit: int
) -> list[Loan]:
    """List loans, newest first, from below the id `before`; an empty or zero filter does not filter."""
    statement = _list_statement().order_by(_TABLE.c.id.desc()).limit(limit)
    if customer_external_id:
        owner = select(_CUSTOMERS.c.id).where(_CUSTOMERS.c.external_id == customer_external_id).scalar_subquery()
        statement = statement.where(_TABLE.c.customer_id == owner)
    if status:
        statement = statement.where(_TABLE.c.status == status)
    if before is not None:
        statement = statement.where(_TABLE.c.id < before)
    return [Loan._make(row) for row in await connection.execute(statement)]


def _list_statement() -> Select[*tuple[Any, ...]]:
    columns = [_TABLE.c[name] if name != "customer_external_id" else _CUSTOMERS.c.external_id for name in Loan._fields]
    return select(*columns).join_from(_TABLE, _CUSTOMERS)


async def create_loans(
    connection: AsyncConnection, commands: Sequence[NewLoan], locks: Locks
) -> list[Loan | ServiceError | Locked]:
    """Create PENDING loans, one command after the other, as far as each customer's credit line goes."""
    owners = await customers.lock(connection, (command.customer_external_id for command in commands), locks)
    rows = await connection.execute(_DEBTS, {"customer_ids": [customer.id for customer in owners.customers.values()]})
    debts = {customer_id: Debt(total, count) for customer_id, total, count in rows}
    new_ids = [command.external_id for command in commands]
    prepared = await connection.execute(_PREPARE, {"external_ids": new_ids, "count": len(commands)})
    now, taken, ids = prepared.one()
    taken = set(taken)
    results: list[Loan | ServiceError | Locked] = []
    created: list[Loan] = []
    for loan_id, command in zip(ids, commands, strict=True):
        result = _create(loan_id, command, owners, taken, debts, now)
        results.append(result)
        if isinstance(result, Loan):
            created.append(result)
    if created:
        await connection.execute(
            _CREATE,
            {
                "ids": [loan.id for loan in created],
                "customer_ids": [loan.customer_id for loan in created],
                "external_ids": [loan.external_id for loan in created],
                "amounts": [loan.amount for loan in created],
                "contract_versions": [loan.contract_version for loan in created],
                "maximum_payment_dates": [loan.maximum_payment_date for loan in created],
                "created_ats": [loan.created_at for loan in created],
            },
        )
    return results


def _create(
    loan_id: int,
    command: NewLoan,
    owners: customers.LockedCustomers,
    taken: set[str],
    debts: dict[int, Debt],
    now: datetime,
) -> Loan | ServiceError | Locked:
    """Decide on one command; a created loan takes its id, and its part of the credit line, from those that follow."""
    customer = owners.customers.get(command.customer_external_id)
    if customer is None:
        return owners.missing(command.customer_external_id)
    if command.external_id in taken:
        return AlreadyExists(RESOURCE, command.external_id)
    debt = debts.get(customer.id, Debt())
    if refusal := rules.may_lend(customer, debt, command, now):
        return refusal
    taken.add(command.external_id)
    debts[customer.id] = Debt(debt.total + command.amount, debt.open_loans + 1)
    return Loan(
        id=loan_id,
        customer_id=customer.id,
        external_id=command.external_id,
        customer_external_id=customer.external_id,
        amount=command.amount,
        outstanding=command.amount,
        status=Status.PENDING,
        contract_version=command.contract_version,
        taken_at=None,
        maximum_payment_date=command.maximum_payment_date,
        created_at=now,
        updated_at=now,
    )


async def _change_loans(
    decide: _Decision, connection: AsyncConnection, external_ids: Sequence[str], locks: Locks
) -> list[Loan | ServiceError | Locked]:
    """Change loans, one command after the other, as `decide` says."""
    wanted = {"external_ids": sorted(set(external_ids))}
    rows = await connection.execute(_LOCK_FREE_OWNERS if locks is Locks.SKIP else _LOCK_ALL_OWNERS, wanted)
    owners = {customer.id: customer for customer in map(Customer._make, rows)}
    loans = {loan.external_id: loan for loan in map(Loan._make, await connection.execute(_GET, wanted))}
    read = (await connection.execute(_NOW_AND_DEBTS, {"customer_ids": list(owners)})).all()
    now = read[0].now
    debts = {row.customer_id: Debt(row.total, row.open_loans) for row in read}
    results: list[Loan | ServiceError | Locked] = []
    changed: dict[int, Loan] = {}
    for external_id in external_ids:
        loan = loans.get(external_id)
        owner = owners.get(loan.customer_id) if loan else None
        if loan is None or owner is None:
            # The owner is locked elsewhere, or the loan was created after the lock: look again, patiently.
            unlocked = loan and locks is not Locks.WAIT
            results.append(Locked.LOCKED if unlocked else NotFound(RESOURCE, external_id))
            continue
        result = decide(loan, owner, debts.get(owner.id, Debt()), now)
        if isinstance(result, Loan):
            loans[external_id] = changed[result.id] = result
        results.append(result)
    if changed:
        new = changed.values()
        await connection.execute(
            _CHANGE,
            {
                "ids": list(changed),
                "statuses": [int(loan.status) for loan in new],
                "taken_ats": [loan.taken_at for loan in new],
                "updated_ats": [loan.updated_at for loan in new],
            },
        )
    return results


activate_loans = partial(_change_loans, rules.activate)
reject_loans = partial(_change_loans, rules.reject)
