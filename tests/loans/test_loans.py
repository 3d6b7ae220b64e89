from typing import Any

import pytest

from tests.conftest import Stack
from tests.databases import many_loans
from tests.doors import Door, Json, Refused
from tests.factories import SOME_DAY, a_customer, a_loan, new_id, outstanding, pay, stored


def balance(door: Door, customer: str) -> tuple[str, str]:
    found = door("customers.GetCustomerBalance", external_id=customer)
    return found["total_debt"], found["available_amount"]


def loans_of(door: Door, customer: str) -> list[Json]:
    return list(door("loans.ListLoans", customer_external_id=customer)["loans"])


def deactivate(door: Door, customer: str) -> None:
    door("customers.UpdateCustomer", customer={"external_id": customer, "status": "INACTIVE"})


def a_loan_that_is(door: Door, status: str, customer: str) -> str:
    """A loan of 100.00 with this status."""
    loan = a_loan(door, customer, activate=status in ("ACTIVE", "PAID"))
    if status == "REJECTED":
        door("loans.RejectLoan", external_id=loan)
    if status == "PAID":
        pay(door, customer, "100.00")
    assert outstanding(door, loan)[1] == status
    return loan


def test_created_pending_with_all_of_it_outstanding(door: Door) -> None:
    customer, external_id = a_customer(door), new_id("loan")
    created = door(
        "loans.CreateLoan",
        loan={
            "external_id": external_id,
            "customer_external_id": customer,
            "amount": "250.50",
            "maximum_payment_date": "2099-06-30T12:34:56.789012Z",
            "contract_version": "v1.2 / März",
        },
    )
    assert created["created_at"] == created["updated_at"] > "2026"
    assert stored(created) == {
        "external_id": external_id,
        "customer_external_id": customer,
        "amount": "250.50",
        "outstanding": "250.50",
        "status": "PENDING",
        "contract_version": "v1.2 / März",
        "maximum_payment_date": "2099-06-30T12:34:56.789012Z",
        "created_at": created["created_at"],
        "updated_at": created["updated_at"],
    }
    assert door("loans.GetLoan", external_id=external_id) == stored(created)
    assert loans_of(door, customer) == [stored(created)]


def test_what_is_output_only_or_left_out_is_not_taken_from_the_request(door: Door) -> None:
    loan = a_loan(
        door, a_customer(door), activate=False, status="PAID", outstanding="7", taken_at=SOME_DAY, created_at=SOME_DAY
    )
    found = door("loans.GetLoan", external_id=loan)
    assert (found["status"], found["outstanding"]) == ("PENDING", "100.00")
    assert found["created_at"] < SOME_DAY
    assert "taken_at" not in found
    assert "contract_version" not in found


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ("2500", "2500.00"),
        ("2500.5", "2500.50"),
        ("2500.05", "2500.05"),
        ("0.01", "0.01"),
        ("0.1", "0.10"),
        ("9999999999.99", "9999999999.99"),
    ],
)
def test_amounts_are_answered_with_two_places(door: Door, sent: str, answered: str) -> None:
    customer = a_customer(door, "9999999999.99")
    found = door("loans.GetLoan", external_id=a_loan(door, customer, sent, activate=False))
    assert (found["amount"], found["outstanding"]) == (answered, answered)
    assert balance(door, customer)[0] == answered


@pytest.mark.parametrize("owner", ["the same customer", "another customer"])
def test_a_taken_id_is_refused(door: Door, owner: str) -> None:
    first = a_customer(door)
    loan = a_loan(door, first, "5", activate=False)
    before = door("loans.GetLoan", external_id=loan)
    other = first if owner == "the same customer" else a_customer(door)
    with pytest.raises(Refused) as refused:
        a_loan(door, other, "9", external_id=loan)
    assert (refused.value.code, refused.value.reason) == (6, "LOAN_ALREADY_EXISTS")
    assert refused.value.info["metadata"] == {"external_id": loan}
    assert refused.value.details[1]["resource_type"] == "mo.loans.v1.Loan"
    assert refused.value.details[1]["resource_name"] == loan
    assert door("loans.GetLoan", external_id=loan) == before
    assert balance(door, first)[0] == "5.00"
    assert len(loans_of(door, other)) == (other == first)


def test_nothing_is_lent_to_an_unknown_customer(door: Door) -> None:
    loan = new_id("loan")
    with pytest.raises(Refused) as refused:
        a_loan(door, "nobody", external_id=loan)
    assert (refused.value.code, refused.value.reason) == (5, "CUSTOMER_NOT_FOUND")
    assert refused.value.info["metadata"] == {"external_id": "nobody"}
    with pytest.raises(Refused) as refused:
        door("loans.GetLoan", external_id=loan)
    assert refused.value.reason == "LOAN_NOT_FOUND"


