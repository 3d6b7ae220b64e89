"""The audit log, for administrators."""

from starlette.responses import Response

from mo_grpc.audit_log.rules import Stream
from mo_grpc.web.admin.context import RequestContext
from mo_grpc.web.admin.pages.listing import ListPage
from mo_grpc.web.admin.queries import resources
from mo_grpc.web.admin.queries.lists import EVENTS
from mo_grpc.web.admin.site import Site


class AuditLogPage:
    """The page of the audit log."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._events = ListPage(site, EVENTS, "audit_log.html")

    async def show(self, context: RequestContext) -> Response:
        """A stream of events, and who failed to log in lately."""
        if context.request.query_params.get("stream") not in set(Stream):
            return self._site.redirect(f"audit-log?stream={Stream.LOGINS}")
        failures = await self._site.database.read(resources.login_failures)
        return await self._events.render(context, streams=list(Stream), failures=failures)
