"""Moments, at every door by the same rule: what is finer than a microsecond is cut off, and what is answered is taken back."""

import pytest

from tests.doors import Door
from tests.factories import a_customer, a_loan, new_id
from tests.imports.files import upload

# What is sent, and what is answered.
MOMENTS = [
    ("2026-01-31T12:00:00.1234567Z", "2026-01-31T12:00:00.123456Z"),
    ("2026-01-31T12:00:00.123456999Z", "2026-01-31T12:00:00.123456Z"),
    ("2026-01-31T17:30:00.999999999+05:30", "2026-01-31T12:00:00.999999Z"),
    ("1969-12-31T23:59:59.999999999Z", "1969-12-31T23:59:59.999999Z"),
    ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
    ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
    ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999Z"),
]


@pytest.mark.parametrize(("sent", "kept"), MOMENTS)
def test_every_door_keeps_a_moment_alike_and_takes_its_answer_back(door: Door, sent: str, kept: str) -> None:
    created, imported = a_customer(door, preapproved_at=sent), new_id("c")
    assert upload(door, f"{imported},1,{sent}\n".encode())["created_count"] == 1
    for external_id in (created, imported):
        assert door("customers.GetCustomer", external_id=external_id)["preapproved_at"] == kept
        for again in (kept, sent):
            customer = {"external_id": external_id, "preapproved_at": again}
            assert door("customers.UpdateCustomer", customer=customer)["preapproved_at"] == kept
    again = new_id("c")
    assert upload(door, f"{again},1,{kept}\n".encode())["created_count"] == 1
    assert door("customers.GetCustomer", external_id=again)["preapproved_at"] == kept


@pytest.mark.parametrize(("sent", "kept"), [each for each in MOMENTS if each[0] > "2099"])
def test_a_loan_is_due_as_late_as_can_be_said(door: Door, sent: str, kept: str) -> None:
    loan = a_loan(door, a_customer(door), maximum_payment_date=sent)
    due = door("loans.GetLoan", external_id=loan)["maximum_payment_date"]
    assert due == kept
    a_loan(door, a_customer(door), maximum_payment_date=due)
