"""A service behind a wire that can break, and what became of a call through it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from mo_grpc.db.embedded import SERVICE_ROLE, embedded_url
from tests.conftest import TLS, Stack, settings_environment
from tests.databases import owner
from tests.doors import Door, GrpcDoor, Json, Refused, RestDoor
from tests.faults.proxy import Fault, Plan, Proxy
from tests.servers import Server
from tests.waiting import eventually


@dataclass
class Faulty:
    """A server behind a wire that can break."""

    server: Server
    proxy: Proxy
    door: GrpcDoor

    def call(
        self, rpc: str, request: Json, key: str, statement: int, fault: Fault, *, door: Door | None = None, **plan: Any
    ) -> Json | Refused | None:
        """Call an RPC whose transaction goes wrong at a statement; None if it has no such statement."""
        self.proxy.plan = Plan(ids_of(request, key), statement, fault, **plan)
        through = door or self.door
        try:
            answer: Json | Refused = (through.keyed(key) if key else through)(rpc, **request)
        except Refused as refusal:
            answer = refusal
        fired, self.proxy.plan = self.proxy.plan.fired, None
        return answer if fired else None

    @contextmanager
    def edge(self, folder: Path) -> Iterator[RestDoor]:
        """Run an Envoy before the server."""
        host, _, port = self.server.address.rpartition(":")
        environment = settings_environment(folder, MO_EDGE_UPSTREAM_HOST=host, MO_GRPC_PORT=port)
        url = f"http://127.0.0.1:{environment['MO_HTTP_PORT']}"
        headers = dict(self.door.metadata)
        with (
            subprocess.Popen([sys.executable, "-m", "mo_grpc", "edge"], env=environment) as process,
            httpx.Client(base_url=url, headers=headers, timeout=30, verify=TLS) as client,
        ):
            try:
                eventually(lambda: is_ready(client), 30)
                yield RestDoor(client)
            finally:
                process.terminate()


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def through(proxy: Proxy, upstream: Path) -> str:
    """The URL of the service's database, through the proxy."""
    url = embedded_url(upstream, SERVICE_ROLE).set(drivername="postgresql").update_query_dict({"host": str(proxy.folder)})
    return url.render_as_string(hide_password=False)


def ids_of(request: Json, key: str = "") -> list[bytes]:
    """What the first statement of a call's transaction mentions: its key if it has one, else what it locks or makes."""
    return [external_id.encode() for external_id in re.findall(r"(?:customer|loan|payment|key)-\w+-\d+", f"{request} {key}")]


def effects(stack: Stack, request: Json) -> list[Any]:
    """What there is of the request's customer: score and version, loans, payments and what they paid, events."""
    ids = [external_id.decode() for external_id in ids_of(request)]
    statement = """
        WITH ours AS (
            SELECT id FROM customers WHERE external_id = ANY(%(ids)s)
            UNION SELECT customer_id FROM loans WHERE external_id = ANY(%(ids)s)
            UNION SELECT customer_id FROM payments WHERE external_id = ANY(%(ids)s)
        )
        SELECT score, version,
            ARRAY(SELECT (amount, outstanding, status)::text FROM loans WHERE customer_id = customers.id ORDER BY id),
            ARRAY(SELECT (total_amount, status)::text FROM payments WHERE customer_id = customers.id ORDER BY id),
            ARRAY(SELECT amount FROM payment_details WHERE customer_id = customers.id ORDER BY payment_id),
            ARRAY(SELECT (number, kind)::text FROM journal_events WHERE customer_id = customers.id ORDER BY number)
        FROM customers JOIN ours USING (id)
    """
    with owner(stack.data_dir) as connection:
        return connection.execute(statement, {"ids": ids}).fetchall()


def retried(keyed: Door, rpc: str, request: Json) -> Json:
    """Call again as a client does: as long as the service says that the first call still runs.

    It does until PostgreSQL has noticed that the connection of the first call has broken.
    """
    answers: list[Json] = []

    def answered() -> bool:
        try:
            answers.append(keyed(rpc, **request))
        except Refused as refused:
            if refused.reason != "IDEMPOTENCY_KEY_IN_FLIGHT":
                raise
        return bool(answers)

    eventually(answered, 10)
    return answers[0]


def acknowledged(door: Door, key: str, rpc: str, request: Json) -> bool:
    """Retry a call; whether it had taken effect before."""
    keyed = door.keyed(key)
    retried(keyed, rpc, request)
    return keyed.replayed
