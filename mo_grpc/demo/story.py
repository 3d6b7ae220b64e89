"""What happens in the demo's year, customer by customer, as calls of the API; no call is made here.

A customer's year follows from the seed and the customer's number alone, and another end moves all of it, so that a second
run makes the same calls with the same ids.
"""

import heapq
from collections.abc import Callable
from datetime import datetime, time, timedelta
from decimal import ROUND_UP, Decimal
from functools import partial
from random import Random
from typing import NamedTuple

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from mo.customers.v1 import customers_pb2
from mo.loans.v1 import loans_pb2
from mo.payments.v1 import payments_pb2

from mo_grpc.rpc.conversions import money, timestamp

YEAR = timedelta(days=365)
_MONTH = 30
"""Days; a calendar's months would make the story depend on where it begins."""

_DEBIT_TIME = time(6)
_CREDIT_LINES = (500, 800, 1000, 1500, 2000, 2500, 4000, 6000, 10_000)
_CENT = Decimal("0.01")
_BOUNCE_REASONS = (
    "Insufficient funds in the payer's account.",
    "The payer's account is closed.",
    "The payer's bank refused the direct debit.",
    "The payer disputes the charge.",
    "The payer cancelled the direct debit mandate.",
)


class Event(NamedTuple):
    """A call at its moment, and the trace by which a later run sees that it was made: an id, or empty if it leaves none."""

    at: datetime
    request: Message
    trace: str


def customer_id(seed: int, number: int) -> str:
    """The id of a demo customer."""
    return f"demo-{seed}-customer-{number:04}"


def decided(loan: str) -> str:
    """The trace of a loan's activation or rejection."""
    return f"{loan}:decided"


def bounced(payment: str) -> str:
    """The trace of a payment's rejection."""
    return f"{payment}:bounced"


class _Habit(NamedTuple):
    """How a kind of customer behaves. Pairs are days, from and to; decimals are chances, from 0 to 1."""

    joins: tuple[int, int]
    decision: tuple[int, int] = (1, 3)
    turned_down: float = 0.08
    overreaches: float = 0.1
    late: float = 0.05
    bounces: float = 0.02
    overpays: float = 0.02
    settles_early: float = 0.03
    instalments: int = 1000
    locked: bool = False


_STEADY = _Habit(joins=(0, 120))
_STEADY_LATER = _Habit(joins=(60, 300))
_CARELESS = _Habit(joins=(0, 200), late=0.5, bounces=0.15)
_HASTY = _Habit(joins=(0, 180), overpays=0.3, settles_early=0.2)
_AMBITIOUS = _Habit(joins=(0, 150), overreaches=0.8, turned_down=0.4)
_IN_TROUBLE = _Habit(joins=(0, 60), turned_down=0, late=0.6, settles_early=0, instalments=2)
_LOCKED = _IN_TROUBLE._replace(instalments=1, locked=True)
# Their papers are incomplete, so their loans wait.
_NEWCOMER = _Habit(joins=(330, 355), decision=(40, 60))

# Customers take turns, so that even a small portfolio has some of each kind.
_HABITS = (
    _STEADY,
    _CARELESS,
    _STEADY_LATER,
    _IN_TROUBLE,
    _STEADY,
    _HASTY,
    _NEWCOMER,
    _STEADY_LATER,
    _AMBITIOUS,
    _CARELESS,
    _LOCKED,
    _STEADY,
)


