"""One server behind a wire that can break, for all tests of faults."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mo_grpc.db.embedded import embedded_url
from tests.conftest import Stack
from tests.doors import GrpcDoor
from tests.faults.proxy import Proxy, a_proxy
from tests.faults.service import Faulty, through
from tests.servers import a_server


@pytest.fixture(scope="package")
def wire(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with a_proxy(tmp_path_factory.mktemp("wire"), Path(str(embedded_url(stack.data_dir).query["host"]))) as proxy:
        yield proxy


@pytest.fixture(scope="package")
def faulty(stack: Stack, wire: Proxy) -> Iterator[Faulty]:
    with a_server(stack.environment, MO_DATABASE_URL=through(wire, stack.data_dir)) as server:
        yield Faulty(server, wire, GrpcDoor(server.channel, (("x-api-key", stack.api_key),)))
    stack.cli("audit")  # after all that, the books are right
