"""Imports: a file is uploaded, its progress followed, and what was wrong is shown line by line."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from mo.imports.v1 import imports_pb2
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from mo_grpc.imports.form import Form, FormError
from mo_grpc.imports.rules import OPEN, State, file_name
from mo_grpc.spreadsheets import csv_lines
from mo_grpc.web.admin.api import Refusal
from mo_grpc.web.admin.pages.listing import ListPage
from mo_grpc.web.admin.queries import resources
from mo_grpc.web.admin.queries.lists import IMPORTS
from mo_grpc.web.admin.rules import whole_number, words_of
from mo_grpc.web.admin.site import NotHereError, Site, Visit

STATES = words_of(State)
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

    async def show_list(self, visit: Visit) -> Response:
        """The imports, and a form for another."""
        return await self.list.render(visit, states=STATES, fault="")

    async def upload(self, visit: Visit) -> Response:
        """Take a file and pass it on."""
        try:
            form = Form(visit.request.headers.get("content-type", ""), _body(visit.request))
            await form.begin()
            self._site.check_token(visit, form.fields.get("csrf", ""))
            name = file_name(form.file_name)
            if not name:
                raise FormError("Choose a file first.")
            made = await self._site.api.upload(form.chunks(), name, visit.session, visit.address)
        except (FormError, Refusal) as error:
            return await self.list.render(visit, 400, states=STATES, fault=str(error))
        visit.session.say(f"{name[:100]} is uploaded.")
        return self._site.go(f"imports/{made.id}")

    async def show(self, visit: Visit) -> Response:
        """One import: how far it is, and what was wrong."""
        found = await self._find(visit)
        start = whole_number(visit.request.query_params.get("after", "")) or 0
        errors = await self._site.database.read(lambda c: resources.import_errors(c, found["id"], start, _SHOWN + 1))
        return self._site.render(
            visit,
            "import.html",
            found=found,
            state=STATES[found["state"]],
            over=found["state"] not in OPEN,
            done=100 * found["bytes_done"] // found["bytes_total"] if found["bytes_total"] else 100,
            errors=errors[:_SHOWN],
            next_after=errors[_SHOWN - 1]["line_number"] if len(errors) > _SHOWN else "",
            reasons=REASONS,
        )

    async def confirm_cancel(self, visit: Visit) -> Response:
        """Ask once more before an import is cancelled."""
        found = await self._find(visit)
        return self._site.ask(
            visit,
            title=f"Cancel import {found['id']}",
            text=f"The {found['created_count']:,} customers already created stay, the rest is not read. This cannot be undone.",
            button="Cancel the import",
            back=f"imports/{found['id']}",
        )

    async def cancel(self, visit: Visit) -> Response:
        """Cancel an import that is not over."""
        import_id = str(self._id(visit))
        request = imports_pb2.CancelImportRequest(id=import_id)
        rpc = self._site.api.imports.CancelImport
        return await self._site.act(visit, rpc, request, done="The import is cancelled.", to=f"imports/{import_id}")

    async def errors(self, visit: Visit) -> Response:
        """All that was wrong, as a CSV file."""
        found = await self._find(visit)
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

    async def _find(self, visit: Visit) -> Mapping[str, Any]:
        import_id = self._id(visit)
        found = await self._site.database.read(lambda c: resources.find_import(c, import_id))
        if found is None:
            raise NotHereError(f"There is no import {import_id}.")
        return found

    def _id(self, visit: Visit) -> int:
        number = whole_number(visit.request.path_params["id"])
        if number is None:
            raise NotHereError("There is no such import.")
        return number
