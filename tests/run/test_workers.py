import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import TLS, Stack, free_port, run_cli
from tests.db.test_embedded import alive
from tests.doors import GrpcDoor, Json
from tests.e2e.edges import EDGE, running
from tests.factories import new_id
from tests.run.test_up import children, cmdline, signal_to
from tests.waiting import eventually


@contextmanager
def a_server(stack: Stack, data_dir: Path, **settings: str) -> Iterator["subprocess.Popen[str]"]:
    """`mo-grpc serve` with three workers over the stack's database; killed if the test did not end it."""
    environment = stack.environment | {"MO_DATABASE_URL": stack.database_url, "MO_DATA_DIR": str(data_dir), "MO_WORKERS": "3"}
    command = [sys.executable, "-m", "mo_grpc", "serve"]
    process = subprocess.Popen(command, env=environment | settings, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def handling(number: signal.Signals, how: signal.Handlers) -> Iterator[None]:
    """Let those that are started meanwhile inherit how a signal is handled."""
    before = signal.signal(number, how)
    try:
        yield
    finally:
        signal.signal(number, before)


def workers(process: "subprocess.Popen[Any]") -> set[int]:
    return {child for child in children(process.pid) if b"--worker" in cmdline(child)}


def healthy(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def sockets(data_dir: Path) -> list[str]:
    return [f"unix:{path}" for path in sorted((data_dir / "run").glob("grpc-*.sock"))]


def test_each_worker_serves_and_a_dead_one_is_replaced(stack: Stack, tmp_path: Path) -> None:
    port = free_port()
    with a_server(stack, tmp_path, MO_GRPC_PORT=str(port)) as server:
        eventually(lambda: len(sockets(tmp_path)) == 3 and all(map(healthy, sockets(tmp_path))), 60)
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
        before = workers(server)
        assert len(before) == 3
        killed = before.pop()
        signal_to(killed, signal.SIGKILL)
        eventually(lambda: len(workers(server) - {killed}) == 3, 30)
        eventually(lambda: all(map(healthy, sockets(tmp_path))), 60)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            door = GrpcDoor(channel, (("x-api-key", stack.api_key),))
            assert "customers" in door("customers.ListCustomers", page_size=1)
        after = workers(server)
        assert before < after
        server.terminate()
        _, log = server.communicate(timeout=60)
    assert server.returncode == 0
    assert not [pid for pid in after if alive(pid)]
    assert log.count('"event": "stopped"') == 3
    assert "worker died" in log


def test_a_worker_that_dies_again_and_again_waits_longer_each_time_while_the_others_serve(stack: Stack, tmp_path: Path) -> None:
    with a_server(stack, tmp_path, MO_GRPC_PORT=str(free_port()), MO_WORKERS="2") as server:
        eventually(lambda: len(ready(tmp_path)) == 2, 60)
        kept = min(workers(server))
        for _ in range(3):
            [victim] = workers(server) - {kept}
            signal_to(victim, signal.SIGKILL)
            eventually(lambda gone=victim: len(workers(server) - {gone}) == 2, 30)  # type: ignore[misc]
        # The third in a row that never served: the one that serves is no worse for it.
        [victim] = workers(server) - {kept}
        signal_to(victim, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{victim}").exists(), 30)  # its death is noticed
        assert kept in workers(server)
        assert ready(tmp_path)
        server.terminate()
        _, log = server.communicate(timeout=60)
    assert server.returncode == 0
    assert [line["pause"] for line in lines(log) if line["event"] == "worker died"] == [1, 2, 4, 8]


def ready(data_dir: Path) -> list[str]:
    """The sockets at which somebody serves."""
    return [socket for socket in sockets(data_dir) if healthy(socket)]


def lines(log: str) -> list[Json]:
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def test_a_worker_that_is_to_go_has_a_successor_before_and_no_call_over_rest_is_lost(stack: Stack, tmp_path: Path) -> None:
    environment = stack.environment | {"MO_DATABASE_URL": stack.database_url, "MO_DATA_DIR": str(tmp_path), "MO_WORKERS": "1"}
    environment |= {"MO_GRPC_PORT": str(free_port()), "MO_HTTP_PORT": str(free_port())}
    with (
        a_server(stack, tmp_path, **environment) as server,
        running(EDGE, environment) as url,
        httpx.Client(base_url=url, headers={"x-api-key": stack.api_key}, timeout=30, verify=TLS) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        eventually(lambda: client.get("/readyz").status_code == 200, 60)
        [old] = workers(server)
        over = threading.Event()

        def call() -> list[str]:
            """Call until all is over; answers what was lost."""
            lost: list[str] = []
            while not over.is_set():
                answers = (
                    client.post("/v1/customers", json={"external_id": new_id("customer"), "score": "1"}),
                    client.get("/v1/customers", params={"page_size": 1}),
                )
                lost += [answer.text for answer in answers if answer.status_code != 200]
            return lost

        calls = [threads.submit(call) for _ in range(8)]
        signal_to(old, signal.SIGTERM)
        try:
            eventually(lambda: not alive(old), 60)
        finally:
            over.set()
        assert [lost for each in calls for lost in each.result(30)] == []
        [new] = workers(server)
        assert new != old
        server.terminate()
        _, log = server.communicate(timeout=60)
    assert server.returncode == 0
    assert "worker died" not in log


@pytest.mark.parametrize("hang_up", [signal.SIG_DFL, signal.SIG_IGN], ids=["from a shell", "by nohup"])
def test_workers_end_with_a_killed_parent(stack: Stack, tmp_path: Path, hang_up: signal.Handlers) -> None:
    with handling(signal.SIGHUP, hang_up), a_server(stack, tmp_path, MO_GRPC_PORT=str(free_port())) as server:
        eventually(lambda: len(workers(server)) == 3, 60)
        orphans = workers(server)
        server.kill()
        eventually(lambda: not [pid for pid in orphans if alive(pid)], 30)


def test_a_worker_that_cannot_live_is_given_up(stack: Stack, tmp_path: Path) -> None:
    # Each worker finds a folder where its socket should be.
    for number in range(4):
        (tmp_path / f"run/grpc-{number}.sock/in-the-way").mkdir(parents=True)
    (tmp_path / "run").chmod(0o700)
    with a_server(stack, tmp_path, MO_GRPC_PORT=str(free_port()), MO_WORKERS="2") as server:
        _, log = server.communicate(timeout=100)
    assert server.returncode == 1
    assert "3 times in a row" in log.splitlines()[-1]


def test_a_folder_of_others_is_not_used_for_sockets(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    (tmp_path / "run").chmod(0o755)
    with a_server(stack, tmp_path, MO_GRPC_PORT=str(free_port())) as server:
        _, log = server.communicate(timeout=60)
    assert server.returncode == 1
    assert "is not a folder of this user alone" in log


@pytest.mark.parametrize("count", ["1", "3"])
def test_a_port_that_others_use_is_not_shared(stack: Stack, tmp_path: Path, count: str) -> None:
    port = stack.grpc_address.rpartition(":")[2]
    with a_server(stack, tmp_path, MO_GRPC_PORT=port, MO_WORKERS=count) as server:
        _, log = server.communicate(timeout=60)
    assert server.returncode == 1
    assert f"Port {port} of 127.0.0.1 cannot be used" in log.splitlines()[-1]


def test_two_servers_do_not_share_a_data_folder(stack: Stack, tmp_path: Path) -> None:
    with a_server(stack, tmp_path, MO_GRPC_PORT=str(free_port()), MO_WORKERS="1"):
        eventually(lambda: any(map(healthy, sockets(tmp_path))), 60)
        with a_server(stack, tmp_path, MO_GRPC_PORT=str(free_port()), MO_WORKERS="1") as second:
            _, log = second.communicate(timeout=60)
        assert second.returncode == 1
        assert "runs with the data folder" in log.splitlines()[-1]
        assert all(map(healthy, sockets(tmp_path)))


def test_envoy_reaches_every_worker(stack: Stack) -> None:
    """The stack runs a worker a core; each has its own socket in Envoy's configuration, however long the path."""
    shown = stack.cli("edge", "--print").stdout
    assert shown.count("grpc-0.sock") == 1
    long = {"MO_DATA_DIR": "/tmp/" + "long-" * 30, "MO_WORKERS": "2"}
    done = run_cli(stack.environment | long, "edge", "--print")
    paths = [
        line.partition('path: "')[2].partition('"')[0]
        for line in done.stdout.splitlines()
        if "/grpc-" in line and "pipe:" in line
    ]
    assert len(paths) == 3
    assert all(len(path) < 100 for path in paths)
