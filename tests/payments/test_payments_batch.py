from typing import Any

import pytest

from tests.doors import Door, Json, Refused
from tests.factories import a_customer, a_loan, new_id, outstanding, pay, stored


def item(customer: str, total_amount: str, **fields: Any) -> Json:
    payment = {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": total_amount}
    return {"payment": payment | fields}


def batch(door: Door, *items: Json) -> list[Json]:
    results: list[Json] = door("payments.BatchCreatePayments", requests=list(items))["results"]
    assert len(results) == len(items)
    return results


def error(result: Json) -> Refused:
    """The error of an item that failed."""
    assert list(result) == ["status"]
    return Refused(**result["status"])


def id_of(one: Json) -> str:
    return str(one["payment"]["external_id"])


def test_each_item_has_its_result_in_order(door: Door) -> None:
    customer, other = a_customer(door), a_customer(door)
    loan, others_loan = a_loan(door, customer, "100.00"), a_loan(door, other, "50.00")
    items = [
        item(customer, "60.00"),
        item(other, "50.00"),
        item("nobody", "1.00"),
        item(customer, "1.234"),
        item(customer, "60.00"),  # what the first left is not enough
        item(customer, "40.00"),
    ]
    results = batch(door, *items)
    for place, status in ((0, "COMPLETED"), (1, "COMPLETED"), (4, "REJECTED"), (5, "COMPLETED")):
        payment = results[place]["payment"]
        assert (payment["external_id"], payment["status"]) == (id_of(items[place]), status)
        assert door("payments.GetPayment", external_id=payment["external_id"]) == stored(payment)
    assert results[4]["payment"]["rejection"]["kind"] == "INSUFFICIENT_DEBT"
    assert (error(results[2]).code, error(results[2]).reason) == (5, "CUSTOMER_NOT_FOUND")
    assert (error(results[3]).code, error(results[3]).reason) == (3, "INVALID_FIELDS")
    assert list(error(results[3]).fields) == ["requests[3].payment.total_amount"]
    for place in (2, 3):
        with pytest.raises(Refused) as refused:
            door("payments.GetPayment", external_id=id_of(items[place]))
        assert refused.value.reason == "PAYMENT_NOT_FOUND"
    assert outstanding(door, loan) == ("0.00", "PAID")
    assert outstanding(door, others_loan) == ("0.00", "PAID")


def test_an_invalid_item_names_all_its_wrong_fields(door: Door) -> None:
    customer = a_customer(door)
    no_amount = {"external_id": "a b", "customer_external_id": customer}
    results = batch(door, {"payment": no_amount}, {"payment": {}}, item(customer, "1"), {})
    assert set(error(results[0]).fields) == {"requests[0].payment.external_id", "requests[0].payment.total_amount"}
    assert set(error(results[1]).fields) == {
        f"requests[1].payment.{name}" for name in ("external_id", "customer_external_id", "total_amount")
    }
    assert results[2]["payment"]["status"] == "REJECTED"
    assert list(error(results[3]).fields) == ["requests[3].payment"]


def test_of_the_same_id_in_one_batch_the_first_wins(door: Door) -> None:
    customer, other = a_customer(door), a_customer(door)
    loan = a_loan(door, customer, "100.00")
    a_loan(door, other, "100.00")
    first = item(customer, "10.00")
    results = batch(door, first, first, item(other, "10.00", external_id=id_of(first)), item(customer, "10.00"))
    assert [list(result) for result in results] == [["payment"], ["status"], ["status"], ["payment"]]
    for result in results[1:3]:
        assert (error(result).code, error(result).reason) == (6, "PAYMENT_ALREADY_EXISTS")
        assert error(result).info["metadata"] == {"external_id": id_of(first)}
    assert outstanding(door, loan) == ("80.00", "ACTIVE")


def test_an_item_whose_first_namesake_was_refused_has_its_chance(door: Door) -> None:
    customer = a_customer(door)
    a_loan(door, customer, "100.00")
    unknown = item("nobody", "10.00")
    results = batch(door, unknown, item(customer, "10.00", external_id=id_of(unknown)))
    assert error(results[0]).reason == "CUSTOMER_NOT_FOUND"
    assert results[1]["payment"]["status"] == "COMPLETED"


def test_a_batch_sent_again_takes_nothing_twice(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "100.00")
    items = [item(customer, "10.00") for _ in range(3)]
    batch(door, *items)
    assert {error(result).reason for result in batch(door, *items)} == {"PAYMENT_ALREADY_EXISTS"}
    assert outstanding(door, loan) == ("70.00", "ACTIVE")


def test_a_batch_without_a_good_item_answers_all_the_same(door: Door) -> None:
    results = batch(door, item("nobody", "-1"), item("a b", "1"))
    assert [list(error(result).fields) for result in results] == [
        ["requests[0].payment.total_amount"],
        ["requests[1].payment.customer_external_id"],
    ]


def test_a_batch_does_what_the_same_payments_do_one_by_one(door: Door) -> None:
    amounts = ["10.00", "45.55", "1000.00", "0.01", "14.44", "100.00", "80.00", "80.01", "20.00", "0.01"]

    def debtor() -> tuple[str, list[str]]:
        customer = a_customer(door)
        a_loan(door, customer, "500.00", activate=False)
        return customer, [a_loan(door, customer, amount) for amount in ("30.00", "20.00", "100.00", "50.00")]

    def told(payments: list[Json], loans: list[str]) -> list[object]:
        """What became of the payments and the loans, without the names."""
        shown = [
            (payment["status"], [(loans.index(d["loan_external_id"]), d["amount"]) for d in payment["payment_details"]])
            for payment in payments
        ]
        return [shown, [outstanding(door, loan) for loan in loans]]

    one_by_one, loans = debtor()
    expected = told([pay(door, one_by_one, amount) for amount in amounts], loans)
    at_once, loans = debtor()
    results = batch(door, *(item(at_once, amount) for amount in amounts))
    assert told([result["payment"] for result in results], loans) == expected
    listed = door("payments.ListPayments", customer_external_id=at_once)["payments"]
    assert listed == [stored(result["payment"]) for result in results][::-1]


def test_a_thousand_items_are_taken(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "10.00")
    results = batch(door, *(item(customer, "0.01") for _ in range(1000)))
    assert {result["payment"]["status"] for result in results} == {"COMPLETED"}
    assert outstanding(door, loan) == ("0.00", "PAID")


@pytest.mark.parametrize("count", [0, 1001])
def test_no_items_or_too_many_are_refused_and_nothing_is_taken(door: Door, count: int) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "100.00")
    with pytest.raises(Refused) as refused:
        batch(door, *(item(customer, "0.01") for _ in range(count)))
    assert (refused.value.code, refused.value.reason) == (3, "INVALID_FIELDS")
    assert list(refused.value.fields) == ["requests"]
    assert outstanding(door, loan) == ("100.00", "ACTIVE")
    assert door("payments.ListPayments", customer_external_id=customer)["payments"] == []
