"""Every SQL statement about users.

Unlike other stores' calls, these take one user each: an Argon2id hash, which goes with most of them, costs fifty times what a
statement does, and a batch would only make users wait for each other.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.auth.users.otp import accepted_step
from mo_grpc.auth.users.rules import (
    Failures,
    NewUser,
    User,
    UserStatus,
    backoff_of,
    credentials_invalid,
    decayed,
    otp_already_enabled,
    otp_not_enabled,
    refused_for,
)
from mo_grpc.auth.users.sessions import revoke_sessions_of
from mo_grpc.db.cleaning import Cleaner
from mo_grpc.errors import ServiceError

_COLUMNS = """
    id, email, first_name, last_name, role, staff, password_hash, must_change_password, locked_at, otp_secret, otp_enabled_at,
    otp_last_step, last_login_at, password_changed_at, created_at, updated_at
"""

_CREATE = text(f"""
    INSERT INTO users (email, first_name, last_name, role, staff, password_hash, must_change_password, password_changed_at,
        created_at, updated_at)
    SELECT :email, :first_name, :last_name, :role, :staff, :password_hash, :must_change_password, now, now, now
    FROM clock_timestamp() AS now
    ON CONFLICT (email) DO NOTHING
    RETURNING {_COLUMNS}
""")  # noqa: S608 - constants

_LIST = text(f"SELECT {_COLUMNS} FROM users ORDER BY id")  # noqa: S608 - constants
_BY_EMAIL = text(f"SELECT {_COLUMNS} FROM users WHERE email = :key")  # noqa: S608 - constants
_BY_ID = text(f"SELECT {_COLUMNS} FROM users WHERE id = :key")  # noqa: S608 - constants
_STATUSES = "SELECT id, role, locked_at IS NOT NULL FROM users"
_ALL_STATUSES = text(_STATUSES)
_STATUS = text(f"{_STATUSES} WHERE id = :id")
_CHANGED_STATUSES = text(f"{_STATUSES} WHERE updated_at > clock_timestamp() - CAST(:age AS interval)")
_LOCK_ROW = text(f"SELECT {_COLUMNS} FROM users WHERE id = :id FOR NO KEY UPDATE")  # noqa: S608 - constants
_NOW = text("SELECT clock_timestamp()")

# One statement makes the rows or locks them, in order.
_FAILURES = text("""
    INSERT INTO login_failures (subject, failures, last_at)
    SELECT subject, 0, clock_timestamp() FROM unnest(CAST(:subjects AS text[])) AS new (subject) ORDER BY subject
    ON CONFLICT (subject) DO UPDATE SET failures = login_failures.failures
    RETURNING subject, failures, last_at
""")
_COUNT = text("""
    UPDATE login_failures SET failures = new.failures, last_at = :now
    FROM unnest(CAST(:subjects AS text[]), CAST(:failures AS integer[])) AS new (subject, failures)
    WHERE login_failures.subject = new.subject
""")
_FORGET = text("DELETE FROM login_failures WHERE subject = :account")
_REFUND = text("UPDATE login_failures SET failures = greatest(0, failures - 1) WHERE subject = :address")

_LOGGED_IN = text("UPDATE users SET last_login_at = :now, otp_last_step = :step WHERE id = :id")
_SET_PASSWORD = text("""
    UPDATE users SET password_hash = :hash, must_change_password = :must_change, password_changed_at = :now, updated_at = :now
    WHERE id = :id
""")
_REHASH = text("UPDATE users SET password_hash = :hash WHERE id = :id")
_SET_LOCKED = text("""
    UPDATE users SET locked_at = CASE WHEN :locked THEN coalesce(locked_at, now) END, updated_at = now
    FROM clock_timestamp() AS now WHERE id = :id
""")

_SET_ROLE = text("UPDATE users SET role = :role, updated_at = clock_timestamp() WHERE id = :id")

_SET_OTP_SECRET = text("""
    UPDATE users SET otp_secret = :secret, otp_last_step = 0, updated_at = clock_timestamp() WHERE id = :id
""")
_ENABLE_OTP = text("UPDATE users SET otp_enabled_at = :now, otp_last_step = :step, updated_at = :now WHERE id = :id")
_DISABLE_OTP = text("""
    UPDATE users SET otp_secret = NULL, otp_enabled_at = NULL, updated_at = clock_timestamp() WHERE id = :id
