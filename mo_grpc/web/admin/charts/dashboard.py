"""The charts of the dashboard."""

from decimal import Decimal

from markupsafe import Markup

from mo_grpc.loans.rules import Status as LoanStatus
from mo_grpc.web.admin.charts.plots import NARROW, Bar, area, bars, share
from mo_grpc.web.admin.filters import money
from mo_grpc.web.admin.queries.figures import Figures


def portfolio(found: Figures) -> Markup:
    """What is owed in time, overdue, and pending."""
    active, pending = found.of(LoanStatus.ACTIVE), found.of(LoanStatus.PENDING)
    overdue = active.overdue_outstanding or Decimal(0)
    in_time = active.outstanding - overdue
    description = f"In time {money(in_time)}, overdue {money(overdue)}, pending {money(pending.outstanding)}."
    parts = [("part-1", in_time), ("part-bad", overdue), ("part-3", pending.outstanding)]
    return share("Outstanding by status", description, parts)


def outstanding(found: Figures, width: int) -> Markup:
    """What was owed at the end of each day."""
    points = [(day.day, day.outstanding) for day in found.days]
    first, last = found.days[0], found.days[-1]
    description = f"From {money(first.outstanding)} on {first.day:%d %B} to {money(last.outstanding)} on {last.day:%d %B}."
    return area(width, "Outstanding over time", description, points)


def payments(found: Figures, width: int) -> Markup:
    """The payments of each day."""
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
    return bars(width, "Payments per day", description, columns, 6 if width > NARROW else 3)


def tenths(found: Figures) -> list[tuple[str, int]]:
    """How many customers use each tenth of their line, and how many more than all of it."""
    names = [f"{tenth * 10} to {tenth * 10 + 10} %" for tenth in range(10)] + ["over 100 %"]
    return [(name, found.utilisation.get(place, 0)) for place, name in enumerate(names)]


def utilisation(found: Figures, width: int) -> Markup:
    """The customers by tenths of their line."""
    columns = [
        Bar(
            "over" if place == 10 else f"{place * 10} %",
            [("part-bad" if place == 10 else "part-1", number)],
            f"{name} of the line: {number:,} customers",
        )
        for place, (name, number) in enumerate(tenths(found))
    ]
    description = "; ".join(column.title for column in columns)
    return bars(width, "Use of credit lines", description, columns, 11 if width > NARROW else 6)
