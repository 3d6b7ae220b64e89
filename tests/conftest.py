"""The whole service, started once as its users start it: `mo-grpc up`, with real PostgreSQL and real Envoy."""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from mo_grpc.db.embedded import SERVICE_ROLE, embedded_url
from tests import factories, secrets
from tests.commands import COMMANDS
from tests.doors import Door, GrpcDoor, RestDoor
from tests.model import rounds

KEY = re.compile(r"mo_[0-9A-Za-z]{12}_[0-9A-Za-z]{38}")
# Made once: reading the authorities for each client, who never uses them, takes longer than most tests.
TLS = ssl.create_default_context()
ORIGIN = "https://shop.example"

# The files that take longest, by `make test ARGS=--durations=0`. They are begun first, so that they end together with the rest.
# The very first reads the whole journal, again and again: while it is short.
LONGEST = (
    "journal/test_events_guide.py",
    "run/test_up.py",
    "faults/test_faults.py",
    "run/test_workers.py",
    "auth/api_keys/test_limits.py",
    "imports/test_import_runs.py",
    "db/test_embedded.py",
    "model/",
    "web/",
    "demo/",
    "audit_log/",
    "process/",
    "faults/",
    "server/",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    rounds.add_options(parser)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((place for place, begin in enumerate(LONGEST) if path.startswith(begin)), len(LONGEST))

    items.sort(key=place)


# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def free_port() -> int:
    """A port that nothing listens on right now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass(frozen=True)
class Stack:
    """A running service, and how to reach it."""

    data_dir: Path
    environment: dict[str, str]
    api_key: str
    grpc_address: str
    http_url: str
    greeting: str
    metrics_url: str
    edge_metrics_url: str

    @property
    def database_url(self) -> str:
        """Its PostgreSQL, as the service logs in, for a process with another data folder."""
        return embedded_url(self.data_dir, SERVICE_ROLE).set(drivername="postgresql").render_as_string(hide_password=False)

    def cli(self, *arguments: str, check: bool = True, given: str = "") -> "subprocess.CompletedProcess[str]":
        """Run `mo-grpc` with this service's settings."""
        return run_cli(self.environment, *arguments, check=check, given=given)


def run_cli(
    environment: dict[str, str], *arguments: str, check: bool = True, given: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run `mo-grpc` with these settings, and `given` at its standard input."""
    done = COMMANDS.run(environment, arguments, given)
    if check:
        assert done.returncode == 0, done
    for key in KEY.findall(done.stdout):
        secrets.used(key)
    return done


@pytest.fixture(scope="session", autouse=True)
def end_of_commands() -> Iterator[None]:
    """Ends what runs the commands, after all else."""
    yield
    COMMANDS.end()


def settings_environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """The environment of a service of its own: free ports, its own data folder, no setting from outside."""
    ours = {
        "MO_DATA_DIR": str(data_dir),
        "MO_GRPC_PORT": str(free_port()),
        "MO_HTTP_PORT": str(free_port()),
        "MO_WORKERS": "1",
        # The least that there is, because tests log in often.
        "MO_PASSWORD_MEMORY_KIB": "1024",
        "MO_PASSWORD_PASSES": "1",
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MO_", "DATABASE_", "CORS_", "API_KEY"))}
    return kept | ours | settings


def read_greeting(process: "subprocess.Popen[str]") -> str:
    """What `up` prints until it is ready: everything up to the curl line."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.lstrip().startswith("curl"):
            return "".join(lines)
    raise AssertionError(f"`mo-grpc up` ended with {process.wait()}: {''.join(lines)}")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The service that most tests share."""
    data_dir = tmp_path_factory.mktemp("stack")
    environment = settings_environment(
        data_dir, MO_WORKERS="2", CORS_ALLOWED_ORIGINS=ORIGIN, MO_ACCESS_LOG="stdout", MO_LOG_LEVEL="debug"
    )
    # Of the run alone: servers beside it would answer at the same port.
    telemetry = {"MO_TELEMETRY": "1", "MO_METRICS_PORT": str(free_port()), "MO_EDGE_METRICS_PORT": str(free_port())}
    process = subprocess.Popen(
        [sys.executable, "-m", "mo_grpc", "up"],
        env=environment | telemetry,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        greeting = read_greeting(process)
        found = KEY.search(greeting)
        assert found, greeting
        # For servers with another data folder: events are sealed with it.
        environment["SECRET_KEY"] = (data_dir / "secret.key").read_text()
        for secret in (found[0], environment["SECRET_KEY"]):
            secrets.used(secret)
        yield Stack(
            data_dir=data_dir,
            environment=environment,
            api_key=found[0],
            grpc_address=f"127.0.0.1:{environment['MO_GRPC_PORT']}",
            http_url=f"http://127.0.0.1:{environment['MO_HTTP_PORT']}",
            greeting=greeting,
            metrics_url=f"http://127.0.0.1:{telemetry['MO_METRICS_PORT']}/metrics",
            edge_metrics_url=f"http://127.0.0.1:{telemetry['MO_EDGE_METRICS_PORT']}/stats/prometheus",
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert secrets.shown_in(data_dir / "log") == []
    assert factories.named_in(data_dir / "log") == []


# pytest-grpc's fixtures, over the server of the stack instead of one of its own.


@pytest.fixture(scope="module")
def grpc_addr(stack: Stack) -> str:
    return stack.grpc_address


@pytest.fixture(scope="module")
def grpc_server(stack: Stack) -> None:
    """Running already."""


@pytest.fixture
def rest(stack: Stack) -> Iterator[httpx.Client]:
    """An HTTP client with a key."""
    with httpx.Client(base_url=stack.http_url, headers={"x-api-key": stack.api_key}, timeout=30, verify=TLS) as client:
        yield client


@pytest.fixture
def over_grpc(grpc_channel: grpc.Channel, stack: Stack) -> GrpcDoor:
    return GrpcDoor(grpc_channel, (("x-api-key", stack.api_key),))


@pytest.fixture
def over_rest(rest: httpx.Client) -> RestDoor:
    return RestDoor(rest)


@pytest.fixture(params=["grpc", "rest"])
def door(request: pytest.FixtureRequest) -> Door:
    """Each of the two public doors in turn."""
    opened: Door = request.getfixturevalue(f"over_{request.param}")
    return opened


@pytest.fixture
def new_key(stack: Stack) -> Callable[..., str]:
    """Makes API keys by the command line: `new_key("--scope", "loans:read")`."""
    return lambda *arguments: stack.cli("keys", "create", "test", *arguments).stdout.strip()