""")
_FORGET_CODES = text("DELETE FROM recovery_codes WHERE user_id = :id")
_ADD_CODES = text("""
    INSERT INTO recovery_codes (user_id, code_hash)
    SELECT :id, code_hash FROM unnest(CAST(:hashes AS bytea[])) AS new (code_hash)
""")
_USE_CODE = text("""
    UPDATE recovery_codes SET used_at = :now WHERE user_id = :id AND code_hash = ANY(:hashes) AND used_at IS NULL
""")


class Code(NamedTuple):
    """A presented one-time code beside the user's secret, or the hashes of a presented recovery code."""

    secret: str
    code: str
    recovery_hashes: list[bytes] | None

    def __repr__(self) -> str:
        return "Code(...)"


class LogIn(NamedTuple):
    """The command to log in the user whose password was found right in the row `seen`."""

    seen: User
    code: Code | None
    new_hash: str | None
    """The hash of a new password, or of the same at another cost."""
    changes_password: bool
    subjects: tuple[str, str]
    """The account and the address, whose failures are forgiven."""


async def create_user(connection: AsyncConnection, command: NewUser) -> User | None:
    """Create a user; None if the e-mail is taken."""
    row = (await connection.execute(_CREATE, command._asdict())).one_or_none()
    return User._make(row) if row else None


async def list_users(connection: AsyncConnection) -> list[User]:
    """List everyone, oldest first."""
    return [User._make(row) for row in await connection.execute(_LIST)]


async def list_statuses(connection: AsyncConnection) -> list[UserStatus]:
    """List what everyone may do."""
    return [UserStatus._make(row) for row in await connection.execute(_ALL_STATUSES)]


async def find_status(connection: AsyncConnection, user_id: int) -> UserStatus | None:
    """What a user may do; None if there is no such user."""
    row = (await connection.execute(_STATUS, {"id": user_id})).one_or_none()
    return UserStatus._make(row) if row else None


async def changed_statuses(connection: AsyncConnection, age: timedelta) -> list[UserStatus]:
    """List what those may do of whom something was changed within the last `age`."""
    return [UserStatus._make(row) for row in await connection.execute(_CHANGED_STATUSES, {"age": age})]


async def find_user(connection: AsyncConnection, key: str | int) -> User | None:
    """Get a user, by e-mail or by id."""
    row = (await connection.execute(_BY_EMAIL if isinstance(key, str) else _BY_ID, {"key": key})).one_or_none()
    return User._make(row) if row else None


async def charge(connection: AsyncConnection, subjects: Iterable[str]) -> float:
    """Count an attempt as failed beforehand, so that many at once do not all count as the first; success forgives it.

    Answers how many seconds it has to wait, without having been counted; 0 if it may go on.
    """
    rows = await connection.execute(_FAILURES, {"subjects": sorted(subjects)})
    failures = [Failures._make(row) for row in rows]
    now = await _clock(connection)
    seconds = refused_for(now, failures)
    if not seconds:
        counts = [decayed(each, backoff_of(each.subject), now) + 1 for each in failures]
        await connection.execute(_COUNT, {"subjects": [each.subject for each in failures], "failures": counts, "now": now})
    return seconds


async def forgive(connection: AsyncConnection, subjects: tuple[str, str]) -> None:
    """Forget an account's failures, and the one that its address was charged."""
    account, address = subjects
    await connection.execute(_FORGET, {"account": account})
    await connection.execute(_REFUND, {"address": address})


clean_failures = Cleaner("login_failures", "subject", "last_at")
"""Forget old failures."""


async def log_in(connection: AsyncConnection, command: LogIn) -> User | ServiceError:
    """Log a user in: accept the code, this once, and keep the new password, if there is one; then all sessions end.

    Refuses when the user has been locked, or has another password or other codes, since the password was verified.
    """
    user, now = await _lock(connection, command.seen.id)
    seen = command.seen
    if user is None or user.locked_at or (user.password_hash, user.otp_secret) != (seen.password_hash, seen.otp_secret):
        return credentials_invalid()
    step: int | None = user.otp_last_step
    if user.otp_enabled_at:
        step = await _accept(connection, user, command.code, now) if command.code else None
    if step is None:
        return credentials_invalid()
    await connection.execute(_LOGGED_IN, {"id": user.id, "now": now, "step": step})
    if command.changes_password:
        await _set_password(connection, user, command.new_hash or "", now, must_change=False)
    elif command.new_hash:
        await connection.execute(_REHASH, {"id": user.id, "hash": command.new_hash})
    await forgive(connection, command.subjects)
    return user


