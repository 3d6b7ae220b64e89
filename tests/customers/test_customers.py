from typing import Any

import pytest

from tests.doors import Door, Refused
from tests.factories import a_customer, a_loan, new_id, pay


def test_created_active_whatever_was_sent(door: Door) -> None:
    external_id = new_id("customer")
    customer = {"external_id": external_id, "score": "1000", "status": "INACTIVE", "created_at": "2001-01-01T00:00:00Z"}
    created = door("customers.CreateCustomer", customer=customer)
    assert created["external_id"] == external_id
    assert created["status"] == "ACTIVE"
    assert created["score"] == "1000.00"
    assert created["created_at"] == created["updated_at"] > "2026"
    assert created["etag"]
    assert "preapproved_at" not in created
    assert door("customers.GetCustomer", external_id=external_id) == created


def test_preapproved_at_is_kept(door: Door) -> None:
    external_id = a_customer(door, preapproved_at="2026-01-02T03:04:05.678901Z")
    assert door("customers.GetCustomer", external_id=external_id)["preapproved_at"] == "2026-01-02T03:04:05.678901Z"


def test_a_taken_id_is_refused(door: Door) -> None:
    external_id = a_customer(door, score="5")
    with pytest.raises(Refused) as refused:
        door("customers.CreateCustomer", customer={"external_id": external_id, "score": "9"})
    assert refused.value.code == 6
    assert refused.value.reason == "CUSTOMER_ALREADY_EXISTS"
    assert refused.value.info["metadata"] == {"external_id": external_id}
    assert refused.value.details[1]["resource_name"] == external_id
    assert door("customers.GetCustomer", external_id=external_id)["score"] == "5.00"


@pytest.mark.parametrize("rpc", ["GetCustomer", "GetCustomerBalance"])
def test_an_unknown_customer_is_not_found(door: Door, rpc: str) -> None:
    with pytest.raises(Refused) as refused:
        door(f"customers.{rpc}", external_id="nobody")
    assert (refused.value.code, refused.value.reason) == (5, "CUSTOMER_NOT_FOUND")


def test_balance_counts_pending_and_active_loans(door: Door) -> None:
    customer = a_customer(door, "1000.00")
    assert door("customers.GetCustomerBalance", external_id=customer) == {
        "external_id": customer,
        "score": "1000.00",
        "total_debt": "0.00",
        "available_amount": "1000.00",
    }
    a_loan(door, customer, "100.10")
    a_loan(door, customer, "200.20", activate=False)
    rejected = a_loan(door, customer, "300.30", activate=False)
    door("loans.RejectLoan", external_id=rejected)
    pay(door, customer, "0.05")
    balance = door("customers.GetCustomerBalance", external_id=customer)
    assert (balance["total_debt"], balance["available_amount"]) == ("300.25", "699.75")


def test_update_changes_what_the_mask_names_alone(door: Door) -> None:
    external_id = a_customer(door, "10", preapproved_at="2026-01-01T00:00:00Z")
    customer = {"external_id": external_id, "score": "20.50", "status": "INACTIVE"}
    updated = door("customers.UpdateCustomer", customer=customer, update_mask="score")
    assert (updated["score"], updated["status"]) == ("20.50", "ACTIVE")
    assert updated["preapproved_at"] == "2026-01-01T00:00:00Z"
    assert updated["updated_at"] > updated["created_at"]
    updated = door("customers.UpdateCustomer", customer={"external_id": external_id}, update_mask="preapproved_at")
    assert "preapproved_at" not in updated
    assert updated["score"] == "20.50"


def test_update_without_a_mask_changes_what_was_sent(door: Door) -> None:
    external_id = a_customer(door, "10")
    updated = door("customers.UpdateCustomer", customer={"external_id": external_id, "status": "INACTIVE"})
    assert (updated["score"], updated["status"]) == ("10.00", "INACTIVE")


