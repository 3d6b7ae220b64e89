"""Streams of events: over gRPC, as lines of JSON, and as Server-Sent Events."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import grpc
import httpx
import pytest
from mo.journal.v1 import journal_pb2, journal_pb2_grpc

from tests.conftest import Stack
from tests.doors import GrpcDoor, Json, Refused, refused, to_json
from tests.factories import a_customer, a_loan, new_id, pay
from tests.imports.files import upload
from tests.journal.reading import events, positions, settle
from tests.servers import a_server

SECONDS = 60


class Watch:
    """A stream over gRPC."""

    def __init__(self, channel: grpc.Channel, key: str, **request: Any) -> None:
        stub = journal_pb2_grpc.JournalServiceStub(channel)
        message = journal_pb2.WatchEventsRequest(**request)
        self._call = stub.WatchEvents(message, metadata=(("x-api-key", key),), timeout=SECONDS)

    def __iter__(self) -> Iterator[journal_pb2.WatchEventsResponse]:
        try:
            yield from self._call
        except grpc.RpcError as error:
            raise refused(error) from error

    def close(self) -> None:
        self._call.cancel()

    def events(self, count: int) -> list[Json]:
        """The next events, as many as this."""
        found: list[Json] = []
        for step in self:
            if step.HasField("event"):
                assert step.position == step.event.position
                found.append(to_json(step.event))
            if len(found) == count:
                break
        return found


@pytest.fixture
def story(over_grpc: GrpcDoor, stack: Stack) -> list[Json]:
    """The events of a customer with a loan that is paid, and of another customer in between."""
    customer = a_customer(over_grpc)
    a_loan(over_grpc, customer)
    a_customer(over_grpc)
    pay(over_grpc, customer, "100.00")
    settle(stack)
    return events(over_grpc, customer_external_id=customer)


def test_a_stream_resumes_behind_every_position(over_grpc: GrpcDoor, stack: Stack, story: list[Json]) -> None:
    begin = int(story[0]["position"]) - 1
    everything = events(over_grpc, after_position=begin)
    for place in range(len(everything) + 1):
        with closing(Watch(over_grpc.channel, stack.api_key, after_position=begin + place)) as watch:
            assert watch.events(len(everything) - place) == everything[place:] or place == len(everything)
    with closing(Watch(over_grpc.channel, stack.api_key, after_position=0)) as watch:
        first = min(begin + 1, 1000)  # other tests' events, of which there may be many
        assert positions(watch.events(first)) == list(range(1, first + 1))


def test_a_stream_begins_with_its_position_and_goes_on_with_what_happens(over_grpc: GrpcDoor, stack: Stack) -> None:
    last = settle(stack)
    with closing(Watch(over_grpc.channel, stack.api_key)) as watch:
        first = next(iter(watch))
        assert (first.HasField("event"), first.position) == (False, last)
        for _ in range(2):
            customer = a_customer(over_grpc)
            [event] = watch.events(1)
            assert (event["kind"], event["customer_external_id"]) == ("CUSTOMER_CREATED", customer)


def test_a_stream_sends_what_passes_its_filters(
    over_grpc: GrpcDoor, stack: Stack, story: list[Json], new_key: Callable[..., str]
) -> None:
    customer, loan = story[0]["customer_external_id"], story[1]["loans"][0]["external_id"]
    begin = int(story[0]["position"]) - 1
    bound = new_key("--scope", "events:read", "--customer", customer)
    streams = [
        (stack.api_key, {"customer_external_id": customer}, story),
        (stack.api_key, {"loan_external_id": loan}, story[1:]),
        (stack.api_key, {"kinds": ["LOAN_PAID", "LOAN_CREATED"], "customer_external_id": customer}, [story[1], story[4]]),
        (bound, {}, story),
    ]
    for after in (begin, 0):  # from what is in memory perhaps, and from before it
        for key, filters, wanted in streams:
            with closing(Watch(over_grpc.channel, key, after_position=after, **filters)) as watch:
                assert watch.events(len(wanted)) == wanted
    watches = [
        Watch(over_grpc.channel, key, after_position=int(story[-1]["position"]), **filters) for key, filters, _ in streams
    ]
    new_loan = a_loan(over_grpc, customer, "1.00", activate=False)
    a_loan(over_grpc, a_customer(over_grpc), "1.00", activate=False)
    for watch, count in zip(watches, (1, 0, 1, 1), strict=True):
        with closing(watch):
            found = watch.events(count) if count else []
            assert [event["loans"][0]["external_id"] for event in found] == [new_loan] * count


def test_a_slow_reader_holds_up_nobody_else(over_grpc: GrpcDoor, stack: Stack) -> None:
    count, prefix = 3000, new_id("many")
    last = settle(stack)
    # Connections of their own; what nobody reads fills the slow one's buffers.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    with (
        grpc.insecure_channel(stack.grpc_address, options=options) as channel,
        closing(Watch(channel, stack.api_key, after_position=last)) as slow,
        closing(Watch(over_grpc.channel, stack.api_key, after_position=last)) as fast,
    ):
        assert next(iter(slow)).position == last
        upload(over_grpc, b"".join(b"%b-%d,1\n" % (prefix.encode(), number) for number in range(count)))
        found = fast.events(count)
        assert positions(found) == list(range(last + 1, last + count + 1))
        assert slow.events(count) == found


def test_a_position_that_is_not_there_yet_is_refused(over_grpc: GrpcDoor, stack: Stack, rest: httpx.Client) -> None:
    last = settle(stack)
    with pytest.raises(Refused) as refusal:
        Watch(over_grpc.channel, stack.api_key, after_position=last + 1000).events(1)
    assert (refusal.value.code, refusal.value.reason) == (11, "POSITION_IN_FUTURE")
    assert refusal.value.info["metadata"] == {"field": "after_position", "last_position": str(last)}
    for path, headers, reason in (
        (f"/v1/events:watch?after_position={last + 1000}", {}, "POSITION_IN_FUTURE"),
        (f"/v1/events:stream?after_position={last + 1000}", {}, "POSITION_IN_FUTURE"),
        ("/v1/events:stream", {"last-event-id": str(last + 1000)}, "POSITION_IN_FUTURE"),
        ("/v1/events:stream", {"last-event-id": "x"}, "INVALID_FIELDS"),
        ("/v1/events:stream?after_position=-1", {}, "INVALID_FIELDS"),
    ):
        answer = rest.get(path, headers=headers)
        assert (answer.status_code, answer.json()["details"][0]["reason"]) == (400, reason), path


def test_lines_of_json_follow_over_rest(over_grpc: GrpcDoor, rest: httpx.Client, story: list[Json]) -> None:
    begin = int(story[0]["position"]) - 1
    filters = {"after_position": begin, "customer_external_id": story[0]["customer_external_id"]}
    with rest.stream("GET", "/v1/events:watch", params=filters) as answer:
        lines = map(json.loads, answer.iter_lines())
        assert next(lines) == {"position": str(begin)}
        found = [next(lines) for _ in story]
        assert found == [{"event": event, "position": event["position"]} for event in story]


class ServerSent:
    """Reads Server-Sent Events as HTML says (9.2.6): events, and the last id."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.last_id = ""

    def __next__(self) -> tuple[str, Json]:
        fields: dict[str, str] = {}
        for line in self._lines:
            if not line:
                self.last_id = fields.get("id", self.last_id)
                if "data" in fields:
                    return fields["event"], json.loads(fields["data"])
                fields = {}
            elif not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
        raise AssertionError("the stream has ended")


