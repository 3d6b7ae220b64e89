"""What ExplainPayment says of payments, and that it does not explain what was not done."""

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from random import Random

import pytest

from tests.conftest import Stack
from tests.databases import owner
from tests.doors import Door, GrpcDoor, Json, Refused
from tests.factories import a_customer, a_loan, new_id, pay


def explain(door: Door, payment: Json) -> Json:
    return door("payments.ExplainPayment", external_id=payment["external_id"])


def considered(explanation: Json) -> list[tuple[str, ...]]:
    names = ("loan_external_id", "outstanding_before", "amount", "outstanding_after", "outcome")
    return [tuple(loan[name] for name in names) for loan in explanation["considered_loans"]]


def test_a_payment_is_explained_loan_by_loan(door: Door) -> None:
    customer = a_customer(door)
    loans = [a_loan(door, customer, amount, activate=False) for amount in ("30", "20", "10", "5")]
    first, second, third, pending = loans
    for loan in (third, first, second):
        door("loans.ActivateLoan", external_id=loan)
    payment = pay(door, customer, "25")
    explanation = explain(door, payment)
    taken = [loan.pop("taken_at") for loan in explanation["considered_loans"]]
    assert taken == [door("loans.GetLoan", external_id=loan)["taken_at"] for loan in (third, first, second)]
    assert considered(explanation) == [
        (third, "10.00", "10.00", "0.00", "PAID_IN_FULL"),
        (first, "30.00", "15.00", "15.00", "GOT_THE_REST"),
        (second, "20.00", "0.00", "20.00", "NOTHING_LEFT"),
    ]
    del explanation["considered_loans"]
    assert explanation == {
        "external_id": payment["external_id"],
        "customer_external_id": customer,
        "total_amount": "25.00",
        "decided_at": payment["created_at"],
        "decision": "COMPLETED",
        "active_debt": "60.00",
    }
    exact = explain(door, pay(door, customer, "35"))
    assert [loan[-1] for loan in considered(exact)] == ["PAID_IN_FULL", "PAID_IN_FULL"]
    door("loans.ActivateLoan", external_id=pending)
    assert considered(explain(door, payment)) == [  # what came later changes nothing
        (third, "10.00", "10.00", "0.00", "PAID_IN_FULL"),
        (first, "30.00", "15.00", "15.00", "GOT_THE_REST"),
        (second, "20.00", "0.00", "20.00", "NOTHING_LEFT"),
    ]


def test_a_refused_payment_is_explained_by_the_debt(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "30")
    a_loan(door, customer, "500", activate=False)
    refused = pay(door, customer, "30.01")
    pay(door, customer, "10")
    explanation = explain(door, refused)
    assert considered(explanation) == [(loan, "30.00", "0.00", "30.00", "PAYMENT_REFUSED")]
    assert (explanation["decision"], explanation["active_debt"], explanation["total_amount"]) == ("REJECTED", "30.00", "30.01")
    assert "bounce" not in explanation
    nothing = explain(door, pay(door, a_customer(door), "1"))
    assert (nothing["considered_loans"], nothing["active_debt"], nothing["decision"]) == ([], "0.00", "REJECTED")


def test_a_bounced_payment_is_explained_with_what_it_restored(door: Door) -> None:
    customer = a_customer(door)
    first, second = a_loan(door, customer, "30"), a_loan(door, customer, "20")
    payment = pay(door, customer, "35")
    before = explain(door, payment)
    pay(door, customer, "5")
    rejected = door("payments.RejectPayment", external_id=payment["external_id"], reason="No funds.")
    explanation = explain(door, payment)
    bounce = explanation.pop("bounce")
    assert explanation == before
    assert bounce == {
        "bounced_at": rejected["rejected_at"],
        "reason": "No funds.",
        "restored_loans": [
            {"loan_external_id": first, "outstanding_before": "0.00", "amount": "30.00", "outstanding_after": "30.00"},
            {"loan_external_id": second, "outstanding_before": "10.00", "amount": "5.00", "outstanding_after": "15.00"},
        ],
    }


