"""Every SQL statement that sends events: what is due, who sends it, and what came of it.

Of each customer of a webhook, one PENDING delivery at least has a time to be sent at, as a rule the oldest one alone: so a
customer's events are sent in their order. Whoever adds or ends deliveries holds the lock of the webhook's row meanwhile, and
reads in another statement than the one that locks; otherwise a customer whose last delivery ends just as another one is added
might be left without a time.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.db.cleaning import Cleaner
from mo_grpc.webhooks.rules import FAILING_FOR, Answer, Attempt, Claim, DeliveryState, DisabledReason, Outcome, Webhook
from mo_grpc.webhooks.store import COLUMNS

LEASE = 60
"""Seconds after which the events of a process that was killed are sent by another one."""

AT_ONCE = 8
"""How many events of a webhook a process sends at a time; one whose last attempt failed, one at a time."""

_QUEUED_AT_ONCE = 1000
"""Positions that are read at a time for a webhook."""

_ENABLED = "disabled_at IS NULL AND deleted_at IS NULL"

# By `statement_timestamp()`, which does not change while a statement runs, the index finds what is due.
_IS_WORK = text(f"""
    SELECT EXISTS (SELECT FROM webhooks WHERE {_ENABLED} AND position < (SELECT position FROM journal_head)) OR EXISTS (
        SELECT FROM webhooks JOIN webhook_deliveries ON webhook_id = webhooks.id
        WHERE {_ENABLED} AND next_at <= statement_timestamp()
    )
""")  # noqa: S608 - constants

_BEHIND = text(f"""
    SELECT id FROM webhooks WHERE {_ENABLED} AND position < (SELECT position FROM journal_head)
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
""")  # noqa: S608 - constants

_QUEUE = text(f"""
    WITH behind AS (
        SELECT id, kinds, customer_id, webhooks.position, least(webhooks.position + {_QUEUED_AT_ONCE}, head.position) AS until
        FROM webhooks, journal_head AS head WHERE id = ANY(:ids)
    ), moved AS (
        UPDATE webhooks SET position = until FROM behind WHERE webhooks.id = behind.id
    )
    INSERT INTO webhook_deliveries (webhook_id, position, customer_id)
    SELECT behind.id, place.position, place.customer_id
    FROM behind JOIN journal_positions AS place ON place.position > behind.position AND place.position <= until
    WHERE (kinds = '{{}}' OR kind = ANY(kinds))
        AND (behind.customer_id IS NULL OR behind.customer_id = place.customer_id)
    ORDER BY behind.id, place.position
    RETURNING webhook_id, customer_id
""")  # noqa: S608 - constants

# For customers of whom nothing has a time to be sent at, the oldest delivery gets one.
_SCHEDULE = text(f"""
    UPDATE webhook_deliveries AS delivery SET next_at = clock_timestamp()
    FROM (
        SELECT DISTINCT webhook_id, customer_id
        FROM unnest(CAST(:webhook_ids AS bigint[]), CAST(:customer_ids AS bigint[])) AS given (webhook_id, customer_id)
    ) AS wanted CROSS JOIN LATERAL (
        SELECT position FROM webhook_deliveries AS pending
        WHERE pending.webhook_id = wanted.webhook_id AND pending.customer_id = wanted.customer_id
            AND pending.state = {DeliveryState.PENDING}
        ORDER BY position LIMIT 1
    ) AS oldest
    WHERE delivery.webhook_id = wanted.webhook_id AND delivery.position = oldest.position AND NOT EXISTS (
        SELECT FROM webhook_deliveries AS scheduled
        WHERE scheduled.webhook_id = wanted.webhook_id AND scheduled.customer_id = wanted.customer_id
            AND scheduled.next_at IS NOT NULL
    )
