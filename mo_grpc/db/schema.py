"""Whether the database's schema is one that this version can work with.

A release only adds to the schema, and what it no longer needs goes with the one after it (CONTRIBUTING.md). So a version works
with its own schema and with newer ones, but not with older ones.
"""

import asyncio
import re

import structlog
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from mo_grpc.db.engine import Database
from mo_grpc.package_data import data_path
from mo_grpc.process.tasks import Tasks, outlast

log = structlog.get_logger()

VERSIONS = data_path("migrations/versions")

WAITING, WATCHING = 1.0, 30.0
"""Seconds between two looks: while the schema is too old, and otherwise."""

_REVISION = text("SELECT version_num FROM alembic_version")
_LINKS = re.compile(r'^(revision|down_revision) = "(\w+)"', re.MULTILINE)


class Schema:
    """Looks at the schema's revision from time to time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found: str | None = None
        links = [dict(_LINKS.findall(path.read_text(encoding="utf-8"))) for path in VERSIONS.glob("*.py")]
        self._known = {link["revision"] for link in links}
        [self._newest] = self._known - {link.get("down_revision") for link in links}
        self.is_current = False
        """Whether the schema is this version's, or newer."""

    def start(self, tasks: Tasks) -> None:
        """Look from now on."""
        tasks.start("schema", self._follow())

    async def _follow(self) -> None:
        while True:
            await outlast("schema", self._look)
            await asyncio.sleep(WATCHING if self.is_current else WAITING)

    async def _look(self) -> None:
        try:
            found = await self._database.read(lambda connection: connection.scalar(_REVISION)) or ""
        except ProgrammingError:  # there is no such table: nothing has been migrated yet
            found = ""
        is_newer = bool(found) and found not in self._known
        self.is_current = is_newer or found == self._newest
        if found != self._found:
            self._found = found
            if not self.is_current:
                log.warning("the schema is too old: run `mo-grpc migrate`", schema=found, needed=self._newest)
            elif is_newer:
                log.warning("the schema is newer than this version", schema=found, known=self._newest)