def test_an_unknown_payment_is_not_explained(door: Door) -> None:
    with pytest.raises(Refused) as refused:
        explain(door, {"external_id": new_id("payment")})
    assert (refused.value.code, refused.value.reason) == (5, "PAYMENT_NOT_FOUND")


def test_the_payments_of_random_histories_are_explained(over_grpc: GrpcDoor) -> None:
    random = Random(94)  # noqa: S311
    customer = a_customer(over_grpc)
    payments: list[Json] = []
    for _ in range(40):
        step = random.choice(("lend", "lend", "pay", "pay", "pay", "bounce"))
        if step == "lend":
            a_loan(over_grpc, customer, f"{Decimal(random.randint(1, 500)) / 100}", activate=random.random() < 0.8)
        elif step == "pay":
            payments.append(pay(over_grpc, customer, f"{Decimal(random.randint(1, 900)) / 100}"))
        elif payments:
            payment = random.choice(payments)
            if over_grpc("payments.GetPayment", external_id=payment["external_id"])["status"] == "COMPLETED":
                over_grpc("payments.RejectPayment", external_id=payment["external_id"], reason="bounced")
    amounts = ("0.07", "9999", "0.05")
    items = [{"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": amount} for amount in amounts]
    batch = {"requests": [{"payment": item} for item in items]}
    payments += [result["payment"] for result in over_grpc("payments.BatchCreatePayments", **batch)["results"]]
    for payment in payments:
        explanation = explain(over_grpc, payment)
        got = [(loan[0], loan[2]) for loan in considered(explanation) if loan[2] != "0.00"]
        assert got == [(detail["loan_external_id"], detail["amount"]) for detail in payment["payment_details"]]
        assert explanation["decision"] == payment["status"]


@contextmanager
def changed(stack: Stack, change: str, back: str, payment: str) -> Iterator[None]:
    """Change rows of a payment in the database, as nobody may, and change them back afterwards."""
    for statement in (change, back):
        with owner(stack.data_dir) as connection:
            assert connection.execute(statement, {"payment": payment}).rowcount == 1
        if statement == change:
            yield


EVENT = "payment_id = (SELECT id FROM payments WHERE external_id = %(payment)s) AND kind IN (7, 8)"
DETAIL = "payment_id = (SELECT id FROM payments WHERE external_id = %(payment)s) AND amount "


@pytest.mark.parametrize(
    ("change", "back"),
    [
        (
            f"UPDATE journal_events SET outstandings_after[1] = 1, outstandings_after[2] = 14 WHERE {EVENT}",
            f"UPDATE journal_events SET outstandings_after[1] = 0, outstandings_after[2] = 15 WHERE {EVENT}",
        ),
        (f"UPDATE journal_events SET kind = 8 WHERE {EVENT}", f"UPDATE journal_events SET kind = 7 WHERE {EVENT}"),
        (
            f"UPDATE payment_details SET amount = 4 WHERE {DETAIL} = 5",
            f"UPDATE payment_details SET amount = 5 WHERE {DETAIL} = 4",
        ),
        (
            "UPDATE payments SET total_amount = 36 WHERE external_id = %(payment)s",
            "UPDATE payments SET total_amount = 35 WHERE external_id = %(payment)s",
        ),
        (
            f"UPDATE journal_events SET payment_id = -1 WHERE {EVENT}",
            "UPDATE journal_events SET payment_id = (SELECT id FROM"
            " payments WHERE external_id = %(payment)s) WHERE payment_id = -1",
        ),
    ],
)
def test_what_the_journal_does_not_explain_is_an_error(stack: Stack, over_grpc: Door, change: str, back: str) -> None:
    customer = a_customer(over_grpc)
    a_loan(over_grpc, customer, "30")
    a_loan(over_grpc, customer, "20")
    payment = pay(over_grpc, customer, "35")
    explained = explain(over_grpc, payment)
    with changed(stack, change, back, payment["external_id"]), pytest.raises(Refused) as refused:
        explain(over_grpc, payment)
    assert (refused.value.code, refused.value.reason) == (13, "JOURNAL_INCONSISTENT")
    assert refused.value.info["metadata"] == {"external_id": payment["external_id"]}
    assert explain(over_grpc, payment) == explained
