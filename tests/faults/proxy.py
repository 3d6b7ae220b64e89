"""A wire between the service and PostgreSQL that breaks where a test says, statement by statement."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

_SOCKET = ".s.PGSQL.5432"
_READY = b"Z\0\0\0\x05E"  # ReadyForQuery, in a failed transaction
_FLUSH = b"H\0\0\0\x04"
_BEGIN, _COMMIT = b"\0BEGIN ", b"\0COMMIT\0"
# Parse, Bind, Describe and Execute of a statement without a name.
_ROLLBACK = b"P\0\0\0\x10\0ROLLBACK\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0D\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\0"
COMMIT = -1


class Fault(Enum):
    """What happens at the chosen statement."""

    CUT = auto()
    """The connection breaks before the statement reaches PostgreSQL."""
    CUT_ANSWER = auto()
    """The connection breaks when PostgreSQL has run the statement, before its answer comes back."""
    HOLD_ANSWER = auto()
    """PostgreSQL has run the statement, and its answer comes back when the test releases it, or never."""
    FAIL = auto()
    """The statement ends with an SQLSTATE instead of being run."""


@dataclass
class Plan:
    """Which transactions go wrong, where, and how often."""

    ids: list[bytes]
    """A transaction is meant when its first statement mentions one of these, or as many as run `together`."""
    statement: int
    """Counted from one, after BEGIN; or COMMIT."""
    fault: Fault
    sqlstate: bytes = b""
    times: int = 1
    together: int = 1
    begun: int = 0
    fired: int = 0
    seen: threading.Event = field(default_factory=threading.Event)
    first: bytes = b""
    """The first statement of the transaction that went wrong last: it names the calls that run together."""

    def fire(self, first: bytes) -> None:
        self.first = first
        self.fired += 1
        self.seen.set()


class Proxy:
    """Passes on what it has no plan for. `folder` is where a client finds its socket."""

    def __init__(self, folder: Path, upstream: Path) -> None:
        self.folder = folder
        self.plan: Plan | None = None
        self._upstream = upstream
        self._wires: set[_Wire] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def release(self) -> None:
        """Let the held answers go on to the service."""
        self._loop.call_soon_threadsafe(self._release)

    def mute(self) -> None:
        """Pass on nothing more over the connections that there are, without breaking them."""
        self._loop.call_soon_threadsafe(self._mute)

    def _release(self) -> None:
        for wire in self._wires:
            wire.released.set()

    def _mute(self) -> None:
        for wire in self._wires:
            wire.voice.clear()

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_unix_server(self._connection, self.folder / _SOCKET)
        ready.set()
        await stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        wire = _Wire(self, to_client)
        wire.voice.set()
        self._wires.add(wire)
        async with _closing(to_client):
            postgres, to_postgres = await asyncio.open_unix_connection(self._upstream / _SOCKET)
            async with _closing(to_postgres):
                length = await client.readexactly(4)
                to_postgres.write(length + await client.readexactly(int.from_bytes(length) - 4))
                ways = [asyncio.create_task(wire.forth(client, to_postgres)), asyncio.create_task(wire.back(postgres))]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
        self._wires.discard(wire)


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close a connection at the end, however it ended."""
    try:
        with suppress(OSError, asyncio.IncompleteReadError):
            yield
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


