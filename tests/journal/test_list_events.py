"""The list of events: its filters, its order and its pages, through both doors."""

from collections.abc import Callable

import grpc
import httpx
import pytest

from tests.auth.api_keys.test_api_key_service import with_key
from tests.conftest import Stack
from tests.databases import owner
from tests.doors import Door, GrpcDoor, Json, Refused
from tests.factories import a_customer, a_loan, new_id, pay
from tests.journal.reading import events, positions, settle
from tests.paging import damages, refuses_token


@pytest.fixture(scope="module")
def story(stack: Stack, grpc_channel: grpc.Channel) -> dict[str, str]:
    """A customer with two loans, whose payments were one of each kind; and another customer."""
    door = GrpcDoor(grpc_channel, (("x-api-key", stack.api_key),))
    customer = a_customer(door)
    first, second = a_loan(door, customer, "100.00"), a_loan(door, customer, "50.00")
    paid = pay(door, customer, "120.00")["external_id"]
    refused = pay(door, customer, "1000.00")["external_id"]
    door("payments.RejectPayment", external_id=paid, reason="bounced")
    door("customers.UpdateCustomer", customer={"external_id": customer, "score": "500", "status": "INACTIVE"})
    pending = a_loan(door, other := a_customer(door), "10.00", activate=False)
    door("loans.RejectLoan", external_id=pending)
    settle(stack)
    return {
        "customer": customer, "first": first, "second": second, "paid": paid, "refused": refused, "other": other
    }  # fmt: skip


KINDS = [
    "CUSTOMER_CREATED",
    "LOAN_CREATED",
    "LOAN_ACTIVATED",
    "LOAN_CREATED",
    "LOAN_ACTIVATED",
    "PAYMENT_COMPLETED",
    "LOAN_PAID",
    "PAYMENT_REFUSED",
    "PAYMENT_BOUNCED",
    "CUSTOMER_CHANGED",
]


def kinds(found: list[Json]) -> list[str]:
    return [event["kind"] for event in found]


def test_a_customers_events_say_what_happened(door: Door, story: dict[str, str]) -> None:
    found = events(door, customer_external_id=story["customer"])
    assert kinds(found) == KINDS
    assert [int(event["number"]) for event in found] == list(range(1, len(KINDS) + 1))
    assert positions(found) == sorted(positions(found))
    created, paid, changed = found[0], found[5], found[9]
    balance = {"external_id": story["customer"], "score": "1000.00", "total_debt": "0.00", "available_amount": "1000.00"}
    assert "balance_before" not in created
    assert created["balance_after"] == balance
    assert (created["status_before"], created["status_after"]) == ("STATUS_UNSPECIFIED", "ACTIVE")
    assert (paid["payment_external_id"], paid["amount"]) == (story["paid"], "120.00")
    assert paid["balance_before"] == balance | {"total_debt": "150.00", "available_amount": "850.00"}
    assert paid["balance_after"] == balance | {"total_debt": "30.00", "available_amount": "970.00"}
    first = {"external_id": story["first"], "status_before": "ACTIVE", "outstanding_before": "100.00"}
    second = {"external_id": story["second"], "status_before": "ACTIVE", "outstanding_before": "50.00"}
    assert paid["loans"] == [
        first | {"status_after": "PAID", "outstanding_after": "0.00"},
        second | {"status_after": "ACTIVE", "outstanding_after": "30.00"},
    ]
    assert (changed["status_before"], changed["status_after"]) == ("ACTIVE", "INACTIVE")
    assert changed["balance_before"] == balance | {"total_debt": "150.00", "available_amount": "850.00"}
    assert changed["balance_after"] == balance | {"score": "500.00", "total_debt": "150.00", "available_amount": "350.00"}
    assert {len(event["hash"]) for event in found} == {64}


