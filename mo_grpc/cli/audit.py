"""The command line's `audit`."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import typer
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.audit_log.rules import End
from mo_grpc.audit_log.store import Chain, verify
from mo_grpc.cli import terminal
from mo_grpc.crypto import vaults
from mo_grpc.db.cluster import EmbeddedPostgresError
from mo_grpc.db.engine import once
from mo_grpc.db.locks import LockedError, Locks
from mo_grpc.db.sentences import explain
from mo_grpc.errors import ServiceError
from mo_grpc.integrity.rules import SHOWN, Finding
from mo_grpc.integrity.store import audit
from mo_grpc.telemetry.folder import AUDIT, metrics_folder
from mo_grpc.telemetry.metrics import measured


def run_for_ever(hours: float) -> NoReturn:
    """Audit again and again, so many hours after the last audit, and show Prometheus what was found.

    Raises:
        MetricsError: the port of the metrics cannot be used.
    """
    settings = terminal.settings()
    with measured(settings, AUDIT) as meter:
        metrics = metrics_folder(settings) / f"{AUDIT}.prom" if meter else None
        while True:
            with suppress(typer.Exit):  # it has been told
                run([], metrics)
            time.sleep(hours * 3600)


def run(known: Sequence[str], metrics: Path | None = None) -> None:
    """Audit, and print what was found; `known` are the ends of streams that earlier audits printed.

    With a file for `metrics`, what was found is written there, too; an audit that could not be made leaves the file as it was.

    Raises:
        typer.Exit: 1 if something is wrong, and 2 if it could not be checked.
    """
    settings = terminal.settings()
    expected = [_parse(text) for text in known]

    async def work(connection: AsyncConnection) -> tuple[list[Finding], list[Chain]]:
        findings = await audit(connection)
        return findings, await verify(connection, vaults(settings), expected)

    try:
        findings, chains = once(settings, lambda database: database.write(work, Locks.TRY))
    except (EmbeddedPostgresError, LockedError, ServiceError, SQLAlchemyError) as error:
        print(explain(error) or error, file=sys.stderr)
        raise typer.Exit(2) from None
    if metrics:
        _write_metrics(metrics, findings, chains)
    table = Table("invariant", "rows", "broken", title="Audit")
    for finding in findings:
        table.add_row(finding.name, f"{finding.checked:,}", f"{finding.broken:,}")
    for chain in chains:
        table.add_row(_name(chain), f"{chain.end.number:,}", f"{len(chain.faults):,}")
    console = terminal.console()
    console.print(table)
    for finding in findings:
        _complain(console, finding.table, finding.rows, finding.broken)
    for chain in chains:
        rows = [(f"{chain.end.stream} {number}", fault) for number, fault in chain.faults[:SHOWN]]
        _complain(console, "events", rows, len(chain.faults))
    ends = " ".join(f"--known {end.stream}:{end.number}:{end.seal.hex()}" for end, _ in chains)
    print(f"To keep elsewhere, for the next audit: {ends}")
    if any(finding.broken for finding in findings) or any(chain.faults for chain in chains):
        raise typer.Exit(1)


def _name(chain: Chain) -> str:
    return f"The audit log of {chain.end.stream} is complete"


def _write_metrics(path: Path, findings: Sequence[Finding], chains: Sequence[Chain]) -> None:
    registry = CollectorRegistry()
    broken = Gauge("mo_audit_broken_rows", "How many rows break an invariant?", ["invariant"], registry=registry)
    checked = Gauge("mo_audit_checked_rows", "How many rows were checked?", ["invariant"], registry=registry)
    for finding in findings:
        broken.labels(finding.name).set(finding.broken)
        checked.labels(finding.name).set(finding.checked)
    for chain in chains:
        broken.labels(_name(chain)).set(len(chain.faults))
        checked.labels(_name(chain)).set(chain.end.number)
    made = Gauge("mo_audit_timestamp_seconds", "When was the last audit?", registry=registry)
    made.set_to_current_time()
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        print(f"{path} cannot be written: {error.strerror}.", file=sys.stderr)
        raise typer.Exit(2) from None


def _complain(console: Console, table: str, rows: Sequence[tuple[str, str]], broken: int) -> None:
    for name, remark in rows:
        console.print(f"{table} {name}: {remark}", style="red", markup=False)
    if broken > len(rows):
        console.print(f"… and {broken - len(rows):,} more in {table}.", style="red")


def _parse(text: str) -> End:
    try:
        stream, number, seal = text.split(":")
        return End(stream, int(number), bytes.fromhex(seal))
    except ValueError:
        raise typer.BadParameter(f"{text} is no end of a stream", param_hint="--known") from None
