"""Every SQL statement about webhooks themselves, and the list of attempts; `deliveries` has those that send events."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.customers.rules import RESOURCE as CUSTOMER
from mo_grpc.errors import NotFound
from mo_grpc.webhooks.rules import OVERLAP, Attempt, DisabledReason, NewWebhook, Webhook, WebhookChange

COLUMNS = ", ".join(Webhook._fields)
_ATTEMPTS = ", ".join(Attempt._fields)

_NEXT_ID = text("SELECT nextval('webhooks_id_seq')")
_CUSTOMER = text("SELECT id FROM customers WHERE external_id = :external_id")
_GET = text(f"SELECT {COLUMNS} FROM webhooks WHERE id = :id AND deleted_at IS NULL")  # noqa: S608 - constants

_PAGE = text(f"""
    SELECT {COLUMNS} FROM webhooks
    WHERE id < coalesce(CAST(:before AS bigint), 9223372036854775807) AND deleted_at IS NULL
    ORDER BY id DESC LIMIT :limit
""")  # noqa: S608 - constants

_CREATE = text(f"""
    INSERT INTO webhooks (id, url, kinds, customer_id, customer_external_id, description, secret, position, disabled_reason,
        disabled_at, created_by, created_at, updated_at)
    SELECT :id, :url, CAST(:kinds AS smallint[]), CAST(:customer_id AS bigint), :customer_external_id, :description, :secret,
        (SELECT position FROM journal_head), CASE WHEN :disabled THEN {DisabledReason.BY_CALLER} ELSE 0 END,
        CASE WHEN :disabled THEN now END, :created_by, now, now
    FROM clock_timestamp() AS now
    RETURNING {COLUMNS}
""")  # noqa: S608 - constants

# One that is disabled already stays so for its reason.
_CHANGE = text(f"""
    UPDATE webhooks SET url = coalesce(CAST(:url AS text), url), kinds = coalesce(CAST(:kinds AS smallint[]), kinds),
        description = coalesce(CAST(:description AS text), description),
        disabled_reason = CASE CAST(:disabled AS boolean)
            WHEN true THEN CASE WHEN disabled_at IS NULL THEN {DisabledReason.BY_CALLER} ELSE disabled_reason END
            WHEN false THEN 0 ELSE disabled_reason
        END,
        disabled_at = CASE CAST(:disabled AS boolean)
            WHEN true THEN coalesce(disabled_at, now) WHEN false THEN NULL ELSE disabled_at
        END,
        failing_since = CASE WHEN CAST(:disabled AS boolean) IS FALSE THEN NULL ELSE failing_since END,
        updated_at = now
    FROM clock_timestamp() AS now
    WHERE id = :id AND deleted_at IS NULL
    RETURNING {COLUMNS}
""")  # noqa: S608 - constants

# A webhook that is deleted needs no secret any more.
_DELETE = text(f"""
    UPDATE webhooks SET deleted_at = clock_timestamp(), secret = '', previous_secret = NULL, previous_expires_at = NULL
    WHERE id = :id AND deleted_at IS NULL
    RETURNING {COLUMNS}
""")  # noqa: S608 - constants

_ROTATE = text(f"""
    UPDATE webhooks SET previous_secret = secret, previous_expires_at = now + make_interval(secs => {OVERLAP}),
        secret = :secret, updated_at = now
    FROM clock_timestamp() AS now
    WHERE id = :id AND deleted_at IS NULL
    RETURNING {COLUMNS}
""")  # noqa: S608 - constants

_LIST_ATTEMPTS = """
    SELECT {columns} FROM webhook_attempts
    WHERE webhook_id = :webhook_id AND id < coalesce(CAST(:before AS bigint), 9223372036854775807){failed}
    ORDER BY id DESC LIMIT :limit
"""
_ALL_ATTEMPTS = text(_LIST_ATTEMPTS.format(columns=_ATTEMPTS, failed=""))
_FAILED_ATTEMPTS = text(_LIST_ATTEMPTS.format(columns=_ATTEMPTS, failed=" AND error <> ''"))


async def next_id(connection: AsyncConnection) -> int:
    """Draw the id of a new webhook."""
    return int((await connection.execute(_NEXT_ID)).scalar_one())


async def get_webhook(connection: AsyncConnection, webhook_id: int) -> Webhook | None:
    """Get a webhook; None if there is no such one."""
    return _webhook((await connection.execute(_GET, {"id": webhook_id})).one_or_none())


async def list_webhooks(connection: AsyncConnection, before: int | None, limit: int) -> list[Webhook]:
    """List webhooks, newest first, with ids below `before`."""
    return [Webhook._make(row) for row in await connection.execute(_PAGE, {"before": before, "limit": limit})]


async def create_webhook(connection: AsyncConnection, command: NewWebhook) -> Webhook:
    """Create a webhook, which gets the events behind the last position.

    Raises:
        NotFound: there is no such customer.
    """
    customer_id = None
    if command.customer_external_id:
        parameters = {"external_id": command.customer_external_id}
        customer_id = (await connection.execute(_CUSTOMER, parameters)).scalar_one_or_none()
        if customer_id is None:
            raise NotFound(CUSTOMER, command.customer_external_id)
    row = (await connection.execute(_CREATE, {**command._asdict(), "customer_id": customer_id})).one()
    return Webhook._make(row)


async def change_webhook(connection: AsyncConnection, webhook_id: int, change: WebhookChange) -> Webhook | None:
    """Change a webhook; None if there is no such one."""
    return _webhook((await connection.execute(_CHANGE, {**change._asdict(), "id": webhook_id})).one_or_none())


async def delete_webhook(connection: AsyncConnection, webhook_id: int) -> Webhook | None:
    """Delete a webhook; None if there is no such one."""
    return _webhook((await connection.execute(_DELETE, {"id": webhook_id})).one_or_none())


async def rotate_secret(connection: AsyncConnection, webhook_id: int, secret: bytes) -> Webhook | None:
    """Give a webhook another secret, encrypted, and keep the one of now for a while; None if there is no such webhook."""
    return _webhook((await connection.execute(_ROTATE, {"id": webhook_id, "secret": secret})).one_or_none())


async def list_attempts(
    connection: AsyncConnection, webhook_id: int, before: int | None, limit: int, *, failed_only: bool
) -> list[Attempt]:
    """List the attempts for a webhook, newest first, with ids below `before`."""
    statement = _FAILED_ATTEMPTS if failed_only else _ALL_ATTEMPTS
    parameters = {"webhook_id": webhook_id, "before": before, "limit": limit}
    return [Attempt._make(row) for row in await connection.execute(statement, parameters)]


def _webhook(row: Sequence[object] | None) -> Webhook | None:
    return Webhook._make(row) if row else None
