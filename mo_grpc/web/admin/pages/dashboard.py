"""The first page: what is owed, what was paid, and how the service is."""

import time
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

from markupsafe import Markup
from starlette.responses import Response

from mo_grpc.imports.rules import State
from mo_grpc.loans.rules import Status
from mo_grpc.web.admin import charts
from mo_grpc.web.admin.charts import Bar, twice
from mo_grpc.web.admin.queries import figures
from mo_grpc.web.admin.queries.figures import Figures, Kept
from mo_grpc.web.admin.rules import words_of
from mo_grpc.web.admin.site import Site, Visit


class Dashboard:
    """The dashboard, whose figures all visitors share."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._figures = Kept(partial(figures.read_figures, site.database))

    async def show(self, visit: Visit) -> Response:
        """Show it all."""
        found = await self._figures.get()
        began = time.perf_counter()
        imports = await self._site.database.read(figures.latest_imports)
        health = await self._site.database.read(figures.health)
        answered = (time.perf_counter() - began) * 1000
        active, pending = found.of(Status.ACTIVE), found.of(Status.PENDING)
        return self._site.render(
            visit,
            "dashboard.html",
            found=found,
            active=active,
            pending=pending,
            paid=found.of(Status.PAID),
            rejected=found.of(Status.REJECTED),
            today=found.days[-1],
            imports=imports,
            states=words_of(State),
            health=dict(health),
            uptime=_span((datetime.now(UTC) - health["started_at"]).total_seconds()),
            answered=answered,
            outstanding_chart=twice(partial(_outstanding, found), charts.HALF),
            payments_chart=twice(partial(_payments, found), charts.HALF),
            utilisation_chart=twice(partial(_utilisation, found), charts.HALF),
            utilisation=_tenths(found),
            portfolio_chart=_portfolio(found),
        )


def _portfolio(found: Figures) -> Markup:
    active, pending = found.of(Status.ACTIVE), found.of(Status.PENDING)
    overdue = active.overdue_outstanding or Decimal(0)
    in_time = active.outstanding - overdue
    description = f"In time {in_time:,.2f}, overdue {overdue:,.2f}, pending {pending.outstanding:,.2f}."
    parts = [("part-1", in_time), ("part-bad", overdue), ("part-3", pending.outstanding)]
    return charts.share("Outstanding by status", description, parts)


def _outstanding(found: Figures, width: int) -> Markup:
    points = [(day.day, day.outstanding) for day in found.days]
    first, last = found.days[0], found.days[-1]
    description = f"From {first.outstanding:,.2f} on {first.day:%d %B} to {last.outstanding:,.2f} on {last.day:%d %B}."
    return charts.area(width, "Outstanding over time", description, points)


def _payments(found: Figures, width: int) -> Markup:
    columns = [
        Bar(
            f"{day.day:%d %b}",
            [("part-2", day.completed), ("part-bad", day.rejected)],
            f"{day.day:%d %B %Y}: {day.completed:,} completed, {day.rejected:,} rejected",
        )
        for day in found.days
    ]
    completed, rejected = (sum(getattr(day, name) for day in found.days) for name in ("completed", "rejected"))
    description = f"In {len(found.days)} days, {completed:,} completed and {rejected:,} rejected."
    return charts.bars(width, "Payments per day", description, columns, 6 if width > charts.NARROW else 3)


def _tenths(found: Figures) -> list[tuple[str, int]]:
    names = [f"{tenth * 10} to {tenth * 10 + 10} %" for tenth in range(10)] + ["over 100 %"]
    return [(name, found.utilisation.get(place, 0)) for place, name in enumerate(names)]


def _utilisation(found: Figures, width: int) -> Markup:
    columns = [
        Bar(
            "over" if place == 10 else f"{place * 10} %",
            [("part-bad" if place == 10 else "part-1", number)],
            f"{name} of the line: {number:,} customers",
        )
        for place, (name, number) in enumerate(_tenths(found))
    ]
    description = "; ".join(column.title for column in columns)
    return charts.bars(width, "Use of credit lines", description, columns, 11 if width > charts.NARROW else 6)


def _span(seconds: float) -> str:
    if seconds < 120:
        return "a minute"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
