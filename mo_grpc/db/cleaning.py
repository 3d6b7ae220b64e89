"""Old rows are deleted a part at a time, so that no lock is held for long."""

from datetime import timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

CLEANED_AT_ONCE: Final = 1000


class Cleaner:
    """Deletes the old rows of a table; workers that clean at the same time share the work.

    `key` are the columns of its primary key; `since` is the column, with an index, by which a row is old.
    """

    def __init__(self, table: str, key: str, since: str, kind: str = "timestamptz") -> None:
        own_key = ", ".join(f"{table}.{column}" for column in key.split(", "))
        old_key = ", ".join(f"old.{column}" for column in key.split(", "))
        self._statement = text(f"""
            WITH old AS (
                SELECT {key} FROM {table} WHERE {since} < CAST(clock_timestamp() - CAST(:age AS interval) AS {kind})
                ORDER BY {since} LIMIT :limit FOR UPDATE SKIP LOCKED
            )
            DELETE FROM {table} USING old WHERE ({own_key}) = ({old_key})
        """)  # noqa: S608 - constants

    async def __call__(self, connection: AsyncConnection, age: timedelta) -> int:
        """Delete rows that are older than `age`, `CLEANED_AT_ONCE` at most; return how many."""
        return (await connection.execute(self._statement, {"age": age, "limit": CLEANED_AT_ONCE})).rowcount
