"""What breaks between the service and PostgreSQL, at every statement of every mutating RPC: a retry takes effect once."""

import itertools
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from mo.payments.v1.payments_pb2 import CreatePaymentRequest, Payment

from mo_grpc.db.coalescing import MAX_QUEUE
from mo_grpc.db.embedded import EmbeddedPostgres, embedded_url
from mo_grpc.payments.servicer import CREATE_PAYMENT
from tests.conftest import KEY, Stack, run_cli, settings_environment
from tests.databases import locked, waiting
from tests.doors import GrpcDoor, Refused, RestDoor
from tests.factories import a_customer, a_loan, mutation, new_id, outstanding, pay
from tests.faults.cut_points import CUT_POINTS
from tests.faults.proxy import COMMIT, Fault, Plan, Proxy, a_proxy
from tests.faults.service import Faulty, acknowledged, effects, ids_of, retried, through
from tests.rpcs import MUTATIONS
from tests.servers import SERVING, a_server
from tests.waiting import eventually

UNAVAILABLE, ABORTED = 14, 10
# How a caller without an idempotency key learns that its first try did take effect.
HAPPENED = {
    "CUSTOMER_ALREADY_EXISTS",
    "LOAN_ALREADY_EXISTS",
    "PAYMENT_ALREADY_EXISTS",
    "LOAN_WRONG_STATUS",
    "PAYMENT_WRONG_STATUS",
}


CUTS = (Fault.CUT, Fault.CUT_ANSWER)


def test_the_cuts_of_every_rpc_are_documented() -> None:
    assert sorted(CUT_POINTS) == sorted(MUTATIONS)
    for points in CUT_POINTS.values():
        assert points.tried == len(CUTS) * (points.with_key + points.without_key)


@pytest.mark.parametrize("fault", CUTS)
@pytest.mark.parametrize("rpc", MUTATIONS)
def test_a_connection_cut_at_any_statement_and_a_retry_take_effect_once(
    faulty: Faulty, over_grpc: GrpcDoor, stack: Stack, rpc: str, fault: Fault
) -> None:
    undisturbed = mutation(over_grpc, rpc)
    over_grpc(rpc, **undisturbed)
    once = effects(stack, undisturbed)
    assert once
    lost = 0
    for statement in itertools.count(1):
        request = mutation(over_grpc, rpc)
        key = new_id("key")
        answer = faulty.call(rpc, request, key, statement, fault)
        if answer is None:
            break
        lost += isinstance(answer, Refused)
        assert not isinstance(answer, Refused) or answer.code == UNAVAILABLE
        keyed = faulty.door.keyed(key)
        again = retried(keyed, rpc, request)
        assert isinstance(answer, Refused) or (keyed.replayed and again == answer)
        assert effects(stack, request) == once, statement
    # The key's lock and record, what is locked and read, the effect, its event, the record, COMMIT.
    assert statement - 1 == CUT_POINTS[rpc].with_key
    assert lost == 4, "what happened is unknown only while these four are under way, in one round trip"


@pytest.mark.parametrize("fault", CUTS)
@pytest.mark.parametrize("rpc", MUTATIONS)
def test_without_a_key_too_a_cut_connection_leaves_all_or_nothing(
    faulty: Faulty, over_grpc: GrpcDoor, stack: Stack, rpc: str, fault: Fault
) -> None:
    undisturbed = mutation(over_grpc, rpc)
    before = effects(stack, undisturbed)
    over_grpc(rpc, **undisturbed)
    once = effects(stack, undisturbed)
    for statement in itertools.count(1):
        request = mutation(over_grpc, rpc)
        answer = faulty.call(rpc, request, "", statement, fault)
        if answer is None:
            break
        assert not isinstance(answer, Refused) or answer.code == UNAVAILABLE
        happened = effects(stack, request)
        assert happened in ([before, once] if isinstance(answer, Refused) else [once]), statement
        if happened == once and rpc not in ("customers.UpdateCustomer", "payments.BatchCreatePayments"):
            with pytest.raises(Refused) as refused:
                faulty.door(rpc, **request)
            assert refused.value.reason in HAPPENED
    assert statement - 1 == CUT_POINTS[rpc].without_key


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
@pytest.mark.parametrize("rpc", MUTATIONS)
def test_a_lost_race_is_tried_again_and_again_but_not_for_ever(
    faulty: Faulty, over_grpc: GrpcDoor, stack: Stack, rpc: str, sqlstate: str
) -> None:
    state = sqlstate.encode()
    request = mutation(over_grpc, rpc)
    answer = faulty.call(rpc, request, "", 1, Fault.FAIL, sqlstate=state)
    assert answer is not None
    assert not isinstance(answer, Refused)
    request = mutation(over_grpc, rpc)
    before = effects(stack, request)
    faulty.proxy.plan = plan = Plan(ids_of(request), 1, Fault.FAIL, state, times=100)
    with pytest.raises(Refused) as refused:
        faulty.door(rpc, **request)
    assert (refused.value.code, refused.value.reason) == (ABORTED, "CONFLICT")
    assert 2 <= plan.fired <= 10
    assert effects(stack, request) == before


