"""Alembic's entry: one connection as the schema's owner, and all migrations in one transaction, but for those that commit."""

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
from mo_grpc.db.engine import connect_args

# Two migrations at once wait for each other, until the connection of the first is closed; the number is arbitrary.
LOCK = text("SELECT pg_advisory_lock(718291453)")


def run() -> None:
    """Migrate the database whose URL `mo_grpc.db.migrate` put in the configuration."""
    url = context.config.attributes["url"]
    engine = create_engine(url, poolclass=pool.NullPool, connect_args=connect_args(role=None))
    with engine.connect() as connection:
        connection.execute(LOCK)
        connection.commit()
        context.configure(connection=connection, target_metadata=Base.metadata)
        with context.begin_transaction():
            context.run_migrations()


run()
