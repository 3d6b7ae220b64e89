"""The tasks of a server, over a database of their own."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import URL

from mo_grpc.audit_log import refusals
from mo_grpc.auth.api_keys import keyring, limits
from mo_grpc.config import Settings
from mo_grpc.db.engine import Database
from mo_grpc.journal.sequencer import sequence
from mo_grpc.process.tasks import Tasks
from mo_grpc.server import cleaning
from mo_grpc.server.serve import background_work
from mo_grpc.server.state import ServerState, server_state
from tests.conftest import KEY, Stack, run_cli
from tests.databases import connect, migrated_database


@dataclass
class Own:
    """A database of these tests' own, whose rights and rows they may change."""

    url: URL
    environment: dict[str, str]
    api_key: str

    def execute(self, statement: str) -> None:
        with connect(self.url) as connection:
            connection.execute(statement.encode())

    def settings(self, folder: Path) -> Settings:
        url, key = self.environment["MO_DATABASE_URL"], self.environment["SECRET_KEY"]
        return Settings(mo_data_dir=folder, mo_database_url=SecretStr(url), secret_key=SecretStr(key))


@pytest.fixture(scope="module")
def own(stack: Stack) -> Iterator[Own]:
    with migrated_database(stack.data_dir) as url:
        text = url.set(drivername="postgresql").render_as_string(hide_password=False)
        environment = stack.environment | {"MO_DATABASE_URL": text}
        [api_key] = KEY.findall(run_cli(environment, "keys", "create", "tasks").stdout)
        yield Own(url, environment, api_key)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens every few seconds, or minutes, happens at once."""
    monkeypatch.setattr(keyring, "TOUCH_INTERVAL", 0.01)
    monkeypatch.setattr(limits, "INTERVAL", 0.01)
    monkeypatch.setattr(refusals, "INTERVAL", 0.01)
    monkeypatch.setattr(cleaning, "INTERVAL", 0.01)


def run(own: Own, folder: Path, work: Callable[[ServerState, Tasks], Awaitable[None]]) -> None:
    """Do some work among all tasks of a server."""

    async def main() -> None:
        database = Database(own.url, 4)
        tasks = Tasks()
        try:
            async with server_state(own.settings(folder), database, tasks) as state:
                for name, each in background_work(own.settings(folder), database, state).items():
                    tasks.start(name, each)
                tasks.start("positions of events", sequence(own.url))
                await work(state, tasks)
        finally:
            await database.close()

    asyncio.run(main())
