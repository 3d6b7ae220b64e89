import pytest

from tests.conftest import Stack
from tests.databases import many_loans
from tests.doors import Door, Refused
from tests.factories import a_customer, a_loan, new_id, pay
from tests.paging import damages, refuses_token, walk


def ids(door: Door, **request: object) -> list[str]:
    return [payment["external_id"] for payment in door("payments.ListPayments", **request)["payments"]]


def paid(door: Door, customer: str, amount: str) -> str:
    return str(pay(door, customer, amount)["external_id"])


def test_each_combination_of_filters(door: Door) -> None:
    other = a_customer(door)
    others_loan = a_loan(door, other, "10")
    others = paid(door, other, "1")
    customer = a_customer(door)
    first, second = a_loan(door, customer, "10"), a_loan(door, customer, "10")
    on_first = paid(door, customer, "5")
    bounced = paid(door, customer, "10")  # half of it on each loan
    door("payments.RejectPayment", external_id=bounced, reason="No funds.")
    on_both = paid(door, customer, "7")
    refused = paid(door, customer, "1000")
    ours = {"customer_external_id": customer}

    assert ids(door, page_size=5) == [refused, on_both, bounced, on_first, others]
    assert ids(door, **ours) == [refused, on_both, bounced, on_first]
    assert ids(door, status="COMPLETED", page_size=3) == [on_both, on_first, others]
    assert ids(door, status="REJECTED", page_size=2) == [refused, bounced]
    assert ids(door, **ours, status="COMPLETED") == [on_both, on_first]
    assert ids(door, **ours, status="REJECTED") == [refused, bounced]
    assert ids(door, loan_external_id=first) == [on_both, bounced, on_first]
    assert ids(door, loan_external_id=second) == [on_both, bounced]
    assert ids(door, loan_external_id=second, status="REJECTED") == [bounced]
    assert ids(door, **ours, loan_external_id=first) == [on_both, bounced, on_first]
    assert ids(door, **ours, loan_external_id=first, status="COMPLETED") == [on_both, on_first]
    assert ids(door, **ours, loan_external_id=others_loan) == []


def test_a_list_shows_each_payment_as_get_does(door: Door) -> None:
    customer = a_customer(door)
    for _ in range(3):
        a_loan(door, customer, "10")
    for amount in ("5", "20", "50", "5"):
        paid(door, customer, amount)
    listed = door("payments.ListPayments", customer_external_id=customer)["payments"]
    assert [len(payment["payment_details"]) for payment in listed] == [1, 0, 3, 1]
    for payment in listed:
        assert door("payments.GetPayment", external_id=payment["external_id"]) == payment


@pytest.mark.parametrize("name", ["customer_external_id", "loan_external_id"])
def test_an_unknown_customer_or_loan_has_no_payments(door: Door, name: str) -> None:
    assert door("payments.ListPayments", **{name: "nothing"}) == {"payments": [], "next_page_token": ""}


@pytest.mark.parametrize("page_size", [1, 3, 8])
def test_pages_show_each_payment_once_whatever_is_inserted_meanwhile(door: Door, page_size: int) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "100")
    created = [paid(door, customer, "1") for _ in range(7)]
    by_customer, by_loan = {"customer_external_id": customer}, {"loan_external_id": loan}
    for filters in (by_customer, by_loan, by_customer | by_loan | {"status": "COMPLETED"}):
        found = walk(door, "payments.ListPayments", "payments", page_size, lambda: paid(door, customer, "1"), **filters)
        assert found[-7:] == created[::-1]
        assert len(set(found)) == len(found)


def test_a_page_has_fifty_payments_by_default_and_a_thousand_at_most(door: Door) -> None:
    customer = a_customer(door)
    for _ in range(2):
        requests = [
            {"payment": {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": "1"}}
            for _ in range(501)
        ]
        door("payments.BatchCreatePayments", requests=requests)
    for page_size, size in ((0, 50), (1000, 1000), (5000, 1000)):
        page = door("payments.ListPayments", customer_external_id=customer, page_size=page_size)
        assert len(page["payments"]) == size
        assert page["next_page_token"]


def test_a_negative_page_size_is_refused(door: Door) -> None:
    with pytest.raises(Refused) as refused:
        door("payments.ListPayments", page_size=-1)
    assert (refused.value.code, list(refused.value.fields)) == (3, ["page_size"])


def test_a_token_belongs_to_its_filters_and_to_no_other_list(door: Door) -> None:
    customer = a_customer(door)
    loan = a_loan(door, customer, "10")
    for _ in range(3):
        paid(door, customer, "1")
    by_customer, by_loan, completed = {"customer_external_id": customer}, {"loan_external_id": loan}, {"status": "COMPLETED"}
    filters: tuple[dict[str, str], ...] = ({}, by_customer, by_loan, completed, by_customer | completed, by_customer | by_loan)
    tokens = [door("payments.ListPayments", page_size=1, **each)["next_page_token"] for each in filters]
    for place, token in enumerate(tokens):
        assert door("payments.ListPayments", page_token=token, page_size=2, **filters[place])["payments"]
        for other in filters[:place] + filters[place + 1 :]:
            refuses_token(door, "payments.ListPayments", token, **other)
    refuses_token(door, "loans.ListLoans", tokens[1], **by_customer)


def test_a_damaged_token_is_refused(door: Door) -> None:
    customer = a_customer(door)
    for _ in range(2):
        paid(door, customer, "1")
    token = door("payments.ListPayments", customer_external_id=customer, page_size=1)["next_page_token"]
    for damaged in damages(token):
        refuses_token(door, "payments.ListPayments", damaged, customer_external_id=customer)


def test_payments_with_many_details_come_on_shorter_pages_and_none_is_lost(door: Door, stack: Stack) -> None:
    customer = a_customer(door, "10000")
    a_loan(door, customer, "9000", activate=False)
    # Each payment of 50.00 pays all of them, and each bounce opens them again.
    many_loans(stack.data_dir, customer, 5_000, "0.01", active=True)
    created = []
    for _ in range(6):
        created.append(paid(door, customer, "50"))
        door("payments.RejectPayment", external_id=created[-1], reason="No funds.")
    sizes = []
    listed: list[str] = []
    token = ""
    while True:
        page = door("payments.ListPayments", customer_external_id=customer, page_token=token)
        sizes.append(len(page["payments"]))
        listed += [payment["external_id"] for payment in page["payments"]]
        assert all(len(payment["payment_details"]) == 5000 for payment in page["payments"])
        token = page["next_page_token"]
        if not token:
            break
    assert listed == created[::-1]
    assert sizes == [4, 2]  # 20,000 details fit a page
