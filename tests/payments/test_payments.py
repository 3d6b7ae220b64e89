import pytest

from tests.conftest import Stack
from tests.databases import owner
from tests.doors import Door, Json, Refused
from tests.factories import a_customer, a_loan, new_id, outstanding, pay, stored


def spread(payment: Json) -> list[tuple[str, str]]:
    """Where the money of a payment went."""
    return [(detail["loan_external_id"], detail["amount"]) for detail in payment["payment_details"]]


def bounce(door: Door, payment: Json | str, reason: str = "No funds.") -> Json:
    external_id = payment if isinstance(payment, str) else payment["external_id"]
    return door("payments.RejectPayment", external_id=external_id, reason=reason)


def debt(door: Door, customer: str) -> str:
    return str(door("customers.GetCustomerBalance", external_id=customer)["total_debt"])


def test_a_payment_shows_all_there_is_to_it(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "100.00")
    external_id = new_id("payment")
    payment = pay(door, customer, "40.5", external_id=external_id)
    assert payment["paid_at"] == payment["created_at"] == payment["updated_at"] > "2026"
    assert stored(payment) == {
        "external_id": external_id,
        "customer_external_id": customer,
        "total_amount": "40.50",
        "status": "COMPLETED",
        "paid_at": payment["paid_at"],
        "payment_details": [{"loan_external_id": loan, "amount": "40.50"}],
        "created_at": payment["created_at"],
        "updated_at": payment["updated_at"],
    }
    assert door("payments.GetPayment", external_id=external_id) == stored(payment)
    paid = door("loans.GetLoan", external_id=loan)
    assert (paid["outstanding"], paid["status"], paid["amount"]) == ("59.50", "ACTIVE", "100.00")
    assert paid["updated_at"] == payment["created_at"]


def test_what_is_output_only_is_not_taken_from_the_request(door: Door) -> None:
    customer = a_customer(door)
    a_loan(door, customer)
    day = "2001-01-01T00:00:00Z"
    sent = {"status": "REJECTED", "paid_at": day, "rejected_at": day, "created_at": day}
    payment = pay(door, customer, "1", payment_details=[{"loan_external_id": "x", "amount": "9"}], **sent)
    assert payment["status"] == "COMPLETED"
    assert len(payment["payment_details"]) == 1
    assert payment["paid_at"] == payment["created_at"] > "2026"
    assert "rejected_at" not in payment


def test_the_oldest_taken_loan_is_paid_first_each_in_full_before_the_next(door: Door) -> None:
    customer = a_customer(door)
    first, second, third = (a_loan(door, customer, amount, activate=False) for amount in ("30.00", "20.00", "10.00"))
    for loan in (third, first, second):  # the order of taking, not of creation, not of the amounts
        door("loans.ActivateLoan", external_id=loan)
    assert spread(pay(door, customer, "4.00")) == [(third, "4.00")]
    payment = pay(door, customer, "26.01")
    assert spread(payment) == [(third, "6.00"), (first, "20.01")]
    assert door("payments.GetPayment", external_id=payment["external_id"]) == stored(payment)
    assert outstanding(door, third) == ("0.00", "PAID")
    assert outstanding(door, first) == ("9.99", "ACTIVE")
    assert outstanding(door, second) == ("20.00", "ACTIVE")
    assert spread(pay(door, customer, "9.99")) == [(first, "9.99")]
    assert outstanding(door, first) == ("0.00", "PAID")
    assert spread(pay(door, customer, "20.00")) == [(second, "20.00")]


def test_of_loans_taken_at_the_same_moment_the_first_created_is_paid_first(door: Door, stack: Stack) -> None:
    customer = a_customer(door)
    loans = [a_loan(door, customer, "1.00", activate=False) for _ in range(5)]
    for loan in reversed(loans):
        door("loans.ActivateLoan", external_id=loan)
    with owner(stack.data_dir) as connection:  # no door makes two loans ACTIVE in the same microsecond
        connection.execute("UPDATE loans SET taken_at = '2026-01-01' WHERE external_id = ANY(%s)", [loans])
    payment = pay(door, customer, "4.50")
    assert spread(payment) == list(zip(loans, ["1.00"] * 4 + ["0.50"], strict=True))
    assert door("payments.GetPayment", external_id=payment["external_id"]) == stored(payment)


def test_a_payment_of_exactly_the_debt_pays_every_loan(door: Door) -> None:
    customer = a_customer(door)
    loans = [a_loan(door, customer, amount) for amount in ("0.01", "33.33", "66.66")]
    payment = pay(door, customer, "100.00")
    assert payment["status"] == "COMPLETED"
    assert spread(payment) == list(zip(loans, ("0.01", "33.33", "66.66"), strict=True))
    assert {outstanding(door, loan) for loan in loans} == {("0.00", "PAID")}
    assert debt(door, customer) == "0.00"


