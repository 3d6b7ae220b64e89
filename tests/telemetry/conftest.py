"""Servers whose traces the tests receive."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import trustme

from mo_grpc.config import Settings
from mo_grpc.process.sockets import web_socket, worker_socket
from tests.commands import COMMANDS
from tests.conftest import Stack, free_port
from tests.doors import GrpcDoor, RestDoor
from tests.faults.service import is_ready
from tests.servers import Server, a_server
from tests.telemetry.receiver import Receiver, receiving
from tests.waiting import TO_START, eventually


@dataclass
class Traced:
    """A server, and who receives its traces."""

    server: Server
    receiver: Receiver
    direct: GrpcDoor
    """Its port."""
    private: GrpcDoor
    """Its private socket, which only the edge and the web server reach."""


def at(folder: Path) -> Settings:
    return Settings.model_validate({"mo_data_dir": folder})


@contextmanager
def traced_server(stack: Stack, folder: Path, receiver: Receiver, **settings: str) -> Iterator[Traced]:
    """Run a server over the stack's database."""
    socket = worker_socket(at(folder), 0)
    metadata = (("x-api-key", stack.api_key),)
    with (
        (folder / "log").open("wb") as log,
        a_server(stack.environment, log, MO_DATA_DIR=str(folder), **settings) as server,
        grpc.insecure_channel(f"unix:{socket}") as channel,
    ):
        yield Traced(server, receiver, GrpcDoor(server.channel, metadata), GrpcDoor(channel, metadata))


@dataclass
class Behind(Traced):
    """The same, behind an edge."""

    rest: RestDoor


@pytest.fixture(scope="module")
def all_traced(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    """An edge and a server that trace everything, and send it over TLS."""
    folder = tmp_path_factory.mktemp("traced")
    authority, port = trustme.CA(), free_port()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    leaf = authority.issue_cert("localhost")
    credentials = grpc.ssl_server_credentials([(leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes())])
    settings = {
        "MO_TRACES_ENDPOINT": f"https://localhost:{port}",
        "MO_TRACES_SAMPLE_RATIO": "1",
        "MO_HTTP_PORT": str(free_port()),
        "SSL_CERT_FILE": str(folder / "ca.pem"),
    }
    with (
        receiving(port, credentials) as receiver,
        traced_server(stack, folder, receiver, **settings) as traced,
        httpx.Client(
            base_url=f"http://127.0.0.1:{settings['MO_HTTP_PORT']}", headers={"x-api-key": stack.api_key}, timeout=30
        ) as client,
    ):
        edge = COMMANDS.start_beside(stack.environment | settings | {"MO_DATA_DIR": str(folder), "MO_WORKERS": "1"}, "edge")
        web_socket(at(folder)).symlink_to(web_socket(at(stack.data_dir)))
        try:
            eventually(lambda: is_ready(client), TO_START)
            yield Behind(traced.server, receiver, traced.direct, traced.private, RestDoor(client))
        finally:
            edge.send_signal(15)
            assert edge.wait(60) == 0


@pytest.fixture(scope="module")
def none_traced(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """A server that traces nothing on its own account."""
    port = free_port()
    settings = {"MO_TRACES_ENDPOINT": f"http://localhost:{port}", "MO_TRACES_SAMPLE_RATIO": "0"}
    with (
        receiving(port) as receiver,
        traced_server(stack, tmp_path_factory.mktemp("traced"), receiver, **settings) as traced,
    ):
        yield traced
