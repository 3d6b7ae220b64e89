"""A service to compare with the model: a database of its own whose clock stands still, a server, and an Envoy."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import URL, make_url

from tests.conftest import KEY, TLS, Stack, free_port, run_cli
from tests.databases import Connection, as_text, connect, migrated_database
from tests.doors import Door, GrpcDoor, RestDoor
from tests.e2e.edges import running_edge, started
from tests.servers import SERVING

PROGRAM = (sys.executable, "-P", "-m", "mo_grpc")
BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
CALLERS = ("first", "second")
DOORS = ("grpc", "rest")

CLOCK = """
    CREATE TABLE model_clock (at timestamptz NOT NULL);
    GRANT SELECT ON model_clock TO mo_service;
    INSERT INTO model_clock VALUES ('2030-01-01T00:00:00Z');
    CREATE OR REPLACE FUNCTION mo_clock() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN (SELECT at FROM model_clock)
"""


@dataclass
class Laboratory:
    """The service, its doors by kind and caller, and its clock."""

    url: URL
    doors: dict[tuple[str, str], Door]
    connection: Connection
    now: datetime = BEGIN

    def set_clock(self, now: datetime) -> None:
        self.now = now
        self.connection.execute("UPDATE model_clock SET at = %s", [now])

    def step_clock(self, step: timedelta) -> None:
        self.set_clock(self.now + step)

    def settled(self) -> bool:
        """Whether each event has a position."""
        unread = "SELECT position = (SELECT count(*) FROM journal_events) FROM journal_head"
        return bool((self.connection.execute(unread).fetchone() or (False,))[0])


def unmeasured(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a process that is not measured for coverage, which takes most of its time."""
    return {name: value for name, value in environment.items() if not name.startswith("COV")}


def service_url(stack: Stack, url: URL) -> str:
    """Another database of the stack's, as the service logs in."""
    return as_text(make_url(stack.database_url).set(database=url.database))


def serves(channel: grpc.Channel) -> bool:
    try:
        stub = health_pb2_grpc.HealthStub(channel)
        return bool(stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING)
    except grpc.RpcError:
        return False


@contextmanager
def a_worker(environment: dict[str, str], log: Path) -> Iterator[grpc.Channel]:
    """A server of one process, on the port that its environment says."""
    with (
        log.open("wb") as stderr,
        grpc.insecure_channel(f"127.0.0.1:{environment['MO_GRPC_PORT']}") as channel,
        started([*PROGRAM, "serve", "--worker", "0"], environment, lambda: serves(channel), stderr),
    ):
        yield channel


@contextmanager
def a_laboratory(stack: Stack, folder: Path) -> Iterator[Laboratory]:
    """Start it, in a folder of its own."""
    with ExitStack() as stay:
        url = stay.enter_context(migrated_database(stack.data_dir))
        environment = unmeasured(stack.environment) | {"MO_DATABASE_URL": as_text(url)}
        connection = stay.enter_context(connect(url, autocommit=True))
        connection.execute(CLOCK)
        own = {"MO_GRPC_PORT": str(free_port()), "MO_DATABASE_URL": service_url(stack, url), "MO_DATA_DIR": str(folder)}
        environment |= own
        channel = stay.enter_context(a_worker(environment, folder / "server.log"))
        edge = stay.enter_context(running_edge(folder, f"127.0.0.1:{own['MO_GRPC_PORT']}"))
        doors: dict[tuple[str, str], Door] = {}
        for caller in CALLERS:
            [api_key] = KEY.findall(run_cli(environment, "keys", "create", caller).stdout)
            client = stay.enter_context(httpx.Client(base_url=edge, headers={"x-api-key": api_key}, timeout=30, verify=TLS))
            doors["rest", caller] = RestDoor(client)
            doors["grpc", caller] = GrpcDoor(channel, (("x-api-key", api_key),))
        yield Laboratory(url, doors, connection)
