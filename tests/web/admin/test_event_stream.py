"""The stream of events in a browser: `EventSource` with the session of whoever is logged in."""

from collections.abc import Callable

import httpx
from playwright.sync_api import Route

from tests.conftest import TLS, Stack
from tests.doors import GrpcDoor, Json
from tests.factories import a_customer, a_loan
from tests.journal.reading import events, settle
from tests.web.admin.conftest import Visitor

LISTEN = """
    ([url, name]) => {
        window.found = [];
        window.source = new EventSource(url);
        window.source.addEventListener(name, (event) => window.found.push([event.lastEventId, JSON.parse(event.data)]));
    }
"""
FOUND = """
    (count) => new Promise((resolve) => {
        const look = () => window.found.length < count ? setTimeout(look, 10) : resolve(window.found);
        look();
    })
"""
"""What was found, once there is as much; the pages' policy forbids Playwright's own way to wait."""


def created(door: GrpcDoor, customer: str) -> list[Json]:
    return events(door, customer_external_id=customer, kinds=["LOAN_CREATED"])


def test_event_source_follows_the_journal(logged_in: Callable[..., Visitor], over_grpc: GrpcDoor, stack: Stack) -> None:
    visitor = logged_in()
    customer = a_customer(over_grpc)
    last = settle(stack)
    query = f"after_position={last}&customer_external_id={customer}&kinds=LOAN_CREATED&kinds=LOAN_PAID"
    visitor.page.evaluate(LISTEN, [f"{visitor.url}events:stream?{query}", "LOAN_CREATED"])
    for count in (1, 2):
        a_loan(over_grpc, customer, "1.00")
        found = visitor.page.evaluate(FOUND, count)
    assert found == [[event["position"], event] for event in created(over_grpc, customer)]


def test_event_source_goes_on_behind_the_last_id(logged_in: Callable[..., Visitor], over_grpc: GrpcDoor, stack: Stack) -> None:
    visitor = logged_in()
    customer = a_customer(over_grpc)
    for _ in range(2):
        a_loan(over_grpc, customer, "1.00")
    settle(stack)
    first, second = created(over_grpc, customer)
    broken: list[Route] = []

    def break_the_first(route: Route) -> None:
        if broken:
            route.continue_()
        else:  # as if the connection had broken after the heartbeat of this position
            broken.append(route)
            route.fulfill(content_type="text/event-stream", body=f"retry: 10\n: heartbeat\nid: {first['position']}\n\n")

    visitor.page.route("**/events:stream*", break_the_first)
    url = f"{visitor.url}events:stream?after_position=0&customer_external_id={customer}"
    visitor.page.evaluate(LISTEN, [url, "LOAN_CREATED"])
    assert visitor.page.evaluate(FOUND, 1) == [[second["position"], second]]


def test_the_stream_needs_a_login_and_right_parameters(logged_in: Callable[..., Visitor]) -> None:
    visitor = logged_in()
    url = f"{visitor.url}events:stream"
    assert httpx.get(url, verify=TLS).status_code == 303
    ask = visitor.context.request.get
    for query in ("after_position=x", "kinds=LOAN_LOST", "unknown=1", "after_position=999999999999999", "after_position=-1"):
        assert ask(f"{url}?{query}").status == 400, query
    assert ask(url, headers={"last-event-id": "x"}).status == 400
