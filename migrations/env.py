"""Alembic's entry: one connection as the schema's owner, and each migration in a transaction of its own."""

import time

from alembic import context
from sqlalchemy import create_engine, pool, text

import mo_grpc.audit_log.models
import mo_grpc.auth.api_keys.models
import mo_grpc.auth.tokens.models
import mo_grpc.auth.users.models
import mo_grpc.customers.models
import mo_grpc.idempotency.models
import mo_grpc.imports.models
import mo_grpc.journal.models
import mo_grpc.loans.models
import mo_grpc.payments.models
import mo_grpc.web.honeypot.models
import mo_grpc.webhooks.models  # noqa: F401 - each import registers its tables
from mo_grpc.db.base import Base
from mo_grpc.db.waiting import migration_args

# Two migrations at once wait for each other, until the connection of the first is closed; the number is arbitrary. The second
# asks again and again, because a statement that waits has a snapshot, and the first may wait for the end of all snapshots.
LOCK = text("SELECT pg_try_advisory_lock(718291453)")
PAUSE = 0.2


def run() -> None:
    """Migrate the database whose URL `mo_grpc.db.migrate` put in the configuration."""
    url = context.config.attributes["url"]
    engine = create_engine(url, poolclass=pool.NullPool, connect_args=migration_args())
    with engine.connect() as connection:
        while not connection.scalar(LOCK):
            connection.rollback()
            time.sleep(PAUSE)
        connection.commit()
        context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()


def show() -> None:
    """Write the statements, instead of running them."""
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    show()
else:
    run()