""")  # noqa: S608 - constants

_CLAIM = text(f"""
    WITH due AS (
        SELECT webhook_id, found.position
        FROM (
            SELECT id, CASE WHEN failing_since IS NULL THEN {AT_ONCE} ELSE 1 END - coalesce(busy, 0) AS free
            FROM webhooks
                LEFT JOIN unnest(CAST(:busy_ids AS bigint[]), CAST(:busy AS integer[])) AS sending (id, busy) USING (id)
            WHERE {_ENABLED}
        ) AS enabled CROSS JOIN LATERAL (
            SELECT webhook_id, position FROM webhook_deliveries
            WHERE webhook_id = enabled.id AND next_at <= statement_timestamp()
            ORDER BY next_at LIMIT greatest(free, 0) FOR NO KEY UPDATE SKIP LOCKED
        ) AS found
        LIMIT :limit
    )
    UPDATE webhook_deliveries AS delivery
    SET claim = :token, next_at = clock_timestamp() + make_interval(secs => {LEASE})
    FROM due WHERE delivery.webhook_id = due.webhook_id AND delivery.position = due.position
    RETURNING delivery.webhook_id, delivery.position, attempts
""")  # noqa: S608 - constants

_GET = text(f"SELECT {COLUMNS} FROM webhooks WHERE id = ANY(:ids)")  # noqa: S608 - constants

_LOCK = text("SELECT id FROM webhooks WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE")

# Whoever was too late finds another claim, or none; the attempt is told all the same.
_RECORD = text(f"""
    WITH outcome AS (
        SELECT *, clock_timestamp() + make_interval(secs => delay) AS again_at
        FROM unnest(CAST(:webhook_ids AS bigint[]), CAST(:positions AS bigint[]), CAST(:tokens AS text[]),
            CAST(:states AS smallint[]), CAST(:numbers AS integer[]), CAST(:delays AS double precision[]),
            CAST(:event_ids AS text[]), CAST(:attempted_ats AS timestamptz[]), CAST(:durations AS integer[]),
            CAST(:status_codes AS smallint[]), CAST(:errors AS text[]), CAST(:responses AS text[]))
            AS new (webhook_id, position, token, state, number, delay, event_id, attempted_at, duration_ms, status_code, error,
                response)
    ), told AS (
        INSERT INTO webhook_attempts (webhook_id, event_id, position, number, attempted_at, duration_ms, status_code, error,
            response, next_attempt_at, given_up)
        SELECT webhook_id, event_id, position, number, attempted_at, duration_ms, status_code, error, response, again_at,
            state = {DeliveryState.GIVEN_UP}
        FROM outcome ORDER BY attempted_at
    )
    UPDATE webhook_deliveries AS delivery SET state = outcome.state, attempts = outcome.number, next_at = again_at,
        claim = NULL, finished_at = CASE WHEN outcome.state <> {DeliveryState.PENDING} THEN clock_timestamp() END
    FROM outcome
    WHERE delivery.webhook_id = outcome.webhook_id AND delivery.position = outcome.position AND claim = token
    RETURNING delivery.webhook_id, customer_id
""")  # noqa: S608 - constants

_TOO_LONG = f"(NOT succeeded AND coalesce(failing_since < now - make_interval(secs => {FAILING_FOR}), false))"

# One that was deleted or disabled meanwhile stays as it is.
_NOTE = text(f"""
    UPDATE webhooks SET
        failing_since = CASE WHEN succeeded THEN NULL ELSE coalesce(failing_since, now) END,
        disabled_at = CASE WHEN gone OR {_TOO_LONG} THEN now END,
        disabled_reason = CASE WHEN gone THEN {DisabledReason.GONE} WHEN {_TOO_LONG} THEN {DisabledReason.FAILING} ELSE 0 END
    FROM clock_timestamp() AS now, unnest(CAST(:ids AS bigint[]), CAST(:succeeded AS boolean[]), CAST(:gone AS boolean[]))
        AS new (id, succeeded, gone)
    WHERE webhooks.id = new.id AND {_ENABLED} AND (NOT succeeded OR failing_since IS NOT NULL)
    RETURNING webhooks.id, disabled_at IS NOT NULL
