"""What an import leaves behind goes when it has been kept for long enough: its file, and what was wrong with its lines."""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.db.cleaning import CLEANED_AT_ONCE

# In two steps, since a file may have millions of wrong lines: the import says that they go before the first has gone.
_MARK = text("""
    WITH old AS (
        SELECT id FROM imports
        WHERE finished_at < clock_timestamp() - CAST(:age AS interval) AND failed_count > 0 AND errors_removed_at IS NULL
        ORDER BY finished_at LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE imports SET errors_removed_at = clock_timestamp() FROM old WHERE imports.id = old.id
""")

# A week makes up for a cleaner that was interrupted.
_DELETE = text("""
    WITH old AS (
        SELECT import_id, import_errors.line_number FROM import_errors JOIN imports ON imports.id = import_id
        WHERE errors_removed_at > clock_timestamp() - interval '7 days'
        LIMIT :limit
    )
    DELETE FROM import_errors USING old
    WHERE (import_errors.import_id, import_errors.line_number) = (old.import_id, old.line_number)
""")


async def clean_errors(connection: AsyncConnection, age: timedelta) -> int:
    """Delete the errors of imports that ended longer than `age` ago, `CLEANED_AT_ONCE` at most; return how many."""
    await connection.execute(_MARK, {"age": age, "limit": CLEANED_AT_ONCE})
    return (await connection.execute(_DELETE, {"limit": CLEANED_AT_ONCE})).rowcount
