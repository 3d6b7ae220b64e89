"""How long calls and connections live, and how calls end that the server ends."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from grpc_reflection.v1alpha import reflection_pb2
from mo.imports.v1 import imports_pb2, imports_pb2_grpc

from tests.conftest import Stack
from tests.databases import owner
from tests.doors import GrpcDoor, Refused, refused
from tests.imports.files import over_grpc as upload
from tests.server.test_server import told_to_go_on
from tests.servers import a_server
from tests.waiting import eventually

LINES = HttpBody(content_type="text/csv", data=b"first,100.00\n")


class Connections:
    """Counts how often a channel has connected, until its `with` ends."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.count = 0
        self._channel = channel
        self._over = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._channel.subscribe(self._note, try_to_connect=True)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over = True
            self._channel.unsubscribe(self._note)
        # The thread that looks after the state would fail if the channel were closed while it looks.
        eventually(lambda: not self._channel._connectivity_state.polling, 30)  # type: ignore[attr-defined]

    def _note(self, state: grpc.ChannelConnectivity) -> None:
        with self._lock:
            self.count += state is grpc.ChannelConnectivity.READY
            if state is grpc.ChannelConnectivity.IDLE and not self._over:  # gRPC would wait for a call
                self._channel.subscribe(_ignore, try_to_connect=True)
                self._channel.unsubscribe(_ignore)


def _ignore(state: grpc.ChannelConnectivity) -> None:
    pass


@contextmanager
def an_upload(door: GrpcDoor) -> Iterator[tuple[Any, threading.Event]]:
    """An upload that has begun, and ends when the event says so."""
    begun, over = threading.Event(), threading.Event()

    def bodies() -> Iterator[HttpBody]:
        yield LINES
        begun.set()
        assert over.wait(60)
        yield HttpBody(data=b"last,100.00\n")

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(upload, door, bodies())
        try:
            assert begun.wait(30)
            yield running, over
        finally:
            over.set()


def test_an_upload_outlives_the_age_of_its_connection(stack: Stack, over_grpc: GrpcDoor) -> None:
    with a_server(stack.environment, MO_CONNECTION_AGE_SECONDS="0.1") as server:
        door = GrpcDoor(server.channel, over_grpc.metadata)
        with Connections(server.channel) as connections, an_upload(door) as (running, over):
            first = connections.count

            def aged() -> bool:
                door("customers.ListCustomers", page_size=1)
                return connections.count >= first + 4

            eventually(aged, 30)
            over.set()
            assert running.result(30)["lines_count"] == 2


def test_what_lasts_beyond_the_grace_is_told_to_go_on_elsewhere(stack: Stack, over_grpc: GrpcDoor) -> None:
    with a_server(stack.environment, MO_SHUTDOWN_GRACE_SECONDS="0.2") as server:
        with an_upload(GrpcDoor(server.channel, over_grpc.metadata)) as (running, _):
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(Refused) as ended:
                running.result(30)
            assert told_to_go_on(ended.value)
        assert server.process.wait(30) == 0


def test_what_has_arrived_when_the_server_ends_is_answered_or_told_to_go_on(stack: Stack, over_grpc: GrpcDoor) -> None:
    with a_server(stack.environment) as server, ThreadPoolExecutor(32) as threads:
        door = GrpcDoor(server.channel, over_grpc.metadata)

        def call_until_refused() -> int:
            while True:
                try:
                    door("customers.ListCustomers", page_size=1)
                except Refused as refused:
                    return refused.code

        calls = [threads.submit(call_until_refused) for _ in range(32)]
        server.process.send_signal(signal.SIGTERM)
        assert {call.result(30) for call in calls} == {14}  # and none was cancelled
        assert server.process.wait(30) == 0


@pytest.fixture
def running_import(stack: Stack) -> Iterator[str]:
    """An import that is in somebody's hands, and does not get on."""
    statement = """
        INSERT INTO imports (source, state, bytes_total, created_by, created_at, lease_owner, lease_until)
        VALUES ('none', 2, 1, 'test', now(), 'test', now() + interval '1 day') RETURNING id
    """
    with owner(stack.data_dir) as connection:
        [(import_id,)] = connection.execute(statement).fetchall()
    yield str(import_id)
    with owner(stack.data_dir) as connection:
        connection.execute("DELETE FROM imports WHERE id = %s", (import_id,))


def test_streams_that_last_are_ended_at_once_and_hold_nothing_up(
    stack: Stack, over_grpc: GrpcDoor, running_import: str
) -> None:
    over = threading.Event()

    def asks() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        over.wait(60)

    with a_server(stack.environment) as server:
        reflect = server.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        watch = imports_pb2_grpc.ImportServiceStub(server.channel).WatchImport
        request = imports_pb2.WatchImportRequest(id=running_import)
        streams = [reflect(asks(), timeout=60), watch(request, metadata=over_grpc.metadata, timeout=60)]
        try:
            for stream in streams:
                next(stream)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(10) == 0  # the grace is 20 seconds
            for stream in streams:
                with pytest.raises(grpc.RpcError) as ended:
                    next(stream)
                assert told_to_go_on(refused(ended.value))
        finally:
            over.set()


def test_clients_may_ping_as_often_as_agreed_also_without_calls(stack: Stack) -> None:
    options = [
        ("grpc.keepalive_time_ms", 100),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with (
        a_server(stack.environment, MO_CLIENT_PING_SECONDS="0.01") as server,
        a_server(stack.environment, MO_CLIENT_PING_SECONDS="3600") as strict,
        grpc.insecure_channel(server.address, options=options) as channel,
        grpc.insecure_channel(strict.address, options=options) as other,
        Connections(channel) as allowed,
        Connections(other) as sent_away,
    ):
        eventually(lambda: allowed.count == 1, 30)
        # By then, as many pings have come to both.
        eventually(lambda: sent_away.count >= 3, 30)
        assert allowed.count == 1
