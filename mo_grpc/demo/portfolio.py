"""The demo's portfolio, as the API shows it, and its summary."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from mo.customers.v1.customers_pb2 import Customer
from mo.loans.v1.loans_pb2 import Loan
from mo.payments.v1.payments_pb2 import Payment
from rich.table import Table

from mo_grpc.demo.story import bounced, decided


class Portfolio(NamedTuple):
    """The demo's customers that exist, with their loans and payments."""

    customers: list[Customer]
    loans: list[Loan]
    payments: list[Payment]

    def add(self, other: "Portfolio") -> None:
        """Add another portfolio."""
        self.customers.extend(other.customers)
        self.loans.extend(other.loans)
        self.payments.extend(other.payments)

    def traces(self) -> set[str]:
        """What the calls of an earlier run left; see `story.Event`."""
        return {
            *(customer.external_id for customer in self.customers),
            *(loan.external_id for loan in self.loans),
            *(decided(loan.external_id) for loan in self.loans if loan.status != Loan.PENDING),
            *(payment.external_id for payment in self.payments),
            *(bounced(payment.external_id) for payment in self.payments if payment.HasField("rejection")),
        }

    def overdue(self, now: datetime) -> list[Loan]:
        """The loans that should have been paid back by now, and are not."""
        return [loan for loan in self._active() if loan.maximum_payment_date.ToDatetime(tzinfo=UTC) < now]

    def summary(self, now: datetime) -> Table:
        """What there is, in a few lines."""
        table = Table(title=f"The demo portfolio on {now:%Y-%m-%d}", show_header=False, title_justify="left")
        table.add_column()
        table.add_column()
        table.add_column(justify="right")
        kinds = Payment.Rejection.Kind.Name
        rejected = (kinds(payment.rejection.kind) for payment in self.payments if payment.HasField("rejection"))
        _rows(table, "customers", (Customer.Status.Name(customer.status) for customer in self.customers))
        _rows(table, "loans", (Loan.Status.Name(loan.status) for loan in self.loans))
        _rows(table, "payments", (Payment.Status.Name(payment.status) for payment in self.payments))
        _rows(table, "rejected payments", rejected)
        table.add_row("outstanding", "on ACTIVE loans", f"{sum(Decimal(loan.outstanding) for loan in self._active()):,.2f}")
        table.add_row("overdue loans", "ACTIVE after their last day", f"{len(self.overdue(now)):,}")
        return table

    def tips(self, now: datetime) -> Iterator[str]:
        """What to look at first: a customer who owes something, and an overdue loan."""
        if debtors := {loan.customer_external_id for loan in self._active()}:
            yield f"a customer with a debt: {min(debtors)}"
        if overdue := self.overdue(now):
            yield f"an overdue loan: {min(loan.external_id for loan in overdue)}"

    def _active(self) -> list[Loan]:
        return [loan for loan in self.loans if loan.status == Loan.ACTIVE]


def _rows(table: Table, kind: str, statuses: Iterable[str]) -> None:
    """A row for each status, under the name of the kind."""
    for place, (status, count) in enumerate(sorted(Counter(statuses).items())):
        table.add_row("" if place else kind, status, f"{count:,}")
    table.add_section()
