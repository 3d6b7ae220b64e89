"""Every SQL statement about imports. Commands come in batches, and each has a result of its own, in order."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from mo.customers.v1.customers_pb2 import Customer
from mo.imports.v1.imports_pb2 import ImportError as Reason
from sqlalchemy import TextClause, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.customers import store as customers
from mo_grpc.db.base import is_external_id
from mo_grpc.db.batches import BatchWrite, Decision
from mo_grpc.db.locks import Locked, Locks
from mo_grpc.db.pipeline import Query, Rows, Statement, array, text_array
from mo_grpc.db.rows import NOW, RowLock, get_by_id, not_locked
from mo_grpc.errors import ServiceError
from mo_grpc.formats import AMOUNT, EXTERNAL_ID_LENGTH, EXTERNAL_ID_RULE, money_digits
from mo_grpc.imports import models
from mo_grpc.imports.layout import NAMES, Layout
from mo_grpc.imports.lines import MAX_LINE, Chunk
from mo_grpc.imports.rules import RESOURCE, Import, LineError, NewImport, State, new_import, over

_TABLE = models.Import.__table__
_ERRORS = models.LineError.__table__
_COLUMNS = ", ".join(Import._fields)

_ROWS = f"SELECT {_COLUMNS} FROM imports WHERE id = ANY(:ids)"  # noqa: S608 - constants
_GET = Query(_ROWS)
_LOCK = RowLock(_ROWS)

_PREPARE = Query("SELECT mo_clock(), ARRAY(SELECT nextval('imports_id_seq') FROM generate_series(1, :count))")

_CREATE = Query("""
    INSERT INTO imports (id, source, bytes_total, created_by, file_name, created_at)
    SELECT id, source, bytes_total, created_by, file_name, now
    FROM unnest(CAST(:ids AS bigint[]), CAST(:sources AS text[]), CAST(:bytes_totals AS bigint[]),
        CAST(:created_bys AS text[]), CAST(:file_names AS text[]))
        AS new (id, source, bytes_total, created_by, file_name), CAST(:now AS timestamptz) AS now
""")

_CANCEL = Query(f"""
    UPDATE imports SET state = {State.CANCELLED}, finished_at = :now, lease_owner = NULL, lease_until = NULL
    WHERE id = ANY(:ids)
""")  # noqa: S608 - constants

_UNCLAIMED = f"state IN ({State.PENDING}, {State.RUNNING}) AND (lease_until IS NULL OR lease_until < clock_timestamp())"
_OWN = f"id = :id AND state = {State.RUNNING} AND lease_owner = :owner"

# A process that does not renew its lease in time loses the import to the next that asks.
_CLAIM = text(f"""
    UPDATE imports SET state = {State.RUNNING}, started_at = coalesce(started_at, mo_clock()), lease_owner = :owner,
        lease_until = clock_timestamp() + CAST(:lease AS interval)
    WHERE id = (
        SELECT id FROM imports
        WHERE {_UNCLAIMED} AND (CAST(:id AS bigint) IS NULL OR id = :id)
        ORDER BY id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
    )
    RETURNING {_COLUMNS}
""")  # noqa: S608 - constants

_OLDEST_OPEN = text(f"""
    SELECT coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0) FROM imports
    WHERE state IN ({State.PENDING}, {State.RUNNING})
""")  # noqa: S608 - constants

_LIST_UNCLAIMED = text(f"SELECT id FROM imports WHERE {_UNCLAIMED} ORDER BY id")  # noqa: S608 - constants

_OPEN_SOURCES = text(f"""
    SELECT source FROM imports WHERE source = ANY(:sources) AND state IN ({State.PENDING}, {State.RUNNING})
""")  # noqa: S608 - constants

_KNOWN = text("SELECT source FROM imports WHERE source = ANY(:sources)")

_HOLD = text(f"SELECT id FROM imports WHERE {_OWN} FOR NO KEY UPDATE")  # noqa: S608 - constants

_FINISH = text(f"""
    UPDATE imports SET state = :state, failure = :failure, finished_at = mo_clock(), lease_owner = NULL, lease_until = NULL
    WHERE {_OWN}
