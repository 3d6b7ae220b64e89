"""The doors, opened with a key that has the scopes of webhooks, too, which no key has unless it is given them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
import trustme
from sqlalchemy import URL

from mo_grpc.auth.api_keys.rules import BUSINESS_SCOPES
from tests.conftest import KEY, TLS, Stack, run_cli
from tests.databases import connect, migrated_database
from tests.doors import GrpcDoor, RestDoor
from tests.servers import Server, a_server
from tests.webhooks.receiver import Receiver, a_receiver

SCOPES = [f"--scope={scope}" for scope in (*BUSINESS_SCOPES, "webhooks:read", "webhooks:write")]


@pytest.fixture(scope="module")
def webhook_key(stack: Stack) -> str:
    return stack.cli("keys", "create", "webhooks", *SCOPES).stdout.strip()


@pytest.fixture
def over_grpc(grpc_channel: grpc.Channel, webhook_key: str) -> GrpcDoor:
    return GrpcDoor(grpc_channel, (("x-api-key", webhook_key),))


@pytest.fixture
def over_rest(stack: Stack, webhook_key: str) -> Iterator[RestDoor]:
    headers = {"x-api-key": webhook_key}
    with httpx.Client(base_url=stack.http_url, headers=headers, timeout=30, verify=TLS) as client:
        yield RestDoor(client)


@dataclass
class Own:
    """A database of a module's own with servers over it: the stack's would send its events, and may call no receiver here."""

    url: URL
    environment: dict[str, str]
    api_key: str
    authority: trustme.CA
    """Which the servers trust."""

    @contextmanager
    def server(self, **settings: str) -> Iterator[tuple[Server, GrpcDoor]]:
        with a_server(self.environment, MO_DATABASE_URL=self.environment["MO_DATABASE_URL"], **settings) as server:
            yield server, GrpcDoor(server.channel, (("x-api-key", self.api_key),))

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement as the owner of the schema."""
        with connect(self.url) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def hurry(self, *, claimed: bool = False) -> None:
        """Let the time pass until everything that waits is due; also what a process has claimed, which may have been killed."""
        self.sql("UPDATE webhook_deliveries SET next_at = now() WHERE next_at > now() AND (claim IS NULL OR %s)", claimed)


@pytest.fixture(scope="module")
def own(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    authority = trustme.CA()
    certificates = tmp_path_factory.mktemp("certificates") / "ca.pem"
    authority.cert_pem.write_to_path(str(certificates))
    with migrated_database(stack.data_dir) as url:
        text = url.set(drivername="postgresql").render_as_string(hide_password=False)
        environment = stack.environment | {"MO_DATABASE_URL": text, "MO_WEBHOOK_ALLOW_PRIVATE": "true"}
        environment["SSL_CERT_FILE"] = str(certificates)
        [api_key] = KEY.findall(run_cli(environment, "keys", "create", "webhooks", *SCOPES, "--scope=events:read").stdout)
        yield Own(url, environment, api_key, authority)


@pytest.fixture(scope="module")
def own_door(own: Own) -> Iterator[GrpcDoor]:
    with own.server() as (_, door):
        yield door


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with a_receiver() as receiver:
        yield receiver
