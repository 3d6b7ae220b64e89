"""The first page: what is owed, what was paid, and how the service is."""

import time
from datetime import UTC, datetime
from functools import partial

import humanize
from starlette.responses import Response

from mo_grpc.loans.rules import Status as LoanStatus
from mo_grpc.web.admin.charts import dashboard as charts
from mo_grpc.web.admin.charts.plots import HALF, twice
from mo_grpc.web.admin.context import RequestContext
from mo_grpc.web.admin.queries import figures
from mo_grpc.web.admin.queries.figures import CachedFigures
from mo_grpc.web.admin.site import Site


class Dashboard:
    """The dashboard, whose figures all visitors share."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._figures = CachedFigures(partial(figures.read_figures, site.database))

    async def show(self, context: RequestContext) -> Response:
        """Show it all."""
        found = await self._figures.get()
        began = time.perf_counter()
        imports = await self._site.database.read(figures.latest_imports)
        health = await self._site.database.read(figures.health)
        answered = (time.perf_counter() - began) * 1000
        return self._site.render.page(
            context,
            "dashboard.html",
            found=found,
            by_status={status: found.of(status) for status in LoanStatus},
            today=found.days[-1],
            imports=imports,
            health=health,
            uptime=humanize.naturaldelta(datetime.now(UTC) - health["started_at"]),
            answered=answered,
            outstanding_chart=twice(partial(charts.outstanding, found), HALF),
            payments_chart=twice(partial(charts.payments, found), HALF),
            utilisation_chart=twice(partial(charts.utilisation, found), HALF),
            utilisation=charts.tenths(found),
            portfolio_chart=charts.portfolio(found),
        )
