"""A database that does not answer, though nothing says that it is gone."""

import pytest

from tests.conftest import Stack
from tests.doors import GrpcDoor, Refused
from tests.factories import a_customer, a_loan, pay
from tests.faults.proxy import Proxy
from tests.faults.service import through
from tests.servers import NOT_SERVING, SERVING, a_server
from tests.waiting import eventually

DEADLINE_EXCEEDED = 4


def test_connections_that_fall_silent_are_given_up_for_new_ones(stack: Stack, wire: Proxy, over_grpc: GrpcDoor) -> None:
    customer = a_customer(over_grpc)
    a_loan(over_grpc, customer)
    with a_server(stack.environment, MO_DATABASE_URL=through(wire, stack.data_dir)) as server:
        door = GrpcDoor(server.channel, over_grpc.metadata, timeout=1)
        pay(door, customer, "1.00")
        wire.mute()
        with pytest.raises(Refused) as refused:
            pay(door, customer, "1.00")
        assert refused.value.code == DEADLINE_EXCEEDED
        eventually(lambda: server.health() == NOT_SERVING, 20)
        with pytest.raises(Refused) as refused:
            door("customers.GetCustomer", external_id=customer)
        assert refused.value.reason == "DATABASE_UNAVAILABLE"
        eventually(lambda: server.health() == SERVING, 30)
        patient = GrpcDoor(server.channel, over_grpc.metadata)
        pay(patient, customer, "1.00")
        patient("customers.GetCustomer", external_id=customer)
