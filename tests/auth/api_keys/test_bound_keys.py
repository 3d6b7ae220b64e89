"""API keys that are bound to customers: what is others' does not exist for them (docs/rules.md, R77 and R78)."""

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from mo_grpc.rpc.access import BINDABLE, BOUND, GRANTABLE, Bound
from tests.auth.api_keys.test_api_key_service import scoped, with_key
from tests.conftest import Stack
from tests.databases import owner
from tests.doors import Door, Json, Refused, method, opens
from tests.factories import SOME_DAY, a_customer, a_loan, mutation, new_id, outstanding, pay
from tests.paging import walk
from tests.rpcs import MUTATIONS
from tests.waiting import eventually

NAMED, PREFIX = new_id("named"), new_id("shop") + "-"


def called(*treatments: Bound) -> list[str]:
    """The RPCs that serve bound keys so, as doors take them."""
    names = [method.removeprefix("/").split("/") for method, bound in BOUND.items() if bound in treatments]
    return [f"{service.split('.')[1]}.{name}" for service, name in names]


LISTS = {"customers.ListCustomers": "customers", "loans.ListLoans": "loans", "payments.ListPayments": "payments"}


@pytest.fixture(scope="module")
def maker_key(stack: Stack) -> str:
    return stack.cli("keys", "create", "maker", *scoped(*GRANTABLE)).stdout.strip()


@pytest.fixture(scope="module")
def bound_key(stack: Stack) -> str:
    return stack.cli("keys", "create", "bound", "--customer", NAMED, "--customer-prefix", PREFIX).stdout.strip()


@pytest.fixture
def bound(door: Door, bound_key: str) -> Door:
    """The door, for a key that is bound to NAMED and to all that begin with PREFIX."""
    found = with_key(door, bound_key)
    eventually(lambda: opens(found), 5)
    return found


@pytest.fixture
def maker(door: Door, maker_key: str) -> Door:
    found = with_key(door, maker_key)
    eventually(lambda: opens(found), 5)
    return found


def own(door: Door, score: str = "1000.00") -> str:
    """A customer of the bound key."""
    return a_customer(door, score, external_id=new_id(PREFIX))


def of(door: Door, customer: str) -> dict[str, str]:
    """The customer with a loan and a payment: what a request may name."""
    loan = a_loan(door, customer)
    return {"customer": customer, "loan": loan, "payment": pay(door, customer, "1.00")["external_id"]}


