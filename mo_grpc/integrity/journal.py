"""The invariants of the journal: its events follow each other, and end at what the rows say (docs/rules.md, R80 and R81)."""

from typing import Final

from mo_grpc.customers.debt import OPEN, debts
from mo_grpc.integrity.rules import Invariant
from mo_grpc.journal.rules import Kind
from mo_grpc.payments.rules import RejectionKind

# How the `events` of a query are named: by their customer and their number.
_EVENT = "format('%s %s', coalesce(customers.external_id, events.customer_id::text), number) AS external_id"
_OWNERS = "LEFT JOIN customers ON customers.id = events.customer_id"

# What each event says of each of its loans.
_CHANGES = """
    SELECT customer_id, number, kind, payment_id, loan.*
    FROM journal_events, unnest(loan_ids, loan_statuses_before, loan_statuses_after, outstandings_before, outstandings_after)
        AS loan (loan_id, status_before, status_after, outstanding_before, outstanding_after)
"""


def _difference(row: str, event: str, remark: str) -> str:
    """The remark on a row and its events, or on one without the other."""
    missing = f"WHEN {row} IS NULL THEN 'is not there, but has events' WHEN {event} IS NULL THEN 'has no event'"
    return f"CASE {missing} ELSE {remark} END"


_OF_CUSTOMERS = f"kind IN ({Kind.CUSTOMER_CREATED}, {Kind.CUSTOMER_CHANGED})"

