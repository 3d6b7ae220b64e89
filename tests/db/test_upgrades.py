"""Upgrades without a stop: the schema first, then one server after the other."""

import importlib.util
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from sqlalchemy import URL

from mo_grpc.db.migrate import downgrade
from mo_grpc.process.children import stop
from tests.conftest import KEY, Stack, free_port, run_cli
from tests.databases import as_text, connect, fresh_database, migrated_database
from tests.doors import Refused, RestDoor
from tests.e2e.edges import EDGE, started, status_of
from tests.factories import a_customer, a_loan, pay
from tests.waiting import TO_START, eventually

ROOT = Path(__file__).parents[2]
PREVIOUS = (ROOT / "migrations" / "PREVIOUS").read_text().strip()
HAS_PREVIOUS = subprocess.run(["git", "cat-file", "-e", PREVIOUS], cwd=ROOT, capture_output=True, check=False).returncode == 0
BEFORE = "0030"
"""The revision before the newest."""


@pytest.fixture
def older(stack: Stack) -> Iterator[tuple[URL, dict[str, str]]]:
    """A database whose schema is one revision behind, and the settings for it."""
    with migrated_database(stack.data_dir) as url:
        downgrade(url, BEFORE)
        yield url, stack.environment | {"MO_DATABASE_URL": as_text(url)}


def revision(url: URL) -> str:
    with connect(url) as connection:
        [(found,)] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        return str(found)


def test_a_plan_says_what_would_be_done_and_does_nothing(older: tuple[URL, dict[str, str]]) -> None:
    url, environment = older
    shown = run_cli(environment, "migrate", "--plan").stdout
    assert shown.startswith(f"{BEFORE} -> 0050: ")
    assert "CREATE INDEX CONCURRENTLY honeypot_attempts_at_idx" in shown
    assert revision(url) == BEFORE
    run_cli(environment, "migrate")
    assert run_cli(environment, "migrate", "--plan").stdout == "The schema is at 0050; there is nothing to do.\n"
    fresh = run_cli(environment, "migrate", "--plan", "--revision", "nowhere", check=False)
    assert fresh.returncode == 1
    assert "cannot be migrated" in fresh.stderr


def test_from_nothing_a_plan_shows_all(stack: Stack) -> None:
    with fresh_database(stack.data_dir) as url:
        shown = run_cli(stack.environment | {"MO_DATABASE_URL": as_text(url)}, "migrate", "--plan").stdout
    assert shown.startswith("nothing -> 0001: ")
    assert "CREATE TABLE customers" in shown
    assert "-- Writes the events of all customers who have none." in shown


