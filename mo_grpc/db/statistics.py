"""What PostgreSQL knows of itself, as far as any role may ask (the manual's chapter on monitoring database activity)."""

from collections.abc import Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# Some columns of pg_stat_activity are hidden from roles without pg_monitor; of these, the service sees its own sessions' alone.
_STATISTICS = text("""
    SELECT
        (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL) AS connections,
        current_setting('max_connections')::int AS max_connections,
        pg_database_size(datid) AS size_bytes,
        xact_commit AS commits, xact_rollback AS rollbacks, blks_hit, blks_read,
        (SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock') AS waiting_for_locks,
        (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8
            FROM pg_stat_activity WHERE pid <> pg_backend_pid()) AS oldest_transaction_seconds,
        CASE WHEN pg_is_in_recovery() THEN 0 ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') END::float8 AS wal_bytes,
        (SELECT age(datfrozenxid) FROM pg_database WHERE oid = datid) AS xid_age,
        (SELECT coalesce(max(pg_wal_lsn_diff(sent_lsn, replay_lsn)), 0)::float8 FROM pg_stat_replication) AS replica_lag_bytes
    FROM pg_stat_database WHERE datname = current_database()
""")


async def statistics(connection: AsyncConnection) -> Mapping[str, float]:
    """Ask for the statistics; the totals are since they were reset."""
    return {name: float(value) for name, value in (await connection.execute(_STATISTICS)).mappings().one().items()}
