"""Making and ending API keys, over the API, at the command line or in the web admin; each change goes into the audit log."""

from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.audit_log.rules import Actor, AuditKind, NewAuditEvent, printable
from mo_grpc.audit_log.store import append
from mo_grpc.auth.api_keys import store
from mo_grpc.auth.api_keys.rules import ApiKey, KeyLimits, NewApiKey, Rotation
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database
from mo_grpc.errors import ServiceError
from mo_grpc.rpc.binding import BoundCustomers


class ApiKeyAdministration:
    """Changes that `actor` makes."""

    def __init__(self, database: Database, vault: Vault, actor: Actor) -> None:
        self._database = database
        self._vault = vault
        self._actor = actor

    async def create(self, command: NewApiKey) -> None:
        """Store a new key, and who made it."""
        made = command._replace(created_by=printable(self._actor.id))

        async def work(connection: AsyncConnection) -> None:
            await store.create_api_keys(connection, [made])
            data = {"name": command.name, "scopes": " ".join(sorted(command.scopes)), **_recorded(command.limits)}
            data |= _bound(command.customers)
            await self._record(connection, AuditKind.API_KEY_CREATED, command.credential.id, **data)

        await self._database.write(work)

    async def rotate(self, command: Rotation) -> ApiKey:
        """Give a key another secret.

        Raises:
            NotFound: there is no such key.
            PreconditionFailed: it is revoked.
        """
        key_id = command.credential.id

        async def work(connection: AsyncConnection) -> ApiKey:
            [rotated] = await store.rotate_api_keys(connection, [command])
            if isinstance(rotated, ServiceError):
                raise rotated
            await self._record(connection, AuditKind.API_KEY_ROTATED, key_id, overlap_seconds=str(command.overlap_seconds))
            return rotated

        return await self._database.write(work)

    async def set_limits(self, key_id: str, limits: KeyLimits) -> bool:
        """Let a key call from other networks, more or less often; False if there is no such key."""

        async def work(connection: AsyncConnection) -> bool:
            changed = await store.set_limits(connection, key_id, limits)
            if changed:
                await self._record(connection, AuditKind.API_KEY_LIMITED, key_id, **_recorded(limits))
            return changed

        return await self._database.write(work)

    async def revoke(self, key_id: str) -> bool:
        """Revoke a key for good; False if there is no such key."""

        async def work(connection: AsyncConnection) -> bool:
            [revoked] = await store.revoke_api_keys(connection, [key_id])
            if revoked:
                await self._record(connection, AuditKind.API_KEY_REVOKED, key_id)
            return revoked

        return await self._database.write(work)

    async def _record(self, connection: AsyncConnection, kind: AuditKind, key_id: str, **data: str) -> None:
        await append(connection, self._vault, [NewAuditEvent(kind, self._actor, key_id, data)])


def _recorded(limits: KeyLimits) -> dict[str, str]:
    """The limits that are set."""
    networks = " ".join(map(str, limits.allowed_networks))
    recorded = {"allowed_networks": networks, "per_second": limits.calls_per_second, "per_day": limits.calls_per_day}
    return {name: str(value) for name, value in recorded.items() if value}


def _bound(customers: BoundCustomers | None) -> dict[str, str]:
    """The customers that a key is bound to. The log keeps the beginning of a long text, so it also tells how many they are."""
    if customers is None:
        return {}
    named = {"customers": " ".join(sorted(customers.external_ids)), "customers_count": str(len(customers.external_ids))}
    return (named if customers.external_ids else {}) | ({"customer_prefix": customers.prefix} if customers.prefix else {})
