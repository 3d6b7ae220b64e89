"""Columns, areas and shares; and the parts that every chart is drawn of."""

import itertools
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from markupsafe import Markup, escape

from mo_grpc.web.admin.filters import money

WIDE, HALF, NARROW = 720, 460, 340
_ids = itertools.count(1)


class Bar(NamedTuple):
    """One bar, of parts that lie on each other, each with its class and its number."""

    label: str
    parts: Sequence[tuple[str, float]]
    title: str


class Frame(NamedTuple):
    """The place of a chart: its size, and the margins for the labels."""

    width: int
    height: int = 220
    left: int = 56
    bottom: int = 26
    top: int = 10
    right: int = 8

    @property
    def across(self) -> float:
        """The width of the chart itself."""
        return self.width - self.left - self.right

    @property
    def down(self) -> float:
        """The height of the chart itself."""
        return self.height - self.top - self.bottom

    def y(self, share: float) -> float:
        """Where a share of the greatest number is."""
        return self.top + self.down * (1 - share)


def twice(draw: Callable[[int], Markup], wide: int = WIDE) -> Markup:
    """A chart for wide pages, where it is the whole page's width or half of it, and the same for narrow ones."""
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(draw(wide), draw(NARROW))


def svg(width: int, height: int, title: str, description: str, content: Markup) -> Markup:
    """A picture with its name and what it shows."""
    number = next(_ids)
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-labelledby="t{n} d{n}"><title id="t{n}">{t}</title>'
        '<desc id="d{n}">{d}</desc>{c}</svg>'
    ).format(w=width, h=height, n=number, t=title, d=description, c=content)


def bars(width: int, title: str, description: str, columns: Sequence[Bar], labels: int) -> Markup:
    """Columns side by side; about so many of them are labelled."""
    frame = Frame(width)
    top = nice(max((sum(part for _, part in column.parts) for column in columns), default=0))
    step = frame.across / max(1, len(columns))
    gap = min(6.0, step * 0.25)
    every = max(1, -(-len(columns) // labels))
    drawn = [_grid(frame, top)]
    for place, column in enumerate(columns):
        x, base = frame.left + place * step + gap / 2, 0.0
        rects = []
        for name, part in column.parts:
            if part:
                height = frame.down * part / top
                rects.append(rect(name, x, frame.y(base / top) - height, step - gap, height))
                base += part
        # The whole height answers to the pointer, so that a small column can be asked as well.
        target = rect("target", frame.left + place * step, frame.top, step, frame.down)
        drawn.append(Markup("<g><title>{}</title>{}{}</g>").format(column.title, Markup("").join(rects), target))
        if place % every == 0:
            drawn.append(text_at(frame.left + (place + 0.5) * step, frame.height - 8, column.label, "middle"))
    return svg(width, frame.height, title, description, Markup("").join(drawn))


def area(width: int, title: str, description: str, points: Sequence[tuple[date, Decimal]]) -> Markup:
    """A line over days, and the area below it."""
    frame = Frame(width)
    top = nice(float(max((value for _, value in points), default=Decimal(0))))
    step = frame.across / max(1, len(points) - 1)
    places = [(frame.left + place * step, frame.y(max(0.0, float(value)) / top)) for place, (_, value) in enumerate(points)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    base = frame.y(0)
    drawn = [
        _grid(frame, top),
        Markup('<polygon class="fill-1" points="{},{} {} {},{}"/>').format(
            frame.left, round(base, 1), line, round(frame.left + frame.across, 1), round(base, 1)
        ),
        Markup('<polyline class="line-1" points="{}"/>').format(line),
    ]
    every = max(1, len(points) // (6 if width > NARROW else 3))
    for place, (day, value) in enumerate(points):
        hover = rect("target", frame.left + (place - 0.5) * step, frame.top, step, frame.down)
        drawn.append(Markup("<g><title>{}: {}</title>{}</g>").format(f"{day:%d %B %Y}", money(value), hover))
        if place % every == every // 2:
            drawn.append(text_at(frame.left + place * step, frame.height - 8, f"{day:%d %b}", "middle"))
    return svg(width, frame.height, title, description, Markup("").join(drawn))


def share(title: str, description: str, parts: Sequence[tuple[str, Decimal]]) -> Markup:
    """One bar, divided; 100 units wide, so it serves every page."""
    whole = sum((amount for _, amount in parts), Decimal(0))
    drawn, x = [rect("track", 0, 0, 100, 6)], 0.0
    for name, amount in parts:
        width = float(amount / whole * 100) if whole else 0.0
        drawn.append(rect(name, x, 0, width, 6))
        x += width
    number = next(_ids)
    return Markup(
        '<svg class="share" viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-labelledby="t{n} d{n}">'
        '<title id="t{n}">{t}</title><desc id="d{n}">{d}</desc>{c}</svg>'
    ).format(n=number, t=title, d=description, c=Markup("").join(drawn))


def rect(name: str, x: float, y: float, width: float, height: float) -> Markup:
    """A rectangle of a class."""
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
        name, round(x, 2), round(y, 2), round(max(0.0, width), 2), round(max(0.0, height), 2)
    )


def nice(number: float) -> float:
    """The next round number that four steps lead to."""
    if number <= 4:
        return 4.0
    magnitude = 10.0 ** (len(str(int(number))) - 1)
    return next(magnitude * factor for factor in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10, 12) if magnitude * factor >= number)


def short(number: float) -> str:
    """A number for a label."""
    for limit, letter in ((1e9, "bn"), (1e6, "m"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:,.4g} {letter}"
    return f"{number:,.4g}"


def text_at(x: float, y: float, content: str, anchor: str = "start") -> Markup:
    """A text at a place."""
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(round(x, 1), round(y, 1), anchor, escape(content))


def _grid(frame: Frame, top: float) -> Markup:
    lines = []
    for quarter in range(5):
        y = round(frame.y(quarter / 4), 1)
        lines.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(frame.left, frame.width - frame.right, y, y)
        )
        lines.append(text_at(frame.left - 8, y + 4, short(top * quarter / 4), "end"))
    return Markup("").join(lines)
