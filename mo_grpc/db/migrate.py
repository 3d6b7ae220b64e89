"""The schema's migrations, by Alembic."""

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL

from mo_grpc.config import Settings
from mo_grpc.db.engine import database_url, migration_url
from mo_grpc.db.logins import let_in
from mo_grpc.db.sentences import MigrationError
from mo_grpc.package_data import data_path


def alembic_config(url: URL) -> Config:
    """Alembic's configuration for one database; there is no `alembic.ini`."""
    config = Config()
    config.set_main_option("script_location", str(data_path("migrations")))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    return config


def migrate(settings: Settings, revision: str = "head") -> None:
    """Bring the schema to `revision` as its owner, and let the service log in.

    Raises:
        EmbeddedPostgresError: the embedded PostgreSQL is to be used, and does not run.
        MigrationError: as `upgrade` does.
    """
    owner = migration_url(settings)
    upgrade(owner, revision)
    let_in(owner, database_url(settings))


def upgrade(url: URL, revision: str = "head") -> None:
    """Bring the schema to `revision`; safe to run again, and by several at once.

    Raises:
        MigrationError: there is no such revision, or the schema is newer than this version.
    """
    with _explained():
        command.upgrade(alembic_config(url), revision)


def downgrade(url: URL, revision: str = "base") -> None:
    """Take the schema back to `revision`, data included.

    Raises:
        MigrationError: as `upgrade` does.
    """
    with _explained():
        command.downgrade(alembic_config(url), revision)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        raise MigrationError(
            f"The schema cannot be migrated: {error}. Is the database's schema newer than this version?"
        ) from None