def test_each_filter_leaves_what_it_says(door: Door, story: dict[str, str]) -> None:
    customer = {"customer_external_id": story["customer"]}
    everything = events(door, **customer)
    begin = {"after_position": int(everything[0]["position"]) - 1}
    whole = [event for event in events(door, **begin) if event["customer_external_id"] == story["customer"]]
    assert whole == everything
    assert kinds(events(door, loan_external_id=story["second"])) == [
        "LOAN_CREATED", "LOAN_ACTIVATED", "PAYMENT_COMPLETED", "PAYMENT_BOUNCED"
    ]  # fmt: skip
    assert kinds(events(door, payment_external_id=story["paid"])) == ["PAYMENT_COMPLETED", "LOAN_PAID", "PAYMENT_BOUNCED"]
    assert kinds(events(door, payment_external_id=story["refused"], **customer)) == ["PAYMENT_REFUSED"]
    assert events(door, payment_external_id=story["paid"], customer_external_id=story["other"]) == []
    assert events(door, payment_external_id=story["refused"], loan_external_id=story["first"]) == []
    assert events(door, loan_external_id=story["first"], customer_external_id=story["other"]) == []
    for wanted in (["LOAN_PAID"], ["LOAN_CREATED", "PAYMENT_BOUNCED"], ["PAYMENT_COMPLETED"], KINDS):
        ours = [event for event in everything if event["kind"] in wanted]
        assert events(door, kinds=wanted, **customer) == ours
        assert [e for e in events(door, kinds=wanted, **begin) if e["customer_external_id"] == story["customer"]] == ours
    for nobody in ("customer_external_id", "loan_external_id", "payment_external_id"):
        assert events(door, **{nobody: new_id("nobody")}) == []


def test_a_span_of_time_includes_its_start_and_not_its_end(door: Door, story: dict[str, str]) -> None:
    everything = events(door, customer_external_id=story["customer"])
    start, end = everything[2]["recorded_at"], everything[6]["recorded_at"]
    for owner_of in ({"customer_external_id": story["customer"]}, {}):
        for more in ({}, {"newest_first": True}, {"kinds": ["LOAN_CREATED"]}):
            found = events(door, start_time=start, end_time=end, **owner_of, **more)
            ours = [event for event in found if event["customer_external_id"] == story["customer"]]
            wanted = [
                e for e in everything[2:5] if "kinds" not in more or e["kind"] == "LOAN_CREATED"
            ]  # the 6th and 7th are of one time
            assert ours == (wanted[::-1] if "newest_first" in more else wanted)


def test_pages_of_a_span_of_time_go_on(over_grpc: GrpcDoor, stack: Stack, story: dict[str, str]) -> None:
    begin = events(over_grpc, customer_external_id=story["customer"])[0]["recorded_at"]
    whole = events(over_grpc, start_time=begin, page_size=1000)
    assert len(whole) > len(KINDS)
    for newest_first in (False, True):
        found = events(over_grpc, start_time=begin, page_size=2, newest_first=newest_first)
        assert found == (whole[::-1] if newest_first else whole)


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_have_each_event_once_while_events_are_added(
    door: Door, stack: Stack, story: dict[str, str], newest_first: bool
) -> None:
    customer = a_customer(door)
    for _ in range(4):
        a_loan(door, customer, "1.00", activate=False)
    settle(stack)
    first = events(door, customer_external_id=customer)[0]["position"]
    for filters in ({"customer_external_id": customer}, {"after_position": first}):
        before = events(door, newest_first=newest_first, **filters)
        found: list[Json] = []
        token = ""
        while True:
            page = door("journal.ListEvents", page_size=2, page_token=token, newest_first=newest_first, **filters)
            found += page["events"]
            token = page["next_page_token"]
            if not token:
                break
            assert len(page["events"]) == 2
            if len(found) < 6:
                a_loan(door, customer, "1.00", activate=False)
                settle(stack)
        assert found[: len(before)] == before
        assert positions(found) == sorted(set(positions(found)), reverse=newest_first)
        assert (len(found) > len(before)) is not newest_first


