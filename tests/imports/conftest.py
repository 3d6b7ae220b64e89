"""A database of a module's own, so that no other server takes up its imports."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from sqlalchemy import URL

from tests.conftest import KEY, Stack, run_cli
from tests.databases import Connection, connect, migrated_database
from tests.doors import GrpcDoor
from tests.servers import Server, a_server


@dataclass
class Own:
    """A database of a test's own, and servers over it; the stack's would take up its imports."""

    url: URL
    environment: dict[str, str]
    api_key: str
    folder: Path

    @contextmanager
    def server(self, log: IO[bytes] | None = None, /, **settings: str) -> Iterator[tuple[Server, GrpcDoor]]:
        environment = {"MO_DATABASE_URL": self.environment["MO_DATABASE_URL"], "MO_DATA_DIR": str(self.folder)}
        with a_server(self.environment, log, **(environment | settings)) as server:
            yield server, GrpcDoor(server.channel, (("x-api-key", self.api_key),), timeout=60)

    def held(self, external_id: str) -> "Holder":
        return Holder(self.url, external_id)


@dataclass
class Holder:
    """Another transaction that is about to create a customer: an import that comes to it waits."""

    url: URL
    external_id: str

    def __enter__(self) -> "Holder":
        self.connection: Connection = connect(self.url)
        self.connection.execute(
            "INSERT INTO customers (external_id, score, created_at, updated_at) VALUES (%s, 1, now(), now())",
            [self.external_id],
        )
        return self

    def reached(self) -> bool:
        with connect(self.url) as other:
            statement = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
            row = other.execute(statement, [self.connection.info.backend_pid]).fetchone()
        return bool(row and row[0])

    def __exit__(self, *_: object) -> None:
        self.connection.rollback()
        self.connection.close()


@pytest.fixture(scope="module")
def database(stack: Stack) -> Iterator[tuple[URL, str]]:
    with migrated_database(stack.data_dir) as url:
        text = url.set(drivername="postgresql").render_as_string(hide_password=False)
        environment = stack.environment | {"MO_DATABASE_URL": text}
        [api_key] = KEY.findall(run_cli(environment, "keys", "create", "imports").stdout)
        yield url, api_key


@pytest.fixture
def own(stack: Stack, database: tuple[URL, str], tmp_path: Path) -> Own:
    url, api_key = database
    text = url.set(drivername="postgresql").render_as_string(hide_password=False)
    folder = tmp_path / "data"
    folder.mkdir()
    return Own(url, stack.environment | {"MO_DATABASE_URL": text, "MO_IMPORT_LEASE_SECONDS": "1"}, api_key, folder)
