"""The position of each event among all: whatever is late, killed or frozen, readers by position miss nothing."""

import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from mo_grpc.db.embedded import EmbeddedPostgres
from tests.conftest import KEY, Stack, run_cli, settings_environment
from tests.databases import Connection, locked, owner, waiting
from tests.doors import GrpcDoor, Json, Refused
from tests.factories import a_customer, a_loan, new_id, pay
from tests.servers import SERVING, Server, a_server
from tests.waiting import eventually

WRITERS = 6
BATCHES = 60
"""Of each writer."""
CUSTOMERS = 60


def payments(customers: list[str]) -> Json:
    """A request to take one payment of each of some customers, in one transaction."""
    return {
        "requests": [
            {"payment": {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": "0.01"}}
            for customer in customers
        ]
    }


def rows(data_dir: Path, statement: str, *parameters: object) -> list[tuple[int, ...]]:
    with owner(data_dir) as connection:
        return connection.execute(statement.encode(), parameters).fetchall()


def head(data_dir: Path) -> int:
    """The last position."""
    return rows(data_dir, "SELECT position FROM journal_head")[0][0]


def position(data_dir: Path, payment: str) -> tuple[int, int] | None:
    """The position of a payment's event, if it has one, and the transaction that wrote it."""
    found = rows(
        data_dir,
        """SELECT position, xid FROM journal_positions JOIN journal_events USING (customer_id, number)
        WHERE payment_id = (SELECT id FROM payments WHERE external_id = %s)""",
        payment,
    )
    return (found[0][0], found[0][1]) if found else None


def all_have_positions(data_dir: Path) -> bool:
    return not rows(
        data_dir,
        """SELECT FROM journal_events LEFT JOIN journal_positions AS given USING (customer_id, number)
        WHERE given.position IS NULL LIMIT 1""",
    )


def follow(data_dir: Path, position: int, ended: threading.Event) -> list[tuple[int, ...]]:
    """Read the events behind a position, as they come, to the end."""
    read: list[tuple[int, ...]] = []
    with owner(data_dir) as connection:
        connection.autocommit = True
        while True:
            last = ended.is_set()
            new = connection.execute(
                "SELECT position, customer_id, number FROM journal_positions WHERE position > %s ORDER BY position LIMIT 500",
                [position + len(read)],
            ).fetchall()
            read += new
            if not new and last:
                return read
            if not new:
                ended.wait(0.005)


def waits_for_good(lock: Connection) -> bool:
    """Whether somebody waits for what a connection holds, and does not give up after 50 ms."""
    lock.execute("SELECT pg_stat_clear_snapshot()")
    waiting_long = """
        SELECT FROM pg_stat_activity
        WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)) AND query_start < clock_timestamp() - interval '0.1 s'
    """
    return lock.execute(waiting_long).rowcount == 1


def test_what_commits_late_has_a_later_position_and_is_not_missed(stack: Stack, over_grpc: GrpcDoor) -> None:
    early, held, other = (a_customer(over_grpc) for _ in range(3))
    for customer in (early, held, other):
        a_loan(over_grpc, customer)
    with ThreadPoolExecutor(1) as thread:
        with locked(stack.data_dir, held) as lock:
            # It has locked the first customer, and so drawn the id of its transaction, when it waits for the second.
            late = thread.submit(over_grpc, "payments.BatchCreatePayments", **payments([early, held]))
            eventually(lambda: waits_for_good(lock), 20)
            before = pay(over_grpc, other, "1.00")["external_id"]
            eventually(lambda: position(stack.data_dir, before) is not None, 20)
        payment = late.result(30)["results"][0]["payment"]["external_id"]
    eventually(lambda: position(stack.data_dir, payment) is not None, 20)
    first, second = position(stack.data_dir, before), position(stack.data_dir, payment)
    assert first is not None
    assert second is not None
    assert first[0] < second[0]
    assert first[1] > second[1], "the one that committed later did not have the earlier id, so this shows nothing"


def test_readers_miss_nothing_while_many_write(stack: Stack, over_grpc: GrpcDoor) -> None:
    begin = head(stack.data_dir)
    with ThreadPoolExecutor(WRITERS) as threads:
        customers = list(threads.map(lambda _: a_customer(over_grpc, "1000000"), range(CUSTOMERS)))
        list(threads.map(lambda customer: a_loan(over_grpc, customer, "1000"), customers))
    ended, holding = threading.Event(), threading.Event()

    def write(seed: int) -> None:
        chosen = random.Random(seed)  # noqa: S311 - not a secret
        with grpc.insecure_channel(stack.grpc_address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            door = GrpcDoor(channel, over_grpc.metadata)
            for _ in range(BATCHES):
                results = door("payments.BatchCreatePayments", **payments(chosen.sample(customers, 10)))["results"]
                assert all(result["payment"]["status"] == "COMPLETED" for result in results)

    def hold(seed: int) -> None:
        """Lock a customer until others wait for it, again and again."""
        chosen = random.Random(seed)  # noqa: S311 - not a secret
        while not ended.is_set():
            with locked(stack.data_dir, chosen.choice(customers)) as lock:
                while not ended.is_set() and not waiting(lock):
                    ended.wait(0.005)
                holding.set()

    def read(start: int) -> list[tuple[int, ...]]:
        return follow(stack.data_dir, start, ended)

    with ThreadPoolExecutor(WRITERS + 6) as threads:
        readers = [threads.submit(read, begin)]
        others = [threads.submit(hold, seed) for seed in range(2)]
        try:
            writers = [threads.submit(write, seed) for seed in range(WRITERS)]
            assert holding.wait(30)
            last = head(stack.data_dir)
            readers += [threads.submit(read, start) for start in (begin + 1, (begin + last) // 2, last)]
            for writer in as_completed(writers):
                writer.result()
            eventually(lambda: all_have_positions(stack.data_dir), 30)
        finally:
            ended.set()
        for task in others:
            task.result(30)
        everything, *parts = [reader.result(30) for reader in readers]
    assert [row[0] for row in everything] == list(range(begin + 1, begin + 1 + len(everything))), "doubled, or with a gap"
    for part in parts:
        assert part == everything[len(everything) - len(part) :]
    numbers: dict[int, int] = {}
    for _, customer, number in everything:
        assert number == numbers.get(customer, number - 1) + 1, "not in the order of the customer's numbers"
        numbers[customer] = number
    written = rows(
        stack.data_dir,
        """SELECT customer_id, number FROM journal_events
        WHERE customer_id IN (SELECT id FROM customers WHERE external_id = ANY (%s))""",
        customers,
    )
    assert len(written) == CUSTOMERS * 3 + WRITERS * BATCHES * 10
    assert set(written) <= {row[1:] for row in everything}


@dataclass
class Cluster:
    """A PostgreSQL and a server of this file's own, which are killed and frozen."""

    data_dir: Path
    environment: dict[str, str]
    metadata: tuple[tuple[str, str], ...]
    running: ExitStack
    postgres: EmbeddedPostgres
    first: Server

    def door(self, server: Server) -> GrpcDoor:
        return GrpcDoor(server.channel, self.metadata)

    def holder(self) -> int:
        """The PostgreSQL process of whoever gives positions; 0 if nobody does."""
        found = rows(self.data_dir, "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 14 AND granted")
        return found[0][0] if found else 0

    def assert_sound(self) -> None:
        """Check that every event has its position, and that they are right."""
        eventually(lambda: all_have_positions(self.data_dir), 60)
        assert run_cli(self.environment, "audit", check=False).returncode == 0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    data_dir = tmp_path_factory.mktemp("killed") / "data"
    environment = settings_environment(data_dir)
    with ExitStack() as running:
        postgres = running.enter_context(EmbeddedPostgres(data_dir))
        run_cli(environment, "migrate")
        [api_key] = KEY.findall(run_cli(environment, "keys", "create", "test").stdout)
        with a_server(environment) as first:
            yield Cluster(data_dir, environment, (("x-api-key", api_key),), running, postgres, first)


@contextmanager
def load(*doors: GrpcDoor) -> Iterator[Callable[[], int]]:
    """Customers, loans and payments through each of some servers, which may die; yields how many rounds were whole."""
    ended, done = threading.Event(), 0

    def write(door: GrpcDoor) -> None:
        nonlocal done
        while not ended.is_set():
            with suppress(Refused):
                customer = a_customer(door)
                a_loan(door, customer)
                pay(door, customer, "100.00")
                done += 1

    with ThreadPoolExecutor(2 * len(doors)) as threads:
        writers = [threads.submit(write, door) for door in doors * 2]
        try:
            yield lambda: done
        finally:
            ended.set()
        for writer in writers:
            writer.result(60)


def test_a_frozen_or_killed_server_is_replaced_by_another(cluster: Cluster) -> None:
    with a_server(cluster.environment) as second:
        frozen = cluster.holder()
        with load(cluster.door(second)) as done:
            eventually(lambda: done() > 10, 60)
            cluster.first.process.send_signal(signal.SIGSTOP)
            try:
                eventually(lambda: cluster.holder() not in (0, frozen), 60)
                before = head(cluster.data_dir)
                eventually(lambda: head(cluster.data_dir) > before, 60)
            finally:
                cluster.first.process.send_signal(signal.SIGCONT)
        killed = cluster.holder()
        with load(cluster.door(cluster.first), cluster.door(second)) as done:
            before = done()
            eventually(lambda: done() > before + 10, 60)
            second.process.kill()
            eventually(lambda: cluster.holder() not in (0, killed), 60)
            before = done()
            eventually(lambda: done() > before + 10, 60)
        cluster.assert_sound()


def test_a_killed_postgresql_loses_no_position(cluster: Cluster) -> None:
    with load(cluster.door(cluster.first)) as done:
        before = done()
        eventually(lambda: done() > before + 20, 60)
        cluster.postgres.process.kill()
        cluster.postgres.process.wait(30)
        cluster.running.pop_all().close()
        cluster.postgres = cluster.running.enter_context(EmbeddedPostgres(cluster.data_dir))
        eventually(lambda: cluster.first.health() == SERVING, 60)
        before = done()
        eventually(lambda: done() > before + 10, 60)
    cluster.assert_sound()


def test_a_journal_that_was_copied_from_another_postgresql_goes_on(cluster: Cluster) -> None:
    door = cluster.door(cluster.first)
    a_customer(door)
    eventually(lambda: all_have_positions(cluster.data_dir), 60)
    with owner(cluster.data_dir) as connection:
        connection.execute("UPDATE journal_head SET snapshot = '4000000000:4000000010:4000000003'")
    before = head(cluster.data_dir)
    a_customer(door)
    eventually(lambda: all_have_positions(cluster.data_dir), 60)
    assert head(cluster.data_dir) == before + 1
    # From now on, it follows the transactions of this PostgreSQL.
    assert rows(cluster.data_dir, "SELECT FROM journal_head WHERE pg_snapshot_xmax(snapshot::pg_snapshot) < '4000000000'")
