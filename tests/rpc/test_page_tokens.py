"""A page token belongs to one list, one RPC, one set of filters; the lists come from the descriptors."""

from typing import Any

import pytest
from google.protobuf import descriptor_pool

from mo_grpc.rpc.access import ACCESS, SERVICES
from tests.auth.api_keys.test_api_key_service import scoped, with_key
from tests.conftest import Stack
from tests.databases import owner
from tests.doors import Door, Json, opens
from tests.factories import a_customer, a_loan, pay
from tests.imports.files import upload
from tests.paging import refuses_token
from tests.waiting import eventually

LISTS = {
    f"{service.split('.')[1]}.{rpc.name}": ACCESS[f"/{service}/{rpc.name}"]
    for service in SERVICES
    for rpc in descriptor_pool.Default().FindServiceByName(service).methods
    if rpc.name.startswith("List")
}


@pytest.fixture(scope="module")
def lister_key(stack: Stack) -> str:
    """A key that may read every list, and has webhooks."""
    return stack.cli("keys", "create", "lister", *scoped(*sorted({*LISTS.values(), "webhooks:write"}))).stdout.strip()


@pytest.fixture
def lister(door: Door, lister_key: str) -> Door:
    lister = with_key(door, lister_key)
    eventually(lambda: opens(lister), 5)
    return lister


@pytest.fixture
def requests(door: Door, lister: Door, stack: Stack) -> dict[str, Json]:
    """A request for each list, which has two pages of one row at least."""
    first = a_customer(door)
    for customer in (first, a_customer(door)):
        a_loan(door, customer)
        pay(door, customer, "1.00")
    webhook = {"url": "https://203.0.114.7/", "disabled": True}
    webhooks = [lister("webhooks.CreateWebhook", webhook=webhook)["id"] for _ in range(2)]
    attempt = """
        INSERT INTO webhook_attempts (webhook_id, event_id, position, number, attempted_at, duration_ms, status_code, error,
            response, given_up)
        SELECT %s, 'evt_1', 1, number, now(), 0, 500, '', '', false FROM generate_series(1, 2) AS number
    """
    with owner(stack.data_dir) as connection:
        connection.execute(attempt, [webhooks[0]])
    wanted = {"imports.ListImportErrors": {"id": upload(door, b"x\ny\n")["id"]}}
    wanted |= {"webhooks.ListAttempts": {"webhook_id": webhooks[0]}}
    return {name: {} for name in LISTS} | wanted


def test_no_list_takes_the_token_of_another(door: Door, lister: Door, requests: dict[str, Json]) -> None:
    def page(name: str, **asked: Any) -> Json:
        return lister(name, page_size=1, **requests[name], **asked)

    upload(door, b"x\n")  # one more, so that imports, too, have two pages
    tokens = {name: page(name)["next_page_token"] for name in LISTS}
    assert len(tokens) == 9
    assert all(tokens.values())
    for name in LISTS:
        assert page(name, page_token=tokens[name])
        for other in LISTS:
            if other != name:
                refuses_token(lister, name, tokens[other], **requests[name])
