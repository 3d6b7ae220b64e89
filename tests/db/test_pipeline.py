"""What the hot path writes as literals and reads back: any text stays as it was sent."""

from contextlib import suppress

import pytest

from tests.doors import Door, Refused
from tests.factories import SOME_DAY, new_id, pay, stored

ODD = 'x "quoted" \\ {,} ñ NULL \\x61 %s :name $1'


def test_odd_texts_and_keys_are_kept_as_they_are(door: Door) -> None:
    customer = door("customers.CreateCustomer", customer={"external_id": new_id("NULL"), "score": "100"})["external_id"]
    loan = {"external_id": new_id("null"), "customer_external_id": customer, "amount": "10", "maximum_payment_date": SOME_DAY}
    created = door("loans.CreateLoan", loan=loan | {"contract_version": ODD[:30]})
    assert created["contract_version"] == ODD[:30]
    door("loans.ActivateLoan", external_id=loan["external_id"])
    keyed = door.keyed(f'"{{}},\\{new_id("key")}')
    payment = pay(door, customer, "1.00")["external_id"]
    for replayed in (False, True):
        bounced = keyed("payments.RejectPayment", external_id=payment, reason=ODD)
        assert bounced["rejection"]["reason"] == ODD
        assert keyed.replayed is replayed
    assert door("payments.GetPayment", external_id=payment) == stored(bounced)


@pytest.mark.parametrize("external_id", ["NULL", "null"])
def test_an_id_that_sql_reads_as_null_is_an_id(door: Door, external_id: str) -> None:
    with suppress(Refused):  # the other door has made it
        door("customers.CreateCustomer", customer={"external_id": external_id, "score": "1"})
    assert door("customers.GetCustomer", external_id=external_id)["external_id"] == external_id
    assert door("customers.GetCustomerBalance", external_id=external_id)["total_debt"] == "0.00"
