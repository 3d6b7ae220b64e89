"""Every SQL statement about signing keys."""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.auth.tokens.rules import KeyPair

_KEYS = text("""
    SELECT kid, public_key, private_key, valid_until FROM signing_keys
    WHERE valid_until IS NULL OR valid_until > clock_timestamp() ORDER BY created_at DESC
""")
_ADD_KEY = text("""
    INSERT INTO signing_keys (kid, public_key, private_key, created_at)
    VALUES (:kid, :public_key, :private_key, clock_timestamp())
    ON CONFLICT DO NOTHING
""")
_RETIRE = text("""
    UPDATE signing_keys SET valid_until = least(valid_until, clock_timestamp() + CAST(:grace AS interval))
    WHERE valid_until IS NULL OR valid_until > clock_timestamp()
""")


async def list_keys(connection: AsyncConnection) -> list[KeyPair]:
    """List the signing keys whose tokens are valid, newest first."""
    return [KeyPair._make(row) for row in await connection.execute(_KEYS)]


async def add_key(connection: AsyncConnection, kid: str, public_key: bytes, private_key: bytes) -> None:
    """Add the key that signs, unless there is one."""
    await connection.execute(_ADD_KEY, {"kid": kid, "public_key": public_key, "private_key": private_key})


async def retire_keys(connection: AsyncConnection, grace: timedelta) -> None:
    """Let no key sign any more; what they signed is valid for `grace` at most."""
    await connection.execute(_RETIRE, {"grace": grace})
