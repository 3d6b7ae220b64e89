"""Many statements in one round trip, by libpq itself (psycopg.pq).

Only the hot path uses this: psycopg's cursors take 2.5 times as much processor time for the statements of a payment, and 3
times as much for a row that is read (docs/performance.md). The statements are also sent in one piece, so a server that is
stopped in between does not leave PostgreSQL waiting, with locks, for the rest.
"""

import asyncio
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import psycopg
from psycopg import errors
from psycopg.adapt import Transformer
from psycopg.errors import Diagnostic
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from mo_grpc.telemetry.calls import current_work

Rows: TypeAlias = "list[tuple[Any, ...]]"

_PLACEHOLDER = re.compile(r"(?<!:):(\w+)")
_numbers = itertools.count(1)


class Query:
    """SQL with named placeholders (`:name`), which each connection prepares once."""

    __slots__ = ("name", "names", "sql")

    def __init__(self, sql: str) -> None:
        self.names = tuple(dict.fromkeys(_PLACEHOLDER.findall(sql)))
        self.sql = _PLACEHOLDER.sub(lambda match: f"${self.names.index(match[1]) + 1}", sql).encode()
        self.name = b"mo_%d" % next(_numbers)


class Statement(NamedTuple):
    """A query and its parameters: texts, or values whose `str` PostgreSQL can read; None is NULL."""

    query: Query
    parameters: Mapping[str, object] = {}


def array(values: Iterable[object]) -> str:
    """An array literal of values that need no escaping: ids, amounts, times."""
    joined = '","'.join(map(str, values))
    return f'{{"{joined}"}}' if joined else "{}"


def text_array(values: Iterable[object]) -> str:
    """An array literal of any texts or times; None is NULL."""
    return f"{{{','.join(map(_quoted, values))}}}"


def bytes_array(values: Iterable[bytes]) -> str:
    """An array literal of bytes."""
    return array(f"\\\\x{value.hex()}" for value in values)


def _quoted(value: object) -> str:
    if value is None:
        return "NULL"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class Pipeline:
    """The statements of one connection, which is in autocommit mode and runs nothing else."""

    def __init__(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        self._connection = connection
        self._libpq: PGconn = connection.pgconn
        self._transformer = Transformer(connection)
        self._prepared: set[bytes] = set()
        self._ready: asyncio.Future[None] | None = None
        self.warnings = gather_warnings(connection)
        self._libpq.nonblocking = 1
        self._libpq.enter_pipeline_mode()
        self._loop = asyncio.get_running_loop()
        self._socket = self._libpq.socket
        # For as long as the connection lasts; registering for each answer would take six system calls.
        self._loop.add_reader(self._socket, self._read)

    @property
    def broken(self) -> bool:
        """Whether the connection is lost."""
        return self._libpq.status != ConnStatus.OK

    async def close(self) -> None:
        """Close the connection, whatever it does."""
        self._loop.remove_reader(self._socket)
        await self._connection.close()

    async def run(self, statements: Sequence[Statement], first: bytes = b"", last: bytes = b"") -> list[Rows]:
        """Run statements, and perhaps one before and one after them; return the rows of each.

        If this is cancelled, the connection must be closed.

        Raises:
            psycopg.Error: of the first statement that failed; those after it were not run.
        """
        libpq = self._libpq
        answers: list[bytes | None] = []
        """The expected results: the name of a statement that is prepared, None for rows, b"" for nothing."""
        if first:
            libpq.send_query_params(first, None)
            answers.append(b"")
        for query, parameters in statements:
            name = query.name
            if name not in self._prepared and name not in answers:  # the same query may come twice
                libpq.send_prepare(name, query.sql)
                answers.append(name)
            values = [None if (value := parameters[key]) is None else str(value).encode() for key in query.names]
            libpq.send_query_prepared(name, values or None)
            answers.append(None)
        if last:
            libpq.send_query_params(last, None)
            answers.append(b"")
        libpq.pipeline_sync()
        if work := current_work():
            work.begin_trip(len(statements))
        while libpq.flush():
            await self._room()
        rows, failed = await self._collect(answers)
        if work and work.riders:
            sent = (first, *(each.query.sql for each in statements), last)
            work.end_trip([sql.decode() for sql in sent if sql])
        if failed:
            raise _error(failed)
        return rows

    async def roll_back(self) -> bool:
        """End a transaction that failed; return whether the connection can be used again."""
        try:
            if self._libpq.transaction_status != TransactionStatus.IDLE:
                await self.run([], first=b"ROLLBACK")
        except psycopg.Error:
            return False
        return not self.broken

    async def _collect(self, answers: Sequence[bytes | None]) -> tuple[list[Rows], PGresult | None]:
        """Take the results, up to the end of the pipeline, and the first failure, if any."""
        rows: list[Rows] = []
        failed: PGresult | None = None
        expected = iter(answers)
        while True:
            while self._libpq.is_busy():
                self._ready = self._loop.create_future()
                await self._ready
            result = self._libpq.get_result()
            if result is None:  # between two statements
                if self.broken:
                    raise psycopg.OperationalError("the connection is lost") if failed is None else _error(failed)
                continue
            status = result.status
            if status == ExecStatus.PIPELINE_SYNC:
                return rows, failed
            answer = next(expected, b"")
            if status == ExecStatus.TUPLES_OK and answer is None:
                self._transformer.set_pgresult(result)
                rows.append(cast("Rows", self._transformer.load_rows(0, result.ntuples, tuple)))
            elif status == ExecStatus.COMMAND_OK:
                if answer is None:
                    rows.append([])
                elif answer:
                    self._prepared.add(answer)
            elif failed is None:
                failed = result

    async def _room(self) -> None:
        """Wait until there is room to write, or something to read; PostgreSQL may not read before that is taken."""
        self._ready = self._loop.create_future()
        self._loop.add_writer(self._socket, self._wake)
        try:
            await self._ready
        finally:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        """Read what has arrived; PostgreSQL's last message before a restart comes while nothing runs."""
        try:
            self._libpq.consume_input()
        except psycopg.OperationalError:  # what PostgreSQL sent before it closed is still to be read
            self._loop.remove_reader(self._socket)
        self._wake()

    def _wake(self) -> None:
        if self._ready and not self._ready.done():
            self._ready.set_result(None)


def gather_warnings(connection: "psycopg.AsyncConnection[Any]") -> list[Diagnostic]:
    """The list to which the warnings of a connection are added from now on."""
    warnings: list[Diagnostic] = []

    def note(diagnostic: Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            warnings.append(diagnostic)

    connection.add_notice_handler(note)
    return warnings


def _error(result: PGresult) -> psycopg.Error:
    """The exception of a failed statement, by its SQLSTATE."""
    sqlstate = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
    message = result.get_error_message()
    try:
        return errors.lookup(sqlstate)(message)
    except KeyError:
        return psycopg.OperationalError(message)
