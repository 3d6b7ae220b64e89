"""The schema's migrations, by Alembic."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import URL, create_engine, pool  # noqa: TID251 - of `db`
from sqlalchemy.exc import DBAPIError

from mo_grpc.config import Settings
from mo_grpc.db.engine import database_url, migration_url
from mo_grpc.db.logins import let_in
from mo_grpc.db.sentences import LOCK_NOT_AVAILABLE, MigrationError
from mo_grpc.db.waiting import migration_args, noting_holders
from mo_grpc.package_data import data_path
from mo_grpc.process.tasks import pause

log = structlog.get_logger()

WAIT: Final = 600.0
"""Seconds for which a migration tries to get its locks, unless told otherwise."""


def alembic_config(url: URL) -> Config:
    """Alembic's configuration for one database; there is no `alembic.ini`."""
    config = Config(output_buffer=io.StringIO())
    config.set_main_option("script_location", str(data_path("migrations")))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    return config


def migrate(settings: Settings, revision: str = "head", wait: float = WAIT) -> None:
    """Bring the schema to `revision` as its owner, and let the service log in.

    Raises:
        EmbeddedPostgresError: the embedded PostgreSQL is to be used, and does not run.
        MigrationError: as `upgrade` does.
    """
    owner = migration_url(settings)
    upgrade(owner, revision, wait)
    let_in(owner, database_url(settings))


def upgrade(url: URL, revision: str = "head", wait: float = WAIT) -> None:
    """Bring the schema to `revision`; safe to run again, and by several at once.

    A migration that does not get its locks at once is undone and tried again, for `wait` seconds.

    Raises:
        MigrationError: there is no such revision, the schema is newer than this version, or others keep a lock for too long.
    """
    deadline = time.monotonic() + wait
    failures = 0
    while True:
        try:
            with _explained(), noting_holders(url) as holders:
                command.upgrade(alembic_config(url), revision)
            return
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            failures += 1
            seconds, held_by = pause(failures), sorted(holders)
            if time.monotonic() + seconds > deadline:
                raise MigrationError(
                    f"Others keep a lock that the migration needs: {', '.join(held_by) or 'they are gone by now'}. "
                    "Its last step was undone; run `mo-grpc migrate` again."
                ) from None
        log.warning("the migration waits for a lock", held_by=held_by, retry_in=round(seconds, 1))
        time.sleep(seconds)


def downgrade(url: URL, revision: str = "base") -> None:
    """Take the schema back to `revision`, data included.

    Raises:
        MigrationError: as `upgrade` does.
    """
    with _explained():
        command.downgrade(alembic_config(url), revision)


def plan(url: URL, revision: str = "head") -> str:
    """What `upgrade` would do: a line for each migration, then the statements, of which those between COMMITs go together.

    Raises:
        MigrationError: as `upgrade` does.
    """
    config = alembic_config(url)
    script = ScriptDirectory.from_config(config)
    engine = create_engine(url, poolclass=pool.NullPool, connect_args=migration_args())
    with _explained(), engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        steps = list(script.iterate_revisions(revision, current or "base"))[::-1]
        if not steps:
            return f"The schema is at {current}; there is nothing to do.\n"
        titles = "".join(f"{step.down_revision or 'nothing'} -> {step.revision}: {step.doc}\n" for step in steps)
        return f"{titles}\n{statements(config, current, steps[-1].revision)}"


def statements(config: Config, current: str | None, revision: str) -> str:
    """The SQL that leads from one revision, or from nothing, to another."""
    command.upgrade(config, f"{current}:{revision}" if current else revision, sql=True)
    assert isinstance(config.output_buffer, io.StringIO)  # noqa: S101 - see `alembic_config`
    return config.output_buffer.getvalue()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (CommandError, RevisionError) as error:
        raise MigrationError(
            f"The schema cannot be migrated: {error}. Is the database's schema newer than this version?"
        ) from None