@pytest.mark.parametrize("rpc", ["GetLoan", "ActivateLoan", "RejectLoan"])
def test_an_unknown_loan_is_not_found(door: Door, rpc: str) -> None:
    with pytest.raises(Refused) as refused:
        door(f"loans.{rpc}", external_id="nothing")
    assert (refused.value.code, refused.value.reason) == (5, "LOAN_NOT_FOUND")
    assert refused.value.info["metadata"] == {"external_id": "nothing"}
    assert refused.value.details[1]["resource_name"] == "nothing"


def test_a_loan_may_use_up_the_credit_line(door: Door) -> None:
    customer = a_customer(door, "1000.00")
    a_loan(door, customer, "400.01", activate=False)  # PENDING counts
    a_loan(door, customer, "599.99")
    assert balance(door, customer) == ("1000.00", "0.00")


@pytest.mark.parametrize("activate", [False, True], ids=["PENDING", "ACTIVE"])
def test_a_cent_over_the_credit_line_is_refused(door: Door, activate: bool) -> None:
    customer = a_customer(door, "1000.00")
    a_loan(door, customer, "400.00", activate=activate)
    loan = new_id("loan")
    with pytest.raises(Refused) as refused:
        a_loan(door, customer, "600.01", external_id=loan)
    assert (refused.value.code, refused.value.reason) == (9, "CREDIT_LIMIT_EXCEEDED")
    assert refused.value.info["metadata"] == {
        "customer_external_id": customer,
        "amount": "600.01",
        "available_amount": "600.00",
    }
    [violation] = refused.value.details[1]["violations"]
    assert (violation["type"], violation["subject"]) == ("CREDIT_LIMIT_EXCEEDED", customer)
    assert violation["description"] == refused.value.message
    assert balance(door, customer) == ("400.00", "600.00")
    a_loan(door, customer, "600.00", external_id=loan)  # the refused one did not take the id


def test_a_rejected_loan_frees_its_credit(door: Door) -> None:
    customer = a_customer(door, "100.00")
    rejected = a_loan_that_is(door, "REJECTED", customer)
    assert balance(door, customer) == ("0.00", "100.00")
    found = door("loans.GetLoan", external_id=rejected)
    assert found["updated_at"] > found["created_at"]
    assert "taken_at" not in found
    a_loan(door, customer, "100.00")


def test_what_is_paid_back_may_be_lent_again(door: Door) -> None:
    customer = a_customer(door, "100.00")
    a_loan(door, customer, "100.00")
    pay(door, customer, "40.00")
    with pytest.raises(Refused) as refused:
        a_loan(door, customer, "40.01")
    assert refused.value.reason == "CREDIT_LIMIT_EXCEEDED"
    a_loan(door, customer, "40.00", activate=False)
    assert balance(door, customer) == ("100.00", "0.00")


def test_activation_takes_the_loan_now(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, activate=False)
    before = door("loans.GetLoan", external_id=loan)
    activated = door("loans.ActivateLoan", external_id=loan)
    assert activated["taken_at"] == activated["updated_at"] > before["updated_at"]
    changed = {"status": "ACTIVE", "taken_at": activated["taken_at"], "updated_at": activated["updated_at"]}
    assert stored(activated) == before | changed == door("loans.GetLoan", external_id=loan)
    assert balance(door, customer)[0] == "100.00"


@pytest.mark.parametrize("why", ["the line was lowered", "a payment bounced"])
def test_nothing_is_paid_out_while_the_debt_is_above_the_line(door: Door, why: str) -> None:
    customer = a_customer(door, "150.00")
    a_loan(door, customer, "100.00")
    if why == "the line was lowered":
        loan = a_loan(door, customer, "40.00", activate=False)
        door("customers.UpdateCustomer", customer={"external_id": customer, "score": "139.99"})
        available = "-0.01"
    else:
        payment = pay(door, customer, "100.00")
        loan = a_loan(door, customer, "60.00", activate=False)
        door("payments.RejectPayment", external_id=payment["external_id"], reason="No funds.")
        available = "-10.00"
    before = door("loans.GetLoan", external_id=loan)
    with pytest.raises(Refused) as refused:
        door("loans.ActivateLoan", external_id=loan)
    assert (refused.value.code, refused.value.reason) == (9, "CREDIT_LIMIT_EXCEEDED")
    assert refused.value.info["metadata"] == {
        "customer_external_id": customer,
        "amount": before["amount"],
        "available_amount": available,
    }
    assert refused.value.details[1]["violations"][0]["subject"] == customer
    assert door("loans.GetLoan", external_id=loan) == before
    assert balance(door, customer)[1] == available
    pay(door, customer, available.removeprefix("-"))
    assert door("loans.ActivateLoan", external_id=loan)["status"] == "ACTIVE"
    assert balance(door, customer)[1] == "0.00"