""")  # noqa: S608 - constants

# Hash joins and sorting in memory, because the planner cannot know how many lines there are.
_PLAN = text("""
    SELECT set_config('enable_nestloop', 'off', true), set_config('work_mem', '32MB', true), set_config('jit', 'off', true)
""")

# Dates as in RFC 3339; PostgreSQL would accept many other forms.
_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
_MOMENT = f"^{_DAY}[Tt ]([01][0-9]|2[0-3])(:[0-5][0-9]){{2}}([.][0-9]+)?([Zz]|[+-][0-9][0-9]:[0-9][0-9])$"
_FINER = "([.][0-9][0-9][0-9][0-9][0-9][0-9])[0-9]+"
"""Digits beyond the microsecond, which are cut off everywhere; PostgreSQL would round them (docs/rules.md, R7)."""

# Points between all thousands, or between none; then optionally a comma and the cents.
_DECIMAL_COMMA = "^(0|[1-9][0-9]*|[1-9][0-9]?[0-9]?([.][0-9][0-9][0-9])+)(,[0-9][0-9]?)?$"
_DIGITS = money_digits(Customer, "score")
_MOST_DIGITS = f"at most {_DIGITS} digits, and at most two after the"


@lru_cache(maxsize=32)
def _take(layout: Layout) -> TextClause:
    """The statement that splits the lines of a chunk, and creates or reports each.

    Only its first CTE is materialized; with `OFFSET 0`, what is within it is computed once per line. Good lines with a taken id
    are searched only if some line created nothing. A bounded repetition in a pattern is many times slower than an unbounded one
    with length().
    """
    external_id, score, preapproved_at = (_trimmed(layout.place(name)) for name in NAMES)
    malformed = f"cardinality(fields) NOT BETWEEN {layout.least} AND {layout.most}"
    if layout.named < layout.most:
        malformed += rf" OR array_to_string(fields[{layout.named + 1}:], '') ~ '[^ \t]'"
    hint = f'"2500.00": {_MOST_DIGITS} point'
    if layout.decimal_comma:
        score = f"CASE WHEN {score} ~ '{_DECIMAL_COMMA}' THEN translate({score}, ',.', '.') ELSE '' END"
        hint = f'"2.500,00": {_MOST_DIGITS} comma, which comes before the cents where ; stands between the columns'
    return text(rf"""
    WITH checked AS MATERIALIZED (
        SELECT line_number, external_id, score, preapproved_at, CASE
            WHEN ascii(line) = 30 THEN substr(split_part(line, E'\x1f', 1), 2)
            WHEN octet_length(line) > {MAX_LINE} THEN 'long'
            WHEN malformed THEN 'line'
            WHEN NOT ({is_external_id("external_id")}) THEN 'external_id'
            WHEN score !~ '{AMOUNT}'
                OR (length(score) > {_DIGITS} AND length(split_part(score, '.', 1)) > {_DIGITS}) THEN 'score'
            WHEN preapproved_at IS NOT NULL AND CASE
                WHEN preapproved_at !~ '{_MOMENT}' OR NOT pg_input_is_valid(preapproved_at, 'timestamptz') THEN true
                ELSE preapproved_at::timestamptz NOT BETWEEN '0001-01-01Z' AND '9999-12-31 23:59:59.999999Z'
            END THEN 'preapproved_at'
        END AS fault
        FROM (
            SELECT line_number, line, {external_id} COLLATE "C" AS external_id, {score} COLLATE "C" AS score,
                regexp_replace(nullif({preapproved_at}, ''), '{_FINER}', '\1') COLLATE "C" AS preapproved_at,
                {malformed} AS malformed
            FROM (
                SELECT CAST(:before AS bigint) + number AS line_number, line, CASE ascii(line)
                    WHEN 30 THEN array_fill(split_part(line, E'\x1f', 2), ARRAY[{layout.place("external_id")}])
                    WHEN 31 THEN string_to_array(substr(line, 2), E'\x1f')
                    ELSE string_to_array(line, '{layout.separator}')
                END AS fields
                FROM string_to_table(CAST(:content AS text), E'\n') WITH ORDINALITY AS lines (line, number)
                WHERE btrim(line, E' \t') <> '' OFFSET 0
            ) AS split OFFSET 0
        ) AS parsed
    ), created AS (
        {customers.insert_selected("checked", "fault IS NULL", "external_id, line_number")}
    ), recorded AS (
        {customers.record_selected("created", "'import-' || CAST(:id AS bigint)")}
    ), wrong AS (
        SELECT line_number, external_id, fault FROM checked WHERE fault IS NOT NULL
        UNION ALL
        SELECT line_number, good.external_id, 'taken'
        FROM (
            SELECT line_number, external_id, row_number() OVER (PARTITION BY external_id ORDER BY line_number) AS nth
            FROM checked WHERE fault IS NULL
        ) AS good LEFT JOIN created ON created.external_id = good.external_id AND nth = 1
        WHERE created.external_id IS NULL
            AND (SELECT count(*) FROM created) < (SELECT count(*) FROM checked WHERE fault IS NULL)
    ), bad AS (
        INSERT INTO import_errors (import_id, line_number, external_id, field, reason, message)
        SELECT :id, line_number, left(coalesce(external_id, ''), {EXTERNAL_ID_LENGTH}), field, reason, message
        FROM wrong
        JOIN (VALUES
            ('line', '', {Reason.MALFORMED_LINE}, 'must have {layout.description}'),
            ('text', '', {Reason.NOT_TEXT}, 'must be UTF-8 text without control characters'),
            ('long', '', {Reason.LINE_TOO_LONG}, 'must not be longer than {MAX_LINE} bytes'),
            ('external_id', 'external_id', {Reason.INVALID_VALUE}, '{EXTERNAL_ID_RULE}'),
            ('score', 'score', {Reason.INVALID_VALUE},
                'must be a decimal amount such as {hint}'),
            ('preapproved_at', 'preapproved_at', {Reason.INVALID_VALUE},
                'must be a moment such as "2026-01-31T12:00:00Z"'),
            ('taken', 'external_id', {Reason.CUSTOMER_ALREADY_EXISTS},
                'is the id of a customer that exists already, or of an earlier line')
        ) AS faults (name, field, reason, message) ON name = fault
        RETURNING line_number
    )
    UPDATE imports SET
        lines_count = lines_count + (SELECT count(*) FROM checked),
        created_count = created_count + (SELECT count(*) FROM created),
        failed_count = failed_count + (SELECT count(*) FROM bad),
        bytes_done = bytes_done + :size,
        line_number = imports.line_number + :lines,
        layout = :layout,
        lease_until = clock_timestamp() + CAST(:lease AS interval)
    WHERE id = :id
    RETURNING lines_count, created_count, failed_count