JOURNAL: Final = (
    Invariant(
        "A customer's events are numbered without a gap, and each begins where the one before ended",
        "journal_events",
        f"""
        SELECT {_EVENT}, remark FROM (
            SELECT customer_id, number, CASE
                WHEN number <> coalesce(last_number, 0) + 1 THEN format('follows number %s', coalesce(last_number, 0))
                WHEN (kind = {Kind.CUSTOMER_CREATED}) <> (number = 1) THEN 'is or is not the creation of the customer'
                WHEN recorded_at < last_recorded_at THEN format('recorded %s, after %s', recorded_at, last_recorded_at)
                WHEN score_before IS DISTINCT FROM last_score OR debt_before IS DISTINCT FROM last_debt
                    THEN format('begins with score %s, debt %s; the one before ended with score %s, debt %s',
                        score_before, debt_before, last_score, last_debt)
            END AS remark FROM (
                SELECT customer_id, number, kind, recorded_at, score_before, debt_before,
                    lag(number) OVER journal AS last_number, lag(recorded_at) OVER journal AS last_recorded_at,
                    lag(score_after) OVER journal AS last_score, lag(debt_after) OVER journal AS last_debt
                FROM journal_events WINDOW journal AS (PARTITION BY customer_id ORDER BY number)
            ) AS followed
        ) AS events {_OWNERS}
        WHERE remark IS NOT NULL
        """,  # noqa: S608 - constants
    ),
    Invariant(
        "An event changes the debt by its amount, and by what it changes of its loans",
        "journal_events",
        f"""
        SELECT {_EVENT}, format('amount %s, debt from %s to %s, its loans %s, score from %s to %s', amount,
            debt_before, debt_after, of_loans, score_before, score_after) AS remark
        FROM journal_events AS events CROSS JOIN LATERAL (
            SELECT coalesce(sum(outstanding_after) FILTER (WHERE {OPEN.replace("status", "status_after")}), 0)
                - coalesce(sum(outstanding_before) FILTER (WHERE {OPEN.replace("status", "status_before")}), 0) AS of_loans
            FROM unnest(loan_statuses_before, loan_statuses_after, outstandings_before, outstandings_after)
                AS loan (status_before, status_after, outstanding_before, outstanding_after)
        ) AS loans {_OWNERS}
        WHERE debt_after - coalesce(debt_before, 0) <> of_loans
            OR of_loans <> CASE WHEN kind IN ({Kind.LOAN_CREATED}, {Kind.PAYMENT_BOUNCED}) THEN amount
                WHEN kind IN ({Kind.LOAN_REJECTED}, {Kind.PAYMENT_COMPLETED}) THEN -amount ELSE 0 END
            OR (score_before <> score_after AND NOT {_OF_CUSTOMERS})
        """,  # noqa: S608 - constants
    ),
    # The hash has the actor, so whether an event was backfilled cannot be changed alone.
    Invariant(
        "An event says who did it, unless it was backfilled",
        "journal_events",
        f"""
        SELECT {_EVENT}, format('done by %L, backfilled %s', actor, backfilled) AS remark
        FROM journal_events AS events {_OWNERS} WHERE backfilled <> (actor = '')
        """,  # noqa: S608 - constants
    ),
    Invariant(
        "A customer's status and version begin where the event before left them",
        "journal_events",
        f"""
        SELECT {_EVENT}, format('status %s, version %s; before it status %s, version %s',
            status_before, new_version, last_status, last_version) AS remark
        FROM (
            SELECT customer_id, number, status_before, version AS new_version, lag(status_after) OVER journal AS last_status,
                lag(version) OVER journal AS last_version
            FROM journal_events WHERE {_OF_CUSTOMERS} WINDOW journal AS (PARTITION BY customer_id ORDER BY number)
        ) AS events {_OWNERS}
        WHERE status_before IS DISTINCT FROM last_status OR new_version <> last_version + 1
        """,  # noqa: S608 - constants
    ),
    Invariant(
        "A loan's events begin with its creation, and each begins where the one before ended",
        "journal_events",
        f"""
        SELECT {_EVENT}, format('loan %s: begins with status %s, outstanding %s; the one before ended with status %s, %s',
            coalesce(loans.external_id, loan_id::text), status_before, outstanding_before, last_status,
            last_outstanding) AS remark
        FROM (
            SELECT *, lag(status_after) OVER journal AS last_status, lag(outstanding_after) OVER journal AS last_outstanding
            FROM ({_CHANGES}) AS changes WINDOW journal AS (PARTITION BY customer_id, loan_id ORDER BY number)
        ) AS events {_OWNERS} LEFT JOIN loans ON loans.id = loan_id
        WHERE status_before <> coalesce(last_status, 0) OR outstanding_before <> coalesce(last_outstanding, 0)
            OR (kind = {Kind.LOAN_CREATED}) <> (last_status IS NULL)
        """,  # noqa: S608 - constants
    ),
    Invariant(
        "A customer is as the last events say",
        "customers",
        f"""
        SELECT coalesce(customers.external_id, last.customer_id::text) AS external_id,
            {
            _difference(
                "customers.id",
                "last.number",
                '''
                format('score %s, debt %s, status %s, version %s; the events, up to %s, end with %s, %s, %s, %s', score,
                    coalesce(debt, 0), status, customers.version, last.number, score_after, debt_after, status_after,
                    changed.version)
            ''',
            )
        } AS remark
        FROM customers FULL JOIN (
            SELECT DISTINCT ON (customer_id) customer_id, number, score_after, debt_after
            FROM journal_events ORDER BY customer_id, number DESC
        ) AS last ON last.customer_id = customers.id LEFT JOIN (
            SELECT DISTINCT ON (customer_id) customer_id, status_after, preapproved_at, version
            FROM journal_events WHERE {_OF_CUSTOMERS} ORDER BY customer_id, number DESC
        ) AS changed ON changed.customer_id = customers.id LEFT JOIN ({debts()}) AS debts ON debts.customer_id = customers.id
        WHERE (score, coalesce(debt, 0), status, customers.preapproved_at, customers.version)
            IS DISTINCT FROM (score_after, debt_after, status_after, changed.preapproved_at, changed.version)
        """,  # noqa: S608 - constants
    ),
    Invariant(
        "A loan is as its last event says",
        "loans",
        f"""
        SELECT coalesce(external_id, loan_id::text) AS external_id, {
            _difference(
                "loans.id",
                "number",
                '''
                format('status %s, outstanding %s; the event %s ends with %s, %s', status, outstanding, number, status_after,
                    outstanding_after)
            ''',
            )
        } AS remark
        FROM loans FULL JOIN (
            SELECT DISTINCT ON (customer_id, loan_id) customer_id, loan_id, number, status_after, outstanding_after
            FROM ({_CHANGES}) AS changes ORDER BY customer_id, loan_id, number DESC
        ) AS last ON last.loan_id = loans.id AND last.customer_id = loans.customer_id
        WHERE (status, outstanding) IS DISTINCT FROM (status_after, outstanding_after)
        """,  # noqa: S608 - constants
    ),
    Invariant(
        "A payment has the events that its status says, with its amount",
        "payments",
        f"""
        SELECT coalesce(external_id, events.payment_id::text) AS external_id, {
            _difference(
                "payments.id",
                "number",
                '''
                format('status %s, amount %s; events from %s on: %s completed, %s refused, %s bounced, amount %s', status,
                    total_amount, number, completed, refused, bounced, array_to_string(amounts, ', '))
            ''',
            )
        } AS remark
        FROM payments FULL JOIN (
            SELECT customer_id, payment_id, min(number) AS number, array_agg(DISTINCT amount) AS amounts,
                count(*) FILTER (WHERE kind = {Kind.PAYMENT_COMPLETED}) AS completed,
                count(*) FILTER (WHERE kind = {Kind.PAYMENT_REFUSED}) AS refused,
                count(*) FILTER (WHERE kind = {Kind.PAYMENT_BOUNCED}) AS bounced
            FROM journal_events
            WHERE kind IN ({Kind.PAYMENT_COMPLETED}, {Kind.PAYMENT_REFUSED}, {Kind.PAYMENT_BOUNCED})
            GROUP BY customer_id, payment_id
        ) AS events ON events.payment_id = payments.id AND events.customer_id = payments.customer_id
        WHERE (ARRAY[total_amount], (paid_at IS NOT NULL)::int,
                (rejection_kind IS NOT DISTINCT FROM {RejectionKind.INSUFFICIENT_DEBT})::int,
                (rejection_kind IS NOT DISTINCT FROM {RejectionKind.BOUNCED})::int)
            IS DISTINCT FROM (amounts, completed, refused, bounced)
        """,  # noqa: S608 - constants
    ),
    Invariant(
        "A payment's details are what its events took from its loans, and those that it paid in full have a LOAN_PAID",
        "payment_details",
        f"""
        SELECT coalesce(payments.external_id, events.payment_id::text) AS external_id,
            {
            _difference(
                "payment_details.loan_id",
                "number",
                '''
                format('amount %s; events from %s on: paid %s, given back %s, paid in full %s, LOAN_PAID %s',
                    payment_details.amount, number, paid, restored, in_full, settled)
            ''',
            )
        } AS remark
        FROM payment_details FULL JOIN (
            SELECT payment_id, loan_id, min(number) AS number,
                sum(outstanding_before - outstanding_after) FILTER (WHERE kind = {Kind.PAYMENT_COMPLETED}) AS paid,
                sum(outstanding_after - outstanding_before) FILTER (WHERE kind = {Kind.PAYMENT_BOUNCED}) AS restored,
                count(*) FILTER (WHERE kind = {Kind.PAYMENT_COMPLETED} AND outstanding_after = 0) AS in_full,
                count(*) FILTER (WHERE kind = {Kind.LOAN_PAID}) AS settled
            FROM ({_CHANGES}) AS changes WHERE payment_id IS NOT NULL GROUP BY payment_id, loan_id
        ) AS events ON events.payment_id = payment_details.payment_id AND events.loan_id = payment_details.loan_id
            LEFT JOIN payments ON payments.id = coalesce(payment_details.payment_id, events.payment_id)
        WHERE payment_details.amount IS DISTINCT FROM paid OR paid <> restored OR in_full <> settled
        """,  # noqa: S608 - constants
    ),
)