def test_a_loan_that_may_not_be_paid_out_may_be_rejected(door: Door) -> None:
    customer = a_customer(door, "100.00")
    loan = a_loan(door, customer, activate=False)
    door("customers.UpdateCustomer", customer={"external_id": customer, "score": "0"})
    assert door("loans.RejectLoan", external_id=loan)["status"] == "REJECTED"


@pytest.mark.parametrize("due", ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "this moment"])
def test_a_loan_due_in_the_past_is_refused_and_takes_no_id(door: Door, due: str) -> None:
    customer, loan = a_customer(door), new_id("loan")
    now = door("customers.GetCustomer", external_id=customer)["created_at"]
    past = now if due == "this moment" else due
    with pytest.raises(Refused) as refused:
        a_loan(door, customer, external_id=loan, maximum_payment_date=past)
    assert (refused.value.code, refused.value.reason) == (3, "INVALID_FIELDS")
    assert refused.value.fields == {"maximum_payment_date": "must be in the future"}
    assert loans_of(door, customer) == []
    a_loan(door, customer, external_id=loan)
    with pytest.raises(Refused) as refused:  # a late retry learns that there is one
        a_loan(door, customer, external_id=loan, maximum_payment_date=past)
    assert refused.value.reason == "LOAN_ALREADY_EXISTS"


def test_an_inactive_customer_gets_no_loan(door: Door) -> None:
    customer = a_customer(door)
    deactivate(door, customer)
    with pytest.raises(Refused) as refused:
        a_loan(door, customer)
    assert (refused.value.code, refused.value.reason) == (9, "CUSTOMER_INACTIVE")
    assert refused.value.info["metadata"] == {"customer_external_id": customer}
    assert refused.value.details[1]["violations"][0]["subject"] == customer
    assert loans_of(door, customer) == []


def test_an_inactive_customer_gets_no_activation_but_a_rejection(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, activate=False)
    before = door("loans.GetLoan", external_id=loan)
    deactivate(door, customer)
    with pytest.raises(Refused) as refused:
        door("loans.ActivateLoan", external_id=loan)
    assert (refused.value.code, refused.value.reason) == (9, "CUSTOMER_INACTIVE")
    assert door("loans.GetLoan", external_id=loan) == before
    assert door("loans.RejectLoan", external_id=loan)["status"] == "REJECTED"


def test_an_inactive_customer_may_pay_and_borrow_when_active_again(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer)
    deactivate(door, customer)
    assert pay(door, customer, "100.00")["status"] == "COMPLETED"
    assert outstanding(door, loan) == ("0.00", "PAID")
    door("customers.UpdateCustomer", customer={"external_id": customer, "status": "ACTIVE"})
    a_loan(door, customer)


@pytest.mark.parametrize("verb", ["Activate", "Reject"])
@pytest.mark.parametrize("status", ["ACTIVE", "REJECTED", "PAID"])
def test_any_other_transition_is_refused_and_changes_nothing(door: Door, status: str, verb: str) -> None:
    loan = a_loan_that_is(door, status, a_customer(door))
    before = door("loans.GetLoan", external_id=loan)
    with pytest.raises(Refused) as refused:
        door(f"loans.{verb}Loan", external_id=loan)
    assert (refused.value.code, refused.value.reason) == (9, "LOAN_WRONG_STATUS")
    assert refused.value.info["metadata"] == {"external_id": loan, "status": status}
    [violation] = refused.value.details[1]["violations"]
    assert (violation["type"], violation["subject"]) == ("LOAN_WRONG_STATUS", loan)
    assert door("loans.GetLoan", external_id=loan) == before


def test_a_customer_has_at_most_ten_thousand_open_loans(door: Door, stack: Stack) -> None:
    customer = a_customer(door, "20000")
    many_loans(stack.data_dir, customer, 9_999)
    last = a_loan(door, customer, "1", activate=False)
    with pytest.raises(Refused) as refused:
        a_loan(door, customer, "1")
    assert (refused.value.code, refused.value.reason) == (9, "TOO_MANY_OPEN_LOANS")
    assert refused.value.info["metadata"] == {"customer_external_id": customer, "limit": "10000"}
    assert balance(door, customer)[0] == "10000.00"
    door("loans.RejectLoan", external_id=last)
    a_loan(door, customer, "1")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("contract_version", ("1", "v" * 30, "é" * 30)),
        ("maximum_payment_date", ("9999-12-31T23:59:59Z",)),
    ],
)
def test_the_widest_values_are_kept(door: Door, field: str, values: tuple[str, ...]) -> None:
    customer = a_customer(door)
    for value in values:
        fields: dict[str, Any] = {field: value}
        assert door("loans.GetLoan", external_id=a_loan(door, customer, "1", **fields))[field] == value