""")  # noqa: S608 - constants


def _trimmed(place: int | None) -> str:
    return rf"btrim(fields[{place}], E' \t')" if place else "CAST(NULL AS text)"


def _imports(rows: Iterator[Rows]) -> dict[int, Import]:
    return {row[0]: Import._make(row) for row in next(rows)}


get_imports = get_by_id(RESOURCE, [_GET], _imports, ids="ids")
"""Get imports by id."""


async def list_imports(connection: AsyncConnection, before: int | None, limit: int) -> list[Import]:
    """List imports, newest first, with ids below `before`."""
    statement = select(*(_TABLE.c[name] for name in Import._fields)).order_by(_TABLE.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(_TABLE.c.id < before)
    return [Import._make(row) for row in await connection.execute(statement)]


async def list_errors(connection: AsyncConnection, import_id: int, after: int, limit: int) -> list[LineError]:
    """List the errors of an import's file, by line, after the line `after`."""
    statement = select(*(_ERRORS.c[name] for name in LineError._fields)).order_by(_ERRORS.c.line_number).limit(limit)
    statement = statement.where(_ERRORS.c.import_id == import_id, _ERRORS.c.line_number > after)
    return [LineError._make(row) for row in await connection.execute(statement)]


def _prepare_imports(commands: Sequence[NewImport], _: Locks) -> list[Statement]:
    return [Statement(_PREPARE, {"count": len(commands)})]