@pytest.mark.parametrize("amounts", [("60.00", "40.00"), ()], ids=["a cent more than the debt", "no debt at all"])
def test_a_payment_of_more_than_the_debt_is_recorded_and_changes_nothing(door: Door, amounts: tuple[str, ...]) -> None:
    customer = a_customer(door)
    loans = [a_loan(door, customer, amount) for amount in amounts]
    before = [door("loans.GetLoan", external_id=loan) for loan in loans]
    payment = pay(door, customer, "100.01")
    assert payment["status"] == "REJECTED"
    assert payment["payment_details"] == []
    assert payment["rejected_at"] == payment["created_at"]
    assert payment["rejection"]["kind"] == "INSUFFICIENT_DEBT"
    assert ("100.00" if amounts else "0.00") in payment["rejection"]["reason"]
    assert "paid_at" not in payment
    assert door("payments.GetPayment", external_id=payment["external_id"]) == stored(payment)
    assert [door("loans.GetLoan", external_id=loan) for loan in loans] == before


def test_the_largest_payment_is_an_answer_not_an_error(door: Door) -> None:
    payment = pay(door, a_customer(door), "999999999999999999.99")
    assert (payment["status"], payment["total_amount"]) == ("REJECTED", "999999999999999999.99")


def test_loans_that_are_not_active_are_not_paid(door: Door) -> None:
    customer = a_customer(door)
    pending, rejected = (a_loan(door, customer, "50.00", activate=False) for _ in range(2))
    door("loans.RejectLoan", external_id=rejected)
    paid = a_loan(door, customer, "10.00")
    pay(door, customer, "10.00")
    assert pay(door, customer, "0.01")["status"] == "REJECTED"
    active = a_loan(door, customer, "20.00")
    assert pay(door, customer, "20.01")["status"] == "REJECTED"
    assert spread(pay(door, customer, "20.00")) == [(active, "20.00")]
    assert outstanding(door, pending) == ("50.00", "PENDING")
    assert outstanding(door, rejected) == ("50.00", "REJECTED")
    assert outstanding(door, paid) == ("0.00", "PAID")


def test_a_payment_touches_no_other_customer(door: Door) -> None:
    poor, rich = a_customer(door), a_customer(door)
    theirs = a_loan(door, rich, "100.00")
    a_loan(door, poor, "10.00")
    assert pay(door, poor, "10.01")["status"] == "REJECTED"
    pay(door, poor, "10.00")
    assert outstanding(door, theirs) == ("100.00", "ACTIVE")


@pytest.mark.parametrize("owner", ["the same customer", "another customer"])
def test_a_taken_id_is_refused(door: Door, owner: str) -> None:
    first = a_customer(door)
    loan = a_loan(door, first, "100.00")
    payment = pay(door, first, "10.00")
    other = first if owner == "the same customer" else a_customer(door)
    with pytest.raises(Refused) as refused:
        pay(door, other, "20.00", external_id=payment["external_id"])
    assert (refused.value.code, refused.value.reason) == (6, "PAYMENT_ALREADY_EXISTS")
    assert refused.value.info["metadata"] == {"external_id": payment["external_id"]}
    assert refused.value.details[1]["resource_type"] == "mo.payments.v1.Payment"
    assert outstanding(door, loan) == ("90.00", "ACTIVE")
    assert door("payments.GetPayment", external_id=payment["external_id"]) == stored(payment)


def test_a_rejected_payment_takes_its_id_too(door: Door) -> None:
    customer = a_customer(door)
    payment = pay(door, customer, "10.00")
    a_loan(door, customer, "10.00")
    with pytest.raises(Refused) as refused:
        pay(door, customer, "10.00", external_id=payment["external_id"])
    assert refused.value.reason == "PAYMENT_ALREADY_EXISTS"
    assert debt(door, customer) == "10.00"


def test_an_unknown_customer_cannot_pay(door: Door) -> None:
    external_id = new_id("payment")
    with pytest.raises(Refused) as refused:
        pay(door, "nobody", "1", external_id=external_id)
    assert (refused.value.code, refused.value.reason) == (5, "CUSTOMER_NOT_FOUND")
    with pytest.raises(Refused) as refused:
        door("payments.GetPayment", external_id=external_id)
    assert (refused.value.code, refused.value.reason) == (5, "PAYMENT_NOT_FOUND")
    assert refused.value.info["metadata"] == {"external_id": external_id}


