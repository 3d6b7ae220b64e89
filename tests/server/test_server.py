"""The server as a process: its health and reflection, how it ends, and how it lives through an absent database."""

import contextlib
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from mo_grpc.db.embedded import EmbeddedPostgres, embedded_url
from mo_grpc.rpc.access import SERVICES
from tests.conftest import Stack, run_cli, settings_environment
from tests.databases import connect, locked, owner, waiting
from tests.doors import GrpcDoor, Refused, refused
from tests.factories import a_customer, a_loan, outstanding, pay, stored
from tests.servers import NOT_SERVING, SERVING, a_server
from tests.waiting import eventually


def watch(channel: grpc.Channel, service: str = "") -> Iterator[health_pb2.HealthCheckResponse]:
    answers: Iterator[health_pb2.HealthCheckResponse] = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service=service), timeout=60
    )
    return answers


def reflect(channel: grpc.Channel, version: str, **request: str) -> reflection_pb2.ServerReflectionResponse:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    [answer] = call(iter([reflection_pb2.ServerReflectionRequest(**request)]), timeout=10)
    assert isinstance(answer, reflection_pb2.ServerReflectionResponse)
    return answer


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_health_of_the_server_and_of_each_service(grpc_channel: grpc.Channel, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(grpc_channel)
    assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == SERVING
    assert next(watch(grpc_channel, service)).status == SERVING


def test_health_of_an_unknown_service(grpc_channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(grpc_channel).Check(health_pb2.HealthCheckRequest(service="mo.Nothing"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert next(watch(grpc_channel, "mo.Nothing")).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_the_services_and_knows_their_symbols(grpc_channel: grpc.Channel, version: str) -> None:
    listed = reflect(grpc_channel, version, list_services="").list_services_response.service
    grpcs = {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
    assert {service.name for service in listed} == {*SERVICES, *grpcs}
    for service in SERVICES:
        found = reflect(grpc_channel, version, file_containing_symbol=service)
        assert any(b"http" in file for file in found.file_descriptor_response.file_descriptor_proto)
    missing = reflect(grpc_channel, version, file_containing_symbol="mo.Nothing")
    assert missing.error_response.error_code == 5


def test_reflection_can_be_switched_off(stack: Stack) -> None:
    with a_server(stack.environment, MO_REFLECTION="false") as server:
        with pytest.raises(grpc.RpcError) as caught:
            reflect(server.channel, "v1", list_services="")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_sigterm_lets_running_calls_finish_and_takes_no_new_ones(stack: Stack, over_grpc: GrpcDoor) -> None:
    customer = a_customer(over_grpc)
    loan = a_loan(over_grpc, customer, "100.00")
    with a_server(stack.environment) as server, ThreadPoolExecutor(1) as thread:
        door = GrpcDoor(server.channel, over_grpc.metadata)
        watched = watch(server.channel)
        assert next(watched).status == SERVING
        with locked(stack.data_dir, customer) as lock:
            running = thread.submit(pay, door, customer, "40.00")
            eventually(lambda: waiting(lock) == 1, 10)
            server.process.send_signal(signal.SIGTERM)
            assert next(watched).status == NOT_SERVING
            eventually(lambda: refuses_calls(door), 10)
            server.process.send_signal(signal.SIGTERM)  # a second one does not abort the drain
            assert not running.done()
        payment = running.result(30)
        assert payment["status"] == "COMPLETED"
        # An open watch holds nothing up: the grace is 20 seconds.
        assert server.process.wait(10) == 0
        with pytest.raises(grpc.RpcError) as ended:
            next(watched)
        assert told_to_go_on(refused(ended.value))
    assert over_grpc("payments.GetPayment", external_id=payment["external_id"]) == stored(payment)
    assert outstanding(over_grpc, loan) == ("60.00", "ACTIVE")


def told_to_go_on(refused: Refused) -> bool:
    """Whether a call was ended in the usual shape, with the advice to call again."""
    retry = [detail for detail in refused.details if detail["@type"].endswith("RetryInfo")]
    return (refused.code, refused.reason, bool(retry)) == (14, "SERVER_STOPPING", True)


def refuses_calls(door: GrpcDoor) -> bool:
    try:
        door("customers.ListCustomers", page_size=1)
    except Refused as refused:
        return refused.code == 14
    return False


def test_a_call_that_does_not_end_is_cut_off_after_the_grace(stack: Stack, over_grpc: GrpcDoor) -> None:
    customer = a_customer(over_grpc)
    with a_server(stack.environment, MO_SHUTDOWN_GRACE_SECONDS="0.5") as server, ThreadPoolExecutor(1) as thread:
        with locked(stack.data_dir, customer) as lock:
            running = thread.submit(a_loan, GrpcDoor(server.channel, over_grpc.metadata), customer, activate=False)
            eventually(lambda: waiting(lock) == 1, 10)
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(Refused) as cut_off:
                running.result(30)
            assert told_to_go_on(cut_off.value)
        assert server.process.wait(30) == 0
    assert over_grpc("loans.ListLoans", customer_external_id=customer)["loans"] == []


def test_when_all_connections_are_busy_the_next_call_is_told_soon(stack: Stack, over_grpc: GrpcDoor) -> None:
    customer = a_customer(over_grpc)
    loan = a_loan(over_grpc, customer)
    with a_server(stack.environment, MO_DATABASE_POOL_SIZE="2") as server, ThreadPoolExecutor(2) as threads:
        door = GrpcDoor(server.channel, over_grpc.metadata)
        with owner(stack.data_dir) as migration:
            migration.execute("LOCK loans IN ACCESS EXCLUSIVE MODE")
            running = [
                threads.submit(door, "loans.GetLoan", external_id=loan),
                threads.submit(door, "customers.GetCustomerBalance", external_id=customer),
            ]
            eventually(lambda: waiting(migration) == 2, 10)
            # They wait for a moment, then begin anew and wait for good: in between there is a gap.
            eventually(lambda: not answers(door, customer), 10)
            assert_unavailable(door)
        assert all(call.result(30) for call in running)
        door("customers.GetCustomer", external_id=customer)


def assert_unavailable(door: GrpcDoor) -> None:
    """Check that a call is refused in a few seconds, with the advice to retry."""
    with pytest.raises(Refused) as caught:
        GrpcDoor(door.channel, door.metadata, timeout=5)("customers.GetCustomer", external_id="nobody")
    assert (caught.value.code, caught.value.reason) == (14, "DATABASE_UNAVAILABLE")
    [retry] = [detail for detail in caught.value.details if detail["@type"].endswith("RetryInfo")]
    assert retry["retry_delay"] == "0.500s"


@pytest.fixture
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: a socket's is limited."""
    return tmp_path_factory.mktemp("pg")


def test_the_server_outlives_its_connections_and_its_database(data_dir: Path) -> None:
    environment = settings_environment(data_dir)
    postgres = EmbeddedPostgres(data_dir)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(postgres.stop)
        postgres.start()
        run_cli(environment, "migrate")
        key = run_cli(environment, "keys", "create", "test").stdout.strip()
        server = cleanup.enter_context(a_server(environment))
        door = GrpcDoor(server.channel, (("x-api-key", key),))
        customer = door("customers.GetCustomer", external_id=a_customer(door))

        for _ in range(3):
            break_connections(data_dir)
            eventually(lambda: answers(door, customer["external_id"]), 10)
            eventually(lambda: server.health() == SERVING, 10)

        postgres.stop()
        eventually(lambda: server.health() == NOT_SERVING, 10)
        assert {server.health(service) for service in SERVICES} == {NOT_SERVING}
        assert_unavailable(door)
        no_key = GrpcDoor(server.channel)
        with pytest.raises(Refused) as caught:  # what needs no database is told as ever
            no_key("customers.ListCustomers")
        assert caught.value.reason == "API_KEY_MISSING"

        postgres.start()
        eventually(lambda: server.health() == SERVING, 30)
        assert door("customers.GetCustomer", external_id=customer["external_id"]) == customer
        a_loan(door, customer["external_id"])


def break_connections(data_dir: Path) -> None:
    """End every session of the service."""
    sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mo-grpc'"
    with connect(embedded_url(data_dir, "postgres"), autocommit=True) as superuser:
        assert superuser.execute(sessions).rowcount


def answers(door: GrpcDoor, customer: str) -> bool:
    """Whether the call works; while it does not, it says so in the way that callers understand."""
    try:
        door("customers.GetCustomer", external_id=customer)
    except Refused as refused:
        if refused.reason != "DATABASE_UNAVAILABLE":
            raise
        return False
    return True