def test_a_list_begins_at_the_first_position_or_behind_any_and_ends_at_the_last(
    door: Door, stack: Stack, story: dict[str, str]
) -> None:
    assert positions(door("journal.ListEvents", page_size=7)["events"]) == [1, 2, 3, 4, 5, 6, 7]
    last = settle(stack)
    for count in (0, 1, 2, 9, 100):
        behind = list(range(max(0, last - count) + 1, last + 1))
        after = {"after_position": max(0, last - count)}
        assert positions(events(door, page_size=10, **after)) == behind
        assert positions(events(door, page_size=10, newest_first=True, **after)) == behind[::-1]


def test_the_oldest_page_ends_at_the_first_position(door: Door, story: dict[str, str]) -> None:
    token, found = "", [0]
    while token or found == [0]:
        page = door("journal.ListEvents", page_size=1000, page_token=token, newest_first=True, kinds=["LOAN_REJECTED"])
        found, token = positions(page["events"]), page["next_page_token"]
    [first] = positions(door("journal.ListEvents", page_size=1, kinds=["LOAN_REJECTED"])["events"])
    assert found[-1] == first


def test_what_is_not_there_yet_or_is_no_kind_is_refused(door: Door, stack: Stack, story: dict[str, str]) -> None:
    with owner(stack.data_dir) as connection:
        [last] = connection.execute("SELECT position FROM journal_head").fetchone() or [0]
    with pytest.raises(Refused) as refused:
        door("journal.ListEvents", after_position=last + 10_000)
    assert (refused.value.code, refused.value.reason) == (11, "POSITION_IN_FUTURE")
    assert refused.value.info["metadata"]["field"] == "after_position"
    assert int(refused.value.info["metadata"]["last_position"]) >= last
    for wrong in ({"kinds": ["KIND_UNSPECIFIED"]}, {"after_position": -1}, {"page_size": -1}):
        with pytest.raises(Refused) as refused:
            door("journal.ListEvents", **wrong)
        assert (refused.value.code, refused.value.reason) == (3, "INVALID_FIELDS")


def test_a_page_token_belongs_to_its_filters(door: Door, story: dict[str, str]) -> None:
    token = door("journal.ListEvents", page_size=1)["next_page_token"]
    for damaged in damages(token)[:5]:
        refuses_token(door, "journal.ListEvents", damaged)
    for other in ({"newest_first": True}, {"kinds": ["LOAN_PAID"]}, {"customer_external_id": story["customer"]}):
        refuses_token(door, "journal.ListEvents", token, **other)


def test_a_bound_key_lists_the_events_of_its_customers_alone(
    door: Door, story: dict[str, str], new_key: Callable[..., str]
) -> None:
    for binding in (("--customer", story["other"]), ("--customer-prefix", story["other"])):
        bound = with_key(door, new_key("--scope", "events:read", *binding))
        wanted = ["CUSTOMER_CREATED", "LOAN_CREATED", "LOAN_REJECTED"]
        assert kinds(events(bound)) == wanted
        assert kinds(events(bound, newest_first=True, page_size=1)) == wanted[::-1]
        assert kinds(events(bound, kinds=["LOAN_REJECTED"])) == ["LOAN_REJECTED"]
        assert events(bound, customer_external_id=story["customer"]) == []
        assert events(bound, loan_external_id=story["first"]) == []
        assert events(bound, payment_external_id=story["paid"]) == []


def test_an_unknown_kind_is_refused(over_grpc: GrpcDoor, rest: httpx.Client) -> None:
    with pytest.raises(Refused) as refused:
        over_grpc("journal.ListEvents", kinds=[99])
    assert (refused.value.code, list(refused.value.fields)) == (3, ["kinds[0]"])
    # Envoy, which translates names to numbers, does not know it either.
    answer = rest.get("/v1/events?kinds=LOAN_LOST")
    assert (answer.status_code, answer.json()["code"]) == (400, 3)
    assert answer.json()["details"][0]["reason"] == "MALFORMED_REQUEST"
    assert "LOAN_LOST" in answer.json()["message"]
