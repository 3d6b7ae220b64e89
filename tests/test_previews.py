"""Previews: what a change would do, shown without doing it, and then done as it was shown or not at all."""

import base64
from typing import Any

import pytest

from tests.conftest import Stack
from tests.databases import owner
from tests.doors import Door, Json, Refused
from tests.factories import SOME_DAY, a_customer, a_loan, mutation, new_id, pay
from tests.rpcs import MUTATIONS

SINGLE = [rpc for rpc in MUTATIONS if rpc != "payments.BatchCreatePayments"]
TIMES = {"created_at", "updated_at", "paid_at", "rejected_at", "taken_at", "preview_token"}


def lasting(answer: Json) -> Json:
    """An answer without its times."""
    return {name: value for name, value in answer.items() if name not in TIMES}


def state(stack: Stack) -> list[tuple[Any, ...]]:
    """How much there is of everything that a change writes."""
    tables = ("customers", "loans", "payments", "payment_details", "journal_events", "idempotency_records")
    with owner(stack.data_dir) as connection:
        return [connection.execute(f"SELECT count(*), max(xmin::text::bigint) FROM {table}").fetchall()[0] for table in tables]


@pytest.mark.parametrize("rpc", SINGLE)
def test_a_preview_shows_what_the_call_then_does_and_changes_nothing(door: Door, stack: Stack, rpc: str) -> None:
    request = mutation(door, rpc)
    before = state(stack)
    keyed = door.keyed(new_id("key"))
    shown = keyed(rpc, **request, validate_only=True)
    assert state(stack) == before
    done = keyed(rpc, **request, preview_token=shown["preview_token"])
    assert not keyed.replayed, "a preview takes no idempotency key"
    assert lasting(done) == lasting(shown)
    assert "preview_token" not in done


@pytest.mark.parametrize("rpc", [rpc for rpc in SINGLE if rpc != "customers.CreateCustomer"])
def test_what_has_happened_since_the_preview_aborts_the_call_with_a_new_preview(door: Door, rpc: str) -> None:
    request = mutation(door, rpc)
    shown = door(rpc, **request, validate_only=True)
    customer = shown.get("customer_external_id") or shown["external_id"]
    door("customers.UpdateCustomer", customer={"external_id": customer, "score": "15000"})
    with pytest.raises(Refused) as refused:
        door(rpc, **request, preview_token=shown["preview_token"])
    assert (refused.value.code, refused.value.reason) == (10, "PREVIEW_STALE")
    [_, now] = refused.value.details
    token = refused.value.info["metadata"]["preview_token"]
    assert token == now["preview_token"] != shown["preview_token"]
    done = door(rpc, **request, preview_token=token)
    assert lasting(done) == {name: value for name, value in lasting(now).items() if name != "@type"}


def test_a_customer_who_was_created_since_the_preview_exists(door: Door) -> None:
    request = mutation(door, "customers.CreateCustomer")
    shown = door("customers.CreateCustomer", **request, validate_only=True)
    door("customers.CreateCustomer", **request)
    with pytest.raises(Refused) as refused:
        door("customers.CreateCustomer", **request, preview_token=shown["preview_token"])
    assert refused.value.reason == "CUSTOMER_ALREADY_EXISTS"