def test_a_bounce_gives_each_loan_its_outstanding_back(door: Door) -> None:
    customer = a_customer(door)
    first, second = a_loan(door, customer, "30.00"), a_loan(door, customer, "20.00")
    taken_at = door("loans.GetLoan", external_id=first)["taken_at"]
    pay(door, customer, "10.00")
    payment = pay(door, customer, "25.00")
    assert outstanding(door, first) == ("0.00", "PAID")
    bounced = bounce(door, payment, "Account closed · ∞")
    assert bounced["rejected_at"] == bounced["updated_at"] > payment["updated_at"]
    changed = {
        "status": "REJECTED",
        "rejection": {"kind": "BOUNCED", "reason": "Account closed · ∞"},
        "rejected_at": bounced["rejected_at"],
        "updated_at": bounced["updated_at"],
    }
    assert stored(bounced) == stored(payment) | changed  # the details and paid_at among what stays
    assert door("payments.GetPayment", external_id=payment["external_id"]) == stored(bounced)
    assert outstanding(door, first) == ("20.00", "ACTIVE")
    assert outstanding(door, second) == ("20.00", "ACTIVE")
    assert door("loans.GetLoan", external_id=first)["taken_at"] == taken_at
    assert debt(door, customer) == "40.00"


def test_a_loan_whose_payment_bounced_is_paid_again_and_bounces_again(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "30.00")
    for _ in range(3):
        payment = pay(door, customer, "30.00")
        assert spread(payment) == [(loan, "30.00")]
        assert outstanding(door, loan) == ("0.00", "PAID")
        bounce(door, payment)
        assert outstanding(door, loan) == ("30.00", "ACTIVE")


def test_payments_bounce_in_any_order(door: Door) -> None:
    customer = a_customer(door)
    first, second = a_loan(door, customer, "30.00"), a_loan(door, customer, "30.00")
    payments = [pay(door, customer, "20.00") for _ in range(3)]
    bounce(door, payments[1])
    assert (outstanding(door, first)[0], outstanding(door, second)[0]) == ("10.00", "10.00")
    bounce(door, payments[2])
    assert (outstanding(door, first)[0], outstanding(door, second)[0]) == ("10.00", "30.00")
    bounce(door, payments[0])
    assert (outstanding(door, first)[0], outstanding(door, second)[0]) == ("30.00", "30.00")


@pytest.mark.parametrize("why", ["it bounced already", "it was never completed"])
def test_only_a_completed_payment_bounces(door: Door, why: str) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "30.00")
    payment = pay(door, customer, "30.00" if why == "it bounced already" else "30.01")
    if why == "it bounced already":
        payment = bounce(door, payment)
    with pytest.raises(Refused) as refused:
        bounce(door, payment, "Again.")
    assert (refused.value.code, refused.value.reason) == (9, "PAYMENT_WRONG_STATUS")
    assert refused.value.info["metadata"] == {"external_id": payment["external_id"], "status": "REJECTED"}
    assert refused.value.details[1]["violations"][0]["subject"] == payment["external_id"]
    assert door("payments.GetPayment", external_id=payment["external_id"]) == stored(payment)
    assert outstanding(door, loan) == ("30.00", "ACTIVE")


def test_an_unknown_payment_does_not_bounce(door: Door) -> None:
    with pytest.raises(Refused) as refused:
        bounce(door, "nothing")
    assert (refused.value.code, refused.value.reason) == (5, "PAYMENT_NOT_FOUND")


@pytest.mark.parametrize("reason", ["x", "é" * 500, " ", "line\nline\ttab"])
def test_any_reason_in_words_is_kept(door: Door, reason: str) -> None:
    customer = a_customer(door)
    a_loan(door, customer)
    assert bounce(door, pay(door, customer, "1"), reason)["rejection"]["reason"] == reason


def test_a_payment_of_an_inactive_customer_bounces(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "30.00")
    payment = pay(door, customer, "30.00")
    door("customers.UpdateCustomer", customer={"external_id": customer, "status": "INACTIVE"})
    bounce(door, payment)
    assert outstanding(door, loan) == ("30.00", "ACTIVE")


def test_a_bounce_may_leave_more_debt_than_credit_and_then_nothing_is_lent(door: Door) -> None:
    customer = a_customer(door, "100.00")
    a_loan(door, customer, "100.00")
    payment = pay(door, customer, "80.00")
    a_loan(door, customer, "80.00")
    bounce(door, payment)
    balance = door("customers.GetCustomerBalance", external_id=customer)
    assert (balance["total_debt"], balance["available_amount"]) == ("180.00", "-80.00")
    with pytest.raises(Refused) as refused:
        a_loan(door, customer, "0.01")
    assert refused.value.reason == "CREDIT_LIMIT_EXCEEDED"
    assert refused.value.info["metadata"]["available_amount"] == "-80.00"
