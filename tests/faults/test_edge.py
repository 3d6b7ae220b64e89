"""The same faults, seen through Envoy."""

import itertools
from collections.abc import Iterator

import pytest

from tests.conftest import Stack
from tests.doors import GrpcDoor, Refused, RestDoor
from tests.factories import mutation, new_id
from tests.faults.proxy import Fault
from tests.faults.service import Faulty, effects, retried
from tests.rpcs import MUTATIONS


@pytest.fixture(scope="module")
def edge(faulty: Faulty, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestDoor]:
    with faulty.edge(tmp_path_factory.mktemp("edge")) as door:
        yield door


@pytest.mark.parametrize("rpc", MUTATIONS)
def test_a_retry_over_rest_takes_effect_once(
    faulty: Faulty, edge: RestDoor, over_grpc: GrpcDoor, stack: Stack, rpc: str
) -> None:
    undisturbed = mutation(over_grpc, rpc)
    over_grpc(rpc, **undisturbed)
    once = effects(stack, undisturbed)
    lost = 0
    for statement in itertools.count(1):
        request, key = mutation(over_grpc, rpc), new_id("key")
        answer = faulty.call(rpc, request, key, statement, Fault.CUT_ANSWER, door=edge)
        if answer is None:
            break
        if isinstance(answer, Refused):
            assert answer.reason == "DATABASE_UNAVAILABLE"
            lost += 1
        keyed = edge.keyed(key)
        again = retried(keyed, rpc, request)
        assert isinstance(answer, Refused) or (keyed.replayed and again == answer)
        assert effects(stack, request) == once, statement
    assert lost == 4, "Envoy hands on that nobody knows, of the one round trip that commits, and does not try again by itself"
