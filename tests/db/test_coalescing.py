"""Calls that run as one batch stay separate calls. All goes through the public door; a batch forms behind a held lock."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from mo.payments.v1 import payments_pb2, payments_pb2_grpc

from mo_grpc.db.coalescing import MAX_QUEUE, MAX_QUEUE_OF_KEY, Batch, Coalescer
from mo_grpc.db.locks import Locks
from tests.conftest import Stack
from tests.databases import Connection, locked, owner, waiting
from tests.doors import GrpcDoor, Json, Refused, refused
from tests.factories import a_customer, a_loan, new_id, pay
from tests.waiting import eventually


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as threads:
        yield threads


def outcome(door: GrpcDoor, rpc: str, **request: Any) -> str:
    """What became of a call, in a word."""
    try:
        return str(door(rpc, **request).get("status", "OK"))
    except Refused as refusal:
        return refusal.reason if refusal.details else str(refusal.code)


def start_payment(pool: ThreadPoolExecutor, door: GrpcDoor, customer: str, amount: str = "1.00", **fields: str) -> Future[Json]:
    return pool.submit(pay, door, customer, amount, **fields)


def test_many_calls_at_once_each_get_their_own_answer(over_grpc: GrpcDoor, pool: ThreadPoolExecutor) -> None:
    customers = [a_customer(over_grpc, f"{n}.00") for n in range(30)]
    asked = [*customers, "nobody", *customers[::-1], "nobody-else"]

    def get(external_id: str) -> str:
        try:
            return str(over_grpc("customers.GetCustomer", external_id=external_id)["external_id"])
        except Refused as refusal:
            return refusal.reason

    answers = list(pool.map(get, asked))
    assert answers == [external_id if external_id in customers else "CUSTOMER_NOT_FOUND" for external_id in asked]


@pytest.mark.parametrize("rpc", ["payments", "loans", "customers"])
def test_a_customer_locked_by_others_holds_nobody_else_up(
    over_grpc: GrpcDoor, stack: Stack, pool: ThreadPoolExecutor, rpc: str
) -> None:
    held, *others = [a_customer(over_grpc, "1000") for _ in range(9)]
    for customer in (held, *others):
        a_loan(over_grpc, customer, "10")
    change: Callable[[str], Any] = {
        "payments": lambda customer: pay(over_grpc, customer, "1"),
        "loans": lambda customer: a_loan(over_grpc, customer, "1", activate=False),
        "customers": lambda customer: over_grpc(
            "customers.UpdateCustomer", customer={"external_id": customer, "score": "2000"}
        ),
    }[rpc]
    with locked(stack.data_dir, held) as holder:
        stuck = [pool.submit(change, held) for _ in range(5)]
        eventually(lambda: waiting(holder) > 0, 10)
        for _ in range(3):
            free = [pool.submit(change, customer) for customer in others]
            assert not wait(free, timeout=20).not_done
        assert not [call for call in stuck if call.done()]
    for call in [*stuck, *free]:
        assert call.result(20)


def test_a_locked_loan_and_payment_hold_nobody_else_up(over_grpc: GrpcDoor, stack: Stack, pool: ThreadPoolExecutor) -> None:
    held, other = (a_customer(over_grpc) for _ in range(2))
    pending = {customer: a_loan(over_grpc, customer, "10", activate=False) for customer in (held, other)}
    for customer in (held, other):
        a_loan(over_grpc, customer, "10")
    paid = {customer: pay(over_grpc, customer, "1")["external_id"] for customer in (held, other)}

    def both(customer: str) -> list[str]:
        first = over_grpc("payments.RejectPayment", external_id=paid[customer], reason="bounced")
        return [first["status"], over_grpc("loans.ActivateLoan", external_id=pending[customer])["status"]]

    with locked(stack.data_dir, held) as holder:
        stuck = pool.submit(both, held)
        eventually(lambda: waiting(holder) > 0, 10)
        assert pool.submit(both, other).result(20) == ["REJECTED", "ACTIVE"]
        assert not stuck.done()
    assert stuck.result(20) == ["REJECTED", "ACTIVE"]


@contextmanager
def poison(connection: Connection) -> Iterator[str]:
    """A payment id that makes whatever statement inserts it fail."""
    external_id = new_id("poison")
    connection.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'poisoned'; END $$
    """)
    connection.execute(f"""
        CREATE TRIGGER poison BEFORE INSERT ON payments FOR EACH ROW WHEN (NEW.external_id = '{external_id}')
        EXECUTE FUNCTION refuse()
    """)
    connection.commit()
    try:
        yield external_id
    finally:
        connection.execute("DROP FUNCTION refuse CASCADE")
        connection.commit()