def test_update_of_everything_clears_what_was_not_sent(door: Door) -> None:
    external_id = a_customer(door, "10", preapproved_at="2026-01-01T00:00:00Z")
    customer = {"external_id": external_id, "score": "7", "status": "INACTIVE"}
    updated = door("customers.UpdateCustomer", customer=customer, update_mask="*")
    assert (updated["score"], updated["status"], "preapproved_at" in updated) == ("7.00", "INACTIVE", False)


def test_a_stale_etag_is_refused(door: Door) -> None:
    external_id = a_customer(door, "10")
    first = door("customers.GetCustomer", external_id=external_id)
    change = {"external_id": external_id, "score": "20", "etag": first["etag"]}
    second = door("customers.UpdateCustomer", customer=change)
    assert second["etag"] != first["etag"]
    with pytest.raises(Refused) as refused:
        door("customers.UpdateCustomer", customer=change | {"score": "30"})
    assert (refused.value.code, refused.value.reason) == (10, "STALE_ETAG")
    assert refused.value.info["metadata"] == {"external_id": external_id, "etag": second["etag"]}
    assert door("customers.GetCustomer", external_id=external_id) == second


WRONG_MASKS = ("preapproved_at.seconds", "preapproved_at.", "score.x", "score.", "*.x", "*.", ".score", "score,status.x", "*,x")


@pytest.mark.parametrize(
    ("customer", "mask", "field"),
    [
        ({"score": "-1"}, "score", "score"),
        ({"score": "1.234"}, None, "score"),
        ({}, "score", "score"),
        ({}, "status", "status"),
        ({}, None, "update_mask"),
        ({}, "created_at", "update_mask"),
        ({}, "external_id", "update_mask"),
        *(({"score": "1"}, mask, "update_mask") for mask in WRONG_MASKS),
    ],
)
def test_a_wrong_update_changes_nothing(door: Door, customer: dict[str, Any], mask: str | None, field: str) -> None:
    external_id = a_customer(door, "10")
    before = door("customers.GetCustomer", external_id=external_id)
    masked = {"update_mask": mask} if mask else {}
    with pytest.raises(Refused) as refused:
        door("customers.UpdateCustomer", customer={"external_id": external_id} | customer, **masked)
    assert (refused.value.code, refused.value.reason) == (3, "INVALID_FIELDS")
    assert list(refused.value.fields) == [field]
    assert door("customers.GetCustomer", external_id=external_id) == before


def test_an_update_does_not_check_what_the_mask_leaves_out(door: Door) -> None:
    external_id = a_customer(door, "10")
    updated = door(
        "customers.UpdateCustomer",
        customer={"external_id": external_id, "score": "nonsense", "status": 2},
        update_mask="status",
    )
    assert (updated["score"], updated["status"]) == ("10.00", "INACTIVE")


def test_updating_an_unknown_customer_is_not_found(door: Door) -> None:
    with pytest.raises(Refused) as refused:
        door("customers.UpdateCustomer", customer={"external_id": "nobody", "score": "1"})
    assert refused.value.reason == "CUSTOMER_NOT_FOUND"


def test_the_score_may_fall_below_the_debt_and_then_nothing_is_lent(door: Door) -> None:
    customer = a_customer(door, "100")
    a_loan(door, customer, "80")
    door("customers.UpdateCustomer", customer={"external_id": customer, "score": "50"})
    assert door("customers.GetCustomerBalance", external_id=customer)["available_amount"] == "-30.00"
    with pytest.raises(Refused) as refused:
        a_loan(door, customer, "0.01")
    assert refused.value.reason == "CREDIT_LIMIT_EXCEEDED"


def test_customers_are_listed_newest_first_each_once(door: Door) -> None:
    created = [a_customer(door) for _ in range(7)]
    listed: list[str] = []
    token = ""
    while len(listed) < 7:
        page = door("customers.ListCustomers", page_size=3, page_token=token)
        assert len(page["customers"]) == 3
        listed += [customer["external_id"] for customer in page["customers"]]
        token = page["next_page_token"]
        a_customer(door)  # what comes meanwhile neither repeats nor hides a row
    assert listed[:7] == created[::-1]
