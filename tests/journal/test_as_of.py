"""What was, as of an instant: the same answers as were given then."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.conftest import Stack
from tests.databases import owner
from tests.doors import Door, Json, Refused
from tests.factories import SOME_DAY, a_customer, a_loan, new_id, pay
from tests.paging import refuses_token, walk
from tests.waiting import eventually

NOT_YET = (9, "NOT_YET_CREATED")
STATUSES = ("PENDING", "ACTIVE", "REJECTED", "PAID")


class Past(NamedTuple):
    """The position and the time of a customer's event, as `as_of` takes them."""

    position: int
    recorded_at: str

    @property
    def instants(self) -> list[Json]:
        return [{"position": self.position}, {"time": self.recorded_at}]


def events(stack: Stack, customer: str) -> list[Past]:
    """A customer's events so far, in order, all of which have their positions."""
    numbered = """
        SELECT position, to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        FROM journal_events JOIN customers ON customers.id = customer_id
        LEFT JOIN journal_positions USING (customer_id, number) WHERE external_id = %s ORDER BY number
    """
    found: list[Past] = []

    def all_have_positions() -> bool:
        with owner(stack.data_dir) as connection:
            found[:] = [Past(*row) for row in connection.execute(numbered, [customer])]
        return all(event.position is not None for event in found)

    eventually(all_have_positions, 30)
    return found


def count_events(stack: Stack, customer: str) -> int:
    with owner(stack.data_dir) as connection:
        counted = "SELECT count(*) FROM journal_events WHERE customer_id = (SELECT id FROM customers WHERE external_id = %s)"
        [(count,)] = connection.execute(counted, [customer])
    return int(count)


def answers(door: Door, customer: str, loans: list[str], payments: list[str], **as_of: Json) -> Json:
    """All answers about a customer, or how each was refused."""
    asked = {
        "customer": ("customers.GetCustomer", {"external_id": customer}),
        "balance": ("customers.GetCustomerBalance", {"external_id": customer}),
        "loans": ("loans.ListLoans", {"customer_external_id": customer}),
        **{status: ("loans.ListLoans", {"customer_external_id": customer, "status": status}) for status in STATUSES},
        **{loan: ("loans.GetLoan", {"external_id": loan}) for loan in loans},
        **{payment: ("payments.GetPayment", {"external_id": payment}) for payment in payments},
    }
    found: Json = {}
    for name, (rpc, request) in asked.items():
        try:
            found[name] = door(rpc, **request, **as_of)
        except Refused as refusal:
            found[name] = (refusal.code, refusal.reason)
    return found


def what_was_missing(found: Json) -> Json:
    """Answers of the present, with what does not exist as it is told of the past."""
    return {name: NOT_YET if type(answer) is tuple and answer[0] == 5 else answer for name, answer in found.items()}


def history(door: Door, customer: str, loans: list[str], payments: list[str]) -> Iterator[Callable[[], object]]:
    """A story with every kind of event, step by step."""
    yield lambda: door("customers.CreateCustomer", customer={"external_id": customer, "score": "1000"})
    for loan, amount in zip(loans, ("100", "50", "70", "5"), strict=True):
        yield lambda loan=loan, amount=amount: a_loan(door, customer, amount, external_id=loan, activate=False)  # type: ignore[misc]
    yield lambda: door("loans.ActivateLoan", external_id=loans[0])
    yield lambda: pay(door, customer, "30", external_id=payments[0])
    yield lambda: door("loans.ActivateLoan", external_id=loans[1])
    yield lambda: door("loans.RejectLoan", external_id=loans[3])
    yield lambda: door(
        "customers.UpdateCustomer", customer={"external_id": customer, "score": "900", "preapproved_at": SOME_DAY}
    )
    yield lambda: pay(door, customer, "99999", external_id=payments[1])
    yield lambda: pay(door, customer, "100", external_id=payments[2])
    yield lambda: door("customers.UpdateCustomer", customer={"external_id": customer, "status": "INACTIVE"})
    yield lambda: door("payments.RejectPayment", external_id=payments[0], reason="bounced")
    yield lambda: pay(door, customer, "1", external_id=payments[3])
    yield lambda: door("payments.RejectPayment", external_id=payments[2], reason="bounced, too")