@pytest.mark.parametrize("rpc", ["loans.ActivateLoan", "payments.CreatePayment", "payments.BatchCreatePayments"])
def test_a_server_killed_between_commit_and_answer_is_asked_again(
    stack: Stack, wire: Proxy, over_grpc: GrpcDoor, over_rest: RestDoor, rpc: str
) -> None:
    for retry in (over_grpc, over_rest):
        request, key = mutation(over_grpc, rpc), new_id("key")
        with (
            a_server(stack.environment, MO_DATABASE_URL=through(wire, stack.data_dir)) as server,
            ThreadPoolExecutor(1) as pool,
        ):
            wire.plan = plan = Plan(ids_of(request, key), COMMIT, Fault.HOLD_ANSWER)
            door = GrpcDoor(server.channel, (("x-api-key", stack.api_key),)).keyed(key)
            call = pool.submit(door, rpc, **request)
            assert plan.seen.wait(20)
            server.process.kill()
            server.process.wait(10)
            with pytest.raises(Refused) as refused:
                call.result(20)
            assert refused.value.code == UNAVAILABLE
        wire.plan = None
        once = effects(stack, request)
        assert acknowledged(retry, key, rpc, request)
        assert effects(stack, request) == once


def test_postgresql_killed_between_commit_and_answer_has_lost_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("killed")
    data_dir = tmp_path / "data"
    environment = settings_environment(data_dir)
    (tmp_path / "wire").mkdir()
    with ExitStack() as first:
        postgres = first.enter_context(EmbeddedPostgres(data_dir))
        run_cli(environment, "migrate")
        [api_key] = KEY.findall(run_cli(environment, "keys", "create", "test").stdout)
        upstream = Path(str(embedded_url(data_dir).query["host"]))
        with (
            a_proxy(tmp_path / "wire", upstream) as proxy,
            a_server(environment, MO_DATABASE_URL=through(proxy, data_dir)) as server,
        ):
            door = GrpcDoor(server.channel, (("x-api-key", api_key),))
            request, key = mutation(door, "payments.CreatePayment"), new_id("key")
            proxy.plan = plan = Plan(ids_of(request, key), COMMIT, Fault.HOLD_ANSWER)
            with ThreadPoolExecutor(1) as pool:
                call = pool.submit(door.keyed(key), "payments.CreatePayment", **request)
                assert plan.seen.wait(20)
                postgres.process.kill()
                postgres.process.wait(10)
                with pytest.raises(Refused) as refused:
                    call.result(20)
            assert refused.value.code == UNAVAILABLE
            proxy.plan = None
            first.close()
            with EmbeddedPostgres(data_dir):
                eventually(lambda: server.health() == SERVING, 30)
                assert acknowledged(door, key, "payments.CreatePayment", request)
                assert run_cli(environment, "audit").returncode == 0