""")  # noqa: S608 - constants

_TELL_TEST = text(f"""
    INSERT INTO webhook_attempts (webhook_id, event_id, position, number, attempted_at, duration_ms, status_code, error,
        response, given_up)
    VALUES (:webhook_id, :event_id, 0, 1, :attempted_at, :duration_ms, :status_code, :error, :response, false)
    RETURNING {", ".join(Attempt._fields)}
""")  # noqa: S608 - constants

_POSITION = "(SELECT position FROM webhook_attempts WHERE id = :id AND webhook_id = :webhook_id)"

_AGAIN = f"""
    UPDATE webhook_deliveries SET state = {DeliveryState.PENDING}, attempts = 0, finished_at = NULL
    WHERE webhook_id = :webhook_id AND {{}}
    RETURNING webhook_id, customer_id
"""  # noqa: S608 - constants
_AGAIN_ONE = text(_AGAIN.format(f"position = {_POSITION} AND state <> {DeliveryState.PENDING}"))
_AGAIN_GIVEN_UP = text(
    _AGAIN.format(f"state = {DeliveryState.GIVEN_UP} AND finished_at >= coalesce(CAST(:since AS timestamptz), '-infinity')")
)

_HURRY = """
    UPDATE webhook_deliveries SET next_at = clock_timestamp()
    WHERE webhook_id = :webhook_id AND next_at > clock_timestamp() AND claim IS NULL{}
"""
_HURRY_ONE = text(_HURRY.format(f" AND position = {_POSITION}"))
_HURRY_ALL = text(_HURRY.format(""))

_GIVE_UP = text(f"""
    UPDATE webhook_deliveries
    SET state = {DeliveryState.GIVEN_UP}, next_at = NULL, claim = NULL, finished_at = clock_timestamp()
    WHERE webhook_id = :webhook_id AND state = {DeliveryState.PENDING}