def test_one_that_makes_the_statement_fail_fails_alone(over_grpc: GrpcDoor, stack: Stack, pool: ThreadPoolExecutor) -> None:
    customer = a_customer(over_grpc)
    loan = a_loan(over_grpc, customer, "100")
    with owner(stack.data_dir) as connection, poison(connection) as external_id:
        with locked(stack.data_dir, customer) as holder:
            calls = [start_payment(pool, over_grpc, customer) for _ in range(20)]
            bad = start_payment(pool, over_grpc, customer, external_id=external_id)
            calls += [start_payment(pool, over_grpc, customer) for _ in range(20)]
            eventually(lambda: waiting(holder) > 0, 10)
        for call in calls:
            assert call.result(30)["status"] == "COMPLETED"
        with pytest.raises(Refused) as refusal:
            bad.result(30)
        assert refusal.value.reason == "INTERNAL_ERROR"
        assert "poisoned" not in str(refusal.value.details) + refusal.value.message
    log = (stack.data_dir / "log" / "serve.log").read_text()
    assert "poisoned" in log, "the log has what the answer has not"
    assert external_id not in log
    assert stack.api_key.rpartition("_")[2] not in log, "nor has it what the call was made with"
    assert over_grpc("loans.GetLoan", external_id=loan)["outstanding"] == "60.00"


def test_a_call_cancelled_before_its_batch_is_dispatched_has_no_effect(
    over_grpc: GrpcDoor, stack: Stack, pool: ThreadPoolExecutor
) -> None:
    customer = a_customer(over_grpc)
    a_loan(over_grpc, customer, "100")
    hasty = GrpcDoor(over_grpc.channel, over_grpc.metadata, timeout=0.5)
    cancelled = new_id("payment")
    with locked(stack.data_dir, customer) as holder:
        first = start_payment(pool, over_grpc, customer)
        eventually(lambda: waiting(holder) > 0, 10)
        with pytest.raises(Refused) as refusal:
            pay(hasty, customer, "1.00", external_id=cancelled)
        assert refusal.value.code == 4
    assert first.result(20)["status"] == "COMPLETED"
    assert pay(over_grpc, customer, "1.00")["status"] == "COMPLETED"  # ran after whatever was queued before
    assert outcome(over_grpc, "payments.GetPayment", external_id=cancelled) == "PAYMENT_NOT_FOUND"


def test_a_batch_that_nobody_waits_for_frees_its_connection(over_grpc: GrpcDoor, stack: Stack) -> None:
    customer = a_customer(over_grpc)
    hasty = GrpcDoor(over_grpc.channel, over_grpc.metadata, timeout=0.5)
    with locked(stack.data_dir, customer) as holder:
        with pytest.raises(Refused) as refusal:
            pay(hasty, customer, "1.00")
        assert refusal.value.code == 4
        eventually(lambda: waiting(holder) == 0, 5)


def test_calls_with_a_key_keep_their_order_and_never_overlap() -> None:
    """Told by the coalescer itself: gRPC promises no order between calls, so no public door can show the order of arrival."""
    done: dict[int, list[int]] = {key: [] for key in range(3)}
    sizes: list[int] = []
    running: set[int] = set()

    async def run(commands: Sequence[tuple[int, int]], _: Locks, __: Batch[tuple[int, int], int]) -> list[int]:
        keys = {key for key, _ in commands}
        assert not keys & running
        running.update(keys)
        sizes.append(len(commands))
        for turn in range(1 + len(sizes) % 4):
            await asyncio.sleep(0.001 * turn)  # a batch takes its time, and not always the same
        for key, number in commands:
            done[key].append(number)
        running.difference_update(keys)
        return [number for _, number in commands]

    async def all_of_them() -> None:
        call = Coalescer(run, key=lambda command: command[0])
        commands = [(number % 3, number) for number in range(600)]
        calls = []
        for number, command in enumerate(commands):
            calls.append(asyncio.create_task(call(command)))
            if number % 7 == 0:
                await asyncio.sleep(0)  # some arrive while others run
        assert await asyncio.gather(*calls) == [number for _, number in commands]

    asyncio.run(all_of_them())
    assert done == {key: list(range(key, 600, 3)) for key in range(3)}
    assert max(sizes) > 1


def test_past_the_bound_calls_are_told_to_come_back(stack: Stack, over_grpc: GrpcDoor, grpc_channel: grpc.Channel) -> None:
    customer = a_customer(over_grpc)
    loan = a_loan(over_grpc, customer, "500")
    stub = payments_pb2_grpc.PaymentServiceStub(grpc_channel)
    more = 300
    with locked(stack.data_dir, customer):
        calls = [
            stub.CreatePayment.future(
                payments_pb2.CreatePaymentRequest(
                    payment=payments_pb2.Payment(
                        external_id=new_id("payment"), customer_external_id=customer, total_amount="0.01"
                    )
                ),
                metadata=over_grpc.metadata,
            )
            for _ in range(MAX_QUEUE + more)
        ]
        eventually(lambda: any(call.done() for call in calls), 60)
    completed = overloaded = 0
    for call in calls:
        try:
            assert call.result(60).status == payments_pb2.Payment.COMPLETED
            completed += 1
        except grpc.RpcError as error:
            refusal = refused(error)
            assert refusal.reason == "OVERLOADED"
            assert [detail for detail in refusal.details if detail["@type"].endswith("RetryInfo")]
            overloaded += 1
    assert completed >= MAX_QUEUE_OF_KEY
    assert overloaded > 0
    left = 500 * 100 - completed
    assert over_grpc("loans.GetLoan", external_id=loan)["outstanding"] == f"{left // 100}.{left % 100:02}"