def _create_imports(commands: Sequence[NewImport], rows: Iterator[Rows], _: Locks) -> Decision[Import]:
    [(now, ids)] = next(rows)
    created = [new_import(import_id, command, now) for import_id, command in zip(ids, commands, strict=False)]
    new: dict[str, object] = {
        f"{name}s": text_array(getattr(each, name) for each in created) for name in ("id", *NewImport._fields)
    }
    return Decision(created, [Statement(_CREATE, new | {"now": now})] if created else ())


create_imports = BatchWrite(_prepare_imports, _create_imports)
"""Create PENDING imports."""


def _lock_imports(ids: Sequence[int], locks: Locks) -> list[Statement]:
    wanted = {"ids": array(sorted(set(ids)))}
    return [_LOCK.statement(wanted, locks), Statement(_GET, wanted), NOW]


def _cancel_imports(ids: Sequence[int], rows: Iterator[Rows], locks: Locks) -> Decision[Import]:
    locked = _imports(rows)
    existing = {row[0] for row in next(rows)}
    [(now,)] = next(rows)
    results: list[Import | ServiceError | Locked] = []
    cancelled: list[int] = []
    for import_id in ids:
        found = locked.get(import_id)
        if found is None:
            results.append(not_locked(RESOURCE, str(import_id), locks, exists=import_id in existing))
        elif found.over:
            results.append(over(found))
        else:
            locked[import_id] = found._replace(state=State.CANCELLED, finished_at=now)
            results.append(locked[import_id])
            cancelled.append(import_id)
    return Decision(results, [Statement(_CANCEL, {"ids": array(cancelled), "now": now})] if cancelled else ())


cancel_imports = BatchWrite(_lock_imports, _cancel_imports)
"""Cancel imports that are not over; the process that runs one notices it at its next chunk."""


async def claim_import(connection: AsyncConnection, owner: str, lease: str, import_id: int | None) -> Import | None:
    """Claim an import that nobody runs, this one or the oldest; None if there is none."""
    row = (await connection.execute(_CLAIM, {"owner": owner, "lease": lease, "id": import_id})).one_or_none()
    return Import._make(row) if row else None


async def oldest_open(connection: AsyncConnection) -> float:
    """How many seconds ago the oldest import was created that is not over; 0 if there is none."""
    return float((await connection.execute(_OLDEST_OPEN)).scalar_one())


async def list_open_sources(connection: AsyncConnection, sources: Sequence[str]) -> set[str]:
    """Which of these files have an import that is not over."""
    return set((await connection.execute(_OPEN_SOURCES, {"sources": sources})).scalars())


async def list_unclaimed(connection: AsyncConnection) -> list[int]:
    """The imports that nobody runs, oldest first."""
    return list((await connection.execute(_LIST_UNCLAIMED)).scalars())


async def list_known_sources(connection: AsyncConnection, sources: Sequence[str]) -> set[str]:
    """The files, of these, that have an import."""
    return set((await connection.execute(_KNOWN, {"sources": list(sources)})).scalars())


async def take_chunk(connection: AsyncConnection, owner: str, lease: str, found: Import, chunk: Chunk) -> Import | None:
    """Import some lines, with their errors, and move the cursor behind them.

    Returns the import with its new counts; None if it is no longer the owner's.
    """
    if (await connection.execute(_HOLD, {"id": found.id, "owner": owner})).one_or_none() is None:
        return None
    await connection.execute(_PLAN)
    values = {
        "id": found.id,
        "lease": lease,
        "size": chunk.size,
        "lines": chunk.lines,
        "layout": str(chunk.layout),
        "before": found.line_number,
        "content": chunk.content,
    }
    lines, created, failed = (await connection.execute(_take(chunk.layout), values)).one()
    return found._replace(
        line_number=found.line_number + chunk.lines, lines_count=lines, created_count=created, failed_count=failed
    )


async def finish_import(connection: AsyncConnection, owner: str, import_id: int, state: State, failure: str = "") -> bool:
    """End an import, if it still is the owner's; False if it is not."""
    finish = {"id": import_id, "owner": owner, "state": int(state), "failure": failure}
    return (await connection.execute(_FINISH, finish)).rowcount == 1