def test_a_call_that_nobody_waits_for_frees_its_connection(stack: Stack, over_grpc: GrpcDoor) -> None:
    customer = a_customer(over_grpc)
    a_loan(over_grpc, customer)
    hasty = GrpcDoor(over_grpc.channel, over_grpc.metadata, timeout=1)
    with locked(stack.data_dir, customer) as holder, ThreadPoolExecutor(1) as pool:
        call = pool.submit(pay, hasty, customer, "1.00")
        eventually(lambda: waiting(holder) > 0, 10)
        with pytest.raises(Refused) as refused:
            call.result(20)
        assert refused.value.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        eventually(lambda: waiting(holder) == 0, 5)


def test_a_server_that_is_paused_in_the_middle_holds_its_locks_for_seconds_only(
    stack: Stack, wire: Proxy, over_grpc: GrpcDoor
) -> None:
    request = mutation(over_grpc, "payments.CreatePayment")
    with (
        a_server(stack.environment, MO_DATABASE_URL=through(wire, stack.data_dir)) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        wire.plan = plan = Plan(ids_of(request), 1, Fault.HOLD_ANSWER)
        door = GrpcDoor(server.channel, (("x-api-key", stack.api_key),), timeout=60)
        call = pool.submit(door, "payments.CreatePayment", **request)
        assert plan.seen.wait(20)
        wire.plan = None
        server.process.send_signal(signal.SIGSTOP)
        try:
            wire.release()  # the customer is locked, and who has locked it does not go on
            patient = GrpcDoor(over_grpc.channel, over_grpc.metadata, timeout=60)
            assert patient("payments.CreatePayment", **request)["status"] == "COMPLETED"
        finally:
            server.process.send_signal(signal.SIGCONT)
        with pytest.raises(Refused) as refused:
            call.result(20)
        assert refused.value.reason == "PAYMENT_ALREADY_EXISTS", "its transaction is over, so it begins anew"


def test_calls_for_a_locked_customer_leave_room_for_those_of_others(stack: Stack, over_grpc: GrpcDoor) -> None:
    held, other = (a_customer(over_grpc) for _ in range(2))
    loan = a_loan(over_grpc, other)
    a_loan(over_grpc, held)
    flood = 2200
    with locked(stack.data_dir, held):
        pay_raw: grpc.UnaryUnaryMultiCallable[bytes, bytes] = over_grpc.channel.unary_unary(CREATE_PAYMENT)
        calls = [pay_raw.future(payment(held), metadata=over_grpc.metadata, timeout=30) for _ in range(flood)]
        eventually(lambda: any(call.done() for call in calls), 20)
        assert pay(over_grpc, other, "1.00")["status"] == "COMPLETED"
        refused = [call for call in calls if call.done()]
        assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        for call in calls:
            call.cancel()
    assert outstanding(over_grpc, loan) == ("99.00", "ACTIVE")


def test_calls_whose_deadline_has_passed_leave_room_for_others(stack: Stack, over_grpc: GrpcDoor) -> None:
    *held, other = (a_customer(over_grpc) for _ in range(4))
    a_loan(over_grpc, other)
    pay_raw: grpc.UnaryUnaryMultiCallable[bytes, bytes] = over_grpc.channel.unary_unary(CREATE_PAYMENT)
    with ExitStack() as stay:
        locks = [stay.enter_context(locked(stack.data_dir, customer)) for customer in held]
        # These wait on and on, for a lock or for one of the slots of those that may; all that come after wait for them.
        first = [pay_raw.future(payment(customer), metadata=over_grpc.metadata, timeout=60) for customer in held]
        eventually(lambda: sum(waiting(lock) for lock in locks) >= 2, 10)
        calls = [
            pay_raw.future(payment(customer), metadata=over_grpc.metadata, timeout=5)
            for _ in range(MAX_QUEUE // 3 + 20)
            for customer in held
        ]
        eventually(lambda: all(call.done() for call in calls), 30)
        assert pay(over_grpc, other, "1.00")["status"] == "COMPLETED"
    assert [Payment.FromString(call.result()).status for call in first] == [Payment.REJECTED] * len(first)


def payment(customer: str) -> bytes:
    bare = Payment(external_id=new_id("payment"), customer_external_id=customer, total_amount="1.00")
    return CreatePaymentRequest(payment=bare).SerializeToString()
