"""A page token belongs to one list, one RPC, one set of filters; the lists come from the descriptors."""

from typing import Any

import pytest
from google.protobuf import descriptor_pool

from mo_grpc.rpc.access import ACCESS, SERVICES
from tests.auth.api_keys.test_api_key_service import scoped, with_key
from tests.conftest import Stack
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
    """A key that may read every list."""
    return stack.cli("keys", "create", "lister", *scoped(*sorted({scope or "" for scope in LISTS.values()}))).stdout.strip()


@pytest.fixture
def requests(door: Door) -> dict[str, Json]:
    """A request for each list, which has two pages of one row at least."""
    first = a_customer(door)
    for customer in (first, a_customer(door)):
        a_loan(door, customer)
        pay(door, customer, "1.00")
    return {name: {} for name in LISTS} | {"imports.ListImportErrors": {"id": upload(door, b"x\ny\n")["id"]}}


def test_no_list_takes_the_token_of_another(door: Door, lister_key: str, requests: dict[str, Json]) -> None:
    lister = with_key(door, lister_key)

    def page(name: str, **asked: Any) -> Json:
        return lister(name, page_size=1, **requests[name], **asked)

    upload(door, b"x\n")  # one more, so that imports, too, have two pages
    eventually(lambda: opens(lister), 5)
    tokens = {name: page(name)["next_page_token"] for name in LISTS}
    assert len(tokens) == 6
    assert all(tokens.values())
    for name in LISTS:
        assert page(name, page_token=tokens[name])
        for other in LISTS:
            if other != name:
                refuses_token(lister, name, tokens[other], **requests[name])
