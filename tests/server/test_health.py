"""Honest health: what is said to Kubernetes, load balancers and Envoy, and when."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.conftest import Stack, free_port
from tests.databases import connect, migrated_database
from tests.doors import GrpcDoor, refused
from tests.e2e.edges import EDGE, edge_environment, started, status_of
from tests.server.test_server import refuses_calls, told_to_go_on, watch
from tests.servers import NOT_SERVING, SERVING, Server, a_server
from tests.waiting import eventually
from tests.web.test_alone import the_pages
from tests.web.test_honeypot import inside

NAMES = ("", "mo.loans.v1.LoanService", "readiness", "startup", "liveness")
OLD, NEW, NEWER = "0030", "0050", "9999"


def says(server: Server) -> dict[str, bool]:
    found = {name: server.health(name) for name in NAMES}
    assert set(found.values()) <= {SERVING, NOT_SERVING}
    return {name: status == SERVING for name, status in found.items()}


@pytest.fixture(scope="module")
def own(stack: Stack) -> Iterator[Any]:
    """A database of these tests' own, whose schema may be of another age."""
    with migrated_database(stack.data_dir) as url:
        yield url


def lines(log: Path, event: str) -> list[dict[str, Any]]:
    return [line for each in log.read_text().splitlines() if (line := json.loads(each))["event"] == event]


def test_a_server_is_not_ready_on_an_older_schema_and_ready_on_its_own_and_on_a_newer_one(
    stack: Stack, own: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    url = own.set(drivername="postgresql").render_as_string(hide_password=False)

    def schema(revision: str) -> None:
        with connect(own) as connection:
            connection.execute("UPDATE alembic_version SET version_num = %s", (revision,))

    schema(OLD)
    with log.open("wb") as file, a_server(stack.environment, file, MO_DATABASE_URL=url, healthy="liveness") as server:
        assert says(server) == {
            "": False,
            "mo.loans.v1.LoanService": False,
            "readiness": False,
            "startup": False,
            "liveness": True,
        }
        eventually(lambda: bool(lines(log, "the schema is too old: run `mo-grpc migrate`")), 10)
        assert lines(log, "not ready")[-1]["missing"] == ["schema"]
        schema(NEW)
        eventually(lambda: all(says(server).values()), 10)
        assert lines(log, "ready")
    schema(NEWER)
    with log.open("wb") as file, a_server(stack.environment, file, MO_DATABASE_URL=url) as server:
        assert all(says(server).values())
        [warning] = lines(log, "the schema is newer than this version")
        assert (warning["schema"], warning["known"]) == (NEWER, NEW)
    schema(NEW)


def test_a_server_that_is_to_end_says_so_before_it_takes_no_more_calls(stack: Stack, over_grpc: GrpcDoor) -> None:
    with a_server(stack.environment, MO_DRAIN_DELAY_SECONDS="1.5") as server:
        door = GrpcDoor(server.channel, over_grpc.metadata)
        watched = watch(server.channel, "readiness")
        assert next(watched).status == SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watched).status == NOT_SERVING
        assert says(server) == {
            "": False,
            "mo.loans.v1.LoanService": False,
            "readiness": False,
            "startup": True,
            "liveness": True,
        }
        assert "customers" in door("customers.ListCustomers", page_size=1)
        eventually(lambda: refuses_calls(door), 10)
        with pytest.raises(grpc.RpcError) as ended:
            next(watched)
        assert told_to_go_on(refused(ended.value))
        assert server.process.wait(10) == 0


def test_so_does_the_edge(stack: Stack, tmp_path: Path) -> None:
    host = stack.grpc_address
    environment = edge_environment(tmp_path, host, MO_DRAIN_DELAY_SECONDS="1.5", MO_HTTP_PORT=str(free_port()))
    url = f"http://127.0.0.1:{environment['MO_HTTP_PORT']}"
    with started(EDGE, environment, lambda: status_of(f"{url}/readyz") == 200) as process:
        process.send_signal(signal.SIGTERM)
        eventually(lambda: status_of(f"{url}/readyz") == 503, 10)
        answer = httpx.get(f"{url}/v1/customers", headers={"x-api-key": stack.api_key})
        assert answer.status_code == 200
        assert process.wait(20) == 0


def test_the_pages_say_how_they_are(stack: Stack, tmp_path: Path) -> None:
    with inside(stack, "127.0.0.1") as client:
        for path in ("/healthz", "/readyz"):
            answer = client.get(path)
            assert (answer.status_code, answer.text, answer.headers["cache-control"]) == (200, "ok\n", "no-store")
    nowhere = f"postgresql://mo_service@127.0.0.1:{free_port()}/mo"
    with the_pages(stack, tmp_path, MO_DATABASE_URL=nowhere) as visitor:
        assert visitor.get("/healthz").status_code == 200
        answer = visitor.get("/readyz")
        assert (answer.status_code, answer.text) == (503, "not ready: database, gRPC server\n")
