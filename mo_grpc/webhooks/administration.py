"""Making, changing and deleting webhooks; each change goes into the audit log."""

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.audit_log.rules import Actor, AuditKind, NewAuditEvent
from mo_grpc.audit_log.store import append
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database
from mo_grpc.journal.rules import Kind
from mo_grpc.webhooks import deliveries, store
from mo_grpc.webhooks.rules import NewWebhook, Webhook, WebhookChange, not_found
from mo_grpc.webhooks.signing import sealed_for


class WebhookAdministration:
    """Changes that `actor` makes."""

    def __init__(self, database: Database, vault: Vault, actor: Actor) -> None:
        self._database = database
        self._vault = vault
        self._actor = actor

    async def create(self, command: NewWebhook, secret: bytes) -> Webhook:
        """Create a webhook with a secret.

        Raises:
            NotFound: there is no such customer.
        """

        async def work(connection: AsyncConnection) -> Webhook:
            webhook_id = await store.next_id(connection)
            sealed = self._vault.encrypt(secret, sealed_for(webhook_id))
            created = await store.create_webhook(connection, command._replace(id=webhook_id, secret=sealed))
            await self._record(connection, AuditKind.WEBHOOK_CREATED, created, **_recorded(created))
            return created

        return await self._database.write(work)

    async def change(self, webhook_id: int, change: WebhookChange) -> Webhook:
        """Change a webhook; one that is enabled is sent at once what waits for another attempt.

        Raises:
            NotFound: there is no such webhook.
        """

        async def work(connection: AsyncConnection) -> Webhook:
            changed = _found(await store.change_webhook(connection, webhook_id, change), webhook_id)
            if change.disabled is False:
                await deliveries.hurry(connection, webhook_id)
            await self._record(connection, AuditKind.WEBHOOK_CHANGED, changed, **_recorded(changed))
            return changed

        return await self._database.write(work)

    async def rotate_secret(self, webhook_id: int, secret: bytes) -> Webhook:
        """Give a webhook another secret.

        Raises:
            NotFound: there is no such webhook.
        """
        sealed = self._vault.encrypt(secret, sealed_for(webhook_id))
        return await self._simple(
            webhook_id, AuditKind.WEBHOOK_SECRET_ROTATED, lambda connection: store.rotate_secret(connection, webhook_id, sealed)
        )

    async def delete(self, webhook_id: int) -> None:
        """Delete a webhook for good.

        Raises:
            NotFound: there is no such webhook.
        """

        async def delete(connection: AsyncConnection) -> Webhook | None:
            deleted = await store.delete_webhook(connection, webhook_id)
            if deleted:
                await deliveries.give_up(connection, webhook_id)
            return deleted

        await self._simple(webhook_id, AuditKind.WEBHOOK_DELETED, delete)

    async def _simple(
        self, webhook_id: int, kind: AuditKind, change: Callable[[AsyncConnection], Awaitable[Webhook | None]]
    ) -> Webhook:
        async def work(connection: AsyncConnection) -> Webhook:
            changed = _found(await change(connection), webhook_id)
            await self._record(connection, kind, changed)
            return changed

        return await self._database.write(work)

    async def _record(self, connection: AsyncConnection, kind: AuditKind, webhook: Webhook, **data: str) -> None:
        await append(connection, self._vault, [NewAuditEvent(kind, self._actor, f"webhook-{webhook.id}", data)])


def _found(webhook: Webhook | None, webhook_id: int) -> Webhook:
    if webhook is None:
        raise not_found(webhook_id)
    return webhook


def _recorded(webhook: Webhook) -> dict[str, str]:
    """What a webhook does; of its URL only the host, because the rest may hold a secret."""
    recorded = {
        "host": urlsplit(webhook.url).hostname or "",
        "kinds": " ".join(Kind(kind).name for kind in webhook.kinds),
        "customer": webhook.customer_external_id,
        "disabled": "true" if webhook.disabled_at else "",
    }
    return {name: value for name, value in recorded.items() if value}