class _Story:
    """Makes up one customer's year: an agenda of what is to happen, and enough of the balance to know what can."""

    def __init__(self, seed: int, number: int, end: datetime) -> None:
        self.events: list[Event] = []
        self._random = Random(f"{seed}/{number}")  # noqa: S311 - not a secret
        self._habit = _HABITS[(number - 1) % len(_HABITS)]
        self._ids = f"demo-{seed}-{{}}-{number:04}-{{:02}}"
        self._customer = customer_id(seed, number)
        self._line = Decimal(self._random.choice(_CREDIT_LINES))
        self._begin = self._now = end - YEAR
        self._agenda: list[tuple[datetime, int, Callable[[], None]]] = []
        self._planned = self._loans = self._payments = self._dues = 0
        self._pending = self._debt = Decimal(0)
        self._borrowed = False
        self._later(self._habit.joins, self._join)
        while self._agenda:
            self._now, _, action = heapq.heappop(self._agenda)
            if self._now < end:
                action()
        # A second run cannot see that a call was made that left no trace, unless a later one did.
        while not self.events[-1].trace:
            self.events.pop()

    def _later(self, days: tuple[int, int], action: Callable[[], None]) -> None:
        """Plan an action at some minute of the office's hours, `days` from now."""
        minutes = self._random.randint(9 * 60, 18 * 60)
        day = datetime.combine(self._now, time(), self._now.tzinfo) + timedelta(days=self._random.randint(*days))
        self._plan(day + timedelta(minutes=minutes, seconds=self._random.randint(0, 59)), action)

    def _plan(self, at: datetime, action: Callable[[], None]) -> None:
        # Numbered, because actions have no order.
        self._planned += 1
        heapq.heappush(self._agenda, (at, self._planned, action))

    def _add(self, request: Message, trace: str = "") -> None:
        self.events.append(Event(self._now, request, trace))

    def _happens(self, chance: float) -> bool:
        return self._random.random() < chance

    def _join(self) -> None:
        customer = customers_pb2.Customer(external_id=self._customer, score=money(self._line))
        if self._happens(0.3):
            customer.preapproved_at.FromDatetime(self._now - timedelta(days=self._random.randint(5, 60)))
        self._add(customers_pb2.CreateCustomerRequest(customer=customer), self._customer)
        if self._happens(self._habit.overreaches):
            self._later((1, 3), self._overreach)
        self._later((4, 9), self._borrow)

    def _overreach(self) -> None:
        """Ask for more than the whole credit line, which is refused whatever else happened."""
        self._ask(self._line + 50 * self._random.randint(1, 20), 12, granted=False)

    def _borrow(self) -> None:
        share = self._random.uniform(0.3, 0.8)
        amount = Decimal(int(float(self._line - self._debt - self._pending) * share) // 50 * 50)
        if amount < 100:
            self._later((50, 90), self._borrow)
            return
        # First loans are short ones.
        months = self._random.choice((6, 9, 12) if self._borrowed else (3, 6))
        self._borrowed = True
        loan = self._ask(amount, months, granted=True)
        self._pending += amount
        self._later(self._habit.decision, partial(self._decide, loan, amount, months))

    def _ask(self, amount: Decimal, months: int, *, granted: bool) -> str:
        self._loans += 1
        loan = loans_pb2.Loan(
            external_id=self._ids.format("loan", self._loans),
            customer_external_id=self._customer,
            amount=money(amount),
            contract_version="terms-2.1" if self._now < self._begin + YEAR / 2 else "terms-2.2",
            maximum_payment_date=timestamp(self._now + timedelta(days=_MONTH * months + 15)),
        )
        self._add(loans_pb2.CreateLoanRequest(loan=loan), loan.external_id if granted else "")
        return loan.external_id

    def _decide(self, loan: str, amount: Decimal, months: int) -> None:
        self._pending -= amount
        # After a bounce, the debt may be above the line, and nothing is paid out.
        if self._happens(self._habit.turned_down) or self._debt + self._pending + amount > self._line:
            self._add(loans_pb2.RejectLoanRequest(external_id=loan), decided(loan))
            self._later((15, 60), self._borrow)
            return
        self._add(loans_pb2.ActivateLoanRequest(external_id=loan), decided(loan))
        self._debt += amount
        share = (amount / months).quantize(_CENT, ROUND_UP)
        first = datetime.combine(self._now, _DEBIT_TIME, self._now.tzinfo)
        for month in range(1, months + 1):
            instalment = min(share, amount - share * (month - 1))
            self._plan(first + timedelta(days=_MONTH * month), partial(self._due, instalment))
        if self._habit.instalments > months:
            self._later((60, 150), self._borrow)

    def _due(self, instalment: Decimal) -> None:
        """An instalment's day: the direct debit runs, unless the customer has it otherwise."""
        self._dues += 1
        habit = self._habit
        if self._dues > habit.instalments:
            if habit.locked and self._dues == habit.instalments + 1:
                self._later((20, 30), self._lock)
        elif not self._debt:
            if self._happens(0.1):  # settled early, and forgot to end the standing order
                self._pay(instalment)
        elif self._happens(habit.overpays):
            self._pay(self._debt + instalment)
            self._later((1, 4), partial(self._pay_back, instalment))
        elif self._happens(habit.late):
            self._later((3, 25), partial(self._pay_back, instalment))
        else:
            self._pay_back(self._debt if self._happens(habit.settles_early) else instalment)

    def _pay_back(self, amount: Decimal) -> None:
        amount = min(amount, self._debt)
        if amount:
            self._debt -= amount
            payment = self._pay(amount)
            if self._happens(self._habit.bounces):
                self._later((1, 3), partial(self._bounce, payment, amount))

    def _pay(self, amount: Decimal) -> str:
        self._payments += 1
        payment = payments_pb2.Payment(
            external_id=self._ids.format("payment", self._payments),
            customer_external_id=self._customer,
            total_amount=money(amount),
        )
        self._add(payments_pb2.CreatePaymentRequest(payment=payment), payment.external_id)
        return payment.external_id

    def _bounce(self, payment: str, amount: Decimal) -> None:
        self._debt += amount
        reason = self._random.choice(_BOUNCE_REASONS)
        self._add(payments_pb2.RejectPaymentRequest(external_id=payment, reason=reason), bounced(payment))
        self._later((4, 10), partial(self._pay_back, amount))

    def _lock(self) -> None:
        customer = customers_pb2.Customer(external_id=self._customer, status=customers_pb2.Customer.INACTIVE)
        self._add(customers_pb2.UpdateCustomerRequest(customer=customer, update_mask=FieldMask(paths=["status"])))
        self._later((10, 40), partial(self._pay_back, Decimal(10 * self._random.randint(1, 4))))


def story(seed: int, number: int, end: datetime) -> list[Event]:
    """The year of one customer, up to `end`, in chronological order."""
    return _Story(seed, number, end).events
