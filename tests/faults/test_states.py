"""What PostgreSQL says when it cannot go on is told as what it is: please retry, never INTERNAL."""

import pytest

from tests.conftest import Stack
from tests.doors import GrpcDoor, Refused
from tests.factories import mutation, new_id
from tests.faults.proxy import COMMIT, Fault
from tests.faults.service import Faulty, acknowledged, effects

RPC = "payments.CreatePayment"
STATES = {
    "25006": "read_only_sql_transaction: it follows another server now",
    "53100": "disk_full",
    "53300": "too_many_connections",
    "57014": "query_canceled: a statement timeout",
    "57P03": "cannot_connect_now",
    "58030": "io_error",
}


@pytest.mark.parametrize("statement", [1, 4])
@pytest.mark.parametrize("sqlstate", STATES)
def test_a_database_that_cannot_go_on_is_unavailable_and_nothing_has_happened(
    faulty: Faulty, over_grpc: GrpcDoor, stack: Stack, sqlstate: str, statement: int
) -> None:
    request, key = mutation(over_grpc, RPC), new_id("key")
    before = effects(stack, request)
    refusal = faulty.call(RPC, request, key, statement, Fault.FAIL, sqlstate=sqlstate.encode(), times=100)
    assert isinstance(refusal, Refused)
    assert refusal.reason == "DATABASE_UNAVAILABLE"
    assert [detail for detail in refusal.details if detail["@type"].endswith("RetryInfo")]
    assert effects(stack, request) == before
    assert not acknowledged(faulty.door, key, RPC, request)
    assert effects(stack, request) != before


def test_a_server_that_may_not_write_any_more_is_left_for_the_one_that_may(faulty: Faulty, over_grpc: GrpcDoor) -> None:
    request = mutation(over_grpc, RPC)
    answer = faulty.call(RPC, request, "", 3, Fault.FAIL, sqlstate=b"25006")
    assert answer is not None
    assert not isinstance(answer, Refused)


@pytest.mark.parametrize("statement", [2, 3, 4, 5, 6, 7, COMMIT])
def test_a_race_may_be_lost_at_any_statement(faulty: Faulty, over_grpc: GrpcDoor, stack: Stack, statement: int) -> None:
    undisturbed = mutation(over_grpc, RPC)
    over_grpc(RPC, **undisturbed)
    request, key = mutation(over_grpc, RPC), new_id("key")
    answer = faulty.call(RPC, request, key, statement, Fault.FAIL, sqlstate=b"40001")
    assert answer is not None
    assert not isinstance(answer, Refused)
    assert effects(stack, request) == effects(stack, undisturbed)