async def set_password(connection: AsyncConnection, user_id: int, password_hash: str, *, must_change: bool) -> None:
    """Give a user a new password, which ends all sessions."""
    user, now = await _lock(connection, user_id)
    if user:
        await _set_password(connection, user, password_hash, now, must_change=must_change)


async def set_locked(connection: AsyncConnection, user_id: int, account: str, *, locked: bool) -> None:
    """Lock a user out, which ends all sessions, or let the user in again and forget the account's failures."""
    await connection.execute(_SET_LOCKED, {"id": user_id, "locked": locked})
    if locked:
        await revoke_sessions_of(connection, user_id)
    else:
        await connection.execute(_FORGET, {"account": account})


async def set_role(connection: AsyncConnection, user_id: int, role: int) -> None:
    """Give a user another role."""
    await connection.execute(_SET_ROLE, {"id": user_id, "role": role})


async def set_otp_secret(connection: AsyncConnection, user_id: int, sealed: bytes) -> ServiceError | None:
    """Keep the secret of an enrolment that is still to be confirmed."""
    user, _ = await _lock(connection, user_id)
    if user is None:
        return credentials_invalid()
    if user.otp_enabled_at:
        return otp_already_enabled(user.email)
    await connection.execute(_SET_OTP_SECRET, {"id": user_id, "secret": sealed})
    return None


async def enable_otp(
    connection: AsyncConnection, seen: User, code: Code, hashes: Sequence[bytes], subjects: tuple[str, str]
) -> ServiceError | None:
    """Turn codes on, if this is one of the secret in the row `seen`; the recovery codes are new."""
    user, now = await _lock(connection, seen.id)
    if user is None or user.otp_enabled_at or user.otp_secret != seen.otp_secret:
        return otp_not_enabled(seen.email)
    step = accepted_step(code.secret, code.code, user.otp_last_step, now)
    if step is None:
        return credentials_invalid()
    await connection.execute(_ENABLE_OTP, {"id": user.id, "now": now, "step": step})
    await connection.execute(_FORGET_CODES, {"id": user.id})
    await connection.execute(_ADD_CODES, {"id": user.id, "hashes": list(hashes)})
    await forgive(connection, subjects)
    return None


async def disable_otp(
    connection: AsyncConnection, user_id: int, code: Code | None, subjects: tuple[str, str]
) -> ServiceError | None:
    """Turn codes off; without a code only for an administrator, at the command line."""
    user, now = await _lock(connection, user_id)
    if user is None or not user.otp_enabled_at:
        return otp_not_enabled(user.email if user else "")
    if code and await _accept(connection, user, code, now) is None:
        return credentials_invalid()
    await connection.execute(_DISABLE_OTP, {"id": user_id})
    await connection.execute(_FORGET_CODES, {"id": user_id})
    await forgive(connection, subjects)
    return None


async def _clock(connection: AsyncConnection) -> datetime:
    now: datetime = (await connection.execute(_NOW)).scalar_one()
    return now


async def _lock(connection: AsyncConnection, user_id: int) -> tuple[User | None, datetime]:
    """Lock a user's row, and tell the time after that."""
    row = (await connection.execute(_LOCK_ROW, {"id": user_id})).one_or_none()
    return (User._make(row) if row else None), await _clock(connection)


async def _accept(connection: AsyncConnection, user: User, code: Code, now: datetime) -> int | None:
    """Accept a code once; answers the step that is the last accepted from now on, or None."""
    if code.recovery_hashes is None:
        return accepted_step(code.secret, code.code, user.otp_last_step, now)
    used = await connection.execute(_USE_CODE, {"id": user.id, "hashes": code.recovery_hashes, "now": now})
    return user.otp_last_step if used.rowcount else None


async def _set_password(
    connection: AsyncConnection, user: User, password_hash: str, now: datetime, *, must_change: bool
) -> None:
    await connection.execute(_SET_PASSWORD, {"id": user.id, "hash": password_hash, "must_change": must_change, "now": now})
    await revoke_sessions_of(connection, user.id)
