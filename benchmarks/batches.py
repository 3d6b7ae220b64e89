"""Payments in batches, and over many loans."""

import statistics
import time

import grpc
from mo.payments.v1.payments_pb2 import BatchCreatePaymentsRequest
from mo.payments.v1.payments_pb2_grpc import PaymentServiceStub

from benchmarks.client import grpc_call
from benchmarks.measure import REPEATS, Load, Row, Sample, in_turns
from benchmarks.sql_limit import RawPayments

BATCH = "mo.payments.v1.PaymentService/BatchCreatePayments"
SIZE, BATCHES = 500, 20
SERVER_LIMIT_US = 30.0


def batch(load: Load) -> list[Row]:
    """Batches, against the same work by psycopg with its arrays prepared."""
    with load.stack.connect() as connection:
        limit = RawPayments(connection, load)
        figure, raw = in_turns(
            load,
            {
                f"BatchCreatePayments, {SIZE}, a payment": lambda: _batches(load),
                f"the SQL of {SIZE} payments alone, a payment": lambda: limit.sample(BATCHES, SIZE),
            },
        )
    return [
        Row(f"BatchCreatePayments, {SIZE}", "payments/s", figure.rate, "its SQL alone, by psycopg", raw.rate, 0.6),
        Row(
            f"BatchCreatePayments, {SIZE}: server CPU a payment",
            "µs",
            figure.server,
            "what it may cost",
            SERVER_LIMIT_US,
            1.0,
            at_most=True,
        ),
    ]


def _batches(load: Load) -> Sample:
    """Batches one after the other; rates and costs are of one payment, latencies of one batch."""
    with load.stack.connect() as connection:
        before = connection.execute("SELECT count(*) FROM payments").fetchall()[0][0]
        requests = [
            BatchCreatePaymentsRequest(requests=[load.payment(f"bench-{n + 1}") for n in range(SIZE)]) for _ in range(BATCHES)
        ]
        sample = load.sample([grpc_call(BATCH, request, load.stack.key) for request in requests], 1)
        made = connection.execute("SELECT count(*) FROM payments").fetchall()[0][0] - before
        assert made == SIZE * BATCHES, f"{made} payments were made"
    rate, p50, p95, p99, *costs = sample
    return Sample(rate * SIZE, p50, p95, p99, *(cost / SIZE for cost in costs))


def many_loans(load: Load) -> Row:
    """A payment over 1,000 loans, against one over a single loan."""
    with load.stack.connect() as connection, grpc.insecure_channel(load.stack.service_address) as channel:
        stub = PaymentServiceStub(channel)
        for name in ("wide", "narrow"):
            connection.execute(
                "INSERT INTO customers (external_id, score, created_at, updated_at) VALUES (%s, 9999999999, now(), now())",
                [name],
            )
        seconds: dict[str, list[float]] = {"wide": [], "narrow": []}
        for turn in range(REPEATS * 5):
            for name, loans in (("wide", 1000), ("narrow", 1)):
                load.lend(connection, name, loans, 1, run_id=f"-{turn}")
                request = load.payment(name, f"{loans}.00")
                started = time.perf_counter()
                payment = stub.CreatePayment(request, metadata=(("x-api-key", load.stack.key),))
                seconds[name].append(time.perf_counter() - started)
                assert len(payment.payment_details) == loans
    wide, narrow = (statistics.median(seconds[name]) * 1000 for name in ("wide", "narrow"))
    return Row("A payment over 1,000 loans", "ms", wide, "over one loan", narrow, 10, at_most=True)