class _Wire:
    """One connection."""

    def __init__(self, proxy: Proxy, to_client: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._to_client = to_client
        self._number = 0
        self._meant = False
        self._first = b""
        self._running = 0
        self._withhold = False
        self._ran = asyncio.Event()
        self._failure = b""
        """What comes instead of the answer of a statement that was not run, or of a COMMIT that was made a ROLLBACK."""
        self.voice = asyncio.Event()
        """Clear while nothing passes."""
        self.released = asyncio.Event()

    async def forth(self, client: asyncio.StreamReader, to_postgres: asyncio.StreamWriter) -> None:
        """Pass on what the service sends, until the plan says to cut.

        A statement is what ends in an Execute; a pipeline has many before its Sync.
        """
        backlog: deque[tuple[bytes, bytes]] = deque()
        statement = b""
        while True:
            kind, message = backlog.popleft() if backlog else await _message(client)
            statement += message
            if kind in b"PBD":
                continue
            fault = None
            if kind == b"E":
                fault = self._strike(statement)
            if fault is Fault.CUT:
                return
            skipped = kind == b"E" and self._failure and fault is not Fault.FAIL
            if fault is Fault.FAIL and _COMMIT in statement:
                statement = _ROLLBACK  # a COMMIT that fails has ended the transaction
            elif fault is Fault.FAIL or skipped:
                statement = b""
            if statement and kind in b"QE":
                self._running += 1
            await self.voice.wait()
            to_postgres.write(statement)
            statement = b""
            if fault in (Fault.CUT_ANSWER, Fault.HOLD_ANSWER):
                self._withhold = True
                self._ran.clear()
                self.released.clear()
                to_postgres.write(_FLUSH)
                await self._ran.wait()
                if fault is Fault.CUT_ANSWER:
                    return
                await self._hold(client, backlog)

    def _strike(self, statement: bytes) -> Fault | None:
        """What shall happen to this statement."""
        plan = self._proxy.plan
        if _BEGIN in statement:
            self._number, self._meant = 0, False
            return None
        self._number += 1
        if self._number == 1 and plan:
            self._meant = sum(external_id in statement for external_id in plan.ids) >= plan.together
            self._first = statement
        if not plan or not self._meant or plan.begun >= plan.times:
            return None
        if not (_COMMIT in statement if plan.statement == COMMIT else self._number == plan.statement):
            return None
        plan.begun += 1
        if plan.fault is Fault.FAIL:
            self._failure = _error(plan.sqlstate)
        if plan.fault in (Fault.CUT, Fault.FAIL):
            plan.fire(self._first)
        return plan.fault

    async def _hold(self, client: asyncio.StreamReader, backlog: deque[tuple[bytes, bytes]]) -> None:
        """Wait for the release, or for the service to hang up."""
        released = asyncio.create_task(self.released.wait())
        more = asyncio.create_task(_message(client))
        try:
            while not released.done():
                await asyncio.wait([more, released], return_when=asyncio.FIRST_COMPLETED)
                if more.done():
                    backlog.append(more.result())
                    more = asyncio.create_task(_message(client))
        finally:
            released.cancel()
            more.cancel()

    async def back(self, postgres: asyncio.StreamReader) -> None:
        """Pass on what PostgreSQL answers, but what the plan withholds."""
        held = b""
        while True:
            kind, message = await _message(postgres)
            await self.voice.wait()
            if kind in b"CEI" and self._running:
                self._running -= 1
            if kind == b"C" and self._failure and b"ROLLBACK" in message:
                message, self._failure = self._failure, b""
            elif kind == b"Z":
                self._running = 0
                if self._failure:
                    message, self._failure = self._failure + _READY, b""
            if not self._withhold:
                self._to_client.write(message)
                continue
            held += message
            if not self._running and self._proxy.plan:
                self._proxy.plan.fire(self._first)
                self._ran.set()
                more = asyncio.create_task(_message(postgres))
                released = asyncio.create_task(self.released.wait())
                await asyncio.wait([more, released], return_when=asyncio.FIRST_COMPLETED)
                if not released.done():
                    released.cancel()
                    more.result()  # PostgreSQL has hung up
                self._withhold = False
                self._to_client.write(held)
                self._to_client.write((await more)[1])
                held = b""


def _error(sqlstate: bytes) -> bytes:
    """PostgreSQL's message that a statement has failed."""
    fields = b"SERROR\0VERROR\0C" + sqlstate + b"\0Mmade up by a test\0\0"
    return b"E" + (len(fields) + 4).to_bytes(4) + fields


async def _message(source: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """One message of PostgreSQL's protocol: its type, and all its bytes."""
    head = await source.readexactly(5)
    return head[:1], head + await source.readexactly(int.from_bytes(head[1:]) - 4)


@contextmanager
def a_proxy(folder: Path, upstream: Path) -> Iterator[Proxy]:
    """A proxy to the PostgreSQL whose socket is in `upstream`, running in a thread."""
    proxy = Proxy(folder, upstream)
    ready, loops = threading.Event(), []

    async def run() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        await proxy.serve(ready, stop)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield proxy
    finally:
        [(loop, stop)] = loops
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
