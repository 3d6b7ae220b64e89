"""Statements add up, whatever the period."""

from decimal import Decimal
from random import Random

import pytest

from tests.doors import Door, Json, Refused
from tests.factories import SOME_DAY, a_customer, a_loan, new_id, pay
from tests.paging import refuses_token


def statement(door: Door, customer: str, **period: object) -> Json:
    return door("statements.GetStatement", customer_external_id=customer, **period)


def all_entries(door: Door, customer: str, page_size: int, **period: object) -> list[Json]:
    found: list[Json] = []
    token = ""
    while True:
        page = statement(door, customer, page_size=page_size, page_token=token, **period)
        assert int(page["entries_count"]) >= len(found) + len(page["entries"])
        found += page["entries"]
        token = page["next_page_token"]
        if not token:
            return found


def a_history(door: Door) -> str:
    """A customer with a history of 30 random steps, which is the same each time."""
    random = Random(95)  # noqa: S311
    customer = a_customer(door)
    payments: list[str] = []
    for _ in range(30):
        step = random.choice(("lend", "lend", "refuse", "pay", "pay", "bounce", "change"))
        amount = f"{Decimal(random.randint(1, 900)) / 100}"
        if step == "lend":
            a_loan(door, customer, amount)
        elif step == "refuse":
            door("loans.RejectLoan", external_id=a_loan(door, customer, amount, activate=False))
        elif step == "pay":
            payment = pay(door, customer, amount)
            payments += [payment["external_id"]] if payment["status"] == "COMPLETED" else []
        elif step == "change":
            door("customers.UpdateCustomer", customer={"external_id": customer, "score": "2000"})
        elif payments:
            door("payments.RejectPayment", external_id=payments.pop(), reason="bounced")
    return customer


def total(entries: list[Json], kind: str) -> Decimal:
    return sum((Decimal(entry["amount"]) for entry in entries if entry["kind"] == kind), Decimal("0.00"))


def test_a_statement_of_any_period_adds_up(over_grpc: Door, door: Door) -> None:
    customer = a_history(over_grpc)
    everything = all_entries(door, customer, 1000)
    assert [entry["number"] for entry in everything] == [str(number) for number in range(1, len(everything) + 1)]
    times = [entry["recorded_at"] for entry in everything]
    periods: list[tuple[Json, int, int]] = [({}, 0, len(times))]
    for start, end in ((0, 10), (5, 17), (12, 12), (20, len(times) - 1)):
        first, last = times.index(times[start]), times.index(times[end])
        periods.append(({"start_time": times[start], "end_time": times[end]}, first, last))
    for period, first, last in periods:
        entries = all_entries(door, customer, 7, **period)
        assert entries == everything[first:last]
        found = statement(door, customer, **period)
        lent, rejected, repaid, bounced = (Decimal(found[name]) for name in ("lent", "rejected", "repaid", "bounced"))
        kinds = ("LOAN_CREATED", "LOAN_REJECTED", "PAYMENT_COMPLETED", "PAYMENT_BOUNCED")
        assert (lent, rejected, repaid, bounced) == tuple(total(entries, kind) for kind in kinds)
        debt = opening = Decimal(found["opening_balance"]["total_debt"] if first else 0)
        for entry in entries:
            debt += Decimal(entry["debt_change"])
            assert debt == Decimal(entry["debt_after"])
        assert opening + lent - rejected - repaid + bounced == debt
        if last:
            assert debt == Decimal(found["closing_balance"]["total_debt"])
        assert found["entries_count"] == str(last - first)


def test_the_balances_are_those_of_the_instants(over_grpc: Door, door: Door) -> None:
    customer = a_customer(door)
    a_loan(door, customer, "100")
    pay(door, customer, "30")
    entries = statement(door, customer)["entries"]
    found = statement(door, customer, start_time=entries[2]["recorded_at"])
    before = door("customers.GetCustomerBalance", external_id=customer, as_of={"time": entries[1]["recorded_at"]})
    assert found["opening_balance"] == before
    assert found["closing_balance"] == door("customers.GetCustomerBalance", external_id=customer)
    assert (found["lent"], found["rejected"], found["repaid"], found["bounced"]) == ("0.00", "0.00", "30.00", "0.00")
    assert "start_time" not in statement(door, customer)


def test_an_entry_says_what_happened_to_what(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "100")
    payment = pay(door, customer, "100")["external_id"]
    door("payments.RejectPayment", external_id=payment, reason="bounced")
    entries = statement(door, customer)["entries"]
    names = ("kind", "loan_external_id", "payment_external_id", "amount", "debt_change", "debt_after")
    assert [tuple(entry[name] for name in names) for entry in entries] == [
        ("CUSTOMER_CREATED", "", "", "", "0.00", "0.00"),
        ("LOAN_CREATED", loan, "", "100.00", "100.00", "100.00"),
        ("LOAN_ACTIVATED", loan, "", "100.00", "0.00", "100.00"),
        ("PAYMENT_COMPLETED", "", payment, "100.00", "-100.00", "0.00"),
        ("LOAN_PAID", loan, payment, "100.00", "0.00", "0.00"),
        ("PAYMENT_BOUNCED", "", payment, "100.00", "100.00", "100.00"),
    ]


def test_before_the_customer_was_there_is_nothing_and_the_future_is_not_in_it(door: Door) -> None:
    customer = a_customer(door)
    past = statement(door, customer, start_time="2020-01-01T00:00:00Z", end_time="2020-02-01T00:00:00Z")
    assert past == {
        "customer_external_id": customer,
        "start_time": "2020-01-01T00:00:00Z",
        "end_time": "2020-02-01T00:00:00Z",
        **dict.fromkeys(("lent", "rejected", "repaid", "bounced"), "0.00"),
        "entries_count": "0",
        "entries": [],
        "next_page_token": "",
    }
    until_now = statement(door, customer, end_time=SOME_DAY)
    assert until_now["end_time"] < SOME_DAY
    assert until_now["entries_count"] == "1"
    coming = statement(door, customer, start_time=SOME_DAY)
    assert coming["opening_balance"] == coming["closing_balance"]
    assert coming["entries"] == []


def test_what_is_no_period_or_no_customer_is_refused(door: Door) -> None:
    customer = a_customer(door)
    with pytest.raises(Refused) as refused:
        statement(door, customer, start_time="2026-02-01T00:00:00Z", end_time="2026-01-01T00:00:00Z")
    assert refused.value.fields == {"end_time": "must not be before start_time"}
    with pytest.raises(Refused) as refused:
        statement(door, new_id("customer"))
    assert (refused.value.code, refused.value.reason) == (5, "CUSTOMER_NOT_FOUND")
    a_loan(door, customer)
    token = statement(door, customer, page_size=1)["next_page_token"]
    filters = {"customer_external_id": customer, "end_time": SOME_DAY}
    refuses_token(door, "statements.GetStatement", token, **filters)
