"""A claim on an import is one runner's alone, also among the runners of one process."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL
from structlog.testing import capture_logs

from mo_grpc.db.engine import Database
from mo_grpc.imports.lines import CHUNK
from mo_grpc.imports.runner import Runner
from mo_grpc.objects.local import LocalStore
from tests.conftest import Stack
from tests.databases import connect, migrated_database
from tests.factories import new_id

LINES = 60_000


class Gates(LocalStore):
    """A folder's files, whose readers wait each at a gate of its own, a chunk behind where they began."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gates: list[asyncio.Event] = []

    async def read(self, source: str, offset: int = 0) -> AsyncIterator[bytes]:
        """See `ObjectStore.read`."""
        size = 0
        async for block in super().read(source, offset):
            if size <= CHUNK < size + len(block):
                gate = asyncio.Event()
                self.gates.append(gate)
                await gate.wait()
            size += len(block)
            yield block

    async def reached(self, number: int) -> None:
        """Wait until so many readers have come to their gates."""
        async with asyncio.timeout(30):
            while len(self.gates) < number:  # noqa: ASYNC110 - there is no one event for it
                await asyncio.sleep(0.01)

    async def open(self, number: int, reader: asyncio.Task[bool]) -> None:
        """Let a reader go on to its end."""
        self.gates[number].set()
        async with asyncio.timeout(30):
            await reader


@pytest.fixture
def url(stack: Stack) -> Iterator[URL]:
    with migrated_database(stack.data_dir) as url:
        yield url


def test_two_runners_of_one_process_never_run_the_same_file(url: URL, tmp_path: Path) -> None:
    """The first is paused for longer than the lease, and the second has taken over when it wakes up."""
    prefix = new_id("c")
    content = b"".join(f"{prefix}-{n:040},{n}\n".encode() for n in range(LINES))
    with connect(url) as connection:
        connection.execute(
            "INSERT INTO imports (source, bytes_total, created_by, created_at) VALUES ('file.csv', %s, 'test', now())",
            [len(content)],
        )

    def lines() -> int:
        with connect(url) as connection:
            row = connection.execute("SELECT lines_count FROM imports").fetchone()
        return int(row[0]) if row else 0

    async def main() -> None:
        (tmp_path / "file.csv").write_bytes(content)
        database, files = Database(url, 4), Gates(tmp_path)
        runner = Runner(database, files, 0.001)
        try:
            first = asyncio.create_task(runner.run(None))
            await files.reached(1)
            second = asyncio.create_task(runner.run(None))
            await files.reached(2)
            before = lines()
            assert 0 < before < LINES
            await files.open(0, first)
            assert lines() == before
            await files.open(1, second)
        finally:
            await database.close()

    with capture_logs() as logs:
        asyncio.run(main())
    with connect(url) as connection:
        row = connection.execute("SELECT state, lines_count, created_count, failed_count FROM imports").fetchone()
    assert row == (3, LINES, LINES, 0)
    assert [line["event"] for line in logs if line["event"] != "import runs"] == ["import was taken away", "import is over"]
