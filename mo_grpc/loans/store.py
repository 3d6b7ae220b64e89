"""Every SQL statement about loans. Commands come in batches, and each has a result of its own, in order."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.customers import models as customer_models
from mo_grpc.customers import store as customers
from mo_grpc.customers.debt import debts
from mo_grpc.customers.rules import Customer
from mo_grpc.db.batches import BatchWrite, Decision
from mo_grpc.db.locks import Locked, Locks
from mo_grpc.db.pipeline import Query, Rows, Statement, array
from mo_grpc.db.rows import NewRows, get_by_id, not_locked
from mo_grpc.errors import AlreadyExists, PreconditionFailed, ServiceError
from mo_grpc.loans import models, rules
from mo_grpc.loans.rules import RESOURCE, ActiveLoan, Debt, Loan, NewLoan, Status

_Rule = Callable[[Loan, Customer, Debt, datetime], Loan | PreconditionFailed]

_TABLE = models.Loan.__table__
_CUSTOMERS = customer_models.Customer.__table__

_COLUMNS = [_TABLE.c[name] if name != "customer_external_id" else _CUSTOMERS.c.external_id for name in Loan._fields]

_GET = Query(f"""
    SELECT {", ".join(map(str, _COLUMNS))} FROM loans JOIN customers ON customers.id = customer_id
    WHERE loans.external_id = ANY(:external_ids)
""")  # noqa: S608 - constants

_NEW = NewRows(_TABLE, ["id", "customer_id", *(name for name in NewLoan._fields if name in _TABLE.c)])

_OF_CUSTOMERS = "customer_id = ANY(ARRAY(SELECT id FROM customers WHERE external_id = ANY(:customer_external_ids)))"

_DEBTS = Query(debts(_OF_CUSTOMERS))

_ACTIVE = Query(f"""
    SELECT customer_id, id, external_id, outstanding FROM loans
    WHERE {_OF_CUSTOMERS} AND status = {Status.ACTIVE} ORDER BY customer_id, taken_at, id
""")  # noqa: S608 - constants

_CREATE = Query(f"""
    INSERT INTO loans ({_NEW.columns}, outstanding, status, created_at, updated_at)
    SELECT {_NEW.columns}, amount, {Status.PENDING}, now, now
    FROM {_NEW.source}, CAST(:now AS timestamptz) AS now
    ORDER BY external_id
""")  # noqa: S608 - constants

_LOCK = customers.owner_lock("loans")

# The time, and the debts, if there are any.
_NOW_AND_DEBTS = Query(f"""
    SELECT now, customer_id, debt, open_loans
    FROM mo_clock() AS now LEFT JOIN ({debts(f"customer_id = ANY(ARRAY({customers.owners_of('loans')}))")}) AS debts ON true
""")  # noqa: S608 - constants

_CHANGE = Query(f"""
    UPDATE loans
    SET status = new.status, taken_at = CASE new.status WHEN {Status.ACTIVE} THEN now END, updated_at = now
    FROM unnest(CAST(:ids AS bigint[]), CAST(:statuses AS smallint[])) AS new (id, status), CAST(:now AS timestamptz) AS now
    WHERE loans.id = new.id
""")  # noqa: S608 - constants

SET_OUTSTANDING = f"""
    UPDATE loans SET outstanding = new.outstanding,
        status = CASE WHEN new.outstanding = 0 THEN {Status.PAID} ELSE {Status.ACTIVE} END, updated_at = :now
    FROM unnest(CAST(:loan_ids AS bigint[]), CAST(:outstandings AS numeric[])) AS new (id, outstanding)
    WHERE loans.id = new.id
"""  # noqa: S608 - constants
"""The SQL that writes what is outstanding on loans after a payment or a bounce; part of the payments' statements."""


def outstanding_parameters(outstanding: Mapping[int, Decimal]) -> dict[str, object]:
    """The parameters of `SET_OUTSTANDING`, besides `now`: what is outstanding, by the ids of the loans."""
    return {"loan_ids": array(outstanding), "outstandings": array(outstanding.values())}


def active_loans(customer_external_ids: Iterable[str]) -> Statement:
    """Read the ACTIVE loans of customers, who must be locked first."""
    return Statement(_ACTIVE, {"customer_external_ids": array(customer_external_ids)})


