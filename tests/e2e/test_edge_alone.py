"""The edge with upstreams of its own: none, silent, or coming back; and what its settings change."""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from mo.customers.v1 import customers_pb2, customers_pb2_grpc

from mo_grpc.config import Settings
from mo_grpc.edge import configuration as edge
from mo_grpc.edge.process import envoy_path
from tests.conftest import free_port
from tests.doors import refused
from tests.e2e.edges import running, running_edge, started, status_of
from tests.waiting import eventually

ORIGIN = "https://app.example"
REQUEST = customers_pb2.GetCustomerRequest(external_id="c-1")


@pytest.fixture(scope="module")
def lonely_edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An edge with nothing behind it."""
    with running_edge(tmp_path_factory.mktemp("lonely"), f"127.0.0.1:{free_port()}") as url:
        yield url


@pytest.fixture(scope="module")
def open_edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An edge with CORS for one origin."""
    origins = {"CORS_ALLOWED_ORIGINS": ORIGIN, "CORS_ALLOW_CREDENTIALS": "true"}
    with running_edge(tmp_path_factory.mktemp("open"), f"127.0.0.1:{free_port()}", **origins) as url:
        yield url


@pytest.fixture
def silent_upstream() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def reason_of(answer: httpx.Response) -> tuple[int, int, str]:
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    return answer.status_code, body["code"], body["details"][0]["reason"]


def test_with_a_dead_upstream_rest_is_503_and_says_nothing_of_the_inside(lonely_edge: str) -> None:
    answer = httpx.get(f"{lonely_edge}/v1/customers/c-1")
    assert reason_of(answer) == (503, 14, "UPSTREAM_UNAVAILABLE")
    assert answer.json()["message"] == "The service is down; please retry."


def test_with_a_dead_upstream_grpc_is_unavailable_with_its_reason(lonely_edge: str) -> None:
    with grpc.insecure_channel(lonely_edge.removeprefix("http://")) as channel, pytest.raises(grpc.RpcError) as caught:
        customers_pb2_grpc.CustomerServiceStub(channel).GetCustomer(REQUEST)
    status = refused(caught.value)
    assert (status.code, status.reason) == (14, "UPSTREAM_UNAVAILABLE")


def test_with_a_dead_upstream_the_edge_is_healthy_but_not_ready(lonely_edge: str) -> None:
    assert httpx.get(f"{lonely_edge}/healthz").text == "ok\n"
    assert reason_of(httpx.get(f"{lonely_edge}/readyz")) == (503, 14, "UPSTREAM_UNAVAILABLE")


