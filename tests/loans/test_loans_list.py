import pytest

from tests.conftest import Stack
from tests.databases import many_loans
from tests.doors import Door, Refused
from tests.factories import a_customer, a_loan, pay
from tests.paging import damages, refuses_token, walk

STATUSES = ("PENDING", "ACTIVE", "REJECTED", "PAID")


def a_portfolio(door: Door) -> tuple[str, dict[str, list[str]]]:
    """A customer with two loans of each status, each status's newest first."""
    customer = a_customer(door)
    loans: dict[str, list[str]] = {status: [] for status in STATUSES}
    for _ in range(2):
        loans["PAID"].insert(0, a_loan(door, customer, "5"))
        pay(door, customer, "5")
    for _ in range(2):
        loans["PENDING"].insert(0, a_loan(door, customer, "5", activate=False))
        loans["ACTIVE"].insert(0, a_loan(door, customer, "5"))
        loans["REJECTED"].insert(0, a_loan(door, customer, "5", activate=False))
        door("loans.RejectLoan", external_id=loans["REJECTED"][0])
    return customer, loans


def ids(door: Door, **request: object) -> list[str]:
    return [loan["external_id"] for loan in door("loans.ListLoans", **request)["loans"]]


def test_each_combination_of_filters(door: Door) -> None:
    _, others = a_portfolio(door)
    customer, ours = a_portfolio(door)
    newest_first = [
        *(ours[status][place] for place in (0, 1) for status in ("REJECTED", "ACTIVE", "PENDING")),
        *ours["PAID"],
    ]
    assert ids(door, page_size=8) == newest_first
    assert ids(door, customer_external_id=customer) == newest_first
    for status in STATUSES:
        assert ids(door, customer_external_id=customer, status=status) == ours[status]
        assert ids(door, status=status, page_size=4) == ours[status] + others[status]


def test_a_list_shows_each_loan_as_get_does(door: Door) -> None:
    customer, _ = a_portfolio(door)
    for loan in door("loans.ListLoans", customer_external_id=customer)["loans"]:
        assert door("loans.GetLoan", external_id=loan["external_id"]) == loan


@pytest.mark.parametrize(
    "filters", [{"customer_external_id": "nobody"}, {"customer_external_id": "nobody", "status": "ACTIVE"}]
)
def test_an_unknown_customer_has_no_loans(door: Door, filters: dict[str, str]) -> None:
    assert door("loans.ListLoans", **filters) == {"loans": [], "next_page_token": ""}


@pytest.mark.parametrize("page_size", [1, 3, 7, 8])
def test_pages_show_each_loan_once_whatever_is_inserted_meanwhile(door: Door, page_size: int) -> None:
    customer = a_customer(door)
    created = [a_loan(door, customer, "1", activate=False) for _ in range(7)]
    for filters in ({"customer_external_id": customer}, {"customer_external_id": customer, "status": "PENDING"}):
        found = walk(
            door, "loans.ListLoans", "loans", page_size, lambda: a_loan(door, customer, "1", activate=False), **filters
        )
        assert found[-7:] == created[::-1]
        assert len(set(found)) == len(found)


def test_the_last_page_has_no_token_even_if_it_is_full(door: Door) -> None:
    customer = a_customer(door)
    for _ in range(4):
        a_loan(door, customer, "1")
    page = door("loans.ListLoans", customer_external_id=customer, page_size=4)
    assert (len(page["loans"]), page["next_page_token"]) == (4, "")


def test_a_page_has_fifty_loans_by_default_and_a_thousand_at_most(door: Door, stack: Stack) -> None:
    customer = a_customer(door, "2000")
    many_loans(stack.data_dir, customer, 1_001)
    for page_size, size in ((None, 50), (0, 50), (999, 999), (1000, 1000), (5000, 1000), (2**31 - 1, 1000)):
        asked = {} if page_size is None else {"page_size": page_size}
        page = door("loans.ListLoans", customer_external_id=customer, **asked)
        assert len(page["loans"]) == size
        assert page["next_page_token"]


@pytest.mark.parametrize("page_size", [-1, -(2**31)])
def test_a_negative_page_size_is_refused(door: Door, page_size: int) -> None:
    with pytest.raises(Refused) as refused:
        door("loans.ListLoans", page_size=page_size)
    assert (refused.value.code, refused.value.reason) == (3, "INVALID_FIELDS")
    assert list(refused.value.fields) == ["page_size"]


def test_a_token_belongs_to_its_filters(door: Door) -> None:
    customer = a_customer(door)
    for _ in range(3):
        a_loan(door, customer, "1")
    filters: tuple[dict[str, str], ...] = (
        {},
        {"customer_external_id": customer},
        {"status": "ACTIVE"},
        {"customer_external_id": customer, "status": "ACTIVE"},
    )
    tokens = [door("loans.ListLoans", page_size=1, **each)["next_page_token"] for each in filters]
    for place, token in enumerate(tokens):
        assert door("loans.ListLoans", page_token=token, page_size=2, **filters[place])["loans"]  # another size is no harm
        for other in filters[:place] + filters[place + 1 :]:
            refuses_token(door, "loans.ListLoans", token, **other)
    refuses_token(door, "payments.ListPayments", tokens[1], customer_external_id=customer)
    refuses_token(door, "customers.ListCustomers", tokens[0])


def test_a_damaged_token_is_refused(door: Door) -> None:
    customer = a_customer(door)
    for _ in range(2):
        a_loan(door, customer, "1")
    token = door("loans.ListLoans", customer_external_id=customer, page_size=1)["next_page_token"]
    for damaged in damages(token):
        refuses_token(door, "loans.ListLoans", damaged, customer_external_id=customer)


def test_an_endless_token_is_refused(door: Door) -> None:
    with pytest.raises(Refused) as refused:
        door("loans.ListLoans", page_token="A" * 201)
    assert (refused.value.code, list(refused.value.fields)) == (3, ["page_token"])