def test_a_migration_that_waits_for_a_lock_names_its_holder_and_holds_no_call_up(older: tuple[URL, dict[str, str]]) -> None:
    url, environment = older
    with connect(url) as holder, ThreadPoolExecutor(1) as threads:
        holder_pid = holder.info.backend_pid
        holder.execute("SELECT FROM imports")  # an open transaction, as of a forgotten session
        given_up = run_cli(environment, "migrate", "--wait", "0", check=False)
        assert given_up.returncode == 1
        assert f"Others keep a lock that the migration needs: process {holder_pid} (" in given_up.stderr
        assert revision(url) == BEFORE
        running = threads.submit(run_cli, environment, "migrate")
        longest = 0.0
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            begun = time.monotonic()
            with connect(url) as other:
                other.execute("SELECT FROM imports")
            longest = max(longest, time.monotonic() - begun)
        holder.rollback()
        done = running.result(60)
    assert "the migration waits for a lock" in done.stderr
    assert str(holder_pid) in done.stderr
    assert revision(url) == "0050"
    assert longest < 2


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX loans_amount_idx ON loans (amount)",
        "ALTER TABLE loans ALTER COLUMN amount TYPE bigint",
        "ALTER TABLE loans ADD COLUMN kind text NOT NULL",
        "ALTER TABLE loans ALTER COLUMN taken_at SET NOT NULL",
        "ALTER TABLE loans ADD CONSTRAINT positive CHECK (amount > 0)",
        "ALTER TABLE loans ADD CONSTRAINT twin FOREIGN KEY (customer_id) REFERENCES customers (id)",
        "ALTER TABLE loans RENAME COLUMN amount TO total",
        "ALTER TABLE loans DROP COLUMN amount",
    ],
)
def test_a_migration_for_which_calls_would_wait_or_fail_is_not_let_in(statement: str) -> None:
    spec = importlib.util.spec_from_file_location("lint", ROOT / "migrations" / "lint.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.lint(f"BEGIN;\n{statement};\nCOMMIT;\n", "a migration")
    assert module.lint("BEGIN;\nALTER TABLE loans ADD COLUMN kind text;\nCOMMIT;\n", "a migration")


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the previous release, as git has it.

    A shallow clone has no other than its own, which then plays both parts, without a migration between them.
    """
    folder = tmp_path_factory.mktemp("previous")
    archive = subprocess.run(
        ["git", "archive", PREVIOUS if HAS_PREVIOUS else "HEAD"], cwd=ROOT, check=True, capture_output=True
    )
    subprocess.run(["tar", "x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


@contextmanager
def serving(environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-P", "-m", "mo_grpc", "serve"], env=environment, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        stop(process, signal.SIGTERM, 60)


class Load:
    """Clients that do all sorts of things until told to stop; of each call, how it ended and how long it took."""

    def __init__(self, door: RestDoor) -> None:
        self._door = door
        self._over = Event()
        self.ended: Counter[str] = Counter()
        self.longest = 0.0

    def __call__(self, rpc: str, **request: Any) -> Any:
        begun = time.monotonic()
        try:
            answer = self._door(rpc, **request)
        except (Refused, httpx.HTTPError) as error:
            self.ended[f"{rpc}: {error!r}"] += 1
            raise
        self.ended["answered"] += 1
        self.longest = max(self.longest, time.monotonic() - begun)
        return answer

    def run(self) -> None:
        while not self._over.is_set():
            customer = a_customer(self)  # type: ignore[arg-type]
            a_loan(self, customer)  # type: ignore[arg-type]
            payment = pay(self, customer, "10.00")["external_id"]  # type: ignore[arg-type]
            self("payments.RejectPayment", external_id=payment, reason="bounced")
            assert self("customers.GetCustomerBalance", external_id=customer)["total_debt"] == "100.00"

    def finish(self) -> None:
        self._over.set()


def test_no_call_fails_while_the_schema_and_the_servers_are_upgraded(stack: Stack, previous: Path, tmp_path: Path) -> None:
    port, http = str(free_port()), str(free_port())
    with fresh_database(stack.data_dir) as url:
        new = stack.environment | {"MO_DATABASE_URL": as_text(url), "MO_GRPC_PORT": port, "MO_WORKERS": "1"}
        old = new | {
            "PYTHONPATH": f"{previous}:{previous / 'generated'}",
            "MO_GRPC_HOST": "127.0.0.2",
            "MO_DATA_DIR": str(tmp_path / "old"),
        }
        new |= {"MO_DATA_DIR": str(tmp_path / "new")}
        edge = new | {
            "MO_EDGE_UPSTREAM_HOST": "127.0.0.1,127.0.0.2",
            "MO_HTTP_PORT": http,
            "MO_DATA_DIR": str(tmp_path / "edge"),
        }
        subprocess.run([sys.executable, "-P", "-m", "mo_grpc", "migrate"], env=old, check=True)
        assert revision(url) == (BEFORE if HAS_PREVIOUS else "0050")
        [key] = KEY.findall(run_cli(new, "keys", "create", "upgrade").stdout)
        address = f"http://127.0.0.1:{http}"
        with (
            serving(old) as leaving,
            started(EDGE, edge, lambda: status_of(f"{address}/readyz") == 200),
            httpx.Client(base_url=address, headers={"x-api-key": key}, timeout=30) as client,
            ThreadPoolExecutor(8) as threads,
        ):
            load = Load(RestDoor(client))
            clients = [threads.submit(load.run) for _ in range(8)]

            def more_calls(before: int) -> bool:
                return load.ended["answered"] >= before + 100 or any(each.done() for each in clients)

            try:
                eventually(lambda: more_calls(0), TO_START)
                run_cli(new, "migrate")
                before = load.ended["answered"]
                eventually(lambda: more_calls(before), TO_START)
                with serving(new):
                    eventually(lambda: healthy_servers(edge) == 2, TO_START)
                    before = load.ended["answered"]
                    eventually(lambda: more_calls(before), TO_START)
                    leaving.send_signal(signal.SIGTERM)
                    assert leaving.wait(60) == 0
                    before = load.ended["answered"]
                    eventually(lambda: more_calls(before), TO_START)
                    load.finish()
                    for each in clients:
                        each.result(60)
            finally:
                load.finish()
        assert set(load.ended) == {"answered"}
        assert revision(url) == "0050"
        assert run_cli(new, "audit", check=False).returncode == 0


def healthy_servers(edge: dict[str, str]) -> int:
    """How many servers Envoy finds healthy."""
    socket = Path(edge["MO_DATA_DIR"]) / "run" / "edge.sock"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as client:
        text = client.get("http://edge/stats?filter=^cluster.grpc.membership_healthy$").text
    return int(text.rpartition(":")[2])