def test_readyz_follows_the_health_that_the_service_reports(tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    # By name, as in docker-compose.
    with running_edge(tmp_path, f"localhost:{port}") as url:
        ready = f"{url}/readyz"
        eventually(lambda: status_of(ready) == 200, 20)
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        eventually(lambda: status_of(ready) == 503, 20)
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        eventually(lambda: status_of(ready) == 200, 20)
        server.stop(grace=None).wait()
        eventually(lambda: status_of(ready) == 503, 20)


def test_a_deadline_that_passes_is_504_over_rest_and_4_over_grpc_web(tmp_path: Path, silent_upstream: str) -> None:
    with running_edge(tmp_path, silent_upstream) as url:
        answer = httpx.get(f"{url}/v1/customers/c-1", headers={"grpc-timeout": "100m"})
        assert reason_of(answer) == (504, 4, "REQUEST_TIMEOUT")
        answer = httpx.post(
            f"{url}/mo.customers.v1.CustomerService/GetCustomer",
            content=b"\0\0\0\0\0",
            headers={"grpc-timeout": "100m", "content-type": "application/grpc-web+proto"},
        )
        assert (answer.status_code, answer.headers["grpc-status"]) == (200, "4")


def test_a_request_that_trickles_in_is_408(tmp_path: Path, silent_upstream: str) -> None:
    port = free_port()
    config = edge.render(Settings(mo_http_port=port, mo_grpc_port=int(silent_upstream.rsplit(":", 1)[1])))
    # Nobody waits a minute for a test.
    hurried = config.replace("max_stream_duration: 60s", "max_stream_duration: 0.2s")
    hurried = hurried.replace("request_headers_timeout: 10s", "request_headers_timeout: 0.2s")
    assert hurried != config
    (tmp_path / "hurried.yaml").write_text(hurried)
    command = [envoy_path(), "-c", str(tmp_path / "hurried.yaml"), "--disable-hot-restart", "-l", "error"]
    with running(command, {"MO_HTTP_PORT": str(port)}):
        for start in (b"POST /v1/customers", b"POST /v1/customers HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(start)
                answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b'"REQUEST_TIMEOUT"' in answer


def test_without_memory_left_calls_are_refused_in_the_same_shape(tmp_path: Path) -> None:
    port = free_port()
    config = edge.render(Settings(mo_http_port=port))
    # As much as it takes to be there.
    full = config.replace(f"max_heap_size_bytes: {1024 * 1024 * 1024}", "max_heap_size_bytes: 1048576")
    assert full != config
    (tmp_path / "full.yaml").write_text(full)
    command = [envoy_path(), "-c", str(tmp_path / "full.yaml"), "--disable-hot-restart", "-l", "off"]
    url = f"http://127.0.0.1:{port}/healthz"
    with started(command, {}, lambda: status_of(url) == 503):
        assert reason_of(httpx.get(url)) == (503, 14, "UPSTREAM_UNAVAILABLE")


def preflight(url: str, origin: str) -> httpx.Response:
    asks = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    return httpx.options(f"{url}/v1/customers", headers=asks)


def test_a_preflight_of_an_allowed_origin(open_edge: str) -> None:
    answer = preflight(open_edge, ORIGIN)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-credentials"] == "true"
    allowed = set(answer.headers["access-control-allow-headers"].split(", "))
    assert {"x-api-key", "idempotency-key", "content-type", "x-grpc-web", "grpc-timeout", "x-server-timing"} <= allowed
    assert {"GET", "POST", "PATCH"} <= set(answer.headers["access-control-allow-methods"].split(", "))


def test_an_allowed_origin_may_read_answers_refusals_included(open_edge: str) -> None:
    for path in ("/v1/customers", "/nope"):
        answer = httpx.get(open_edge + path, headers={"origin": ORIGIN})
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        exposed = set(answer.headers["access-control-expose-headers"].split(", "))
        assert {"idempotency-replayed", "grpc-status", "grpc-message", "x-request-id", "server-timing"} <= exposed


@pytest.mark.parametrize("origin", ["https://evil.example", f"{ORIGIN}.evil.example", "http://app.example", "null"])
def test_another_origin_gets_nothing(open_edge: str, origin: str) -> None:
    read = httpx.get(f"{open_edge}/v1/customers", headers={"origin": origin})
    for answer in (preflight(open_edge, origin), read):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_without_a_list_no_origin_gets_anything(lonely_edge: str) -> None:
    answer = preflight(lonely_edge, ORIGIN)
    assert reason_of(answer) == (404, 5, "ROUTE_NOT_FOUND")
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_admin_interface_is_there_only_when_asked_for(tmp_path: Path) -> None:
    port = free_port()
    with running_edge(tmp_path, f"127.0.0.1:{free_port()}", MO_EDGE_ADMIN_PORT=str(port)):
        eventually(lambda: status_of(f"http://127.0.0.1:{port}/ready") == 200, 20)


@pytest.mark.parametrize(("setting", "threads"), [("", max(1, (os.cpu_count() or 1) // 2)), ("3", 3)])
def test_the_number_of_threads(setting: str, threads: int, tmp_path: Path) -> None:
    port = free_port()
    with running_edge(tmp_path, f"127.0.0.1:{free_port()}", MO_EDGE_ADMIN_PORT=str(port), MO_EDGE_THREADS=setting):
        stats = httpx.get(f"http://127.0.0.1:{port}/stats?filter=^server.concurrency$")
        assert stats.text.strip() == f"server.concurrency: {threads}"
