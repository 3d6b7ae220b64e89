"""ImportService over the store of imports and the stored files."""

import asyncio
from collections.abc import AsyncIterator
from operator import attrgetter

from google.api.httpbody_pb2 import HttpBody
from google.rpc import code_pb2
from mo.imports.v1 import imports_pb2, imports_pb2_grpc

from mo_grpc.db.engine import Database
from mo_grpc.errors import ServiceError
from mo_grpc.idempotency.rules import REPLAYED, Record, mismatch
from mo_grpc.idempotency.store import get_record
from mo_grpc.idempotency.writer import Writer, request_key
from mo_grpc.imports import orphans, store
from mo_grpc.imports.form import DISPOSITION, sent_name
from mo_grpc.imports.rules import Import, LineError, NewImport, file_name
from mo_grpc.imports.runner import Background
from mo_grpc.imports.upload import Upload
from mo_grpc.rpc.caller import caller
from mo_grpc.rpc.context import Context
from mo_grpc.rpc.conversions import timestamp
from mo_grpc.rpc.pages import PageRequest

_WITHOUT_EFFECT = (code_pb2.INVALID_ARGUMENT, code_pb2.ABORTED, code_pb2.RESOURCE_EXHAUSTED)
"""The status codes of a create that has certainly created nothing."""

SMALL = 10_000
"""Lines of a file that is imported before its upload is answered."""

WAIT_FOR_SMALL = 20.0
"""Seconds that the answer waits for a small file at most; then the import continues in the background."""

LOOK_INTERVAL = 0.2
"""Seconds between two reads of an import that is watched."""

SILENCE = 15.0
"""Seconds after which a watch sends an import again that has not changed."""