def test_every_instant_is_answered_as_it_was_answered_then(stack: Stack, over_grpc: Door, over_rest: Door) -> None:
    customer, loans = new_id("customer"), [new_id("loan") for _ in range(4)]
    payments = [new_id("payment") for _ in range(4)]
    about = (customer, loans, payments)
    then: list[Json] = []
    for step in history(over_grpc, *about):
        step()
        # A payment that pays a loan in full has an event for each of both, and both leave the same.
        then += [what_was_missing(answers(over_grpc, *about))] * (count_events(stack, customer) - len(then))
    past = events(stack, customer)
    assert len(past) == len(then) == 17
    for number, (event, expected) in enumerate(zip(past, then, strict=True)):
        by_position, by_time = (over_grpc, over_rest) if number % 2 else (over_rest, over_grpc)
        assert answers(by_position, *about, as_of={"position": event.position}) == expected, event
        assert answers(by_time, *about, as_of={"time": event.recorded_at}) == expected, event


def test_before_it_was_created_there_is_nothing(stack: Stack, door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer)
    payment = pay(door, customer, "1")["external_id"]
    [created, *_] = events(stack, customer)
    for instant in ({"position": created.position - 1}, {"position": 0}, {"time": "2020-01-01T00:00:00Z"}):
        found = answers(door, customer, [loan], [payment], as_of=instant)
        for name in ("customer", "balance", loan, payment):
            assert found[name] == NOT_YET
        assert found["loans"] == {"loans": [], "next_page_token": ""}
    with pytest.raises(Refused) as refused:
        door("loans.GetLoan", external_id=loan, as_of={"position": created.position})
    assert refused.value.info["metadata"] == {"external_id": loan}
    with pytest.raises(Refused) as refused:
        door("loans.GetLoan", external_id=new_id("loan"), as_of={"position": created.position})
    assert refused.value.reason == "LOAN_NOT_FOUND"


ASKED = [
    ("customers.GetCustomer", "external_id"),
    ("customers.GetCustomerBalance", "external_id"),
    ("loans.GetLoan", "external_id"),
    ("payments.GetPayment", "external_id"),
    ("loans.ListLoans", "customer_external_id"),
]


def test_what_is_no_instant_of_the_past_is_refused(stack: Stack, door: Door) -> None:
    customer = a_customer(door)
    a_loan(door, customer, external_id=customer)
    pay(door, customer, "1", external_id=customer)
    events(stack, customer)
    ahead = 10**9
    for rpc, field in ASKED:
        for as_of, code, reason in (
            ({"position": ahead}, 11, "POSITION_IN_FUTURE"),
            ({"time": SOME_DAY}, 11, "TIME_IN_FUTURE"),
            ({"position": -1}, 3, "INVALID_FIELDS"),
        ):
            with pytest.raises(Refused) as refused:
                door(rpc, **{field: customer}, as_of=as_of)
            assert (refused.value.code, refused.value.reason) == (code, reason)
            [name] = as_of
            if code == 11:
                metadata = refused.value.info["metadata"]
                assert metadata["field"] == f"as_of.{name}"
                assert ("last_position" in metadata) == (name == "position")
            else:
                assert set(refused.value.fields) == {"as_of.position"}
    with pytest.raises(Refused) as refused:
        door("loans.ListLoans", as_of={"position": 0})
    assert refused.value.fields == {"customer_external_id": "is required with as_of"}


def test_an_instant_that_says_neither_time_nor_position_is_refused(over_grpc: Door) -> None:
    customer = a_customer(over_grpc)
    for rpc, field in ASKED:
        with pytest.raises(Refused) as refused:
            over_grpc(rpc, **{field: customer}, as_of={})
        assert refused.value.fields == {"as_of": "needs a time or a position"}


def test_a_list_of_the_past_goes_page_by_page_and_its_token_belongs_to_its_instant(stack: Stack, door: Door) -> None:
    customer = a_customer(door)
    loans = [a_loan(door, customer, "1", activate=False) for _ in range(5)]
    then = events(stack, customer)[-1]
    for loan in (loans[0], loans[3], a_loan(door, customer, "1", activate=False)):
        door("loans.RejectLoan", external_id=loan)
    for instant in then.instants:
        filters: Json = {"customer_external_id": customer, "status": "PENDING", "as_of": instant}
        assert walk(door, "loans.ListLoans", "loans", 2, **filters) == loans[::-1]
        token = door("loans.ListLoans", page_size=2, **filters)["next_page_token"]
        refuses_token(door, "loans.ListLoans", token, **filters | {"as_of": {"position": 0}})
