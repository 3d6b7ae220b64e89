"""Imports: a file is uploaded, its progress followed, and what was wrong is shown line by line."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from mo.imports.v1 import imports_pb2
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from mo_grpc.imports.form import Form, FormError
from mo_grpc.imports.rules import OPEN, file_name
from mo_grpc.spreadsheets import csv_lines
from mo_grpc.web.admin.client import CallFailed
from mo_grpc.web.admin.context import NotHereError, RequestContext
from mo_grpc.web.admin.pages.listing import ListPage
from mo_grpc.web.admin.queries import resources
from mo_grpc.web.admin.queries.lists import IMPORTS
from mo_grpc.web.admin.rules import whole_number
from mo_grpc.web.admin.site import Site

REASONS = {value.number: value.name for value in imports_pb2.ImportError.Reason.DESCRIPTOR.values}
_SHOWN = 50
_EXPORTED_AT_ONCE = 2000


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect as error:
        raise FormError("The file did not arrive whole.") from error


class ImportPages:
    """The pages of imports."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.list = ListPage(site, IMPORTS, "imports.html")

    async def show_list(self, context: RequestContext) -> Response:
        """The imports, and a form for another."""
        return await self.list.render(context, fault="")

    async def upload(self, context: RequestContext) -> Response:
        """Pass an uploaded file on to the gRPC server while it arrives."""
        try:
            form = Form(context.request.headers.get("content-type", ""), _body(context.request))
            await form.begin()
            context.check_token(form.fields.get("csrf", ""))
            name = file_name(form.file_name)
            if not name:
                raise FormError("Choose a file first.")
            made = await self._site.client.upload(form.chunks(), name, context)
        except (FormError, CallFailed) as error:
            return await self.list.render(context, 400, fault=str(error))
        context.session.say(f"{name[:100]} is uploaded.")
        return self._site.redirect(f"imports/{made.id}")

    async def show(self, context: RequestContext) -> Response:
        """One import: how far it is, and what was wrong."""
        found = await self._find(context)
        start = whole_number(context.request.query_params.get("after", "")) or 0
        errors = await self._site.database.read(lambda c: resources.import_errors(c, found["id"], start, _SHOWN + 1))
        return self._site.render.page(
            context,
            "import.html",
            found=found,
            over=found["state"] not in OPEN,
            done=100 * found["bytes_done"] // found["bytes_total"] if found["bytes_total"] else 100,
            errors=errors[:_SHOWN],
            next_after=errors[_SHOWN - 1]["line_number"] if len(errors) > _SHOWN else "",
            reasons=REASONS,
        )

    async def confirm_cancel(self, context: RequestContext) -> Response:
        """Ask once more before an import is cancelled."""
        found = await self._find(context)
        if found["state"] not in OPEN:
            return self._site.refuse(context, "The import has ended: there is nothing to cancel.", f"imports/{found['id']}")
        return self._site.render.confirm(
            context,
            title=f"Cancel import {found['id']}",
            text=f"The {found['created_count']:,} created customers stay, the rest of the file is not read. This is final.",
            button="Cancel the import",
            back=f"imports/{found['id']}",
        )

    async def cancel(self, context: RequestContext) -> Response:
        """Cancel an import that has not ended."""
        import_id = str(self._id(context))
        request = imports_pb2.CancelImportRequest(id=import_id)
        rpc = self._site.client.imports.CancelImport
        return await self._site.call_rpc(context, rpc, request, done="The import is cancelled.", to=f"imports/{import_id}")

    async def errors(self, context: RequestContext) -> Response:
        """All that was wrong, as a CSV file."""
        found = await self._find(context)
        headers = {"content-disposition": f'attachment; filename="import-{found["id"]}-errors.csv"'}
        return StreamingResponse(self._lines(found["id"]), headers=headers, media_type="text/csv; charset=utf-8")

    async def _lines(self, import_id: int) -> AsyncIterator[str]:
        columns = ("line_number", "external_id", "field", "reason", "message")
        yield csv_lines([columns])
        after = 0
        while rows := await self._read_errors(import_id, after):
            named = ({**row, "reason": REASONS[row["reason"]]} for row in rows)
            yield csv_lines([row[name] for name in columns] for row in named)
            after = rows[-1]["line_number"]

    async def _read_errors(self, import_id: int, after: int) -> resources.Rows:
        return await self._site.database.read(lambda c: resources.import_errors(c, import_id, after, _EXPORTED_AT_ONCE))

    async def _find(self, context: RequestContext) -> Mapping[str, Any]:
        import_id = self._id(context)
        found = await self._site.database.read(lambda c: resources.find_import(c, import_id))
        if found is None:
            raise NotHereError(f"There is no import {import_id}.")
        return found

    def _id(self, context: RequestContext) -> int:
        number = whole_number(context.request.path_params["id"])
        if number is None:
            raise NotHereError("There is no such import.")
        return number
