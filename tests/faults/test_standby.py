"""A synchronous standby that is away: what was acknowledged is on both servers, and nothing is acknowledged that is not."""

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from mo_grpc.db.cluster import programs
from mo_grpc.db.embedded import SERVICE_ROLE, EmbeddedPostgres, embedded_url
from tests.conftest import KEY, run_cli, settings_environment
from tests.databases import connect
from tests.doors import GrpcDoor, Refused
from tests.factories import a_customer, a_loan, new_id
from tests.servers import a_server
from tests.waiting import eventually

DEADLINE_EXCEEDED = 4
RPC = "payments.CreatePayment"


@dataclass
class Pair:
    """A PostgreSQL, its synchronous standby, and a server over the first."""

    folders: tuple[Path, Path]
    leader: EmbeddedPostgres
    standby: EmbeddedPostgres
    environment: dict[str, str]
    door: GrpcDoor

    def asked(self, sql: str) -> int:
        """A number that the leader tells its superuser."""
        with connect(embedded_url(self.folders[0], "postgres"), autocommit=True) as superuser:
            [number] = superuser.execute(sql).fetchone() or [0]
            return int(number)

    def replicates(self) -> bool:
        return self.asked("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == 1

    def waits(self) -> bool:
        """Whether a COMMIT waits for the standby."""
        return self.asked("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") > 0


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    first, second = folder / "first", folder / "second"
    environment = settings_environment(first)
    with ExitStack() as stack:
        leader = stack.enter_context(EmbeddedPostgres(first))
        run_cli(environment, "migrate")
        [api_key] = KEY.findall(run_cli(environment, "keys", "create", "test").stdout)
        superuser = embedded_url(first, "postgres").set(drivername="postgresql").render_as_string(hide_password=False)
        cluster = second / "postgres"
        options = ("--write-recovery-conf", "--checkpoint=fast", "--dbname", superuser)
        subprocess.run([str(programs() / "pg_basebackup"), "--pgdata", str(cluster), *options], check=True, capture_output=True)
        for lock in cluster.glob(".s.PGSQL.*.lock"):
            lock.unlink()  # the leader's, whose socket is in its folder
        for secret in first.glob("*.password"):
            shutil.copy(secret, second)
        standby = stack.enter_context(EmbeddedPostgres(second))
        url = embedded_url(first, SERVICE_ROLE).set(drivername="postgresql").render_as_string(hide_password=False)
        server = stack.enter_context(a_server(environment, MO_DATABASE_URL=url))
        door = GrpcDoor(server.channel, (("x-api-key", api_key),))
        pair = Pair((first, second), leader, standby, environment, door)
        with connect(embedded_url(first, "postgres"), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
        eventually(pair.replicates, 20)
        yield pair


def a_payment(door: GrpcDoor) -> dict[str, str]:
    customer = a_customer(door)
    a_loan(door, customer)
    return {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": "1.00"}


def test_a_write_that_the_standby_has_not_got_is_never_acknowledged(pair: Pair) -> None:
    payment, key = a_payment(pair.door), new_id("key")
    pair.standby.stop()
    hasty = GrpcDoor(pair.door.channel, pair.door.metadata, timeout=1)
    with pytest.raises(Refused) as refused:
        hasty.keyed(key)(RPC, payment=payment)
    assert refused.value.code == DEADLINE_EXCEEDED
    # Nobody waits any more, and the outcome is still open: asked again, the service does not say that all is well.
    assert pair.waits()
    with pytest.raises(Refused) as refused:
        hasty.keyed(key)(RPC, payment=payment)
    assert refused.value.code == DEADLINE_EXCEEDED
    # Reads go on.
    assert pair.door("customers.GetCustomer", external_id=payment["customer_external_id"])["status"] == "ACTIVE"
    # The leader is lost, and what it alone had with it; then the retry takes effect, once.
    pair.leader.process.kill()
    pair.leader.process.wait(10)
    pair.standby.start()
    with connect(embedded_url(pair.folders[1], "postgres"), autocommit=True) as superuser:
        superuser.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        superuser.execute("SELECT pg_promote()")
    url = embedded_url(pair.folders[1], SERVICE_ROLE).set(drivername="postgresql").render_as_string(hide_password=False)
    with a_server(pair.environment | {"MO_DATA_DIR": str(pair.folders[1])}, MO_DATABASE_URL=url) as server:
        door = GrpcDoor(server.channel, pair.door.metadata)
        keyed = door.keyed(key)
        assert keyed(RPC, payment=payment)["status"] == "COMPLETED"
        assert not keyed.replayed
        [found] = door("payments.ListPayments", customer_external_id=payment["customer_external_id"])["payments"]
        assert found["external_id"] == payment["external_id"]


def test_an_earlier_answer_is_told_again_only_when_the_standby_has_it(pair: Pair) -> None:
    # A new customer's id locks no row, which would be waited for in any case.
    rpc, key = "customers.CreateCustomer", new_id("key")
    customer = {"external_id": new_id("customer"), "score": "100.00"}
    pair.standby.stop()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(pair.door.keyed(key), rpc, customer=customer)
        eventually(pair.waits, 10)
        # What an administrator, a timeout or a restart may do: PostgreSQL commits, and warns that the standby may lack it.
        pair.asked("SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        with pytest.raises(Refused) as refused:
            call.result(20)
    assert refused.value.reason == "DATABASE_UNAVAILABLE"
    assert "may have taken effect" in refused.value.message
    hasty = GrpcDoor(pair.door.channel, pair.door.metadata, timeout=1)
    for again in (hasty.keyed(key), hasty):
        with pytest.raises(Refused) as refused:
            again(rpc, customer=customer)
        assert refused.value.code == DEADLINE_EXCEEDED
    pair.standby.start()
    eventually(pair.replicates, 20)
    eventually(lambda: not pair.waits(), 20)
    keyed = pair.door.keyed(key)
    assert keyed(rpc, customer=customer)["status"] == "ACTIVE"
    assert keyed.replayed
