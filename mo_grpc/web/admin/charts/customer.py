"""Charts of a customer: the credit line, when loans were taken and paid, and how each payment was spread over them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from markupsafe import Markup

from mo_grpc.loans.rules import Status as LoanStatus
from mo_grpc.payments.rules import Status as PaymentStatus
from mo_grpc.web.admin.charts.plots import rect, share, svg, text_at
from mo_grpc.web.admin.filters import day_and_time, money, words

_ROW = 26
_HUES = 6


def credit_line(customer: Mapping[str, Any]) -> Markup:
    """How much of the line is owed, pending, and available."""
    active, pending, available = customer["active"], customer["pending"], customer["available"]
    description = (
        f"Of a line of {money(customer['score'])}, {money(active)} is owed, {money(pending)} is pending, "
        f"and {money(available)} is available."
    )
    parts = [("part-1", active), ("part-3", pending), ("part-free", max(Decimal(0), available))]
    return share("Credit line", description, parts)


class Place(NamedTuple):
    """Where a moment is, between two others, in so many units."""

    first: datetime
    last: datetime
    left: float
    width: float

    def x(self, moment: datetime) -> float:
        """The moment's place."""
        return self.left + self.width * ((moment - self.first) / (self.last - self.first))


def time_line(width: int, loans: Sequence[Mapping[str, Any]], payments: Sequence[Mapping[str, Any]]) -> Markup:
    """Each loan as a bar from its beginning to its end, and the payments as marks below, on one axis."""
    now = datetime.now(UTC)
    moments = [*(loan["created_at"] for loan in loans), *(payment["created_at"] for payment in payments), now]
    begin = min(moments)
    # At least an hour, so that its ends are two moments.
    first = min(begin, now - timedelta(hours=1))
    left = 104 if width > 400 else 76
    place = Place(first, now, left, width - left - 14)
    ordered = sorted(loans, key=lambda loan: (loan["created_at"], loan["id"]))
    bottom = 12 + _ROW * len(ordered)
    drawn = [_axis(place, bottom + 34, width)]
    for row, loan in enumerate(ordered):
        y = 12 + _ROW * row
        since = loan["taken_at"] or loan["created_at"]
        end = loan["updated_at"] if loan["status"] in (LoanStatus.PAID, LoanStatus.REJECTED) else place.last
        x = place.x(since)
        word = words(LoanStatus(loan["status"]))
        title = f"{loan['external_id']}: {money(loan['amount'])}, {word}, from {day_and_time(since)}"
        if end is not place.last:
            title += f" to {day_and_time(end)}"
        bar = rect(f"bar-{word}", x, y, max(4.0, place.x(end) - x), 14)
        name = text_at(4, y + 11, _cut(loan["external_id"], left // 7))
        drawn.append(Markup("<g><title>{}</title>{}{}</g>").format(title, name, bar))
    y = bottom + 10
    drawn.append(text_at(4, y + 4, "payments"))
    for payment in payments:
        x, status = place.x(payment["created_at"]), PaymentStatus(payment["status"])
        when = day_and_time(payment["created_at"])
        title = f"{payment['external_id']}: {money(payment['total_amount'])}, {words(status)}, {when}"
        mark = (
            Markup('<circle class="mark-good" cx="{}" cy="{}" r="5"/>').format(round(x, 1), y)
            if status == PaymentStatus.COMPLETED
            else Markup('<path class="mark-bad" d="M{} {}l8 8m0 -8l-8 8"/>').format(round(x - 4, 1), y - 4)
        )
        drawn.append(Markup("<g><title>{}</title>{}</g>").format(title, mark))
    description = (
        f"{len(ordered)} loans from their beginning to their end, and {len(payments)} payments, from {begin:%d %B %Y} on."
    )
    return svg(width, bottom + 44, "Time line of loans and payments", description, Markup("").join(drawn))


def spread(
    width: int, loans: Sequence[Mapping[str, Any]], parts: Sequence[Mapping[str, Any]], payment_id: int | None = None
) -> Markup:
    """Each loan as a bar of its amount, filled by the payments that went to it, in their order.

    Each payment has a colour and a number; with a `payment_id`, that one stands out. A bounced payment fills nothing, since its
    loans are owed again; only where it is the one asked for it is drawn, hatched, over what was paid since.
    """
    greatest = max((float(loan["amount"]) for loan in loans), default=1.0)
    left = 104 if width > 400 else 76
    across = width - left - (96 if width > 400 else 86)
    numbers = {id_: number for number, id_ in enumerate(sorted({part["payment_id"] for part in parts}), 1)}
    drawn = []
    for row, loan in enumerate(loans):
        y, scale = 8 + 34 * row, across / greatest
        x, bounced = float(left), Markup("")
        drawn.append(text_at(4, y + 15, _cut(loan["external_id"], left // 7)))
        drawn.append(rect("track", left, y, float(loan["amount"]) * scale, 22))
        for part in (part for part in parts if part["loan_id"] == loan["id"]):
            mine = part["payment_id"] == payment_id
            if part["status"] != PaymentStatus.COMPLETED and not mine:
                continue
            number = numbers[part["payment_id"]]
            name = f"part-{(number - 1) % _HUES + 1}" if payment_id is None else "part-1" if mine else "part-other"
            size = float(part["amount"]) * scale
            title = f"{part['payment']}: {money(part['amount'])} of {loan['external_id']}"
            label = Markup("")
            if size > 14 and not payment_id:
                label = Markup('<text class="on-part" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                    round(x + size / 2, 1), y + 15, number
                )
            counts = part["status"] == PaymentStatus.COMPLETED
            shape = rect(name if counts else "part-bounced", x, y, max(1.0, size - 1), 22)
            group = Markup("<g><title>{}</title>{}{}</g>").format(title, shape, label)
            if counts:
                drawn.append(group)
                x += size
            else:
                bounced = group
        drawn.append(bounced)
        owed = "paid" if loan["status"] == LoanStatus.PAID else f"{money(loan['outstanding'])} left"
        drawn.append(text_at(left + float(loan["amount"]) * scale + 6, y + 15, owed))
    description = "; ".join(_parts_of(loan, parts) for loan in loans) or "No payment has gone to a loan yet."
    title = "How the payment was spread" if payment_id else "How each payment was spread, loan by loan"
    return svg(width, 12 + 34 * len(loans), title, description, Markup("").join(drawn))


def legend(parts: Sequence[Mapping[str, Any]]) -> list[tuple[int, str, str, bool]]:
    """The payments of the picture: number, colour, id, and whether it counts."""
    payments = {part["payment_id"]: (part["payment"], part["status"] == PaymentStatus.COMPLETED) for part in parts}
    return [
        (number, f"part-{(number - 1) % _HUES + 1}" if counts else "part-bounced", payment, counts)
        for number, (_, (payment, counts)) in enumerate(sorted(payments.items()), 1)
    ]


def _parts_of(loan: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> str:
    mine = [f"{money(part['amount'])} by {part['payment']}" for part in parts if part["loan_id"] == loan["id"]]
    return f"{loan['external_id']}: {', '.join(mine) or 'nothing yet'}"


def _axis(place: Place, y: float, width: int) -> Markup:
    drawn = [Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(place.left, width - 14, y - 14, y - 14)]
    steps = 5 if width > 400 else 2
    # With less than a day between them, they would say the same day twice.
    with_time = place.last - place.first < timedelta(days=steps)
    before = None
    for step in range(steps + 1):
        moment = place.first + (place.last - place.first) * step / steps
        anchor = "end" if step == steps else "middle" if step else "start"
        x = round(place.x(moment), 1)
        drawn.append(Markup('<line class="grid" x1="{}" x2="{}" y1="4" y2="{}"/>').format(x, x, y - 14))
        label = f"{moment:%d %b %Y}" if not with_time else f"{moment:%H:%M}"
        if with_time and moment.date() != before:
            label = f"{moment:%d %b}, {label}"
        before = moment.date()
        drawn.append(text_at(x, y + 2, label, anchor))
    return Markup("").join(drawn)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"…{text[-length + 1 :]}"