def test_server_sent_events_resume_by_the_last_id(rest: httpx.Client, over_grpc: GrpcDoor, story: list[Json]) -> None:
    begin = int(story[0]["position"]) - 1
    filters = {"customer_external_id": story[0]["customer_external_id"], "after_position": 0}
    for place in range(len(story)):
        after = story[place - 1]["position"] if place else str(begin)
        with rest.stream("GET", "/v1/events:stream", params=filters, headers={"Last-Event-ID": after}) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            assert answer.headers["cache-control"] == "no-store"
            sent = ServerSent(answer.iter_lines())
            for event in story[place:]:
                assert next(sent) == (event["kind"], event)
            assert sent.last_id == story[-1]["position"]


def test_server_sent_events_begin_with_the_position_and_tell_what_happens(
    rest: httpx.Client, over_grpc: GrpcDoor, stack: Stack
) -> None:
    last = settle(stack)
    with rest.stream("GET", "/v1/events:stream") as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(4)] == ["retry: 1000", ": heartbeat", f"id: {last}", ""]
        customer = a_customer(over_grpc)
        kind, event = next(ServerSent(lines))
        assert (kind, event["customer_external_id"]) == ("CUSTOMER_CREATED", customer)


def test_the_header_of_a_browser_may_come_from_an_allowed_page(rest: httpx.Client) -> None:
    asked = {"access-control-request-method": "GET", "access-control-request-headers": "x-api-key, last-event-id"}
    answer = rest.options("/v1/events:stream", headers={"origin": "https://shop.example", **asked})
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert {"x-api-key", "last-event-id"} <= set(allowed)


def test_a_server_that_stops_tells_its_streams_to_go_on_elsewhere(stack: Stack, over_grpc: GrpcDoor) -> None:
    last = settle(stack)
    with a_server(stack.environment) as server:
        watch = Watch(server.channel, stack.api_key)
        steps = iter(watch)
        assert next(steps).position == last
        first = a_customer(over_grpc)
        step = next(steps)
        assert step.event.customer_external_id == first
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(Refused) as refusal:
            list(steps)
        assert (refusal.value.code, refusal.value.reason) == (14, "SERVER_STOPPING")
        second = a_customer(over_grpc)
    with closing(Watch(over_grpc.channel, stack.api_key, after_position=step.position)) as resumed:
        assert [event["customer_external_id"] for event in resumed.events(1)] == [second]
