"""Every SQL statement about loans. Commands come in batches, and each has a result of its own, in order."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

from sqlalchemy import Select, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.customers import models as customer_models
from mo_grpc.customers import store as customers
from mo_grpc.customers.accounts import Accounts
from mo_grpc.customers.rules import Customer, Debt
from mo_grpc.db.batches import BatchWrite, Decision
from mo_grpc.db.locks import Locked, Locks
from mo_grpc.db.pipeline import Query, Rows, Statement, array
from mo_grpc.db.rows import NewRows, get_by_id, not_locked
from mo_grpc.errors import AlreadyExists, ServiceError
from mo_grpc.journal import past
from mo_grpc.journal.rules import Kind
from mo_grpc.loans import models, rules
from mo_grpc.loans.rules import RESOURCE, ActiveLoan, Loan, LoanTransition, NewLoan, PastLoan, Status
from mo_grpc.rpc.binding import BoundCustomers

_Rule = Callable[[Loan, Customer, Debt, datetime], Loan | ServiceError]

_TABLE = models.Loan.__table__
_CUSTOMERS = customer_models.Customer.__table__

_COLUMNS = [
    _TABLE.c[name] if name != "customer_external_id" else _CUSTOMERS.c.external_id
    for name in Loan._fields
    if name != "recorded"
]

_GET = Query(f"""
    SELECT {", ".join(map(str, _COLUMNS))} FROM loans JOIN customers ON customers.id = customer_id
    WHERE loans.external_id = ANY(:external_ids)
""")  # noqa: S608 - constants

_NEW = NewRows(_TABLE, ["id", "customer_id", *(name for name in NewLoan._fields if name in _TABLE.c)])

_ACTIVE = Query(f"""
    SELECT customer_id, id, external_id, outstanding FROM loans
    WHERE customer_id = ANY(ARRAY(SELECT id FROM customers WHERE external_id = ANY(:customer_external_ids)))
        AND status = {Status.ACTIVE} ORDER BY customer_id, taken_at, id
""")  # noqa: S608 - constants

_CREATE = Query(f"""
    INSERT INTO loans ({_NEW.columns}, outstanding, status, created_at, updated_at)
    SELECT {_NEW.columns}, amount, {Status.PENDING}, now, now
    FROM {_NEW.source}, CAST(:now AS timestamptz) AS now
    ORDER BY external_id
""")  # noqa: S608 - constants

_LIST_AS_OF = text(f"""
    SELECT state.status, state.outstanding, recorded_at, {", ".join(map(str, _COLUMNS))}
    FROM ({past.LOAN_STATES}) AS state JOIN loans ON loans.id = loan_id JOIN customers ON customers.id = customer_id
    WHERE :status IN (0, state.status) AND (CAST(:before AS bigint) IS NULL OR loan_id < :before)
    ORDER BY loan_id DESC LIMIT :limit
""")  # noqa: S608 - constants

_PAST = text(f"""
    SELECT loan_id, external_id, taken_at, state.status, state.outstanding
    FROM ({past.LOAN_STATES}) AS state JOIN loans ON loans.id = loan_id ORDER BY taken_at, loan_id
