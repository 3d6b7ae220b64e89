"""Every SQL statement about API keys. Commands come in sets, and each has a result of its own, in order."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.auth.api_keys.rules import ApiKey, KeyLimits, NewApiKey, Rotation, not_found, revoked
from mo_grpc.db.cleaning import Cleaner
from mo_grpc.errors import ServiceError
from mo_grpc.rpc.binding import BoundCustomers

_COLUMNS = "id, name, secret_hash, scopes, created_at, expires_at, revoked_at, last_used_at, "
_COLUMNS += "previous_secret_hash, previous_expires_at, number, allowed_networks, calls_per_second, calls_per_day, created_by, "
_COLUMNS += "customer_external_ids, customer_external_id_prefix"

_GET = text(f"SELECT {_COLUMNS} FROM api_keys WHERE id = ANY(:ids)")  # noqa: S608 - a constant

_LIST = text(f"SELECT {_COLUMNS} FROM api_keys ORDER BY number")  # noqa: S608 - a constant

_CHANGED = text(f"""
    SELECT {_COLUMNS} FROM api_keys WHERE changed_at > clock_timestamp() - CAST(:age AS interval)
""")  # noqa: S608 - a constant

_PAGE = text(f"""
    SELECT {_COLUMNS} FROM api_keys WHERE number < coalesce(CAST(:before AS bigint), 9223372036854775807)
    ORDER BY number DESC LIMIT :limit
""")  # noqa: S608 - a constant

# Scopes, networks and customers are joined with spaces because unnest would flatten an array of arrays.
_CREATE = text("""
    INSERT INTO api_keys (id, name, secret_hash, scopes, created_at, expires_at, allowed_networks, calls_per_second,
        calls_per_day, created_by, customer_external_ids, customer_external_id_prefix)
    SELECT id, name, secret_hash, string_to_array(scopes, ' '), clock_timestamp(), expires_at,
        CAST(string_to_array(allowed_networks, ' ') AS cidr[]), calls_per_second, calls_per_day,
        created_by, string_to_array(customers, ' '), prefix
    FROM unnest(CAST(:ids AS text[]), CAST(:names AS text[]), CAST(:secret_hashes AS bytea[]), CAST(:scopes AS text[]),
        CAST(:expires_ats AS timestamptz[]), CAST(:allowed_networks AS text[]), CAST(:calls_per_second AS integer[]),
        CAST(:calls_per_day AS integer[]), CAST(:created_bys AS text[]), CAST(:customers AS text[]), CAST(:prefixes AS text[]))
        AS new (id, name, secret_hash, scopes, expires_at, allowed_networks, calls_per_second, calls_per_day, created_by,
            customers, prefix)
    ORDER BY id
""")

_REVOKE = text("""
    UPDATE api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = ANY(:ids) RETURNING id
""")

# A key may make keys, too.
_MADE_BY = text(f"""
    WITH RECURSIVE made (id) AS (
        SELECT id FROM api_keys WHERE created_by = :actor
        UNION SELECT api_keys.id FROM api_keys JOIN made ON created_by = made.id
    )
    SELECT {_COLUMNS} FROM api_keys WHERE id IN (SELECT id FROM made) AND revoked_at IS NULL
        AND (expires_at IS NULL OR expires_at > clock_timestamp()) ORDER BY number
""")  # noqa: S608 - a constant

_LOCK = text(f"SELECT {_COLUMNS} FROM api_keys WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE")  # noqa: S608 - a constant

_ROTATE = text(f"""
    UPDATE api_keys SET previous_secret_hash = api_keys.secret_hash,
        previous_expires_at = clock_timestamp() + make_interval(secs => new.overlap), secret_hash = new.secret_hash
    FROM unnest(CAST(:ids AS text[]), CAST(:secret_hashes AS bytea[]), CAST(:overlaps AS integer[]))
        AS new (id, secret_hash, overlap)
    WHERE api_keys.id = new.id
    RETURNING {", ".join(f"api_keys.{name}" for name in _COLUMNS.split(", "))}
""")  # noqa: S608 - constants

_SET_LIMITS = text("""
    UPDATE api_keys SET allowed_networks = CAST(string_to_array(:allowed_networks, ' ') AS cidr[]),
        calls_per_second = :calls_per_second, calls_per_day = :calls_per_day
    WHERE id = :id RETURNING id
""")

_COUNT_CALLS = text("""
    INSERT INTO api_key_calls (day, key_id, calls)
    SELECT :day, id, calls FROM unnest(CAST(:ids AS text[]), CAST(:calls AS bigint[])) AS new (id, calls) ORDER BY id
    ON CONFLICT (day, key_id) DO UPDATE SET calls = api_key_calls.calls + excluded.calls
""")
_CALLS = text("SELECT key_id, calls FROM api_key_calls WHERE day = :day")

_TOUCH = text("""
    UPDATE api_keys SET last_used_at = greatest(last_used_at, used.at)
    FROM unnest(CAST(:ids AS text[]), CAST(:ats AS timestamptz[])) AS used (id, at) WHERE api_keys.id = used.id