def test_a_preview_of_a_payment_shows_how_it_is_spread(door: Door) -> None:
    customer = a_customer(door)
    first, second = a_loan(door, customer, "30.00"), a_loan(door, customer, "40.00")
    payment = {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": "45.00"}
    shown = door("payments.CreatePayment", payment=payment, validate_only=True)
    assert [(each["loan_external_id"], each["amount"]) for each in shown["payment_details"]] == [
        (first, "30.00"),
        (second, "15.00"),
    ]
    assert shown["balance_after"]["total_debt"] == "25.00"
    assert door("customers.GetCustomerBalance", external_id=customer)["total_debt"] == "70.00"
    pay(door, customer, "10.00")
    with pytest.raises(Refused) as refused:
        door("payments.CreatePayment", payment=payment, preview_token=shown["preview_token"])
    [_, now] = refused.value.details
    assert [each["amount"] for each in now["payment_details"]] == ["20.00", "25.00"]


def test_a_preview_is_refused_as_the_call_would_be(door: Door) -> None:
    customer = a_customer(door, "100.00")
    loan = {"external_id": new_id("loan"), "customer_external_id": customer, "amount": "100.01"}
    refusals = []
    for option in ({"validate_only": True}, {}):
        with pytest.raises(Refused) as refused:
            door("loans.CreateLoan", loan=loan | {"maximum_payment_date": SOME_DAY}, **option)
        refusals.append((refused.value.code, refused.value.message, refused.value.details))
    assert refusals[0] == refusals[1]
    assert refusals[0][0] == 9


def test_a_call_that_would_be_refused_by_now_is_refused(door: Door) -> None:
    customer = a_customer(door, "100.00")
    loan = a_loan(door, customer, activate=False)
    shown = door("loans.ActivateLoan", external_id=loan, validate_only=True)
    door("loans.RejectLoan", external_id=loan)
    with pytest.raises(Refused) as refused:
        door("loans.ActivateLoan", external_id=loan, preview_token=shown["preview_token"])
    assert refused.value.reason == "LOAN_WRONG_STATUS"


def test_a_token_is_of_its_request_alone(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, activate=False)
    token = door("loans.ActivateLoan", external_id=loan, validate_only=True)["preview_token"]
    raw = base64.urlsafe_b64decode(token)
    later = base64.urlsafe_b64encode(raw[:7] + bytes([raw[7] + 1]) + raw[8:])
    other = a_loan(door, customer, activate=False)
    for rpc, external_id, sent in (
        ("loans.RejectLoan", loan, token),
        ("loans.ActivateLoan", other, token),
        ("loans.ActivateLoan", loan, "x"),
        ("loans.ActivateLoan", loan, token[:-4]),
        ("loans.ActivateLoan", loan, later.decode()),
    ):
        with pytest.raises(Refused) as refused:
            door(rpc, external_id=external_id, preview_token=sent)
        assert (refused.value.code, refused.value.reason) == (3, "PREVIEW_TOKEN_INVALID")


def test_a_batch_is_previewed_in_order_and_its_items_are_done_as_shown(door: Door, stack: Stack) -> None:
    customer = a_customer(door)
    a_loan(door, customer, "50.00")
    amounts = ("20.00", "30.00", "0.01")
    requests: list[Json] = [
        {"payment": {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": amount}}
        for amount in amounts
    ]
    before = state(stack)
    shown = door("payments.BatchCreatePayments", requests=requests, validate_only=True)["results"]
    assert state(stack) == before
    assert [each["payment"]["status"] for each in shown] == ["COMPLETED", "COMPLETED", "REJECTED"]
    tokens = [each["payment"]["preview_token"] for each in shown]
    with_tokens = [request | {"preview_token": token} for request, token in zip(requests, tokens, strict=True)]
    # The second alone is not as it was shown: the first would have come before it.
    [alone] = door("payments.BatchCreatePayments", requests=with_tokens[1:2])["results"]
    assert alone["status"]["details"][0]["reason"] == "PREVIEW_STALE"
    done = door("payments.BatchCreatePayments", requests=with_tokens)["results"]
    assert [lasting(each["payment"]) for each in done] == [lasting(each["payment"]) for each in shown]


def test_only_the_batch_as_a_whole_is_previewed(door: Door) -> None:
    payment = {"external_id": new_id("payment"), "customer_external_id": a_customer(door), "total_amount": "1.00"}
    item = {"payment": payment, "validate_only": True}
    [result] = door("payments.BatchCreatePayments", requests=[item])["results"]
    [_, bad] = result["status"]["details"]
    assert bad["field_violations"][0]["field"] == "requests[0].validate_only"
