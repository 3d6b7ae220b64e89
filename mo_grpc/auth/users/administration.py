"""What administrators do to others' accounts, by the command line or the web admin; each change goes into the audit log."""

from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.audit_log.rules import Actor, AuditKind, NewAuditEvent
from mo_grpc.audit_log.store import append
from mo_grpc.auth.api_keys.rules import ApiKey
from mo_grpc.auth.api_keys.store import keys_made_by, revoke_api_keys
from mo_grpc.auth.users import store
from mo_grpc.auth.users.rules import NewUser, Role, User, account_subject
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database
from mo_grpc.errors import ServiceError


class UserAdministration:
    """Changes that `actor` makes."""

    def __init__(self, database: Database, vault: Vault, actor: Actor) -> None:
        self._database = database
        self._vault = vault
        self._actor = actor

    async def create(self, command: NewUser) -> User | None:
        """Create an account; None if the e-mail is taken."""

        async def work(connection: AsyncConnection) -> User | None:
            user = await store.create_user(connection, command)
            if user:
                await self._record(connection, AuditKind.USER_CREATED, user.email, role=command.role.name)
            return user

        return await self._database.write(work)

    async def lock(self, user: User, *, revoke_keys: bool = False) -> list[ApiKey]:
        """Lock an account out, which ends its sessions.

        Answers the API keys that are active and that the account made, itself or by other keys; with `revoke_keys`, those
        that were revoked along with it.
        """

        async def work(connection: AsyncConnection) -> list[ApiKey]:
            await store.set_locked(connection, user.id, account_subject(user.email), locked=True)
            keys = await keys_made_by(connection, f"user-{user.id}")
            events = [NewAuditEvent(AuditKind.USER_LOCKED, self._actor, user.email)]
            if revoke_keys:
                await revoke_api_keys(connection, [key.id for key in keys])
                events += [
                    NewAuditEvent(AuditKind.API_KEY_REVOKED, self._actor, key.id, {"locked": user.email}) for key in keys
                ]
            await append(connection, self._vault, events)
            return keys

        return await self._database.write(work)

    async def unlock(self, user: User) -> None:
        """Let an account in again, and forget its failed logins."""
        account = account_subject(user.email)
        await self._change(lambda c: store.set_locked(c, user.id, account, locked=False), AuditKind.USER_UNLOCKED, user)

    async def set_role(self, user: User, role: Role) -> None:
        """Give an account another role."""
        await self._change(lambda c: store.set_role(c, user.id, role), AuditKind.ROLE_CHANGED, user, role=role.name)

    async def set_password(self, user: User, password_hash: str, *, must_change: bool) -> None:
        """Set a password, which ends the account's sessions."""
        await self._change(
            lambda c: store.set_password(c, user.id, password_hash, must_change=must_change), AuditKind.PASSWORD_CHANGED, user
        )

    async def disable_otp(self, user: User) -> None:
        """Turn one-time codes off for somebody who has lost them.

        Raises:
            PreconditionFailed: they are off.
        """
        subjects = (account_subject(user.email), "")
        await self._change(lambda c: store.disable_otp(c, user.id, None, subjects), AuditKind.OTP_DISABLED, user)

    async def _change(
        self, change: Callable[[AsyncConnection], Awaitable[ServiceError | None]], kind: AuditKind, user: User, **data: str
    ) -> None:
        async def work(connection: AsyncConnection) -> None:
            if refusal := await change(connection):
                raise refusal
            await self._record(connection, kind, user.email, **data)

        await self._database.write(work)

    async def _record(self, connection: AsyncConnection, kind: AuditKind, email: str, **data: str) -> None:
        await append(connection, self._vault, [NewAuditEvent(kind, self._actor, email, data)])
