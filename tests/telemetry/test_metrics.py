"""What Prometheus learns of the service that the tests share; nothing else runs meanwhile but background work."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import psycopg
import pytest
from sqlalchemy import URL

from mo_grpc.db.embedded import embedded_url
from tests.commands import COMMANDS
from tests.conftest import Stack, free_port, run_cli
from tests.databases import as_text, connect, locked, migrated_database, owner, waiting
from tests.doors import Door, GrpcDoor, Refused
from tests.factories import a_customer, a_loan, new_id, pay
from tests.run.test_workers import a_server, workers
from tests.servers import a_server as a_worker
from tests.telemetry.scraping import PLAIN, Scrape, all_told, scrape
from tests.waiting import TO_START, eventually

CUSTOMERS, LOANS, PAYMENTS = (f"mo.{name.lower()}s.v1.{name}Service" for name in ("Customer", "Loan", "Payment"))


@pytest.fixture
def before(stack: Stack) -> Scrape:
    return all_told(stack)


class More:
    """By how much metrics have grown."""

    def __init__(self, before: Scrape, after: Scrape) -> None:
        self._before, self._after = before, after

    def __call__(self, name: str, **labels: str) -> float:
        return self._after(name, **labels) - self._before(name, **labels)


def since(before: Scrape, stack: Stack) -> More:
    return More(before, all_told(stack))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.reason


def test_calls_are_counted_and_timed_by_method_and_code(stack: Stack, over_grpc: GrpcDoor, before: Scrape) -> None:
    customer = a_customer(over_grpc)
    for _ in range(3):
        over_grpc("customers.GetCustomer", external_id=customer)
    assert refused(lambda: over_grpc("customers.GetCustomer", external_id="nobody")) == "CUSTOMER_NOT_FOUND"
    get = {"grpc_type": "unary", "grpc_service": CUSTOMERS, "grpc_method": "GetCustomer"}
    more = since(before, stack)
    assert more("grpc_server_started_total", **get) == 4
    assert more("grpc_server_handled_total", **get, grpc_code="OK") == 3
    assert more("grpc_server_handled_total", **get, grpc_code="NOT_FOUND") == 1
    assert more("grpc_server_handling_seconds_count", **get) == 4
    assert more("grpc_server_handling_seconds_bucket", **get, le="+Inf") == 4
    assert 0 < more("grpc_server_handling_seconds_sum", **get) < 60
    assert more("mo_refusals_total", reason="CUSTOMER_NOT_FOUND") == 1


def test_names_that_there_are_not_are_one_method(stack: Stack, over_grpc: GrpcDoor, before: Scrape) -> None:
    for name in ("/mo.made.up/One", "/mo.made.up/Two", "/x/y"):
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = over_grpc.channel.unary_unary(name)
        with pytest.raises(Exception, match="UNIMPLEMENTED"):
            call(b"", timeout=10)
    more = since(before, stack)
    assert more("grpc_server_handled_total", grpc_service="unknown", grpc_code="UNIMPLEMENTED") == 3
    assert not {"One", "Two", "y"} & {value for _, value in scrape(stack).labels}


def test_refusals_have_their_reason_and_replays_are_counted(stack: Stack, door: Door, before: Scrape) -> None:
    keyed = door.keyed(new_id("key"))
    customer = {"external_id": new_id("customer"), "score": "10"}
    for _ in range(3):
        keyed("customers.CreateCustomer", customer=customer)
    reason = refused(lambda: keyed("customers.CreateCustomer", customer=customer | {"score": "20"}))
    assert reason == "IDEMPOTENCY_KEY_REUSED"
    more = since(before, stack)
    assert more("mo_idempotency_replays_total") == 2
    assert more("mo_refusals_total", reason=reason) == 1


def test_calls_that_share_a_batch_are_seen_and_so_is_where_its_time_goes(
    stack: Stack, over_grpc: GrpcDoor, before: Scrape
) -> None:
    customers = [a_customer(over_grpc) for _ in range(40)]
    after = all_told(stack)
    assert after("mo_batch_size_sum") - before("mo_batch_size_sum") == 40
    assert after("mo_batch_wait_seconds_count") - before("mo_batch_wait_seconds_count") == 40
    batches = after("mo_batch_size_count") - before("mo_batch_size_count")
    assert batches == 40
    for phase in ("pool", "read", "decide", "write"):
        counted = {"work": "batch", "phase": phase}
        assert after("mo_work_phase_seconds_count", **counted) - before("mo_work_phase_seconds_count", **counted) == batches
    assert after("mo_round_trips_total") - before("mo_round_trips_total") >= 2 * batches
    assert after("mo_statements_total") - before("mo_statements_total") >= 3 * batches
    with ThreadPoolExecutor(40) as threads:
        list(threads.map(lambda customer: pay(over_grpc, customer, "1.00"), customers))
    more = since(after, stack)
    assert more("mo_batch_size_sum") == 40
    assert more("mo_batch_size_count") < 40


def test_what_waits_for_a_lock_is_in_flight_holds_a_connection_and_the_wait_is_a_phase(
    stack: Stack, over_grpc: GrpcDoor, before: Scrape
) -> None:
    customer = a_customer(over_grpc)
    with ThreadPoolExecutor(1) as threads, locked(stack.data_dir, customer) as connection:
        call = threads.submit(pay, over_grpc, customer, "1.00")
        eventually(lambda: waiting(connection) == 1, 10)

        def seen() -> bool:
            now = scrape(stack)
            return (
                now("mo_calls_in_flight") == 1
                and now("mo_pool_in_use", pool="batches") == 1
                and now("mo_postgres_waiting_for_locks") == 1
            )

        eventually(seen, 15)
    assert call.result(10)["status"] == "REJECTED"
    more = since(before, stack)
    assert more("mo_work_phase_seconds_count", work="batch", phase="lock") >= 1
    eventually(lambda: scrape(stack)("mo_calls_in_flight") == scrape(stack)("mo_pool_in_use") == 0, 10)


def test_loans_payments_and_money_are_counted_once_whoever_makes_them(stack: Stack, door: Door, before: Scrape) -> None:
    customer = a_customer(door, "1000")
    kept, rejected = a_loan(door, customer, "100.00"), a_loan(door, customer, "50.00", activate=False)
    door("loans.RejectLoan", external_id=rejected)
    first = pay(door, customer, "60.00")["external_id"]
    pay(door, customer, "40.00")
    pay(door, customer, "7.77")  # more than the debt
    door("payments.RejectPayment", external_id=first, reason="bounced")
    door("customers.UpdateCustomer", customer={"external_id": customer, "score": "2000"})
    assert door("loans.GetLoan", external_id=kept)["outstanding"] == "60.00"
    wanted = {
        ("mo_customers_total", "created"): 1,
        ("mo_customers_total", "changed"): 1,
        ("mo_loans_total", "created"): 2,
        ("mo_loans_total", "activated"): 1,
        ("mo_loans_total", "rejected"): 1,
        ("mo_payments_total", "completed"): 2,
        ("mo_payments_total", "refused"): 1,
        ("mo_payments_total", "bounced"): 1,
    }
    money = {"lent": 100.0, "repaid": 100.0, "bounced": 60.0}

    def counted() -> bool:
        now = scrape(stack)
        outcomes = {each: now(each[0], outcome=each[1]) - before(each[0], outcome=each[1]) for each in wanted}
        movements = {each: now("mo_money_total", movement=each) - before("mo_money_total", movement=each) for each in money}
        return outcomes == wanted and movements == pytest.approx(money)

    eventually(counted, 10)


def test_imported_lines_are_counted_by_what_becomes_of_them(stack: Stack, before: Scrape, tmp_path: Path) -> None:
    file = tmp_path / "customers.txt"
    file.write_text(f"{new_id('good')},10\n{new_id('good')},10\n{new_id('bad')},minus one\n")
    stack.cli("import", str(file), check=False)
    more = since(before, stack)
    assert more("mo_import_lines_total", outcome="created") == 2
    assert more("mo_import_lines_total", outcome="failed") == 1
    with as_owner(stack) as connection:
        connection.execute("""
            INSERT INTO imports (source, bytes_total, created_by, created_at, lease_until, lease_owner, state)
            VALUES ('nowhere', 1, 'nobody', now() - interval '1 hour', now() + interval '1 hour', 'somebody', 2)
        """)
        try:
            eventually(lambda: scrape(stack)("mo_import_backlog_seconds") >= 3600, 15)
        finally:
            connection.execute("""
                UPDATE imports SET state = 5, finished_at = now(), lease_until = NULL, lease_owner = NULL
                WHERE source = 'nowhere'
            """)


def test_lost_races_are_counted_by_their_reason(stack: Stack, over_grpc: GrpcDoor, before: Scrape) -> None:
    """Somebody else creates the same customer at the same time: the call finds the id taken meanwhile."""
    with owner(stack.data_dir) as connection:
        external_id = new_id("customer")
        connection.execute(
            """
                INSERT INTO customers (external_id, score, status, created_at, updated_at)
                VALUES (%s, 1, 1, now(), now())
            """,
            (external_id,),
        )
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(a_customer, over_grpc, external_id=external_id)
            eventually(lambda: waiting(connection) == 1, 10)
            connection.commit()
            assert refused(lambda: call.result(10)) == "CUSTOMER_ALREADY_EXISTS"
        connection.execute("DELETE FROM customers WHERE external_id = %s", (external_id,))  # it has no history
    more = since(before, stack)
    assert more("mo_retries_total", reason="id taken meanwhile") == 1


def test_processes_their_tasks_and_what_they_know_are_seen(stack: Stack) -> None:
    def all_there() -> bool:
        now = scrape(stack)
        return all(now("mo_memory_bytes", process=process) > 10**7 for process in ("worker-0", "worker-1", "web"))

    eventually(all_there, 15)
    now = scrape(stack)
    assert now("mo_workers") == 2
    for task in ("imports", "webhooks", "API keys", "tokens", "cleaning up", "health", "positions of events"):
        assert now("mo_background_tasks", task=task) == 2, task
    assert 0 <= now("mo_ring_age_seconds", ring="keys") < 10
    assert 0 <= now("mo_ring_age_seconds", ring="tokens") < 10
    assert now("mo_event_loop_lag_seconds_count") > 0
    assert now("mo_pool_size", pool="batches") > 0


def test_postgresql_is_seen(stack: Stack) -> None:
    eventually(lambda: scrape(stack)("mo_postgres_connections") > 2, 15)
    now = scrape(stack)
    assert now("mo_postgres_connections") < now("mo_postgres_max_connections")
    for name in ("size_bytes", "wal_bytes", "xid_age"):
        assert now(f"mo_postgres_{name}") > 0
    assert now("mo_postgres_transactions", outcome="committed") > 0
    assert now("mo_postgres_blocks", source="memory") > 0


def test_the_edges_own_metrics_are_there_and_nothing_else_of_its_admin(stack: Stack) -> None:
    found = Scrape(httpx.get(stack.edge_metrics_url).raise_for_status().text)
    assert found("envoy_cluster_membership_healthy", envoy_cluster_name="grpc") > 0
    assert found("envoy_http_downstream_rq_total", envoy_http_conn_manager_prefix="edge") > 0
    for path in ("/", "/quitquitquit", "/stats", "/config_dump", "/stats/prometheus/../../config_dump"):
        for method in ("GET", "POST"):
            assert httpx.request(method, stack.edge_metrics_url.replace("/stats/prometheus", path)).status_code == 404
    assert httpx.post(stack.edge_metrics_url).status_code == 404


def test_no_label_has_anything_of_a_customer_or_a_caller(stack: Stack, door: Door) -> None:
    customer = a_customer(door, "4321.09")
    a_loan(door, customer, "432.10")
    refused(lambda: door("customers.GetCustomer", external_id=new_id("missing")))
    text = httpx.get(stack.metrics_url).text + httpx.get(stack.edge_metrics_url).text
    assert customer not in text
    key_id, secret = stack.api_key.split("_")[1:]
    assert key_id not in text
    assert secret not in text
    # The invariants are sentences of the code.
    strange = [value for name, value in scrape(stack).labels if name != "invariant" and not PLAIN.fullmatch(value)]
    assert strange == []


def test_the_metrics_are_at_one_path_and_not_behind_the_edge(stack: Stack, rest: httpx.Client) -> None:
    assert httpx.get(stack.metrics_url.replace("/metrics", "/")).status_code == 404
    assert rest.get("/metrics").status_code == 404


def as_owner(stack: Stack) -> psycopg.Connection[Any]:
    """A connection as the owner of the schema, whose every statement takes effect at once."""
    return connect(embedded_url(stack.data_dir), autocommit=True)


@contextmanager
def measured(stack: Stack, folder: Path, **settings: str) -> Iterator[str]:
    """A worker with metrics of its own; their address."""
    port = free_port()
    with a_worker(stack.environment, MO_DATA_DIR=str(folder), MO_METRICS_PORT=str(port), **settings):
        yield f"http://127.0.0.1:{port}/metrics"


def test_with_a_token_they_are_for_those_who_have_it_and_histograms_can_be_left_out(stack: Stack, tmp_path: Path) -> None:
    token = "a-token-of-the-tests"
    with measured(stack, tmp_path, MO_METRICS_TOKEN=token, MO_METRICS_HISTOGRAMS="false") as url:
        for given in (b"", b"Bearer wrong", token.encode(), b"Bearer \xe9"):
            answer = httpx.get(url, headers=[(b"authorization", given)])
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "grpc_server" not in answer.text
        authorized = httpx.Client(headers={"authorization": f"Bearer {token}"})
        eventually(lambda: Scrape(authorized.get(url).text)("grpc_server_handling_seconds_count", grpc_method="Check") > 0, 10)
        found = Scrape(authorized.get(url).text)
        bounds = {dict(labels)["le"] for name, labels in found.series if name == "grpc_server_handling_seconds_bucket"}
        assert bounds == {"1.0", "+Inf"}


def test_a_port_that_is_taken_is_said(stack: Stack, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        done = run_cli(
            stack.environment | {"MO_DATA_DIR": str(tmp_path), "MO_METRICS_PORT": port, "MO_DATABASE_URL": stack.database_url},
            *("serve", "--worker", "0"),
            check=False,
        )
    assert done.returncode == 1
    assert f"Port {port} of 127.0.0.1 cannot be used" in done.stderr
    assert "MO_METRICS_PORT" in done.stderr


def test_a_dead_workers_gauges_go_its_counters_stay_and_the_others_answer(stack: Stack, tmp_path: Path) -> None:
    port, metrics = free_port(), free_port()
    url = f"http://127.0.0.1:{metrics}/metrics"
    settings = {"MO_GRPC_PORT": str(port), "MO_METRICS_PORT": str(metrics), "MO_WORKERS": "2"}

    def now() -> Scrape:
        with httpx.Client() as client:  # the connection to a dead worker is no use
            return Scrape(client.get(url).text)

    def processes() -> set[str]:
        try:
            return {value for name, value in now().labels if name == "process"}
        except httpx.HTTPError:
            return set()

    with a_server(stack, tmp_path, **settings) as server:
        eventually(lambda: len(processes()) == 2, TO_START)
        checks = now()("grpc_server_started_total", grpc_method="Check")
        victim = min(workers(server))
        folder = tmp_path / "metrics"
        os.kill(victim, signal.SIGSTOP)
        gauges = set(folder.glob("gauge_*"))
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(processes()) < 2 or set(folder.glob("gauge_*")) != gauges, 10)
        eventually(lambda: len(processes()) == 2, TO_START)
        assert now()("grpc_server_started_total", grpc_method="Check") >= checks
        server.terminate()
        server.communicate(timeout=60)
    assert not list(folder.glob("gauge_*"))


@pytest.fixture(scope="module")
def audited(stack: Stack) -> Iterator[tuple[URL, dict[str, str]]]:
    """A database that nobody else breaks, and the settings for it."""
    with migrated_database(stack.data_dir) as url:
        yield url, stack.environment | {"MO_DATABASE_URL": as_text(url)}


def test_the_audit_is_scraped_with_the_service(stack: Stack, audited: tuple[URL, dict[str, str]]) -> None:
    url, environment = audited
    file = stack.data_dir / "metrics" / "audit.prom"

    def audit(path: Path) -> "subprocess.CompletedProcess[str]":
        return run_cli(environment, "audit", "--metrics", str(path), check=False)

    assert audit(file).returncode == 0
    found = scrape(stack)
    assert {dict(labels)["invariant"] for name, labels in found.series if name == "mo_audit_checked_rows"}
    assert found("mo_audit_broken_rows") == 0
    assert abs(found("mo_audit_timestamp_seconds") - file.stat().st_mtime) < 5
    with connect(url, autocommit=True) as connection:
        statement = (
            "INSERT INTO customers (external_id, score, status, created_at, updated_at) VALUES ('x', 1, 1, now(), now())"
        )
        connection.execute(statement)  # without its event
        try:
            assert audit(file).returncode == 1
            assert scrape(stack)("mo_audit_broken_rows") >= 1
        finally:
            connection.execute("DELETE FROM customers")
    assert audit(file).returncode == 0
    done = audit(file / "below")
    assert (done.returncode, re.sub(r".*below", "below", done.stderr)) == (2, "below cannot be written: Not a directory.\n")


def test_an_auditor_audits_again_and_again_and_shows_what_it_found(audited: tuple[URL, dict[str, str]], tmp_path: Path) -> None:
    port = free_port()
    settings = {"MO_DATA_DIR": str(tmp_path), "MO_METRICS_PORT": str(port)}
    auditor = COMMANDS.start_beside(audited[1] | settings, "audit", "--every", "0.00001")

    def audited_at() -> float:
        try:
            return Scrape(httpx.get(f"http://127.0.0.1:{port}/metrics").text)("mo_audit_timestamp_seconds")
        except httpx.TransportError:
            return 0

    try:
        eventually(lambda: audited_at() > 0, TO_START)
        first = audited_at()
        eventually(lambda: audited_at() > first, TO_START)
    finally:
        auditor.send_signal(signal.SIGTERM)
        auditor.wait(30)