""")  # noqa: S608 - constants

_HAS_ATTEMPT = text("SELECT FROM webhook_attempts WHERE id = :id AND webhook_id = :webhook_id AND position > 0")


async def is_work(connection: AsyncConnection) -> bool:
    """Whether there is an event to send; asked often, so it costs little."""
    return bool((await connection.execute(_IS_WORK)).scalar_one())


async def queue_events(connection: AsyncConnection) -> bool:
    """Add deliveries for the next events of each enabled webhook; whether there was a webhook with events to come."""
    ids = (await connection.execute(_BEHIND)).scalars().all()
    if ids:
        await _schedule(connection, (await connection.execute(_QUEUE, {"ids": ids})).all())
    return bool(ids)


async def claim(connection: AsyncConnection, token: str, busy: Mapping[int, int], limit: int) -> list[Claim]:
    """Take deliveries that are due, up to `limit`, and of each webhook as many as it may have beside the `busy` ones.

    They are this process's for `LEASE` seconds.
    """
    parameters = {"token": token, "busy_ids": list(busy), "busy": list(busy.values()), "limit": limit}
    rows = await connection.execute(_CLAIM, parameters)
    return [Claim(webhook_id, position, token, attempts) for webhook_id, position, attempts in rows]


async def get_webhooks(connection: AsyncConnection, ids: Iterable[int]) -> dict[int, Webhook]:
    """Get webhooks by id."""
    return {row[0]: Webhook._make(row) for row in await connection.execute(_GET, {"ids": sorted(set(ids))})}


async def record(connection: AsyncConnection, outcomes: Sequence[Outcome]) -> list[int]:
    """Record attempts and what comes of them; answers which webhooks are disabled now because of them."""
    by_webhook = {each.claim.webhook_id: each for each in outcomes}
    # The last one counts, unless one was refused for good, or one succeeded.
    for each in outcomes:
        if each.answer.gone or (each.answer.succeeded and not by_webhook[each.claim.webhook_id].answer.gone):
            by_webhook[each.claim.webhook_id] = each
    await connection.execute(_LOCK, {"ids": sorted(by_webhook)})
    rows = await connection.execute(_RECORD, _columns(outcomes))
    await _schedule(connection, rows.all())
    noted = {
        "ids": list(by_webhook),
        "succeeded": [each.answer.succeeded for each in by_webhook.values()],
        "gone": [each.answer.gone for each in by_webhook.values()],
    }
    return [webhook_id for webhook_id, disabled in await connection.execute(_NOTE, noted) if disabled]


async def tell_test(connection: AsyncConnection, webhook_id: int, event_id: str, answer: Answer) -> Attempt:
    """Record the attempt for a test event."""
    parameters = {"webhook_id": webhook_id, "event_id": event_id, **answer._asdict()}
    return Attempt._make((await connection.execute(_TELL_TEST, parameters)).one())


async def resend_attempt(connection: AsyncConnection, webhook_id: int, attempt_id: int) -> int | None:
    """Send the event of an attempt again; answers how many are sent, or None if there is no such attempt."""
    wanted = {"webhook_id": webhook_id, "id": attempt_id}
    await connection.execute(_LOCK, {"ids": [webhook_id]})
    if (await connection.execute(_HAS_ATTEMPT, wanted)).one_or_none() is None:
        return None
    hurried = (await connection.execute(_HURRY_ONE, wanted)).rowcount
    return hurried + await _schedule(connection, (await connection.execute(_AGAIN_ONE, wanted)).all())


async def resend_failed(connection: AsyncConnection, webhook_id: int, since: datetime | None) -> int:
    """Send all events again that were given up since then, and those now that wait; answers how many that are."""
    await connection.execute(_LOCK, {"ids": [webhook_id]})
    hurried = await hurry(connection, webhook_id)
    given_up = await connection.execute(_AGAIN_GIVEN_UP, {"webhook_id": webhook_id, "since": since})
    return hurried + await _schedule(connection, given_up.all())


async def give_up(connection: AsyncConnection, webhook_id: int) -> None:
    """Send nothing more to a webhook that is deleted."""
    await connection.execute(_GIVE_UP, {"webhook_id": webhook_id})


async def hurry(connection: AsyncConnection, webhook_id: int) -> int:
    """Send now what waits for its next attempt; answers how many that are."""
    return (await connection.execute(_HURRY_ALL, {"webhook_id": webhook_id})).rowcount


clean_attempts = Cleaner("webhook_attempts", "id", "attempted_at")
"""Delete old attempts."""

clean_deliveries = Cleaner("webhook_deliveries", "webhook_id, position", "finished_at")
"""Delete deliveries that ended long ago."""


async def _schedule(connection: AsyncConnection, rows: Sequence[Sequence[int]]) -> int:
    """Give the customers' oldest deliveries a time, where none has one; answers how many rows were given."""
    if rows:
        webhook_ids, customer_ids = zip(*rows, strict=True)
        await connection.execute(_SCHEDULE, {"webhook_ids": list(webhook_ids), "customer_ids": list(customer_ids)})
    return len(rows)


def _columns(outcomes: Sequence[Outcome]) -> dict[str, list[object]]:
    return {
        "webhook_ids": [each.claim.webhook_id for each in outcomes],
        "positions": [each.claim.position for each in outcomes],
        "tokens": [each.claim.token for each in outcomes],
        "states": [each.state for each in outcomes],
        "numbers": [each.claim.attempts + 1 for each in outcomes],
        "delays": [each.delay for each in outcomes],
        "event_ids": [each.event_id for each in outcomes],
        "attempted_ats": [each.answer.attempted_at for each in outcomes],
        "durations": [each.answer.duration_ms for each in outcomes],
        "status_codes": [each.answer.status_code for each in outcomes],
        "errors": [each.answer.error for each in outcomes],
        "responses": [each.answer.response for each in outcomes],
    }