""")  # noqa: S608 - constants

_LOCK = customers.owner_lock("loans")

_ACCOUNTS = customers.owner_accounts("loans")

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
    return {row[2]: Loan(*row) for row in next(rows)}


get_loans = get_by_id(RESOURCE, [_GET], _loans)
"""Get loans by id."""


async def list_loans(
    connection: AsyncConnection,
    customer_external_id: str,
    status: int,
    before: int | None,
    limit: int,
    bound: BoundCustomers | None = None,
) -> list[Loan]:
    """List loans, newest first, with ids below `before`; of a bound key, those of its customers alone.

    An empty or zero filter does not filter.
    """
    statement = _list_statement().order_by(_TABLE.c.id.desc()).limit(limit)
    if bound is not None:
        statement = statement.where(customers.among(bound))
    if customer_external_id:
        owner = select(_CUSTOMERS.c.id).where(_CUSTOMERS.c.external_id == customer_external_id).scalar_subquery()
        statement = statement.where(_TABLE.c.customer_id == owner)
    if status:
        statement = statement.where(_TABLE.c.status == status)
    if before is not None:
        statement = statement.where(_TABLE.c.id < before)
    return [Loan(*row) for row in await connection.execute(statement)]


async def loan_as_of(connection: AsyncConnection, loan: Loan, instant: past.Instant) -> Loan:
    """A loan as of an instant.

    Raises:
        OutOfRange: the instant is in the future.
        PreconditionFailed: the loan did not exist yet.
    """
    standing = await past.standing(connection, loan.customer_id, instant)
    state = await past.loan_state(connection, loan.customer_id, standing.number, loan.id) if standing else None
    if state is None:
        raise past.not_yet_created(RESOURCE, loan.external_id)
    return rules.as_of(loan, *state[1:])


async def list_loans_as_of(
    connection: AsyncConnection,
    customer_external_id: str,
    status: int,
    before: int | None,
    limit: int,
    bound: BoundCustomers | None,
    instant: past.Instant,
) -> list[Loan]:
    """List the loans of a customer like `list_loans`, each with what it was as of an instant.

    Raises:
        OutOfRange: the instant is in the future.
    """
    owner = select(_CUSTOMERS.c.id).where(_CUSTOMERS.c.external_id == customer_external_id)
    if bound is not None:
        owner = owner.where(customers.among(bound))
    customer_id = (await connection.execute(owner)).scalar()
    standing = await past.standing(connection, customer_id, instant)
    if standing is None:
        return []
    parameters = {"customer_id": customer_id, "number": standing.number, "status": status, "before": before, "limit": limit}
    rows = await connection.execute(_LIST_AS_OF, parameters)
    return [rules.as_of(Loan(*row[3:]), *row[:3]) for row in rows]


async def past_loans(connection: AsyncConnection, customer_id: int, number: int) -> list[PastLoan]:
    """The loans of a customer after an event, in the order in which payments pay them."""
    rows = await connection.execute(_PAST, {"customer_id": customer_id, "number": number})
    return [PastLoan._make(row) for row in rows]


def _list_statement() -> Select[*tuple[Any, ...]]:
    return select(*_COLUMNS).join_from(_TABLE, _CUSTOMERS)


def _lock_owners_to_be(commands: Sequence[NewLoan], locks: Locks) -> list[Statement]:
    owners = {command.customer_external_id for command in commands}
    return [
        *customers.lock(owners, locks),
        customers.read_accounts(owners),
        _NEW.statement([command.external_id for command in commands]),
    ]


def _create_loans(commands: Sequence[NewLoan], rows: Iterator[Rows], locks: Locks) -> Decision[Loan]:
    owners = customers.locked(rows, locks)
    accounts = Accounts.read(rows)
    _, taken, ids = NewRows.prepared(rows)
    results = [_create(loan_id, command, owners, taken, accounts) for loan_id, command in zip(ids, commands, strict=False)]
    created = [result for result in results if isinstance(result, Loan)]
    if not created:
        return Decision(results)
    return Decision(results, [Statement(_CREATE, {"now": accounts.now, **_NEW.parameters(created)}), *accounts.events()])


def _create(
    loan_id: int,
    command: NewLoan,
    owners: customers.LockedCustomers,
    taken: set[str],
    accounts: Accounts,
) -> Loan | ServiceError | Locked:
    """Decide on one command; a created loan's id is taken, and its amount reduces the credit, for the commands after it."""
    customer = owners.customers.get(command.customer_external_id)
    if customer is None:
        return owners.missing(command.customer_external_id)
    if command.external_id in taken:
        return AlreadyExists(RESOURCE, command.external_id)
    debt = accounts.debt(customer.id)
    if refusal := rules.may_lend(customer, debt, command, accounts.now):
        return refusal
    if stale := accounts.stale(customer.id, command.origin):
        return stale
    taken.add(command.external_id)
    loan = Loan(
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
        created_at=accounts.now,
        updated_at=accounts.now,
    )
    more = Debt(debt.total + command.amount, debt.open_loans + 1)
    change = [rules.created(loan)]
    recorded = accounts.record(Kind.LOAN_CREATED, customer, command.origin, more, change, command.amount)
    return loan._replace(recorded=recorded)


create_loans = BatchWrite(_lock_owners_to_be, _create_loans)
"""Create PENDING loans, one command after the other, within each customer's credit line."""


def _lock_owners(commands: Sequence[LoanTransition], locks: Locks) -> list[Statement]:
    wanted = {"external_ids": array(sorted({command.external_id for command in commands}))}
    return [_LOCK.statement(wanted, locks), Statement(_GET, wanted), Statement(_ACCOUNTS, wanted)]


def _change_loans(
    rule: _Rule, kind: Kind, commands: Sequence[LoanTransition], rows: Iterator[Rows], locks: Locks
) -> Decision[Loan]:
    owners = customers.locked_owners(rows)
    loans = _loans(rows)
    accounts = Accounts.read(rows)
    now = accounts.now
    results: list[Loan | ServiceError | Locked] = []
    changed: dict[int, Loan] = {}
    for external_id, origin in commands:
        loan = loans.get(external_id)
        owner = owners.get(loan.customer_id) if loan else None
        if loan is None or owner is None:
            results.append(not_locked(RESOURCE, external_id, locks, exists=loan is not None))
            continue
        debt = accounts.debt(owner.id)
        result = rule(loan, owner, debt, now)
        if isinstance(result, Loan) and (stale := accounts.stale(owner.id, origin)):
            result = stale
        elif isinstance(result, Loan):
            left = Debt(debt.total - loan.outstanding, debt.open_loans - 1) if result.status == Status.REJECTED else debt
            recorded = accounts.record(kind, owner, origin, left, [rules.changed(loan, result)], loan.amount)
            loans[external_id] = changed[result.id] = result = result._replace(recorded=recorded)
        results.append(result)
    if not changed:
        return Decision(results)
    statuses = array(int(loan.status) for loan in changed.values())
    change = Statement(_CHANGE, {"now": now, "ids": array(changed), "statuses": statuses})
    return Decision(results, [change, *accounts.events()])


activate_loans = BatchWrite(_lock_owners, partial(_change_loans, rules.activate, Kind.LOAN_ACTIVATED))
"""Pay PENDING loans out, one command after the other."""

reject_loans = BatchWrite(_lock_owners, partial(_change_loans, rules.reject, Kind.LOAN_REJECTED))
"""Refuse PENDING loans, one command after the other."""
