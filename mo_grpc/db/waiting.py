"""How a migration waits for locks without calls having to wait behind it.

A statement that waits for a table's lock lets nobody else have it, so it waits for `LOCK_TIMEOUT` at most. Then all that it
waited with is undone, and it is tried again later.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import psycopg
from sqlalchemy import URL

from mo_grpc.db.connections import connect_args

LOCK_TIMEOUT = "500ms"
APPLICATION = "mo-grpc migrate"

LOOK = 0.1
"""Seconds between two looks at who holds what a migration waits for."""

_HOLDERS = """
    SELECT DISTINCT format('process %%s (%%s, %%s, %%s for %%s s)', holder.pid, holder.usename, holder.application_name,
        holder.state, round(extract(epoch FROM clock_timestamp() - holder.xact_start)))
    FROM pg_stat_activity AS waiting, unnest(pg_blocking_pids(waiting.pid)) AS blocking (pid)
        JOIN pg_stat_activity AS holder ON holder.pid = blocking.pid
    WHERE waiting.application_name = %s AND waiting.datname = current_database()
"""


def migration_args() -> dict[str, object]:
    """The options of a migration's connection, for psycopg; its statements may take long."""
    arguments = connect_args(role=None)
    options = f"{arguments['options']} -c statement_timeout=0 -c lock_timeout={LOCK_TIMEOUT}"
    return arguments | {"options": options, "application_name": APPLICATION}


@contextmanager
def noting_holders(url: URL) -> Iterator[set[str]]:
    """Note meanwhile who holds the locks that migrations wait for; without what they run, which may have values."""
    found: set[str] = set()
    ended = Event()
    thread = Thread(target=_note_holders, args=(url, found, ended), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def _note_holders(url: URL, found: set[str], ended: Event) -> None:
    _, parameters = url.get_dialect()().create_connect_args(url)
    arguments = {**parameters, **connect_args(role=None)}
    try:
        with psycopg.connect(**arguments, autocommit=True) as connection:  # noqa: TID251 - of `db`
            while not ended.wait(LOOK):
                found.update(row[0] for row in connection.execute(_HOLDERS, [APPLICATION]))
    except psycopg.Error:  # the migration itself says what is wrong with the database
        return
