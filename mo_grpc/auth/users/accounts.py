"""Users' logins and their one-time codes; it does not depend on gRPC, so the web's pages use it as well."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from mo.errors.v1.error_reason_pb2 import ErrorReason
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.audit_log.rules import Actor, AuditKind, NewAuditEvent
from mo_grpc.audit_log.store import append
from mo_grpc.auth.users import otp, store
from mo_grpc.auth.users.passwords import Passwords
from mo_grpc.auth.users.rules import (
    LoginAttempt,
    OtpRequired,
    User,
    account_subject,
    address_subject,
    credentials_invalid,
    fingerprint,
    malformed_code,
    normal_email,
    otp_already_enabled,
    otp_not_enabled,
    password_change_required,
    password_faults,
    reused_password,
    too_many_attempts,
)
from mo_grpc.config import Settings
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database
from mo_grpc.errors import InvalidFields, PreconditionFailed, ServiceError, Unauthenticated

T = TypeVar("T")


class Accounts:
    """Everything that asks for a password or a code.

    Failures count against the account and the address, and make them wait. The outcome of each attempt goes into the audit log.
    """

    def __init__(self, settings: Settings, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._passwords = Passwords(settings)

    async def log_in(self, attempt: LoginAttempt, within: Callable[[AsyncConnection, User], Awaitable[T]]) -> T:
        """Log in, and run `within` in the very transaction that accepts the login: there a session begins.

        Raises:
            InvalidFields: the new password is too weak, or the code is malformed.
            OtpRequired: all is right, and a code is wanted.
            Unauthenticated: something is wrong, or the account is locked.
            PreconditionFailed: the password must be changed first.
            TooManyRequests: too many attempts failed.
            Overloaded: too many others log in.
        """
        if attempt.code:
            attempt = attempt._replace(code=_normal(attempt.code))
        email = normal_email(attempt.email)
        subjects = await self._begin(email or attempt.email, attempt.address)
        async with self._recording(email, attempt.address):
            user = await self._database.read(lambda c: store.find_user(c, email))
            return await self._finish(await self._verified(user, attempt.password), attempt, subjects, within)

    async def resume(
        self, user_id: int, seen: str, attempt: LoginAttempt, within: Callable[[AsyncConnection, User], Awaitable[T]]
    ) -> T:
        """Go on after `OtpRequired`, with a code instead of the password, which was right when `fingerprint` was `seen`.

        Raises:
            ServiceError: as `log_in` says.
        """
        attempt = attempt._replace(code=_normal(attempt.code))
        user = await self.find(user_id)
        subjects = await self._begin(user.email, attempt.address)
        async with self._recording(user.email, attempt.address):
            if user.locked_at or fingerprint(user) != seen:
                raise credentials_invalid()
            return await self._finish(user, attempt._replace(email=user.email), subjects, within)

    async def find(self, user_id: int) -> User:
        """Get a user.

        Raises:
            Unauthenticated: there is none.
        """
        user = await self._database.read(lambda c: store.find_user(c, user_id))
        if user is None:
            raise credentials_invalid()
        return user

    async def hash(self, password: str, email: str) -> str:
        """Hash a new password.

        Raises:
            InvalidFields: it is too weak.
        """
        if faults := password_faults(password, email):
            raise InvalidFields(faults)
        return await self._passwords.hash(password)

    async def enroll(self, user_id: int, password: str, address: str) -> otp.Enrollment:
        """Begin to enrol one-time codes, after the password once more.

        Raises:
            ServiceError: as `log_in` says, or codes are in use already.
        """
        user, subjects = await self._again(user_id, password, address)
        if user.otp_enabled_at:
            raise otp_already_enabled(user.email)
        enrollment = otp.enroll(user.email)
        sealed = self._vault.encrypt(enrollment.secret.encode(), otp.sealed_for(user.id))

        async def work(connection: AsyncConnection) -> ServiceError | None:
            await store.forgive(connection, subjects)
            return await store.set_otp_secret(connection, user.id, sealed)

        _check(await self._database.write(work))
        return enrollment

    async def confirm(self, user_id: int, code: str, address: str) -> list[str]:
        """Turn one-time codes on by the first of them; answers the recovery codes.

        Raises:
            ServiceError: the code is wrong, or there is nothing to confirm, or too many attempts failed.
        """
        code = otp.normal_code(code)
        if not otp.is_app_code(code):
            raise malformed_code("the six digits that the app shows")
        user = await self.find(user_id)
        if user.otp_enabled_at or not user.otp_secret:
            raise otp_not_enabled(user.email)
        subjects = await self._begin(user.email, address)
        codes = otp.recovery_codes()
        hashes = [otp.recovery_hash(self._vault, user.id, each) for each in codes]
        presented = self._code(user, code)
        async with self._recording(user.email, address):
            event = NewAuditEvent(AuditKind.OTP_ENABLED, _actor(user, address), user.email)
            await self._change(lambda c: store.enable_otp(c, user, presented, hashes, subjects), event)
        return codes

    async def disable(self, user_id: int, password: str, code: str, address: str) -> None:
        """Turn one-time codes off, after the password and a code once more.

        Raises:
            ServiceError: as `log_in` says, or they are off.
        """
        code = _normal(code)
        user, subjects = await self._again(user_id, password, address)
        if not user.otp_enabled_at:
            raise otp_not_enabled(user.email)
        presented = self._code(user, code)
        async with self._recording(user.email, address):
            event = NewAuditEvent(AuditKind.OTP_DISABLED, _actor(user, address), user.email)
            await self._change(lambda c: store.disable_otp(c, user.id, presented, subjects), event)

    async def _begin(self, email: str, address: str) -> tuple[str, str]:
        """Count the attempt; answers what it is counted against."""
        subjects = account_subject(email), address_subject(address)
        if seconds := await self._database.write(lambda c: store.charge(c, subjects)):
            raise too_many_attempts(seconds)
        return subjects

    async def _again(self, user_id: int, password: str, address: str) -> tuple[User, tuple[str, str]]:
        user = await self.find(user_id)
        subjects = await self._begin(user.email, address)
        async with self._recording(user.email, address):
            return await self._verified(user, password), subjects

    async def _verified(self, user: User | None, password: str) -> User:
        # Whoever does not exist is verified as well, and as slowly.
        right = await self._passwords.verify(user.password_hash if user else None, password)
        if not right or user is None or user.locked_at:
            raise credentials_invalid()
        return user

    async def _finish(
        self,
        user: User,
        attempt: LoginAttempt,
        subjects: tuple[str, str],
        within: Callable[[AsyncConnection, User], Awaitable[T]],
    ) -> T:
        """Log in a user whose password was right."""
        if user.must_change_password and not attempt.new_password:
            raise password_change_required(user.email)
        if user.otp_enabled_at and not attempt.code:
            raise OtpRequired(user)
        changes, new_hash = bool(attempt.new_password), None
        if changes:
            new_hash = await self.hash(attempt.new_password, user.email)
            if await self._passwords.verify(user.password_hash, attempt.new_password):
                raise InvalidFields(reused_password())
        elif attempt.password and self._passwords.outdated(user.password_hash):
            new_hash = await self._passwords.hash(attempt.password)
        code = self._code(user, attempt.code) if user.otp_enabled_at else None
        command = store.LogIn(user, code, new_hash, changes, subjects)
        kinds = (AuditKind.LOGGED_IN, *([AuditKind.PASSWORD_CHANGED] if changes else []))
        events = [NewAuditEvent(kind, _actor(user, attempt.address), user.email) for kind in kinds]

        async def work(connection: AsyncConnection) -> T | ServiceError:
            result = await store.log_in(connection, command)
            if isinstance(result, ServiceError):
                return result
            begun = await within(connection, result)
            await append(connection, self._vault, events)
            return begun

        return _check(await self._database.write(work))

    @asynccontextmanager
    async def _recording(self, email: str, address: str) -> AsyncIterator[None]:
        """Record what is refused inside: alike for every reason and every e-mail, so that its time tells nothing."""
        try:
            yield
        except (Unauthenticated, PreconditionFailed) as refusal:
            event = NewAuditEvent(
                AuditKind.LOGIN_REFUSED, Actor("", address), email, {"reason": ErrorReason.Name(refusal.reason)}
            )
            await self._database.write(lambda connection: append(connection, self._vault, [event]))
            raise

    async def _change(self, change: Callable[[AsyncConnection], Awaitable[ServiceError | None]], event: NewAuditEvent) -> None:
        """Make a change, with its event in the audit log."""

        async def work(connection: AsyncConnection) -> ServiceError | None:
            refusal = await change(connection)
            if refusal is None:
                await append(connection, self._vault, [event])
            return refusal

        _check(await self._database.write(work))

    def _code(self, user: User, code: str) -> store.Code:
        """A presented code, in its normal form, ready to be compared."""
        if otp.is_recovery_code(code) and user.otp_enabled_at:
            return store.Code("", "", otp.recovery_hashes(self._vault, user.id, code))
        secret = self._vault.decrypt(user.otp_secret or b"", otp.sealed_for(user.id)).decode()
        return store.Code(secret, code, None)


def _actor(user: User, address: str) -> Actor:
    return Actor(f"user-{user.id}", address)


def _normal(code: str) -> str:
    normal = otp.normal_code(code)
    if not normal:
        raise malformed_code("six digits, or a recovery code")
    return normal


def _check(result: T | ServiceError) -> T:
    if isinstance(result, ServiceError):
        raise result
    return result
