"""A list with search, filters, orders, pages and export: the same for every table."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from starlette.responses import Response, StreamingResponse

from mo_grpc.formats import is_external_id
from mo_grpc.spreadsheets import csv_lines
from mo_grpc.web.admin.context import RequestContext
from mo_grpc.web.admin.queries.lists import Listing, ListQuery, Page, count, export, read_page
from mo_grpc.web.admin.rules import chosen, whole_number
from mo_grpc.web.admin.site import Site

MAX_TEXT = 254
_SORTS = ("-id", "id", "external_id", "-external_id")
_EMPTY = Page((), "", "")


class Export(NamedTuple):
    """What a list looks like as a file."""

    name: str
    columns: tuple[str, ...]


class ListPage:
    """The pages of one list."""

    def __init__(
        self,
        site: Site,
        listing: Listing,
        template: str,
        choices: Mapping[str, Mapping[int, str]] | None = None,
        exported: Export | None = None,
        enrich: Callable[[list[dict[str, Any]]], Awaitable[None]] | None = None,
    ) -> None:
        self._site = site
        self._listing = listing
        self._template = template
        self._choices = choices or {}
        self._export = exported
        self._enrich = enrich

    async def show(self, context: RequestContext) -> Response:
        """One page of the list."""
        return await self.render(context)

    async def render(self, context: RequestContext, status: int = 200, **values: Any) -> Response:
        """One page of the list, with more for its template."""
        query = self.query(context)
        total, page = "0", _EMPTY
        if query is not None:
            before, after = (self._cursor(query, context.request.query_params.get(name, "")) for name in ("before", "after"))
            page = await read_page(self._site.database, query, before, after)
            total = await count(self._site.database, query)
        rows = [dict(row) for row in page.rows]
        if self._enrich:
            await self._enrich(rows)
        return self._site.render.page(
            context,
            self._template,
            status,
            rows=rows,
            page=page,
            total=total,
            choices=self._choices,
            searchable=bool(self._listing.text_key),
            exported=self._export is not None,
            sorts=bool(self._listing.text_key),
            **values,
        )

    async def download(self, context: RequestContext) -> Response:
        """All rows of the list as a CSV file, sent while they are read."""
        exported = self._export
        query = self.query(context)
        assert exported is not None  # noqa: S101 - only lists with an export have this page
        headers = {"content-disposition": f'attachment; filename="{exported.name}.csv"'}
        return StreamingResponse(self._lines(exported, query), headers=headers, media_type="text/csv; charset=utf-8")

    async def _lines(self, exported: Export, query: ListQuery | None) -> AsyncIterator[str]:
        yield csv_lines([exported.columns])
        if query is not None:
            async for rows in export(self._site.database, query):
                yield csv_lines([[self._cell(name, row[name]) for name in exported.columns] for row in rows])

    def _cell(self, name: str, value: Any) -> object:
        """A value as it is exported: what the database numbers has a name."""
        return self._choices.get(name, {}).get(value, value)

    def query(self, context: RequestContext) -> ListQuery | None:
        """What the address asks for; None if nothing can match it."""
        given = context.request.query_params
        filters: dict[str, Any] = {}
        for name in self._listing.filters:
            value = given.get(name, "").strip()
            if not value:
                continue
            if name in self._choices:
                if (number := chosen(value, self._choices[name])) is None:
                    return None
                filters[name] = number
            elif is_external_id(value):
                filters[name] = value
            else:
                return None
        search = given.get("search", "").strip() if self._listing.text_key else ""
        if len(search) > MAX_TEXT or not (search.isascii() and search.isprintable()):
            return None
        sort = given.get("sort", "-id")
        return ListQuery(self._listing, filters, search, sort if sort in _SORTS else "-id")

    def _cursor(self, query: ListQuery, value: str) -> str:
        """A cursor that can be one; the first page else."""
        if query.by_text:
            return value if len(value) <= MAX_TEXT and value.isascii() and value.isprintable() else ""
        return "" if whole_number(value) is None else value