def refused(call: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value


def others(door: Door, rpc: str) -> Json:
    """A request about another's customer, loan or payment, which takes effect with another key."""
    if rpc in MUTATIONS:
        return mutation(door, rpc)
    found = of(door, a_customer(door))
    for field in method(rpc).input_type.fields:
        if (kind := field.name.removesuffix("_external_id")) in found:
            return {field.name: found[kind]}
    return {"external_id": found[rpc.split(".")[0].removesuffix("s")]}


def ways(rpc: str) -> list[Json]:
    """What to add to a request for each way of asking: a preview, as it was a moment ago, and nothing."""
    fields = method(rpc).input_type.fields_by_name
    then = {"validate_only": True, "as_of": {"time": datetime.now(UTC).isoformat()}}
    return [*({name: value} for name, value in then.items() if name in fields), {}]


def named(request: Json) -> str:
    """The id that a request is about: that of the customer, or of what is the customer's."""
    for name in ("customer_external_id", "loan_external_id", "payment_external_id", "external_id"):
        for value in (request, *(value for value in request.values() if isinstance(value, dict))):
            if name in value:
                return str(value[name])
    return named(request["requests"][0])


def with_id(found: Any, old: str, new: str) -> Any:
    """The same, with another id wherever the id is, also in a message."""
    if isinstance(found, dict):
        return {key: with_id(value, old, new) for key, value in found.items()}
    if isinstance(found, list):
        return [with_id(value, old, new) for value in found]
    return found.replace(old, new) if isinstance(found, str) else found


@pytest.mark.parametrize("rpc", called(Bound.CUSTOMER, Bound.OWNED))
def test_what_is_others_does_not_exist_for_a_bound_key(door: Door, bound: Door, rpc: str) -> None:
    request = others(door, rpc)
    existing, missing = named(request), new_id("missing")
    for way in ways(rpc):
        hidden, absent, unbound = (
            refused(lambda: who(rpc, **about, **way))  # noqa: B023 - called at once
            for who, about in (
                (bound, request),
                (bound, with_id(request, existing, missing)),
                (door, with_id(request, existing, missing)),
            )
        )
        assert hidden.code == 5
        assert hidden == Refused(**with_id(vars(absent), missing, existing))
        assert absent == unbound
        assert door(rpc, **request, **way), "and it was not touched: it takes effect for others"


@pytest.mark.parametrize("rpc", called(Bound.ITEMS))
def test_an_item_for_another_customer_is_refused_and_the_others_are_not(door: Door, bound: Door, rpc: str) -> None:
    request = others(door, rpc)
    mine, missing = mutation_for(door, own(door)), with_id(request, named(request), new_id("missing"))
    items = [*request["requests"], *mine["requests"], *missing["requests"]]
    for way in ways(rpc):
        hidden, again, done, absent, _ = bound(rpc, requests=items, **way)["results"]
        assert (hidden["status"]["code"], again["status"]["code"]) == (5, 5)
        assert hidden["status"] == with_id(absent["status"], named(missing), named(request))
        assert done["payment"]["status"] == "COMPLETED"
    assert all("payment" in result for result in door(rpc, **request)["results"]), "nothing was taken"


def mutation_for(door: Door, customer: str) -> Json:
    a_loan(door, customer)
    payment = {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": "2.00"}
    return {"requests": [{"payment": payment}]}


@pytest.mark.parametrize(("rpc", "kind"), LISTS.items())
def test_a_list_shows_what_is_the_bound_keys_page_by_page(door: Door, bound: Door, rpc: str, kind: str) -> None:
    before = walk(bound, rpc, kind, 1000)
    mine: list[str] = []
    for customer in (own(door), a_customer(door), own(door), a_customer(door)):
        found = of(door, customer)
        if customer.startswith(PREFIX):
            mine.insert(0, {"customers": customer, "loans": found["loan"], "payments": found["payment"]}[kind])
    assert walk(bound, rpc, kind, 1) == mine + before


@pytest.mark.parametrize("rpc", called(Bound.LIST))
def test_a_list_shows_nothing_of_others(door: Door, bound: Door, rpc: str) -> None:
    """Also where a filter names it; then the answer is that for what does not exist."""
    [items] = [field.name for field in method(rpc).output_type.fields if field.is_repeated]
    hidden, mine = of(door, a_customer(door)), of(door, own(door))

    def shown(door: Door, **filters: Any) -> str:
        pages: list[Any] = []
        token = ""
        while not pages or token:
            page = door(rpc, page_size=1000, page_token=token, **filters)
            token = page["next_page_token"]
            pages.append(page[items])
        return json.dumps(pages)

    eventually(lambda: mine["customer"] in shown(bound), 10)  # events are listed a moment later
    assert hidden["customer"] not in shown(bound)
    for field in method(rpc).input_type.fields:
        kind = field.name.removesuffix("_external_id")
        if kind in hidden:
            for way in ways(rpc) if kind == "customer" else [{}]:
                assert shown(door, **{field.name: hidden[kind]}, **way) != "[[]]"
                assert shown(bound, **{field.name: hidden[kind]}, **way) == "[[]]"
                assert shown(bound, **{field.name: mine[kind]}, **way) != "[[]]"


@pytest.mark.parametrize("rpc", called(Bound.NEW))
def test_a_bound_key_creates_its_own_customers_only(bound: Door, door: Door, rpc: str) -> None:
    outside = PREFIX[:-1]
    for external_id, way in itertools.product((outside, a_customer(door)), ways(rpc)):
        customer = {"external_id": external_id, "score": "1"}
        found = refused(lambda: bound(rpc, customer=customer, **way))  # noqa: B023 - called at once
        assert (found.code, found.reason) == (7, "CUSTOMER_NOT_ALLOWED")
        assert found.info["metadata"] == {"external_id": external_id}
    assert refused(lambda: door("customers.GetCustomer", external_id=outside)).code == 5
    assert bound(rpc, customer={"external_id": new_id(PREFIX), "score": "1"})["status"] == "ACTIVE"


def test_a_bound_key_does_all_for_its_own_customers(bound: Door) -> None:
    customer = own(bound)
    assert bound("customers.UpdateCustomer", customer={"external_id": customer, "score": "900"})["score"] == "900.00"
    loan, refused_loan = a_loan(bound, customer), a_loan(bound, customer, activate=False)
    assert bound("loans.RejectLoan", external_id=refused_loan)["status"] == "REJECTED"
    payment = pay(bound, customer, "100.00")
    assert outstanding(bound, loan) == ("0.00", "PAID")
    assert bound("payments.GetPayment", external_id=payment["external_id"])["payment_details"] == payment["payment_details"]
    once = {"external_id": payment["external_id"], "reason": "bounced"}
    assert bound("payments.RejectPayment", **once)["status"] == "REJECTED"
    assert bound("customers.GetCustomerBalance", external_id=customer)["total_debt"] == "100.00"
    assert bound("customers.GetCustomer", external_id=customer)["external_id"] == customer


def test_the_id_of_anothers_loan_is_taken(door: Door, bound: Door) -> None:
    loan = {"external_id": a_loan(door, a_customer(door)), "customer_external_id": own(bound), "amount": "1"}
    found = refused(lambda: bound("loans.CreateLoan", loan=loan | {"maximum_payment_date": SOME_DAY}))
    assert found.reason == "LOAN_ALREADY_EXISTS"


def test_a_customer_is_a_keys_by_its_name_or_by_the_prefix(door: Door, maker: Door) -> None:
    name, begin = new_id("name"), new_id("prefix")
    prefix = f"{begin}-b"
    api_key = {"name": "shop", "scopes": ["customers:read"], "customer_external_ids": [name]}
    made = maker("auth.CreateApiKey", api_key=api_key)
    both = maker("auth.CreateApiKey", api_key=api_key | {"customer_external_id_prefix": prefix})
    assert (made["customer_external_ids"], made.get("customer_external_id_prefix")) == ([name], None)
    assert (both["customer_external_ids"], both["customer_external_id_prefix"]) == ([name], prefix)
    for external_id in (name, f"{name}-1", f"{begin}-", prefix, f"{prefix}~", f"{begin}-a~", f"{begin}-c"):
        a_customer(door, external_id=external_id)
    by_name, by_both = with_key(door, made["key"]), with_key(door, both["key"])
    assert walk(by_name, "customers.ListCustomers", "customers", 10) == [name]
    assert walk(by_both, "customers.ListCustomers", "customers", 10) == [f"{prefix}~", prefix, name]
    assert by_both("customers.GetCustomer", external_id=f"{prefix}~")
    assert refused(lambda: by_both("customers.GetCustomer", external_id=f"{name}-1")).code == 5


def test_a_binding_is_shown_and_rotation_keeps_it(maker: Door, door: Door, stack: Stack) -> None:
    prefix = new_id("rotated")
    api_key = {"name": "shop", "scopes": ["customers:read"], "customer_external_id_prefix": prefix}
    made = maker("auth.CreateApiKey", api_key=api_key)
    rotated = maker("auth.RotateApiKey", id=made["id"])
    assert rotated["customer_external_id_prefix"] == prefix
    assert maker("auth.GetApiKey", id=made["id"])["customer_external_id_prefix"] == prefix
    a_customer(door)
    again = with_key(door, rotated["key"])
    eventually(lambda: opens(again), 5)
    assert again("customers.ListCustomers")["customers"] == []
    with owner(stack.data_dir) as connection:
        [data] = connection.execute(
            "SELECT data FROM events WHERE kind = 'api_key_created' AND subject = %s", [made["id"]]
        ).fetchone() or [{}]
    assert data["customer_prefix"] == prefix


def test_what_no_bound_key_can_have_or_be_is_refused(maker: Door, stack: Stack) -> None:
    def fields(**binding: object) -> dict[str, str]:
        api_key = {"name": "shop", "scopes": ["customers:read"]} | binding
        return refused(lambda: maker("auth.CreateApiKey", api_key=api_key)).fields

    scopes = ["customers:read", *sorted(GRANTABLE - BINDABLE)]
    assert {"imports:read", "imports:write", "keys:read", "keys:write"} < set(scopes)
    wrong = fields(scopes=scopes, customer_external_ids=["ana"])
    assert wrong.keys() == {f"scopes[{place}]" for place in range(1, len(scopes))}
    assert fields(customer_external_ids=["ana", "a b"]).keys() == {"customer_external_ids[1]"}
    assert fields(customer_external_ids=["ana", "ana"]).keys() == {"customer_external_ids"}
    assert fields(customer_external_ids=[f"c{n}" for n in range(101)]).keys() == {"customer_external_ids"}
    for prefix in ("", "-a", "a%", "x" * 61):
        assert fields(customer_external_id_prefix=prefix).keys() == {"customer_external_id_prefix"}


def test_the_command_line_shows_bindings_and_makes_no_wrong_ones(stack: Stack, bound_key: str) -> None:
    [line] = [line for line in stack.cli("keys", "list").stdout.splitlines() if bound_key.split("_")[1] in line]
    assert f"{NAMED}, {PREFIX}*" in line
    for arguments in (("--customer", "a b"), ("--customer", "a", "--scope", "keys:read")):
        done = stack.cli("keys", "create", "wrong", *arguments, check=False)
        assert (done.returncode, done.stdout) == (2, "")


def test_a_bound_key_waits_for_no_lock_of_others(door: Door, bound: Door, stack: Stack) -> None:
    customer = a_customer(door)
    loan, payment = a_loan(door, customer), pay(door, customer, "1.00")["external_id"]
    with owner(stack.data_dir) as connection:
        connection.execute("SELECT FROM customers WHERE external_id = %s FOR UPDATE", [customer])
        for rpc in ("loans.ActivateLoan", "loans.RejectLoan"):
            assert refused(lambda: bound(rpc, external_id=loan)).reason == "LOAN_NOT_FOUND"  # noqa: B023 - called at once
        bounce = {"external_id": payment, "reason": "bounced"}
        assert refused(lambda: bound("payments.RejectPayment", **bounce)).reason == "PAYMENT_NOT_FOUND"
