"""ImportService over the store of imports and the stored files."""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator

from google.api.httpbody_pb2 import HttpBody
from mo.errors.v1.error_reason_pb2 import ErrorReason
from mo.imports.v1 import imports_pb2, imports_pb2_grpc

from mo_grpc.auth.caller import caller
from mo_grpc.db.engine import Database
from mo_grpc.errors import FieldViolation, InvalidArgument, InvalidFields, ServiceError
from mo_grpc.idempotency.writer import Writer, request_key
from mo_grpc.imports import store
from mo_grpc.imports.rules import Import, LineError, NewImport
from mo_grpc.imports.runner import Background
from mo_grpc.interceptors.base import Context
from mo_grpc.wire import page_size, page_token, parse_page_token, timestamp

CONTENT_TYPES = ("text/plain", "text/csv")

SMALL = 10_000
"""Lines of a file that is imported before its upload is answered."""

PATIENCE = 20.0
"""Seconds that the answer waits for a small file at most; then it goes on in the background."""

LOOK_INTERVAL = 0.2
"""Seconds between two looks of somebody who watches an import."""

SILENCE = 15.0
"""Seconds after which a watcher hears of an import that has not moved on."""


class ImportServicer(imports_pb2_grpc.ImportServiceServicer):
    """See `mo/imports/v1/imports.proto`."""

    def __init__(self, database: Database, background: Background, max_bytes: int) -> None:
        self._database = database
        self._objects = background.runner.objects
        self._background = background
        self._max_bytes = max_bytes
        self._get = database.reader(store.get_imports)
        self._create = Writer(database, store.create_imports, lambda _: None, to_message, imports_pb2.Import)
        self._cancel = Writer(database, store.cancel_imports, lambda import_id: import_id, to_message, imports_pb2.Import)

    async def UploadCustomers(self, request_iterator: AsyncIterator[HttpBody], context: Context) -> imports_pb2.Import:
        upload = _Upload(request_iterator, self._max_bytes)
        name = f"imports/{uuid.uuid4()}.txt"
        size = await self._objects.put(name, upload.chunks())
        key = request_key(HttpBody(data=upload.digest.digest()), context)
        try:
            created = await self._create(NewImport(name, size, caller().id), key, context)
        except InvalidArgument:  # the key came with another file
            await self._objects.delete(name)
            raise
        if created.source != name:  # the key came before, with this file
            await self._objects.delete(name)
        if upload.lines > SMALL:
            self._background.begin()
            return created
        return to_message(await self._at_once(int(created.id)))

    async def CreateImport(self, request: imports_pb2.CreateImportRequest, context: Context) -> imports_pb2.Import:
        size = await self._objects.size(request.source)
        command = NewImport(request.source, size, caller().id)
        created = await self._create(command, request_key(request, context), context)
        self._background.begin()
        return created

    async def GetImport(self, request: imports_pb2.GetImportRequest, context: Context) -> imports_pb2.Import:
        return to_message(await self._get(int(request.id)))

    async def ListImports(self, request: imports_pb2.ListImportsRequest, context: Context) -> imports_pb2.ListImportsResponse:
        limit = page_size(request.page_size)
        before = parse_page_token(request.page_token, request)
        found = await self._database.read(lambda c: store.list_imports(c, before, limit + 1))
        page = found[:limit]
        token = page_token(page[-1].id, request) if len(found) > limit else ""
        return imports_pb2.ListImportsResponse(imports=map(to_message, page), next_page_token=token)

    async def ListImportErrors(
        self, request: imports_pb2.ListImportErrorsRequest, context: Context
    ) -> imports_pb2.ListImportErrorsResponse:
        limit = page_size(request.page_size)
        after = parse_page_token(request.page_token, request) or 0
        await self._get(int(request.id))
        found = await self._database.read(lambda c: store.list_errors(c, int(request.id), after, limit + 1))
        page = found[:limit]
        token = page_token(page[-1].line_number, request) if len(found) > limit else ""
        return imports_pb2.ListImportErrorsResponse(errors=map(error_message, page), next_page_token=token)

    async def CancelImport(self, request: imports_pb2.CancelImportRequest, context: Context) -> imports_pb2.Import:
        return await self._cancel(int(request.id), request_key(request, context), context)

    async def WatchImport(self, request: imports_pb2.WatchImportRequest, context: Context) -> AsyncIterator[imports_pb2.Import]:
        async for found in self._changes(int(request.id)):
            yield to_message(found)

    async def _changes(self, import_id: int) -> AsyncIterator[Import]:
        """An import whenever it has moved on, until it is over; and now and then, since an idle stream would be ended."""
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
        """Run an import here and now, or wait for whoever runs it."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._background.runner.run(import_id)
                return [found async for found in self._changes(import_id)][-1]
        except (TimeoutError, ServiceError):
            # The file is stored and the import is a row, so it goes on without us.
            return await self._get(import_id)


class _Upload:
    """A stream of bytes, counted on its way."""

    def __init__(self, bodies: AsyncIterator[HttpBody], max_bytes: int) -> None:
        self._bodies = bodies
        self._left = self._max_bytes = max_bytes
        self.lines = 0
        self.digest = hashlib.sha256()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes.

        Raises:
            InvalidFields: they are said to be something else than text.
            InvalidArgument: there are too many.
        """
        first = True
        async for body in self._bodies:
            content_type = body.content_type.partition(";")[0].strip().lower()
            if first and content_type not in CONTENT_TYPES:
                raise InvalidFields([FieldViolation("content_type", f"must be {' or '.join(CONTENT_TYPES)}")])
            first = False
            self._left -= len(body.data)
            if self._left < 0:
                limit = str(self._max_bytes)
                message = f"The file is over the limit of {self._max_bytes:,} bytes."
                raise InvalidArgument(ErrorReason.FILE_TOO_LARGE, message, metadata={"max_bytes": limit})
            self.lines += body.data.count(b"\n")
            self.digest.update(body.data)
            yield body.data
        if first:
            raise InvalidFields([FieldViolation("content_type", f"must be {' or '.join(CONTENT_TYPES)}")])


def to_message(found: Import) -> imports_pb2.Import:
    """A stored import, as the wire has it."""
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
    )


def error_message(error: LineError) -> imports_pb2.ImportError:
    """What was wrong with a line, as the wire has it."""
    return imports_pb2.ImportError(
        line_number=error.line_number,
        external_id=error.external_id,
        field=error.field,
        reason=imports_pb2.ImportError.Reason.ValueType(error.reason),
        message=error.message,
    )
