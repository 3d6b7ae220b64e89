"""Each change writes the one event that is right, and nothing else writes any (docs/rules.md, R79)."""

import random
import re
from collections.abc import Callable
from functools import partial

import httpx
import pytest

from tests.conftest import Stack
from tests.doors import Door, GrpcDoor, Json, Refused
from tests.factories import SOME_DAY, a_customer, a_loan, new_id, pay
from tests.imports.files import upload
from tests.journal.chain import assert_chain
from tests.journal.reading import events, settle
from tests.test_concurrency import at_once


def history(stack: Stack, door: Door, customer: str) -> list[Json]:
    """All events of a customer, which must be whole."""
    settle(stack)
    found = events(door, customer_external_id=customer)
    assert_chain(found)
    return found


def test_each_change_writes_its_events(stack: Stack, door: Door) -> None:
    customer, payment = new_id("customer"), new_id("payment")
    first, second, third = (new_id("loan") for _ in range(3))
    bounce = partial(door, "payments.RejectPayment", external_id=payment, reason="bounced")
    batch = [
        {"payment": {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": amount}}
        for amount in ("0.01", "99999", "49.99")
    ]
    changes: list[tuple[Callable[[], Json | str], list[str]]] = [
        (lambda: a_customer(door, "1000", external_id=customer), ["CUSTOMER_CREATED"]),
        (
            lambda: door("customers.UpdateCustomer", customer={"external_id": customer, "score": "500", "status": "ACTIVE"}),
            ["CUSTOMER_CHANGED"],
        ),
        *(
            (
                lambda loan=loan, amount=amount: door(
                    "loans.CreateLoan",
                    loan={
                        "external_id": loan,
                        "customer_external_id": customer,
                        "amount": amount,
                        "maximum_payment_date": SOME_DAY,
                    },
                ),
                ["LOAN_CREATED"],
            )
            for loan, amount in ((first, "100"), (second, "50"), (third, "7.5"))
        ),
        (lambda: door("loans.ActivateLoan", external_id=first), ["LOAN_ACTIVATED"]),
        (lambda: door("loans.ActivateLoan", external_id=second), ["LOAN_ACTIVATED"]),
        (lambda: door("loans.RejectLoan", external_id=third), ["LOAN_REJECTED"]),
        # Spread over both, of which the first is paid in full.
        (lambda: pay(door, customer, "120", external_id=payment), ["PAYMENT_COMPLETED", "LOAN_PAID"]),
        (lambda: pay(door, customer, "30.01"), ["PAYMENT_REFUSED"]),
        (bounce, ["PAYMENT_BOUNCED"]),
        # The second loan is paid in full by the last, and the first by what is left.
        (lambda: pay(door, customer, "100"), ["PAYMENT_COMPLETED", "LOAN_PAID"]),
        (
            lambda: door("payments.BatchCreatePayments", requests=batch),
            ["PAYMENT_COMPLETED", "PAYMENT_REFUSED", "PAYMENT_COMPLETED", "LOAN_PAID"],
        ),
    ]
    answers: list[tuple[Json, str]] = []
    for change, kinds in changes:
        answer = change()
        if isinstance(answer, dict):
            each = [result["payment"] for result in answer["results"]] if "results" in answer else [answer]
            answers += [(one, kind) for one, kind in zip(each, [k for k in kinds if k != "LOAN_PAID"], strict=True)]
    found = history(stack, door, customer)
    assert [event["kind"] for event in found] == [kind for _, kinds in changes for kind in kinds]
    told = [event for event in found if event["kind"] != "LOAN_PAID"][1:]
    assert [event["kind"] for event in told] == [kind for _, kind in answers]
    for event, (answer, kind) in zip(told, answers, strict=True):
        if kind.startswith("CUSTOMER"):
            continue
        assert event["balance_after"] == answer["balance_after"]
        assert event["recorded_at"] == answer["updated_at"]
        assert event["amount"] == answer.get("amount", answer.get("total_amount"))
        assert event["payment_external_id"] == (answer["external_id"] if kind.startswith("PAYMENT") else "")
    assert found[-1]["balance_after"] == door("customers.GetCustomerBalance", external_id=customer)
    bounced = next(event for event in found if event["kind"] == "PAYMENT_BOUNCED")
    assert [(loan["status_before"], loan["status_after"]) for loan in bounced["loans"]] == [("PAID", "ACTIVE"), ("ACTIVE",) * 2]
    assert [loan["outstanding_after"] for loan in bounced["loans"]] == ["100.00", "50.00"]
    paid = [event for event in found if event["kind"] == "LOAN_PAID"]
    assert [(event["loans"][0]["external_id"], event["amount"]) for event in paid] == [
        (first, "100.00"),
        (first, "100.00"),
        (second, "49.99"),
    ]


def test_refusals_repeated_calls_and_previews_write_none(stack: Stack, door: Door) -> None:
    customer = a_customer(door, "100")
    loan = a_loan(door, customer, "100")
    payment = {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": "1"}
    keyed = door.keyed(new_id("key"))
    answer = keyed("payments.CreatePayment", payment=payment)
    assert keyed("payments.CreatePayment", payment=payment) == answer
    assert keyed.replayed
    door("payments.CreatePayment", payment=payment | {"external_id": new_id("payment")}, validate_only=True)
    refused: list[Callable[[], object]] = [
        lambda: a_customer(door, external_id=customer),
        lambda: a_loan(door, customer, "2"),
        lambda: a_loan(door, customer, "1", external_id=loan),
        lambda: a_loan(door, customer, "0"),
        lambda: door("loans.ActivateLoan", external_id=loan),
        lambda: door("loans.RejectLoan", external_id=loan),
        lambda: pay(door, customer, "1", external_id=payment["external_id"]),
        lambda: door("customers.UpdateCustomer", customer={"external_id": customer, "score": "5", "etag": '"9"'}),
    ]
    for call in refused:
        with pytest.raises(Refused):
            call()
    kinds = [event["kind"] for event in history(stack, door, customer)]
    assert kinds == ["CUSTOMER_CREATED", "LOAN_CREATED", "LOAN_ACTIVATED", "PAYMENT_COMPLETED"]


def test_an_event_says_who_did_it_in_which_request(stack: Stack, over_grpc: GrpcDoor, rest: httpx.Client) -> None:
    odd = 'a b"c\\,d{e}(f)/-._:~' + 100 * "9"
    named = GrpcDoor(over_grpc.channel, (*over_grpc.metadata, ("x-request-id", odd)))
    customer = a_customer(named)
    a_loan(over_grpc, customer, activate=False)
    answered = over_grpc.request_id
    changed = rest.patch(f"/v1/customers/{customer}", json={"score": "1"})
    found = history(stack, over_grpc, customer)
    assert {event["actor"] for event in found} == {stack.api_key.split("_")[1]}
    kept = "abcdef-._:~" + (64 - len('a b"c\\,d{e}(f)/-._:~')) * "9"
    assert [event["request_id"] for event in found] == [kept, answered, changed.headers["x-request-id"]]
    assert named.request_id == kept
    assert re.fullmatch("[0-9a-f]{32}", answered)
    assert {event["backfilled"] for event in found} == {False}


def test_an_import_writes_an_event_for_each_customer(stack: Stack, door: Door) -> None:
    early, late, taken = new_id("customer"), new_id("customer"), a_customer(door)
    lines = [f"{early},1000.5,2024-02-29T23:59:59.123456+01:00", f"{late},0", f"{taken},1", "wrong!,1"]
    found = upload(door, "\n".join(lines).encode())
    door("customers.UpdateCustomer", customer={"external_id": early, "score": "7"})
    created, changed = history(stack, door, early)
    assert (created["kind"], created["actor"], created["request_id"]) == ("CUSTOMER_CREATED", f"import-{found['id']}", "")
    assert created["preapproved_at"] == changed["preapproved_at"] == "2024-02-29T22:59:59.123456Z"
    assert (created["balance_after"]["score"], changed["balance_after"]["score"]) == ("1000.50", "7.00")
    [created] = history(stack, door, late)
    assert "preapproved_at" not in created
    assert [event["kind"] for event in history(stack, door, taken)] == ["CUSTOMER_CREATED"]


def test_the_events_of_concurrent_calls_are_one_chain(stack: Stack, over_grpc: GrpcDoor) -> None:
    customer = a_customer(over_grpc, "100000")
    for _ in range(3):
        a_loan(over_grpc, customer, "10")

    def calls(seed: int, door: Door) -> None:
        rng = random.Random(seed)  # noqa: S311 - not a secret
        for _ in range(8):
            what = rng.randrange(4)
            if what == 0:
                a_loan(door, customer, "3")
            elif what == 1:
                door("customers.UpdateCustomer", customer={"external_id": customer, "score": f"{rng.randint(100, 999)}000"})
            else:
                paid = pay(door, customer, f"{rng.randint(1, 500) / 100:.2f}")
                if paid["status"] == "COMPLETED" and what == 3:
                    door("payments.RejectPayment", external_id=paid["external_id"], reason="bounced")

    assert at_once(stack, [partial(calls, seed) for seed in range(8)]) == [None] * 8
    found = history(stack, over_grpc, customer)
    assert found[-1]["balance_after"] == over_grpc("customers.GetCustomerBalance", external_id=customer)
