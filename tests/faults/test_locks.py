"""What others hold in the database: a call waits for as long as it must, and keeps nobody else from being served."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from tests.conftest import Stack
from tests.databases import Connection, locked, owner, waiting
from tests.doors import GrpcDoor, Json, Refused
from tests.factories import SOME_DAY, a_customer, a_loan, new_id, outstanding, pay
from tests.servers import SERVING, a_server
from tests.waiting import eventually


def patient(connection: Connection) -> int:
    """How many others wait for what this connection holds, and have for longer than a call waits before it steps aside."""
    connection.execute("SELECT pg_stat_clear_snapshot()")
    row = connection.execute("""
        SELECT count(*) FROM pg_stat_activity
        WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)) AND clock_timestamp() - query_start > '0.2 s'
    """).fetchone()
    assert row is not None
    return int(row[0])


def test_reads_wait_for_a_table_that_somebody_changes(stack: Stack, over_grpc: GrpcDoor) -> None:
    customer = a_customer(over_grpc)
    loan = a_loan(over_grpc, customer)
    payment = pay(over_grpc, customer, "1.00")["external_id"]
    reads: dict[str, Json] = {
        "customers.GetCustomer": {"external_id": customer},
        "customers.GetCustomerBalance": {"external_id": customer},
        "customers.ListCustomers": {"page_size": 1},
        "loans.GetLoan": {"external_id": loan},
        "loans.ListLoans": {"customer_external_id": customer},
        "payments.GetPayment": {"external_id": payment},
        "payments.ListPayments": {"customer_external_id": customer},
    }
    before = {rpc: over_grpc(rpc, **request) for rpc, request in reads.items()}
    with ThreadPoolExecutor(len(reads)) as pool:
        with owner(stack.data_dir) as migration:
            migration.execute("LOCK customers, loans, payments, payment_details IN ACCESS EXCLUSIVE MODE")
            calls = {rpc: pool.submit(over_grpc, rpc, **request) for rpc, request in reads.items()}
            eventually(lambda: patient(migration) == len(reads), 10)
        assert {rpc: call.result(10) for rpc, call in calls.items()} == before


def test_keys_are_followed_again_after_their_table_was_locked(
    stack: Stack, over_grpc: GrpcDoor, new_key: Callable[..., str]
) -> None:
    key = new_key()
    with a_server(stack.environment) as server:
        door = GrpcDoor(server.channel, (("x-api-key", key),))
        with owner(stack.data_dir) as migration:
            migration.execute("LOCK api_keys IN ACCESS EXCLUSIVE MODE")
            eventually(lambda: patient(migration) > 0, 10)
        door("customers.ListCustomers")
        stack.cli("keys", "revoke", key.split("_")[1])
        eventually(lambda: refuses(door), 5)
        assert server.health() == SERVING


def refuses(door: GrpcDoor) -> bool:
    try:
        door("customers.ListCustomers")
    except Refused as refused:
        return refused.reason == "API_KEY_INVALID"
    return False


def test_calls_of_every_kind_for_a_locked_customer_leave_connections_for_others(stack: Stack, over_grpc: GrpcDoor) -> None:
    held, other = (a_customer(over_grpc, "1000") for _ in range(2))
    pending = [a_loan(over_grpc, held, "10", activate=False) for _ in range(8)]
    for customer in (held, other):
        a_loan(over_grpc, customer, "500")
    paid = [pay(over_grpc, held, "1.00")["external_id"] for _ in range(4)]
    with a_server(stack.environment) as server, ThreadPoolExecutor(32) as pool:
        door = GrpcDoor(server.channel, over_grpc.metadata)
        loan = {"external_id": new_id("loan"), "customer_external_id": held, "amount": "1", "maximum_payment_date": SOME_DAY}
        payments = [{"external_id": new_id("payment"), "customer_external_id": held, "total_amount": "1.00"} for _ in range(4)]
        with locked(stack.data_dir, held) as holder:
            calls = [
                pool.submit(door, "loans.CreateLoan", loan=loan),
                pool.submit(door, "customers.UpdateCustomer", customer={"external_id": held, "score": "2000"}),
                pool.submit(pay, door, held, "1.00"),
                *(pool.submit(door, "loans.ActivateLoan", external_id=each) for each in pending[:4]),
                *(pool.submit(door, "loans.RejectLoan", external_id=each) for each in pending[4:]),
                *(pool.submit(door, "payments.RejectPayment", external_id=each, reason="bounced") for each in paid),
                *(pool.submit(door, "payments.BatchCreatePayments", requests=[{"payment": each}]) for each in payments),
            ]
            eventually(lambda: patient(holder) > 0, 10)
            for _ in range(20):
                assert door("customers.GetCustomer", external_id=other)["score"] == "1000.00"
                assert pay(door, other, "1.00")["status"] == "COMPLETED"
                assert door("loans.ListLoans", customer_external_id=other)["loans"]
            assert not [call for call in calls if call.done()]
        assert not wait(calls, timeout=20).not_done
        for call in calls:
            call.result()


def test_waiting_for_locks_never_takes_the_last_connection(stack: Stack, over_grpc: GrpcDoor) -> None:
    held = [a_customer(over_grpc) for _ in range(3)]
    with a_server(stack.environment, MO_DATABASE_POOL_SIZE="2") as server, ThreadPoolExecutor(3) as pool:
        door = GrpcDoor(server.channel, over_grpc.metadata)
        with locked(stack.data_dir, held[0]) as holder:
            for customer in held[1:]:
                holder.execute("SELECT FROM customers WHERE external_id = %s FOR UPDATE", [customer])
            calls = [pool.submit(a_loan, door, customer, activate=False) for customer in held]
            eventually(lambda: patient(holder) > 0, 10)
            for customer in held * 5:
                door("customers.GetCustomer", external_id=customer)
        for call in calls:
            assert call.result(20)


def test_a_killed_server_leaves_no_statement_and_no_key_behind(stack: Stack, over_grpc: GrpcDoor) -> None:
    customer = a_customer(over_grpc)
    loan = a_loan(over_grpc, customer)
    payment = {"external_id": new_id("payment"), "customer_external_id": customer, "total_amount": "1.00"}
    key = new_id("key")
    with (
        a_server(stack.environment) as server,
        ThreadPoolExecutor(1) as pool,
        locked(stack.data_dir, customer) as holder,
    ):
        call = pool.submit(GrpcDoor(server.channel, over_grpc.metadata).keyed(key), "payments.CreatePayment", payment=payment)
        eventually(lambda: patient(holder) == 1, 10)
        server.process.kill()
        server.process.wait(10)
        eventually(lambda: waiting(holder) == 0, 5)
        with pytest.raises(Refused):
            call.result(20)
    assert over_grpc.keyed(key)("payments.CreatePayment", payment=payment)["status"] == "COMPLETED"
    assert outstanding(over_grpc, loan) == ("99.00", "ACTIVE")
