"""The options of every connection to the database."""

from typing import Any

import psycopg
from sqlalchemy import URL

from mo_grpc.db.embedded import SERVICE_ROLE


def connect_args(role: str | None) -> dict[str, object]:
    """The options for psycopg."""
    options = [
        "-c timezone=UTC",
        "-c statement_timeout=30s",
        # A server that is paused or cut off in the middle of a transaction keeps its locks for as long as this.
        "-c idle_in_transaction_session_timeout=10s",
        # A statement of a killed server that still runs, or waits, keeps its locks for as long as this.
        "-c client_connection_check_interval=1s",
    ]
    if role:
        # Every statement has an index that serves it, but a plan that was made, and kept, while the tables were small would
        # read whole tables: 20 times slower for a batch of 500 payments.
        options += [f"-c role={role}", "-c enable_seqscan=off"]
        # See `Locks.TRY`: longer than any transaction of the service that does not wait itself.
        options.append("-c lock_timeout=50ms")
    return {
        "options": " ".join(options),
        "connect_timeout": 2,
        "application_name": "mo-grpc",
        "prepare_threshold": 0,
        # A peer that has vanished is noticed within seconds.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }


async def connect(url: URL) -> "psycopg.AsyncConnection[Any]":
    """Open a connection that acts as the service's role, outside SQLAlchemy's pool, in autocommit mode.

    It plans each statement once, since all have an index: with an array of a few ids as parameter, PostgreSQL would plan most
    of them anew each time, which costs more than to run them.

    Raises:
        psycopg.OperationalError: it cannot be opened.
    """
    # By SQLAlchemy's own function, so that URLs are read in the same way everywhere.
    _, parameters = url.get_dialect()().create_connect_args(url)
    arguments = {**parameters, **connect_args(SERVICE_ROLE)}
    arguments["options"] += " -c plan_cache_mode=force_generic_plan"
    return await psycopg.AsyncConnection.connect(**arguments, autocommit=True)  # noqa: TID251 - of `db`
