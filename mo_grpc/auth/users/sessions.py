"""Users' sessions and their refresh tokens, and every SQL statement about them.

A session is a login and all the tokens that follow from it.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.db.cleaning import Cleaner


class Session(NamedTuple):
    """A session as stored."""

    id: str
    user_id: int
    expires_at: datetime


class Reused(NamedTuple):
    """A refresh token came again, and its session was ended."""

    user_id: int
    session_id: str


_BEGIN = text("""
    INSERT INTO sessions (id, user_id, created_at, expires_at)
    SELECT :id, :user_id, now, now + CAST(:lifetime AS interval) FROM clock_timestamp() AS now
    RETURNING id, user_id, expires_at
""")
_ADD_TOKEN = text("INSERT INTO refresh_tokens (token_hash, session_id) VALUES (:hash, :session_id)")

# `now()` is when this call began: a token that was spent after that was spent by a call that ran beside this one.
_FIND_TOKEN = text("""
    SELECT sessions.id, user_id, expires_at, used_at, used_at > now() AS beside,
        expires_at > clock_timestamp() AND revoked_at IS NULL AS lives,
        (SELECT locked_at IS NULL FROM users WHERE users.id = user_id) AS admitted
    FROM refresh_tokens JOIN sessions ON sessions.id = session_id
    WHERE token_hash = :hash FOR NO KEY UPDATE
""")
_SPEND = text("UPDATE refresh_tokens SET used_at = clock_timestamp() WHERE token_hash = :hash")

_REVOKE = text("UPDATE sessions SET revoked_at = clock_timestamp() WHERE id = ANY(:ids) AND revoked_at IS NULL")
_REVOKE_OF = text("""
    UPDATE sessions SET revoked_at = now FROM clock_timestamp() AS now
    WHERE user_id = :user_id AND revoked_at IS NULL AND expires_at > now
""")
_REVOKED = text("SELECT id FROM sessions WHERE revoked_at > clock_timestamp() - CAST(:age AS interval)")


def new_session_id() -> str:
    """An id that nobody guesses."""
    return secrets.token_urlsafe(16)


def new_refresh_token() -> str:
    """256 random bits; the prefix lets scanners of leaked secrets know it."""
    return f"mor_{secrets.token_urlsafe(32)}"


def refresh_hash(token: str) -> bytes:
    """What is stored of a refresh token: it is random enough for one SHA-256."""
    return hashlib.sha256(token.encode()).digest()


async def begin_session(connection: AsyncConnection, user_id: int, token_hash: bytes, lifetime: timedelta) -> Session:
    """Begin a session with its first refresh token."""
    row = await connection.execute(_BEGIN, {"id": new_session_id(), "user_id": user_id, "lifetime": lifetime})
    session = Session._make(row.one())
    await connection.execute(_ADD_TOKEN, {"hash": token_hash, "session_id": session.id})
    return session


async def spend_token(connection: AsyncConnection, token_hash: bytes, new_hash: bytes) -> Session | Reused | None:
    """Exchange a refresh token for the next; None if it does not count.

    One that was spent before was stolen, by whoever came first or by who comes now, so its session ends (RFC 9700, 4.14.2);
    unless the two came at the very same time, as one impatient client's do.
    """
    row = (await connection.execute(_FIND_TOKEN, {"hash": token_hash})).one_or_none()
    if row is None or not row.lives or not row.admitted:
        return None
    if row.used_at:
        if row.beside:
            return None
        await revoke_sessions(connection, [row.id])
        return Reused(row.user_id, row.id)
    await connection.execute(_SPEND, {"hash": token_hash})
    await connection.execute(_ADD_TOKEN, {"hash": new_hash, "session_id": row.id})
    return Session(row.id, row.user_id, row.expires_at)


async def revoke_sessions(connection: AsyncConnection, ids: Sequence[str]) -> None:
    """End sessions."""
    await connection.execute(_REVOKE, {"ids": sorted(ids)})


async def revoke_sessions_of(connection: AsyncConnection, user_id: int) -> None:
    """End all sessions of a user."""
    await connection.execute(_REVOKE_OF, {"user_id": user_id})


async def revoked_sessions(connection: AsyncConnection, age: timedelta) -> set[str]:
    """List the sessions that were ended since; access tokens of older ones have expired."""
    return set((await connection.execute(_REVOKED, {"age": age})).scalars())


clean_sessions = Cleaner("sessions", "id", "expires_at")
"""Delete sessions that expired long ago; their refresh tokens go with them."""
