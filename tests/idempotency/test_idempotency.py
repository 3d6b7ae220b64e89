from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from tests.conftest import Stack
from tests.databases import locked, owner, waiting
from tests.doors import Door, GrpcDoor, Json, Refused
from tests.factories import SOME_DAY, a_customer, a_loan, mutation, new_id, outstanding
from tests.rpcs import MUTATIONS
from tests.waiting import eventually


def refusal(door: Door, rpc: str, **request: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        door(rpc, **request)
    return refused.value


def test_a_repeated_call_takes_effect_once_and_answers_the_same(door: Door) -> None:
    for rpc in MUTATIONS:
        request = mutation(door, rpc)
        once = door.keyed(new_id("key"))
        first = once(rpc, **request)
        assert not once.replayed, rpc
        again = once(rpc, **request)
        assert once.replayed, rpc
        assert again == first, rpc


def test_a_repeated_payment_pays_once(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "100")
    once = door.keyed(new_id("key"))
    payment = {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": "30"}
    for _ in range(3):
        once("payments.CreatePayment", payment=payment)
    assert outstanding(door, loan) == ("70.00", "ACTIVE")


def test_without_a_key_a_repeated_id_is_taken(door: Door) -> None:
    customer = {"external_id": new_id("customer"), "score": "1"}
    door("customers.CreateCustomer", customer=customer)
    assert refusal(door, "customers.CreateCustomer", customer=customer).reason == "CUSTOMER_ALREADY_EXISTS"


def test_a_refusal_is_an_answer_and_stays_it(door: Door) -> None:
    customer = a_customer(door, "100")
    loan = {"external_id": new_id("loan"), "customer_external_id": customer, "amount": "200", "maximum_payment_date": SOME_DAY}
    once = door.keyed(new_id("key"))
    first = refusal(once, "loans.CreateLoan", loan=loan)
    assert first.reason == "CREDIT_LIMIT_EXCEEDED"
    assert not once.replayed
    # Though it would fit by now.
    door("customers.UpdateCustomer", customer={"external_id": customer, "score": "1000"})
    again = refusal(once, "loans.CreateLoan", loan=loan)
    assert once.replayed
    assert (again.code, again.message, again.details) == (first.code, first.message, first.details)
    assert door("loans.CreateLoan", loan=loan)["status"] == "PENDING"


def test_a_key_with_another_request_is_refused(door: Door) -> None:
    once = door.keyed(new_id("key"))
    first = new_id("customer")
    once("customers.CreateCustomer", customer={"external_id": first, "score": "1"})
    other = refusal(once, "customers.CreateCustomer", customer={"external_id": new_id("customer"), "score": "1"})
    assert (other.code, other.reason) == (3, "IDEMPOTENCY_KEY_REUSED")
    # Another RPC is another request, even with the same fields.
    assert refusal(once, "loans.ActivateLoan", external_id=first).reason == "IDEMPOTENCY_KEY_REUSED"


def test_a_key_that_is_no_key_is_refused(over_grpc: GrpcDoor) -> None:
    for key in ("", "a b", "x" * 256):
        wrong = refusal(over_grpc.keyed(key), "customers.CreateCustomer", customer={"external_id": "never", "score": "1"})
        assert (wrong.reason, list(wrong.fields)) == ("INVALID_FIELDS", ["idempotency-key"])
    assert refusal(over_grpc, "customers.GetCustomer", external_id="never").code == 5


def test_another_caller_may_use_the_same_key(stack: Stack, over_grpc: GrpcDoor) -> None:
    theirs = GrpcDoor(over_grpc.channel, (("x-api-key", stack.cli("keys", "create", "other").stdout.strip()),))
    key = new_id("key")
    for door in (over_grpc.keyed(key), theirs.keyed(key)):
        door("customers.CreateCustomer", customer={"external_id": new_id("customer"), "score": "1"})
        assert not door.replayed


def test_while_the_first_call_runs_a_second_is_told_to_retry(door: Door, stack: Stack) -> None:
    customer = a_customer(door, "100")
    once, other = (door.keyed(new_id("key")) for _ in range(2))
    change = {"external_id": customer, "score": "200"}
    with ThreadPoolExecutor() as pool:
        with locked(stack.data_dir, customer) as holder:
            first = pool.submit(once, "customers.UpdateCustomer", customer=change)
            eventually(lambda: waiting(holder) > 0, 10)
            second = refusal(once, "customers.UpdateCustomer", customer=change)
            assert (second.code, second.reason) == (10, "IDEMPOTENCY_KEY_IN_FLIGHT")
            assert [d for d in second.details if d["@type"].endswith("RetryInfo")]
        assert first.result(30)["score"] == "200.00"
    assert once("customers.UpdateCustomer", customer=change) == first.result()
    assert once.replayed
    assert not other.replayed


def test_many_retries_at_once_take_effect_once(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "100")
    key = new_id("key")
    payment = {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": "10"}

    def try_once(_: int) -> str:
        try:
            return str(door.keyed(key)("payments.CreatePayment", payment=payment)["status"])
        except Refused as refused:
            return refused.reason

    with ThreadPoolExecutor(16) as pool:
        outcomes = set(pool.map(try_once, range(16)))
    assert "COMPLETED" in outcomes
    assert outcomes <= {"COMPLETED", "IDEMPOTENCY_KEY_IN_FLIGHT"}
    assert outstanding(door, loan) == ("90.00", "ACTIVE")


def test_items_of_a_batch_have_keys_of_their_own(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "100")

    def item(total_amount: str, key: str, **fields: str) -> Json:
        payment = {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": total_amount}
        return {"payment": payment | fields, "idempotency_key": key}

    one, two = item("10", new_id("key")), item("20", new_id("key"))
    clash = item("30", two["idempotency_key"])
    first = door("payments.BatchCreatePayments", requests=[one, one, two, clash])["results"]
    assert first[0] == first[1]
    assert [result["payment"]["total_amount"] for result in first[:3]] == ["10.00", "10.00", "20.00"]
    assert first[3]["status"]["details"][0]["reason"] == "IDEMPOTENCY_KEY_REUSED"
    assert outstanding(door, loan)[0] == "70.00"
    # A retry with one more item: what took effect before is answered as it was.
    three = item("5", new_id("key"))
    again = door("payments.BatchCreatePayments", requests=[two, three, one])["results"]
    assert (again[0], again[2]) == (first[2], first[0])
    assert again[1]["payment"]["status"] == "COMPLETED"
    assert outstanding(door, loan)[0] == "65.00"


def test_a_batch_and_its_items_may_both_have_keys(door: Door) -> None:
    customer = a_customer(door, "1000")
    a_loan(door, customer, "100")
    payment = {"external_id": new_id("p"), "customer_external_id": customer, "total_amount": "10"}
    once, items = door.keyed(new_id("k")), [{"payment": payment, "idempotency_key": new_id("k")}]
    first = once("payments.BatchCreatePayments", requests=items)
    assert once("payments.BatchCreatePayments", requests=items) == first
    assert once.replayed


def test_a_batch_as_a_whole_has_one_too(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "100")
    items = [
        {"payment": {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": amount}}
        for amount in ("1", "oops", "2")
    ]
    once = door.keyed(new_id("key"))
    first = once("payments.BatchCreatePayments", requests=items)
    assert once("payments.BatchCreatePayments", requests=items) == first
    assert once.replayed
    assert outstanding(door, loan)[0] == "97.00"
    other = refusal(once, "payments.BatchCreatePayments", requests=items[:1])
    assert other.reason == "IDEMPOTENCY_KEY_REUSED"


def test_what_is_passing_is_not_remembered(door: Door, stack: Stack) -> None:
    """A call that its deadline ended while it waited has no record, so that the retry takes effect."""
    customer = a_customer(door, "100")
    once = door.keyed(new_id("key"))
    change = {"external_id": customer, "score": "200"}
    if isinstance(once, GrpcDoor):
        once.timeout = 0.3
        with locked(stack.data_dir, customer):
            assert refusal_code(once, change) == 4
        once.timeout = 30
    assert once("customers.UpdateCustomer", customer=change)["score"] == "200.00"
    assert not once.replayed


def test_a_call_that_was_aborted_can_be_made_again_with_its_key(door: Door) -> None:
    customer, once = a_customer(door, "100"), door.keyed(new_id("key"))
    change = {"external_id": customer, "score": "200"}
    with pytest.raises(Refused) as stale:
        once("customers.UpdateCustomer", customer=change | {"etag": '"7"'})
    assert stale.value.reason == "STALE_ETAG"
    assert (
        once("customers.UpdateCustomer", customer=change | {"etag": stale.value.info["metadata"]["etag"]})["score"] == "200.00"
    )
    assert not once.replayed


def test_a_stale_preview_is_shown_anew_with_each_retry(door: Door) -> None:
    customer, once = a_customer(door), door.keyed(new_id("key"))
    request = {"external_id": a_loan(door, customer, activate=False)}
    token = door("loans.ActivateLoan", **request, validate_only=True)["preview_token"]
    a_loan(door, customer)
    for _ in range(2):
        with pytest.raises(Refused) as stale:
            once("loans.ActivateLoan", **request, preview_token=token)
        assert stale.value.reason == "PREVIEW_STALE"
    assert (
        once("loans.ActivateLoan", **request, preview_token=stale.value.info["metadata"]["preview_token"])["status"] == "ACTIVE"
    )


def test_in_a_batch_an_item_does_not_wait_for_one_that_was_aborted_with_its_key(door: Door) -> None:
    customer, key = a_customer(door), new_id("key")
    payment = {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": "1.00"}
    token = door("payments.CreatePayment", payment=payment, validate_only=True)["preview_token"]
    a_loan(door, customer)
    item = {"payment": payment, "idempotency_key": key, "preview_token": token}
    results = door("payments.BatchCreatePayments", requests=[item, item])["results"]
    reasons = [result["status"]["details"][0]["reason"] for result in results]
    assert reasons == ["PREVIEW_STALE", "IDEMPOTENCY_KEY_IN_FLIGHT"]
    unconditional = {name: value for name, value in item.items() if name != "preview_token"}
    [result] = door("payments.BatchCreatePayments", requests=[unconditional])["results"]
    assert result["payment"]["status"] == "COMPLETED"


def refusal_code(door: Door, change: Json) -> int:
    with pytest.raises(Refused) as refused:
        door("customers.UpdateCustomer", customer=change)
    return refused.value.code


def test_old_records_are_forgotten_and_young_ones_kept(over_grpc: GrpcDoor, stack: Stack) -> None:
    import asyncio

    from mo_grpc.db.embedded import embedded_url
    from mo_grpc.db.engine import Database
    from mo_grpc.idempotency.store import clean_records

    old, young = over_grpc.keyed(new_id("key")), over_grpc.keyed(new_id("key"))
    customers = [{"external_id": new_id("customer"), "score": "1"} for _ in range(2)]
    old("customers.CreateCustomer", customer=customers[0])
    young("customers.CreateCustomer", customer=customers[1])
    with owner(stack.data_dir) as connection:
        connection.execute(
            "UPDATE idempotency_records SET created_at = created_at - interval '2 days' WHERE key = %s", [old.metadata[-1][1]]
        )

    async def clean() -> int:
        database = Database(embedded_url(stack.data_dir), 1)
        try:
            return await database.write(lambda c: clean_records(c, timedelta(days=1)))
        finally:
            await database.close()

    assert asyncio.run(clean()) == 1
    assert refusal(old, "customers.CreateCustomer", customer=customers[0]).reason == "CUSTOMER_ALREADY_EXISTS"
    young("customers.CreateCustomer", customer=customers[1])
    assert young.replayed
