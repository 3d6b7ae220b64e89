"""Calls that run as one batch fail together only when they must; the items of BatchCreatePayments have keys of their own."""

import itertools
from typing import Any

import pytest
from mo.payments.v1.payments_pb2 import CreatePaymentRequest, Payment
from mo.payments.v1.payments_pb2_grpc import PaymentServiceStub

from tests.conftest import Stack
from tests.doors import GrpcDoor, Json, Refused, refused
from tests.factories import a_customer, a_loan, mutation, new_id, outstanding
from tests.faults.proxy import COMMIT, Fault, Plan
from tests.faults.service import Faulty, effects
from tests.waiting import eventually

UNAVAILABLE = 14
CALLS = 24


class Together:
    """Keyed payments of 1.00, each by a customer of its own, sent at the same time; the fault strikes a batch of them."""

    def __init__(self, faulty: Faulty, door: GrpcDoor, statement: int, fault: Fault, **plan: Any) -> None:
        self._door = faulty.door
        customers = [a_customer(door) for _ in range(CALLS)]
        self.loans = [a_loan(door, customer) for customer in customers]
        self._requests = [
            CreatePaymentRequest(payment=Payment(external_id=new_id("payment"), customer_external_id=each, total_amount="1.00"))
            for each in customers
        ]
        self._keys = [f"{new_id('key')}." for _ in customers]  # none is the beginning of another
        self.plan = faulty.proxy.plan = Plan([key.encode() for key in self._keys], statement, fault, together=2, **plan)
        self.calls = self.send()

    def send(self) -> list[Any]:
        """Send the calls, or send them again."""
        stub = PaymentServiceStub(self._door.channel)
        return [
            stub.CreatePayment.future(request, metadata=(*self._door.metadata, ("idempotency-key", key)), timeout=30)
            for request, key in zip(self._requests, self._keys, strict=True)
        ]

    def struck(self) -> list[int]:
        """The calls of the batch that went wrong."""
        assert self.plan.seen.wait(20)
        return [index for index, key in enumerate(self._keys) if key.encode() in self.plan.first]


def outcomes(calls: list[Any]) -> list[str]:
    """What became of calls, in a word each."""
    return [
        refused(call.exception()).reason if call.exception(30) else Payment.Status.Name(call.result().status) for call in calls
    ]


@pytest.mark.parametrize(
    ("statement", "fault", "plan"),
    [
        (1, Fault.CUT, {}),
        (4, Fault.CUT_ANSWER, {}),
        (3, Fault.FAIL, {"sqlstate": b"40P01"}),
        (COMMIT, Fault.FAIL, {"sqlstate": b"40001"}),
    ],
)
def test_a_batch_that_can_be_tried_again_succeeds_as_a_whole(
    faulty: Faulty, over_grpc: GrpcDoor, statement: int, fault: Fault, plan: dict[str, Any]
) -> None:
    together = Together(faulty, over_grpc, statement, fault, **plan)
    assert together.struck()
    assert outcomes(together.calls) == ["COMPLETED"] * CALLS
    assert {outstanding(over_grpc, loan) for loan in together.loans} == {("99.00", "ACTIVE")}


def test_when_the_outcome_of_a_batch_is_unknown_each_retry_takes_effect_once(faulty: Faulty, over_grpc: GrpcDoor) -> None:
    together = Together(faulty, over_grpc, COMMIT, Fault.CUT_ANSWER)
    struck = together.struck()
    assert outcomes(together.calls) == ["DATABASE_UNAVAILABLE" if index in struck else "COMPLETED" for index in range(CALLS)]
    assert outcomes(together.send()) == ["COMPLETED"] * CALLS
    assert {outstanding(over_grpc, loan) for loan in together.loans} == {("99.00", "ACTIVE")}


def test_a_batch_goes_on_for_those_who_still_wait_for_it(faulty: Faulty, over_grpc: GrpcDoor) -> None:
    together = Together(faulty, over_grpc, 1, Fault.HOLD_ANSWER)
    hasty, *_ = together.struck()
    together.calls[hasty].cancel()
    faulty.door("customers.ListCustomers", page_size=1)  # by then the server knows
    faulty.proxy.release()
    assert outcomes([call for index, call in enumerate(together.calls) if index != hasty]) == ["COMPLETED"] * (CALLS - 1)
    assert outcomes(together.send()) == ["COMPLETED"] * CALLS
    assert {outstanding(over_grpc, loan) for loan in together.loans} == {("99.00", "ACTIVE")}


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.CUT_ANSWER])
def test_a_batch_whose_items_have_keys_takes_effect_once(
    faulty: Faulty, over_grpc: GrpcDoor, stack: Stack, fault: Fault
) -> None:
    rpc = "payments.BatchCreatePayments"

    def batch() -> Json:
        request = mutation(over_grpc, rpc)
        for item in request["requests"]:
            item["idempotency_key"] = new_id("key")
        return request

    undisturbed = batch()
    answer = over_grpc(rpc, **undisturbed)
    once = effects(stack, undisturbed)
    statuses = [result["payment"]["status"] for result in answer["results"]]
    for statement in itertools.count(1):
        request = batch()
        faced = faulty.call(rpc, request, "", statement, fault)
        if faced is None:
            break
        assert not isinstance(faced, Refused) or faced.code == UNAVAILABLE
        again = answered(faulty, rpc, request)
        assert [result["payment"]["status"] for result in again["results"]] == statuses
        assert effects(stack, request) == once, statement
    assert statement > 5


def answered(faulty: Faulty, rpc: str, request: Json) -> Json:
    """Call again until no item is told that the first call with its key still runs: PostgreSQL has to notice the cut first."""
    answers: list[Json] = []

    def is_answered() -> bool:
        answers.append(faulty.door(rpc, **request))
        return "IDEMPOTENCY_KEY_IN_FLIGHT" not in str(answers[-1])

    eventually(is_answered, 10)
    return answers[-1]
