"""What all stores do with the rows of their tables: get them by id, lock them, and prepare and insert new ones."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, cast

from sqlalchemy import Column, FromClause, Text
from sqlalchemy.dialects.postgresql import dialect

from mo_grpc.db.batches import BatchRead
from mo_grpc.db.locks import Locked, Locks
from mo_grpc.db.pipeline import Query, Rows, Statement, array, text_array
from mo_grpc.errors import NotFound, Resource

K = TypeVar("K", str, int)
R = TypeVar("R")

_DIALECT = dialect()  # type: ignore[no-untyped-call] # as SQLAlchemy has it

NOW = Statement(Query("SELECT mo_clock()"))
"""Reads the time."""


def get_by_id(
    resource: Resource, queries: Sequence[Query], found: Callable[[Iterator[Rows]], Mapping[K, R]], ids: str = "external_ids"
) -> BatchRead[K, R]:
    """The read of resources by id. The queries have the parameter `ids`; of their rows, `found` makes the resources, by id."""

    def statements(wanted: Sequence[K]) -> list[Statement]:
        parameters = {ids: array(set(wanted))}
        return [Statement(query, parameters) for query in queries]

    def results(wanted: Sequence[K], rows: Iterator[Rows]) -> list[R | NotFound]:
        resources = found(rows)
        return [resources.get(each) or NotFound(resource, str(each)) for each in wanted]

    return BatchRead(statements, results)


class RowLock:
    """Locks the rows that a SELECT finds, by id in order, until the transaction ends."""

    def __init__(self, select: str) -> None:
        self._wait = Query(f"{select} ORDER BY id FOR NO KEY UPDATE")
        self._skip = Query(f"{select} ORDER BY id FOR NO KEY UPDATE SKIP LOCKED")

    def statement(self, parameters: Mapping[str, object], locks: Locks) -> Statement:
        """The statement, whose rows are those that it locked; with `Locks.SKIP` these may be fewer."""
        return Statement(self._skip if locks is Locks.SKIP else self._wait, parameters)


def not_locked(resource: Resource, resource_id: str, locks: Locks, *, exists: bool) -> Locked | NotFound:
    """The result for a row that is not among the locked ones.

    If it exists, another transaction holds its lock, or it was created after the lock: then it is looked for again, by a batch
    that waits.
    """
    return Locked.LOCKED if exists and locks is not Locks.WAIT else NotFound(resource, resource_id)


class Prepared(NamedTuple):
    """What new rows need."""

    now: datetime
    taken: set[str]
    """Those of the `external_id`s that exist."""
    ids: Sequence[int]


class NewRows:
    """New rows of a table whose rows have an `external_id`: the statement that prepares them, and the SQL that inserts them.

    The ids are drawn first, so that they follow the order of the commands, although the rows are inserted in another. `source`
    is the SQL of the rows, with an array as parameter for each of `columns`; its types are those of the table's columns.
    """

    def __init__(self, table: FromClause, columns: Sequence[str]) -> None:
        self._query = Query(f"""
            SELECT mo_clock(),
                ARRAY(SELECT external_id FROM {table} WHERE external_id = ANY(:external_ids)),
                ARRAY(SELECT nextval('{table}_id_seq') FROM generate_series(1, :count))
        """)  # noqa: S608 - constants
        found = [cast("Column[Any]", table.c[name]) for name in columns]
        self._arrays = [(column.name, attrgetter(column.name), _array_of(column)) for column in found]
        arrays = ", ".join(f"CAST(:{column.name} AS {_type(column)}[])" for column in found)
        self.columns = ", ".join(columns)
        self.source = f"unnest({arrays}) AS new ({self.columns})"

    def statement(self, external_ids: Collection[str]) -> Statement:
        """The statement for as many rows as there are `external_ids`."""
        return Statement(self._query, {"external_ids": array(external_ids), "count": len(external_ids)})

    @staticmethod
    def prepared(rows: Iterator[Rows]) -> Prepared:
        """The result of `statement`."""
        [(now, existing, ids)] = next(rows)
        return Prepared(now, set(existing), ids)

    def parameters(self, rows: Sequence[object]) -> dict[str, object]:
        """The parameters of `source`: of each row, the attributes that are named like the columns."""
        return {name: literal(map(value, rows)) for name, value, literal in self._arrays}


def _type(column: Column[Any]) -> str:
    return str(column.type.compile(_DIALECT)).partition(" COLLATE")[0]


def _array_of(column: Column[Any]) -> Callable[[Iterable[object]], str]:
    """The function that makes an array of a column's values: only texts need escaping, and only nullable columns have NULLs."""
    escaped = isinstance(column.type, Text) and column.name != "external_id"
    return text_array if escaped or column.nullable else array
