"""How migrations make indexes of tables that are in use."""

from alembic import op

from mo_grpc.db.waiting import LOCK_TIMEOUT


def create_index(name: str, on: str) -> None:
    """Make an index while calls go on, outside any transaction; `on` is what stands behind ON in SQL.

    It may wait for long, because nobody waits behind it. What an interrupted attempt has left is not valid, and goes first.
    """
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {on}")
        op.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
