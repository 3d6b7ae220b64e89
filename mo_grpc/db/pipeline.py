"""Many statements in one round trip, by libpq itself (psycopg.pq).

This is what the hot path stands on, and nothing else: psycopg's cursors take 2.5 times as much of the processor's time for the
statements of a payment, and 3 times as much for a row that is read (docs/performance.md). The statements also leave in one
piece: a server that is stopped in the middle does not leave PostgreSQL waiting, with locks, for the rest of them.
"""

import asyncio
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias, cast

import psycopg
from psycopg import errors
from psycopg.adapt import Transformer
from psycopg.errors import Diagnostic
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

Rows: TypeAlias = "list[tuple[Any, ...]]"

# invalid_sql_statement_name: a ROLLBACK by psycopg makes PostgreSQL forget all that was prepared on the connection.
FORGOTTEN = "26000"

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
    """A query and its parameters: text, or what `str` makes PostgreSQL's text of; None is NULL."""

    query: Query
    parameters: Mapping[str, object] = {}


def array(values: Iterable[object]) -> str:
    """An array literal of what needs no escaping: ids, amounts, moments."""
    joined = '","'.join(map(str, values))
    return f'{{"{joined}"}}' if joined else "{}"


def text_array(values: Iterable[object]) -> str:
    """An array literal of any texts or moments; None is NULL."""
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
    """The statements of one connection, which is in autocommit mode and otherwise idle meanwhile."""

    def __init__(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        self._libpq: PGconn = connection.pgconn
        self._transformer = Transformer(connection)
        self._prepared: set[bytes] = set()
        self._generation = 0
        self.warnings: list[Diagnostic] = []
        connection.add_notice_handler(self._note)

    @property
    def broken(self) -> bool:
        """Whether the connection is lost."""
        return self._libpq.status != ConnStatus.OK

    async def run(self, statements: Sequence[Statement], first: bytes = b"", last: bytes = b"") -> list[Rows]:
        """Run statements, and perhaps one before and one after them; answer the rows of each.

        Whoever cancels this must close the connection.

        Raises:
            psycopg.Error: of the first statement that failed; those after it were not run.
        """
        libpq = self._libpq
        libpq.nonblocking = 1
        libpq.enter_pipeline_mode()
        answers: list[bytes | None] = []
        """What is to be answered: the name of what is being prepared, None for rows, nothing to know for b""."""
        if first:
            libpq.send_query_params(first, None)
            answers.append(b"")
        for query, parameters in statements:
            name = b"%b_%d" % (query.name, self._generation)
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
        while libpq.flush():
            await self._ready(writable=True)
        rows, failed = await self._collect(answers)
        libpq.exit_pipeline_mode()
        if failed:
            error = _error(failed)
            if error.sqlstate == FORGOTTEN:
                self._prepared.clear()
                self._generation += 1  # what was prepared since is there, and its name taken
            raise error
        return rows

    async def _collect(self, answers: Sequence[bytes | None]) -> tuple[list[Rows], PGresult | None]:
        """Take the results, up to the end of the pipeline, and the first one that is a failure."""
        rows: list[Rows] = []
        failed: PGresult | None = None
        expected = iter(answers)
        while True:
            while self._libpq.is_busy():
                await self._ready()
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

    async def _ready(self, *, writable: bool = False) -> None:
        """Wait until there is something to read, or room to write, and read it."""
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        socket = self._libpq.socket
        loop.add_reader(socket, _wake, ready)
        if writable:
            loop.add_writer(socket, _wake, ready)
        try:
            await ready
        finally:
            loop.remove_reader(socket)
            if writable:
                loop.remove_writer(socket)
        with suppress(psycopg.OperationalError):  # what PostgreSQL said before it hung up is still to be read
            self._libpq.consume_input()

    def _note(self, diagnostic: Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self.warnings.append(diagnostic)


def _wake(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


def _error(result: PGresult) -> psycopg.Error:
    """The exception of a failed statement, by its SQLSTATE."""
    sqlstate = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
    message = result.get_error_message()
    try:
        return errors.lookup(sqlstate)(message)
    except KeyError:
        return psycopg.OperationalError(message)
