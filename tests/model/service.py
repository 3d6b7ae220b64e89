"""A service that can be broken while it is called: a PostgreSQL of its own, two workers, and an Envoy."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import grpc
import httpx

from mo_grpc.db.embedded import EmbeddedPostgres, embedded_url
from mo_grpc.process.children import stop
from tests.conftest import KEY, TLS, run_cli, settings_environment
from tests.databases import connect
from tests.doors import Door, GrpcDoor, RestDoor
from tests.e2e.edges import running_edge
from tests.model.laboratory import PROGRAM, serves, unmeasured
from tests.run.test_workers import workers
from tests.waiting import TO_START, eventually

TIMEOUT = 10
"""Seconds until a client gives a call up."""


@dataclass
class Service:
    """The service, and what can happen to it."""

    data_dir: Path
    process: "subprocess.Popen[bytes]"
    postgres: EmbeddedPostgres
    address: str
    url: str
    api_key: str

    def kill_worker(self, rng: Random) -> None:
        """Kill one of the two workers; the other goes on, and a new one comes."""
        os.kill(rng.choice(sorted(workers(self.process))), signal.SIGKILL)

    def kill_postgres(self, _: Random) -> None:
        """Kill PostgreSQL, and start it again."""
        self.postgres.process.kill()
        self.postgres.process.wait(10)
        self.postgres.stop()
        self.postgres = EmbeddedPostgres(self.data_dir)
        self.postgres.start()

    def cut_connections(self, _: Random) -> None:
        """End all sessions of the service in PostgreSQL."""
        with connect(embedded_url(self.data_dir), autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mo_service'")

    def wait_until_ready(self) -> None:
        """Wait until it serves again, as a client that retries does."""
        with grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            eventually(lambda: serves(channel), TO_START)
        eventually(lambda: httpx.get(f"{self.url}/readyz", verify=TLS).status_code == 200, TO_START)

    @contextmanager
    def door(self, kind: str) -> Iterator[Door]:
        """A client's own way in, with a connection of its own."""
        headers = {"x-api-key": self.api_key}
        with ExitStack() as stay:
            if kind == "rest":
                client = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT, verify=TLS)
                yield RestDoor(stay.enter_context(client))
            else:
                options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100)]
                channel = stay.enter_context(grpc.insecure_channel(self.address, options=options))
                yield GrpcDoor(channel, tuple(headers.items()), TIMEOUT)

    def settled(self) -> bool:
        """Whether each event has a position."""
        unread = "SELECT position = (SELECT count(*) FROM journal_events) FROM journal_head"
        with connect(embedded_url(self.data_dir)) as connection:
            return bool((connection.execute(unread).fetchone() or (False,))[0])


@contextmanager
def a_service(folder: Path) -> Iterator[Service]:
    """Start it, in a folder of its own."""
    data_dir = folder / "data"
    environment = unmeasured(settings_environment(data_dir, MO_WORKERS="2"))
    with ExitStack() as stay:
        postgres = EmbeddedPostgres(data_dir)
        postgres.start()
        run_cli(environment, "migrate")
        [api_key] = KEY.findall(run_cli(environment, "keys", "create", "crowd").stdout)
        log = stay.enter_context((folder / "server.log").open("wb"))
        process = subprocess.Popen([*PROGRAM, "serve"], env=environment, stderr=log)
        address = f"127.0.0.1:{environment['MO_GRPC_PORT']}"
        edge = stay.enter_context(running_edge(folder, address))
        service = Service(data_dir, process, postgres, address, edge, api_key)
        stay.callback(lambda: service.postgres.stop())
        stay.callback(stop, process, signal.SIGTERM, 30)
        service.wait_until_ready()
        yield service