def found_active(rows: Iterator[Rows]) -> Mapping[int, dict[int, ActiveLoan]]:
    """What `active_loans` has read: by customer, the loans by their ids, the oldest first; empty for one without any."""
    found: dict[int, dict[int, ActiveLoan]] = defaultdict(dict)
    for customer_id, *loan in next(rows):
        found[customer_id][loan[0]] = ActiveLoan._make(loan)
    return found


def _loans(rows: Iterator[Rows]) -> dict[str, Loan]:
    return {row[2]: Loan._make(row) for row in next(rows)}


get_loans = get_by_id(RESOURCE, [_GET], _loans)
"""Get loans by id."""


async def list_loans(
    connection: AsyncConnection, customer_external_id: str, status: int, before: int | None, limit: int
) -> list[Loan]:
    """List loans, newest first, with ids below `before`; an empty or zero filter does not filter."""
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
    return select(*_COLUMNS).join_from(_TABLE, _CUSTOMERS)


def _lock_owners_to_be(commands: Sequence[NewLoan], locks: Locks) -> list[Statement]:
    owners = {command.customer_external_id for command in commands}
    return [
        *customers.lock(owners, locks),
        Statement(_DEBTS, {"customer_external_ids": array(owners)}),
        _NEW.statement([command.external_id for command in commands]),
    ]


def _create_loans(commands: Sequence[NewLoan], rows: Iterator[Rows], locks: Locks) -> Decision[Loan]:
    owners = customers.locked(rows, locks)
    debts = {customer_id: Debt(total, count) for customer_id, total, count in next(rows)}
    now, taken, ids = NewRows.prepared(rows)
    results = [_create(loan_id, command, owners, taken, debts, now) for loan_id, command in zip(ids, commands, strict=False)]
    created = [result for result in results if isinstance(result, Loan)]
    return Decision(results, [Statement(_CREATE, {"now": now, **_NEW.parameters(created)})] if created else ())


def _create(
    loan_id: int,
    command: NewLoan,
    owners: customers.LockedCustomers,
    taken: set[str],
    debts: dict[int, Debt],
    now: datetime,
) -> Loan | ServiceError | Locked:
    """Decide on one command; a created loan's id is taken, and its amount reduces the credit, for the commands after it."""
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
        outstanding=command.amount,
        status=Status.PENDING,
        taken_at=None,
        created_at=now,
        updated_at=now,
        **command._asdict(),
    )


create_loans = BatchWrite(_lock_owners_to_be, _create_loans)
"""Create PENDING loans, one command after the other, within each customer's credit line."""


def _lock_owners(external_ids: Sequence[str], locks: Locks) -> list[Statement]:
    wanted = {"external_ids": array(sorted(set(external_ids)))}
    return [_LOCK.statement(wanted, locks), Statement(_GET, wanted), Statement(_NOW_AND_DEBTS, wanted)]


def _change_loans(rule: _Rule, external_ids: Sequence[str], rows: Iterator[Rows], locks: Locks) -> Decision[Loan]:
    owners = customers.locked_owners(rows)
    loans = _loans(rows)
    read = next(rows)
    now = read[0][0]
    debts = {customer_id: Debt(total, count) for _, customer_id, total, count in read}
    results: list[Loan | ServiceError | Locked] = []
    changed: dict[int, Loan] = {}
    for external_id in external_ids:
        loan = loans.get(external_id)
        owner = owners.get(loan.customer_id) if loan else None
        if loan is None or owner is None:
            results.append(not_locked(RESOURCE, external_id, locks, exists=loan is not None))
            continue
        result = rule(loan, owner, debts.get(owner.id, Debt()), now)
        if isinstance(result, Loan):
            loans[external_id] = changed[result.id] = result
        results.append(result)
    if not changed:
        return Decision(results)
    statuses = array(int(loan.status) for loan in changed.values())
    return Decision(results, [Statement(_CHANGE, {"now": now, "ids": array(changed), "statuses": statuses})])


activate_loans = BatchWrite(_lock_owners, partial(_change_loans, rules.activate))
"""Pay PENDING loans out, one command after the other."""

reject_loans = BatchWrite(_lock_owners, partial(_change_loans, rules.reject))
"""Refuse PENDING loans, one command after the other."""