""")


def _api_key(row: Sequence[object]) -> ApiKey:
    *fields, customers, prefix = row
    key = ApiKey(*fields, BoundCustomers.of(customers, prefix))  # type: ignore[call-arg,arg-type] # in their order
    return key._replace(scopes=frozenset(key.scopes), allowed_networks=tuple(key.allowed_networks))


async def get_api_keys(connection: AsyncConnection, ids: Sequence[str]) -> list[ApiKey | None]:
    """Get keys by id; None where there is no such key."""
    found = {row[0]: _api_key(row) for row in await connection.execute(_GET, {"ids": list(set(ids))})}
    return [found.get(key_id) for key_id in ids]


async def list_api_keys(connection: AsyncConnection) -> list[ApiKey]:
    """List all keys, revoked and expired ones included, oldest first."""
    return [_api_key(row) for row in await connection.execute(_LIST)]


async def changed_api_keys(connection: AsyncConnection, age: timedelta) -> list[ApiKey]:
    """List the keys that were made or changed within the last `age`."""
    return [_api_key(row) for row in await connection.execute(_CHANGED, {"age": age})]


async def create_api_keys(connection: AsyncConnection, commands: Sequence[NewApiKey]) -> None:
    """Store new keys."""
    bound = [command.customers for command in commands]
    await connection.execute(
        _CREATE,
        {
            "ids": [command.credential.id for command in commands],
            "names": [command.name for command in commands],
            "secret_hashes": [command.credential.secret_hash for command in commands],
            "scopes": [" ".join(sorted(command.scopes)) for command in commands],
            "expires_ats": [command.expires_at for command in commands],
            "allowed_networks": [_joined(command.limits) for command in commands],
            "calls_per_second": [command.limits.calls_per_second for command in commands],
            "calls_per_day": [command.limits.calls_per_day for command in commands],
            "created_bys": [command.created_by for command in commands],
            "customers": [" ".join(sorted(customers.external_ids)) if customers else "" for customers in bound],
            "prefixes": [customers.prefix if customers else "" for customers in bound],
        },
    )


async def page_api_keys(connection: AsyncConnection, before: int | None, limit: int) -> list[ApiKey]:
    """List keys, newest first, from below the number `before`."""
    return [_api_key(row) for row in await connection.execute(_PAGE, {"before": before, "limit": limit})]


async def rotate_api_keys(connection: AsyncConnection, commands: Sequence[Rotation]) -> list[ApiKey | ServiceError]:
    """Give keys other secrets, one each; the secret before the last one is no longer valid."""
    ids = [command.credential.id for command in commands]
    found = {row[0]: _api_key(row) for row in await connection.execute(_LOCK, {"ids": ids})}
    rotated = [command for command in commands if command.credential.id in found]
    rotated = [command for command in rotated if found[command.credential.id].revoked_at is None]
    columns = {
        "ids": [command.credential.id for command in rotated],
        "secret_hashes": [command.credential.secret_hash for command in rotated],
        "overlaps": [command.overlap_seconds for command in rotated],
    }
    changed = {row[0]: _api_key(row) for row in await connection.execute(_ROTATE, columns)}
    return [changed.get(key_id) or (revoked(key_id) if key_id in found else not_found(key_id)) for key_id in ids]


async def revoke_api_keys(connection: AsyncConnection, ids: Sequence[str]) -> list[bool]:
    """Revoke keys for good; False where there is no such key."""
    revoked = set((await connection.execute(_REVOKE, {"ids": sorted(set(ids))})).scalars())
    return [key_id in revoked for key_id in ids]


async def keys_made_by(connection: AsyncConnection, actor: str) -> list[ApiKey]:
    """List the active keys that were made by an actor, or by keys that it made, oldest first."""
    return [_api_key(row) for row in await connection.execute(_MADE_BY, {"actor": actor})]


async def touch_api_keys(connection: AsyncConnection, used: Mapping[str, datetime]) -> None:
    """Note when keys were last used."""
    await connection.execute(_TOUCH, {"ids": list(used), "ats": list(used.values())})


async def set_limits(connection: AsyncConnection, key_id: str, limits: KeyLimits) -> bool:
    """Let a key call from other networks, more or less often; False if there is no such key."""
    numbers = {"calls_per_second": limits.calls_per_second, "calls_per_day": limits.calls_per_day}
    done = await connection.execute(_SET_LIMITS, {"id": key_id, "allowed_networks": _joined(limits), **numbers})
    return done.one_or_none() is not None


async def count_calls(connection: AsyncConnection, day: date, calls: Mapping[str, int]) -> dict[str, int]:
    """Add the calls of keys to those of a day; answers how many there are now, of each key that had any."""
    if calls:
        await connection.execute(_COUNT_CALLS, {"day": day, "ids": list(calls), "calls": list(calls.values())})
    return {row[0]: row[1] for row in await connection.execute(_CALLS, {"day": day})}


clean_calls = Cleaner("api_key_calls", "day, key_id", "day", "date")
"""Forget the counts of days that are long ago."""


def _joined(limits: KeyLimits) -> str:
    return " ".join(map(str, limits.allowed_networks))
