"""The empty call, a read and a write, from one in flight to many; through Envoy too."""

from functools import partial

from mo.customers.v1.customers_pb2 import GetCustomerRequest

from benchmarks.client import Call, grpc_call, rest_get
from benchmarks.measure import CALLS, CUSTOMERS, GET, REST_OK, Load, Row, Sample, in_turns
from benchmarks.sql_limit import RawPayments


def gets(load: Load, count: int) -> list[Call]:
    """Prepared reads, spread over all customers."""
    some = [grpc_call(GET, GetCustomerRequest(external_id=f"bench-{n + 1}"), load.stack.key) for n in range(CUSTOMERS)]
    return (some * (count // CUSTOMERS + 1))[:count]


def one(load: Load) -> list[Row]:
    """A single call: its processor time and its latency."""
    with load.stack.connect() as connection:
        limit = RawPayments(connection, load)
        empty, get, payment, raw = in_turns(
            load,
            {
                "empty call, 1 in flight": partial(load.empty, load.payment("bench-1"), 1),
                "GetCustomer, 1 in flight": lambda: load.sample(gets(load, CALLS[1]), 1),
                "CreatePayment, 1 in flight": lambda: load.sample(load.payments(CALLS[1]), 1),
                "a payment's SQL alone, by psycopg": lambda: limit.sample(CALLS[1], 1),
            },
        )
    cpu, wait = "an empty call's", "its SQL alone, and an empty call"
    return [
        Row("GetCustomer, 1 in flight: server CPU", "µs", get.server, cpu, empty.server, 1.8, at_most=True),
        Row("CreatePayment, 1 in flight: server CPU", "µs", payment.server, cpu, empty.server, 2.5, at_most=True),
        Row("CreatePayment, 1 in flight: p50", "ms", payment.p50, wait, raw.p50 + empty.p50, 1.5, at_most=True),
    ]


def crowd(in_flight: int, get_target: float, payment_target: float, load: Load) -> list[Row]:
    """Calls per second with this many in flight, against empty calls."""
    empty, get, payment = in_turns(
        load,
        {
            f"empty call, {in_flight} in flight": partial(load.empty, load.payment("bench-1"), in_flight),
            f"GetCustomer, {in_flight} in flight": lambda: load.sample(gets(load, CALLS[in_flight]), in_flight),
            f"CreatePayment, {in_flight} in flight": lambda: load.sample(load.payments(CALLS[in_flight]), in_flight),
        },
    )
    return [
        Row(f"GetCustomer, {in_flight} in flight", "calls/s", get.rate, "empty calls", empty.rate, get_target),
        Row(
            f"CreatePayment, {in_flight} in flight, {CUSTOMERS:,} customers",
            "calls/s",
            payment.rate,
            "empty calls",
            empty.rate,
            payment_target,
            detail=load.memory(),
        ),
    ]


def hot_customer(load: Load) -> Row:
    """A write on one customer, against one over many."""
    one_customer, many = in_turns(
        load,
        {
            "CreatePayment, 64 in flight, one customer": lambda: load.sample(load.payments(CALLS[64], 1), 64),
            "CreatePayment, 64 in flight, many customers": lambda: load.sample(load.payments(CALLS[64]), 64),
        },
    )
    return Row("CreatePayment, one customer", "calls/s", one_customer.rate, f"{CUSTOMERS:,} customers", many.rate, 0.8)


def rest(load: Load) -> list[Row]:
    """A read through Envoy, against the same over gRPC, each call on a connection of its own."""
    rows = []
    for connections in (8, 64):
        calls = [rest_get("/v1/customers/bench-1", load.stack.key)] * CALLS[connections]
        through_envoy, direct = in_turns(
            load,
            {
                f"GetCustomer over REST, {connections} connections": partial(
                    load.sample, calls, connections, [load.stack.rest_address] * connections, REST_OK
                ),
                f"GetCustomer over gRPC, {connections} connections": partial(_over_grpc, load, connections),
            },
        )
        name = f"REST through Envoy, {connections} connections"
        rows.append(Row(name, "calls/s", through_envoy.rate, "the same over gRPC", direct.rate, 0.6))
    return rows


def _over_grpc(load: Load, connections: int) -> Sample:
    call = grpc_call(GET, GetCustomerRequest(external_id="bench-1"), load.stack.key)
    return load.sample([call] * CALLS[connections], connections, [load.stack.service_address] * connections)


eight = partial(crowd, 8, 0.8, 0.4)
sixty_four = partial(crowd, 64, 0.85, 0.55)