class ImportServicer(imports_pb2_grpc.ImportServiceServicer):
    """See `mo/imports/v1/imports.proto`."""

    def __init__(self, database: Database, background: Background, max_bytes: int) -> None:
        self._database = database
        self._objects = background.runner.objects
        self._background = background
        self._max_bytes = max_bytes
        self._get = database.reader(store.get_imports)
        self._create = Writer(database, store.create_imports, None, to_message, imports_pb2.Import)
        self._cancel = Writer(database, store.cancel_imports, lambda import_id: import_id, to_message, imports_pb2.Import)

    async def UploadCustomers(self, request_iterator: AsyncIterator[HttpBody], context: Context) -> imports_pb2.Import:
        known = await self._known_answer(context)
        upload = Upload(request_iterator, self._max_bytes)
        if known is None:
            created = await self._stored(upload, context)
        else:
            await upload.skim()
            created = await self._replayed(known, upload, context)
        if upload.lines > SMALL:
            self._background.begin()
            return created
        return to_message(await self._at_once(int(created.id)))

    async def _known_answer(self, context: Context) -> Record | None:
        """The stored answer to the call's idempotency key, if there is one, so that no file is stored for it.

        Raises:
            InvalidFields: the key is malformed.
        """
        key = request_key(HttpBody(), context)
        return await self._database.read(lambda c: get_record(c, key.owner, key.key)) if key else None

    async def _replayed(self, known: Record, upload: Upload, context: Context) -> imports_pb2.Import:
        key = request_key(upload.content, context)
        if key is None or key.request_hash != known.request_hash:
            raise mismatch()
        await context.send_initial_metadata((REPLAYED,))
        return imports_pb2.Import.FromString(known.answer)

    async def _stored(self, upload: Upload, context: Context) -> imports_pb2.Import:
        """Store a file, and create its import; delete the file if that has no effect."""
        name = orphans.new_name()
        size = await self._objects.put(name, upload.chunks())
        command = NewImport(name, size, caller().id, upload.file_name or _said_name(context))
        try:
            created = await self._create(command, request_key(upload.content, context), context)
        except ServiceError as error:
            # After any other exception it is not known whether there is a row, or will be; see `orphans`.
            if error.code in _WITHOUT_EFFECT:
                await self._objects.delete(name)
            raise
        if created.source != name:  # another call with this key and file was faster
            await self._objects.delete(name)
        return created

    async def CreateImport(self, request: imports_pb2.CreateImportRequest, context: Context) -> imports_pb2.Import:
        size = await self._objects.size(request.source)
        command = NewImport(request.source, size, caller().id, file_name(request.source))
        created = await self._create(command, request_key(request, context), context)
        self._background.begin()
        return created

    async def GetImport(self, request: imports_pb2.GetImportRequest, context: Context) -> imports_pb2.Import:
        return to_message(await self._get(int(request.id)))

    async def ListImports(self, request: imports_pb2.ListImportsRequest, context: Context) -> imports_pb2.ListImportsResponse:
        page = PageRequest(request)
        found = await self._database.read(lambda c: store.list_imports(c, page.after, page.size + 1))
        rows, token = page.cut(found, attrgetter("id"))
        return imports_pb2.ListImportsResponse(imports=map(to_message, rows), next_page_token=token)

    async def ListImportErrors(
        self, request: imports_pb2.ListImportErrorsRequest, context: Context
    ) -> imports_pb2.ListImportErrorsResponse:
        page = PageRequest(request)
        await self._get(int(request.id))
        found = await self._database.read(lambda c: store.list_errors(c, int(request.id), page.after or 0, page.size + 1))
        rows, token = page.cut(found, attrgetter("line_number"))
        return imports_pb2.ListImportErrorsResponse(errors=map(error_message, rows), next_page_token=token)

    async def CancelImport(self, request: imports_pb2.CancelImportRequest, context: Context) -> imports_pb2.Import:
        return await self._cancel(int(request.id), request_key(request, context), context)

    async def WatchImport(self, request: imports_pb2.WatchImportRequest, context: Context) -> AsyncIterator[imports_pb2.Import]:
        async for found in self._changes(int(request.id)):
            yield to_message(found)

    async def _changes(self, import_id: int) -> AsyncIterator[Import]:
        """Yield an import after each progress, until it is over; and from time to time, because idle streams are closed."""
        last, silent = None, 0.0
        while last is None or not last.over:
            found = await self._get(import_id)
            if found != last or silent >= SILENCE:
                yield found
                silent = 0.0
            last = found
            if not found.over:
                await asyncio.sleep(LOOK_INTERVAL)
                silent += LOOK_INTERVAL

    async def _at_once(self, import_id: int) -> Import:
        """Run an import now, or wait for the process that runs it."""
        try:
            async with asyncio.timeout(WAIT_FOR_SMALL):
                await self._background.runner.run(import_id)
                return [found async for found in self._changes(import_id)][-1]
        except (TimeoutError, ServiceError):
            # The file is stored and the import is a row, so it continues in the background.
            return await self._get(import_id)


def _said_name(context: Context) -> str:
    """The file's name in the call's metadata, or in the header of a REST call."""
    for name, value in context.invocation_metadata() or ():
        if name == DISPOSITION:
            return file_name(sent_name(str(value)))
    return ""


def to_message(found: Import) -> imports_pb2.Import:
    """A stored import, as a message."""
    return imports_pb2.Import(
        id=str(found.id),
        state=imports_pb2.Import.State.ValueType(found.state),
        source=found.source,
        lines_count=found.lines_count,
        created_count=found.created_count,
        failed_count=found.failed_count,
        bytes_done=found.bytes_done,
        bytes_total=found.bytes_total,
        created_at=timestamp(found.created_at),
        started_at=timestamp(found.started_at),
        finished_at=timestamp(found.finished_at),
        created_by=found.created_by,
        failure=found.failure,
        file_name=found.file_name,
    )


def error_message(error: LineError) -> imports_pb2.ImportError:
    """What was wrong with a line, as a message."""
    return imports_pb2.ImportError(
        line_number=error.line_number,
        external_id=error.external_id,
        field=error.field,
        reason=imports_pb2.ImportError.Reason.ValueType(error.reason),
        message=error.message,
    )
