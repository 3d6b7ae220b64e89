"""`mo-grpc import`: uploads a file, follows its import, and writes down what was wrong with it."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
from google.api.httpbody_pb2 import HttpBody
from mo.imports.v1 import imports_pb2, imports_pb2_grpc
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mo_grpc.audit_log.rules import operator
from mo_grpc.auth.api_keys.administration import ApiKeyAdministration
from mo_grpc.auth.api_keys.temporary import temporary_key
from mo_grpc.config import Settings
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database, database_url
from mo_grpc.imports.form import disposition
from mo_grpc.spreadsheets import csv_lines

BLOCK = 1024 * 1024
PAGE = 1000
_KEY_LIFETIME = timedelta(days=1)
_OVER = (imports_pb2.Import.SUCCEEDED, imports_pb2.Import.FAILED, imports_pb2.Import.CANCELLED)


class ImportClientError(Exception):
    """The import could not be followed to its end; the message says why."""


async def import_file(path: Path, address: str, metadata: tuple[tuple[str, str], ...], console: Console) -> imports_pb2.Import:
    """Import a file, with a bar of its progress; its errors are in `report(path)` afterwards.

    Raises:
        ImportClientError: a call failed.
    """
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = imports_pb2_grpc.ImportServiceStub(channel)
            with _progress(console) as progress:
                found = await _upload(stub, path, metadata, progress)
                found = await _follow(stub, found, metadata, progress)
            await _report(stub, found, path, metadata)
            return found
    except grpc.aio.AioRpcError as error:
        raise ImportClientError(f"The import stopped: {error.details()}") from error


@asynccontextmanager
async def api_key(settings: Settings) -> AsyncIterator[str]:
    """The key to call with: MO_API_KEY, or one that is made for this import where the database can be reached."""
    if settings.mo_api_key:
        yield settings.mo_api_key.get_secret_value()
        return
    database = Database(database_url(settings), 1)
    try:
        administration = ApiKeyAdministration(database, Vault(settings), operator())
        async with temporary_key(administration, "mo-grpc import", _KEY_LIFETIME) as key:
            yield str(key)
    finally:
        await database.close()


def report(path: Path) -> Path:
    """Where the errors of a file are written."""
    return path.with_name(f"{path.name}.errors.csv")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description:9}"), BarColumn(), TaskProgressColumn(), DownloadColumn())
    return Progress(*columns, TransferSpeedColumn(), TextColumn("{task.fields[rows]}"), TimeRemainingColumn(), console=console)


async def _upload(
    stub: "imports_pb2_grpc.ImportServiceAsyncStub", path: Path, metadata: tuple[tuple[str, str], ...], progress: Progress
) -> imports_pb2.Import:
    size = path.stat().st_size  # noqa: ASYNC240 - a client with nothing else to do
    task = progress.add_task("Uploading", total=size, rows="")

    async def bodies() -> AsyncIterator[HttpBody]:
        with path.open("rb") as file:
            yield HttpBody(content_type="text/csv")
            while block := file.read(BLOCK):
                yield HttpBody(data=block)
                progress.advance(task, len(block))

    return await stub.UploadCustomers(bodies(), metadata=(*metadata, disposition(path.name)))


async def _follow(
    stub: "imports_pb2_grpc.ImportServiceAsyncStub",
    found: imports_pb2.Import,
    metadata: tuple[tuple[str, str], ...],
    progress: Progress,
) -> imports_pb2.Import:
    task = progress.add_task("Importing", total=found.bytes_total, rows="")

    def show(now: imports_pb2.Import) -> None:
        seconds = now.finished_at.seconds - now.started_at.seconds if now.HasField("finished_at") else 0
        rate = now.lines_count / seconds if seconds else now.lines_count / (progress.tasks[task].elapsed or 1)
        progress.update(task, completed=now.bytes_done, rows=f"{now.lines_count:,} lines, {rate:,.0f}/s")

    show(found)
    if found.state not in _OVER:
        async for now in stub.WatchImport(imports_pb2.WatchImportRequest(id=found.id), metadata=metadata):
            show(now)
            found = now
    return found


async def _report(
    stub: "imports_pb2_grpc.ImportServiceAsyncStub",
    found: imports_pb2.Import,
    path: Path,
    metadata: tuple[tuple[str, str], ...],
) -> None:
    """Write the errors down, page by page; without any, an older report goes."""
    if not found.failed_count:
        report(path).unlink(missing_ok=True)
        return
    with report(path).open("w", encoding="utf-8", newline="") as file:
        file.write(csv_lines([("line_number", "external_id", "field", "reason", "message")]))
        token = ""
        while True:
            request = imports_pb2.ListImportErrorsRequest(id=found.id, page_size=PAGE, page_token=token)
            page = await stub.ListImportErrors(request, metadata=metadata)
            file.write(csv_lines(_rows(page.errors)))
            token = page.next_page_token
            if not token:
                return


def _rows(errors: Iterable[imports_pb2.ImportError]) -> Iterable[tuple[int, str, str, str, str]]:
    for error in errors:
        reason = imports_pb2.ImportError.Reason.Name(error.reason)
        yield error.line_number, error.external_id, error.field, reason, error.message
