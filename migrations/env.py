"""Alembic's entry: one connection as the schema's owner, all migrations in one transaction."""

from alembic import context
from sqlalchemy import create_engine, pool, text

import mo_grpc.audit_log.models
import mo_grpc.auth.api_keys.models
import mo_grpc.auth.tokens.models
import mo_grpc.auth.users.models
import mo_grpc.customers.models
import mo_grpc.idempotency.models
import mo_grpc.imports.models
import mo_grpc.loans.models
import mo_grpc.payments.models
import mo_grpc.web.honeypot.models  # noqa: F401 - each import registers its tables
from mo_grpc.db.base import Base
from mo_grpc.db.engine import connect_args

# Two migrations at once wait for each other; the number is arbitrary.
LOCK = text("SELECT pg_advisory_xact_lock(718291453)")


def run() -> None:
    """Migrate the database whose URL `mo_grpc.db.migrate` put in the configuration."""
    url = context.config.attributes["url"]
    engine = create_engine(url, poolclass=pool.NullPool, connect_args=connect_args(role=None))
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata)
        with context.begin_transaction():
            connection.execute(LOCK)
            context.run_migrations()


run()
