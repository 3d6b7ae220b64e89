"""The edge's connections to what is behind it: several servers of which one dies, and pages that nobody asks for a while."""

import re
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from mo_grpc.config import Settings
from mo_grpc.edge.configuration import render
from mo_grpc.edge.process import envoy_path
from mo_grpc.web.serve import configuration
from tests.conftest import TLS, Stack, free_port
from tests.doors import GrpcDoor
from tests.e2e.edges import running, status_of
from tests.factories import new_id
from tests.server.test_server import refuses_calls
from tests.servers import a_server
from tests.waiting import eventually


class Edge:
    """An Envoy of a test's own, with its admin interface."""

    def __init__(self, url: str, admin: str) -> None:
        self.url = url
        self._admin = admin

    def ask(self, path: str) -> str:
        return httpx.get(self._admin + path, verify=TLS).raise_for_status().text

    def count(self, name: str) -> int:
        """One of its statistics."""
        return int(self.ask(f"/stats?filter=^{name}$").rpartition(":")[2] or 0)


@contextmanager
def an_edge(folder: Path, settings: dict[str, object], hurry: tuple[str, str] = ("", "")) -> Iterator[Edge]:
    """Run Envoy with the configuration of these settings, in which one value may be another one."""
    port, admin_port = free_port(), free_port()
    config = render(Settings.model_validate(settings | {"mo_http_port": port, "mo_edge_admin_port": admin_port}))
    assert hurry[0] in config
    path = folder / "envoy.yaml"
    path.write_text(config.replace(*hurry) if hurry[0] else config, encoding="utf-8")
    command = [envoy_path(), "-c", str(path), "--disable-hot-restart", "--concurrency", "1", "-l", "error"]
    with running(command, {"MO_HTTP_PORT": str(port)}) as url:
        yield Edge(url, f"http://127.0.0.1:{admin_port}")


def calls_by_host(edge: Edge) -> Counter[str]:
    """How many calls each server behind the edge has had."""
    found = re.findall(r"^grpc::([^:]+):\d+::rq_total::(\d+)$", edge.ask("/clusters"), re.MULTILINE)
    return Counter({host: int(count) for host, count in found})


def test_calls_over_rest_go_on_when_one_of_two_servers_dies(stack: Stack, tmp_path: Path) -> None:
    port = stack.grpc_address.rpartition(":")[2]
    hosts = {"mo_edge_upstream_host": "127.0.0.2,127.0.0.1", "mo_grpc_port": port, "mo_data_dir": stack.data_dir}
    with (
        a_server(stack.environment, MO_GRPC_HOST="127.0.0.2", MO_GRPC_PORT=port) as server,
        an_edge(tmp_path, hosts) as edge,
        httpx.Client(base_url=edge.url, headers={"x-api-key": stack.api_key}, timeout=30, verify=TLS) as client,
    ):

        def call() -> int:
            return client.get("/v1/customers", params={"page_size": 1}).status_code

        eventually(lambda: edge.count("cluster.grpc.membership_healthy") == 2, 30)
        eventually(lambda: call() == 200 and min(calls_by_host(edge).values()) > 1, 30)
        server.process.kill()
        server.process.wait()
        before = calls_by_host(edge)
        assert {call() for _ in range(20)} == {200}
        eventually(lambda: edge.count("cluster.grpc.membership_healthy") == 1, 30)
        assert client.post("/v1/customers", json={"external_id": new_id("customer"), "score": "1"}).status_code == 200
        assert calls_by_host(edge)["127.0.0.1"] >= before["127.0.0.1"] + 21


def test_a_server_that_ends_takes_calls_until_the_edge_sends_no_more(stack: Stack, over_grpc: GrpcDoor, tmp_path: Path) -> None:
    with a_server(stack.environment) as server:
        host, _, port = server.address.partition(":")
        door = GrpcDoor(server.channel, over_grpc.metadata)
        with an_edge(tmp_path, {"mo_edge_upstream_host": host, "mo_grpc_port": port}) as edge:
            eventually(lambda: edge.count("cluster.grpc.membership_healthy") == 1, 30)
            server.process.send_signal(signal.SIGTERM)
            eventually(lambda: refuses_calls(door), 30)
            assert edge.count("cluster.grpc.membership_healthy") == 0
            assert server.process.wait(30) == 0


def idle_seconds_of_the_edge(stack: Stack) -> float:
    """For how long the stack's Envoy keeps an unused connection to the pages, as it says itself."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(stack.data_dir / "run/edge.sock")), verify=TLS) as admin:
        dump = admin.get("http://edge/config_dump", params={"resource": "static_clusters"}).raise_for_status()
    [web] = [found["cluster"] for found in dump.json()["configs"] if found["cluster"]["name"] == "web"]
    [options] = web["typed_extension_protocol_options"].values()
    return float(options["common_http_protocol_options"]["idle_timeout"].removesuffix("s"))


def test_the_pages_keep_idle_connections_longer_than_the_edge_uses_them(stack: Stack) -> None:
    assert configuration(Settings(mo_data_dir=stack.data_dir)).timeout_keep_alive >= 2 * idle_seconds_of_the_edge(stack)


def test_an_idle_connection_to_the_pages_is_ended_by_the_edge(stack: Stack, tmp_path: Path) -> None:
    hurry = ("common_http_protocol_options: { idle_timeout: 30s }", "common_http_protocol_options: { idle_timeout: 0.2s }")
    with an_edge(tmp_path, {"mo_data_dir": stack.data_dir}, hurry) as edge:
        page = f"{edge.url}/openapi.json"
        eventually(lambda: status_of(page) == 200, 30)
        for idle in (1, 2):
            eventually(lambda ended=idle: edge.count("cluster.web.upstream_cx_idle_timeout") == ended, 10)  # type: ignore[misc]
            assert edge.count("cluster.web.upstream_cx_destroy_remote") == 0
            assert status_of(page) == 200


def test_a_page_whose_connection_ends_at_the_moment_of_its_use_is_asked_for_again(tmp_path: Path) -> None:
    page = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    requests = Counter[str]()

    def answer(connection: socket.socket) -> None:
        """Answer one request, and end at the next."""
        with connection:
            for reply in (page, b""):
                if head := connection.recv(65536):
                    requests[head.partition(b" ")[0].decode()] += 1
                    connection.sendall(reply)

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threads.submit(answer, server.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(8) as threads:
        threads.submit(serve, server)
        web = {"mo_edge_web_host": "127.0.0.1", "mo_web_port": server.getsockname()[1]}
        with an_edge(tmp_path, web) as edge:
            assert [status_of(f"{edge.url}/openapi.json") for _ in range(5)] == [200] * 5
        server.shutdown(socket.SHUT_RDWR)
    assert requests["GET"] > 5
