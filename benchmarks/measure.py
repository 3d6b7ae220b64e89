"""What all benchmarks use: rows, samples with the processor time of each part, and a load to drive."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from google.protobuf.message import Message
from mo.payments.v1.payments_pb2 import CreatePaymentRequest, Payment

from benchmarks.client import Call, Result, grpc_call, run
from benchmarks.stack import EMPTY_RPC, Stack, cpu_seconds, memory_mib

CALLS = {1: 500, 8: 3_000, 64: 12_000}
"""How many calls a sample has, by the number in flight: a second or a few."""
REPEATS = 3
CUSTOMERS = 1000
GRPC_OK = b"grpc-status\x010"
REST_OK = b"\x88"  # :status 200 is entry 8 of HPACK's static table

GET = "mo.customers.v1.CustomerService/GetCustomer"
CREATE_PAYMENT = "mo.payments.v1.PaymentService/CreatePayment"


class Row(NamedTuple):
    """A figure, what it is measured against, and what their ratio should be: at least `target`, or at most."""

    name: str
    unit: str
    figure: float
    against: str
    limit: float
    target: float
    at_most: bool = False
    detail: str = ""

    @property
    def ratio(self) -> float:
        """The figure, as a multiple of the limit."""
        return self.figure / self.limit

    @property
    def passed(self) -> bool:
        """Whether the target is met."""
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target


class Sample(NamedTuple):
    """One run, or the medians of several: calls a second, milliseconds, and the processor's microseconds a call."""

    rate: float
    p50: float
    p95: float
    p99: float
    server: float
    postgres: float
    envoy: float
    client: float


class Load:
    """Fills the database, makes calls that take effect once, and keeps what was measured for the table of costs."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.samples: dict[str, Sample] = {}
        self._number = 0
        with stack.connect() as connection:
            connection.execute(
                """
                INSERT INTO customers (external_id, score, created_at, updated_at)
                SELECT 'bench-' || n, 9999999999, now(), now() FROM generate_series(1, %s) AS n
            """,
                [CUSTOMERS],
            )
            self.lend(connection, "bench-%", 1, 900_000_000)

    def lend(self, connection: "psycopg.Connection[Any]", customers: str, loans: int, amount: int, run_id: str = "") -> None:
        """Give customers, by a pattern of their ids, so many ACTIVE loans each."""
        connection.execute(
            """
            INSERT INTO loans (customer_id, external_id, amount, outstanding, status, taken_at, maximum_payment_date,
                created_at, updated_at)
            SELECT customers.id, external_id || %s || '-' || n, %s, %s, 2, now(), now(), now(), now()
            FROM customers, generate_series(1, %s) AS n WHERE external_id LIKE %s
        """,
            [run_id, amount, amount, loans, customers],
        )
        connection.execute("ANALYZE")

    def number(self) -> int:
        """A number that no other payment of this run has."""
        self._number += 1
        return self._number

    def payment(self, customer: str, amount: str = "0.01") -> CreatePaymentRequest:
        """A payment that no other run has made."""
        payment = Payment(external_id=f"bench-p{self.number()}", customer_external_id=customer, total_amount=amount)
        return CreatePaymentRequest(payment=payment)

    def payments(self, count: int, customers: int = CUSTOMERS, *, keyed: bool = False) -> list[Call]:
        """Prepared payments, spread over so many customers; with idempotency keys of their own, if `keyed`."""
        requests = [self.payment(f"bench-{n % customers + 1}") for n in range(count)]
        keys = [request.payment.external_id if keyed else "" for request in requests]
        return [grpc_call(CREATE_PAYMENT, request, self.stack.key, key) for request, key in zip(requests, keys, strict=True)]

    def empty(self, request: Message, in_flight: int) -> Sample:
        """The limit: the same message to the server that does nothing."""
        calls = [grpc_call(EMPTY_RPC, request, self.stack.key)] * CALLS[in_flight]
        return self.sample(calls, in_flight, [self.stack.empty_address], server=self.stack.empty.pid)

    def sample(
        self,
        calls: Sequence[Call],
        in_flight: int,
        addresses: Sequence[str] = (),
        ok: bytes = GRPC_OK,
        server: int | None = None,
    ) -> Sample:
        """Make the calls, to the service unless `addresses` is given, and measure the cost for each part.

        Raises:
            RuntimeError: a call failed.
        """
        pids = [server or self.stack.server.pid, self.stack.postgres.pid, self.stack.edge.pid]
        before = [cpu_seconds(pid) for pid in pids]
        client = time.process_time()
        result = run(addresses or [self.stack.service_address], calls, in_flight, ok)
        client = time.process_time() - client
        if result.failed:
            raise RuntimeError(f"{result.failed} of {len(calls)} calls failed")
        spent = [cpu_seconds(pid) - start for pid, start in zip(pids, before, strict=True)]
        return Sample(result.rate, *_latencies(result), *(seconds / len(calls) * 1e6 for seconds in (*spent, client)))

    def memory(self) -> str:
        """The worker's memory."""
        return f"worker {memory_mib(self.stack.server.pid):.0f} MiB"


def _latencies(result: Result) -> tuple[float, float, float]:
    return result.percentile(50), result.percentile(95), result.percentile(99)


def in_turns(load: Load, sides: Mapping[str, Callable[[], Sample]], repeats: int = REPEATS) -> list[Sample]:
    """Measure all sides in turns, after a warm-up, so that other work affects all alike; return their medians."""
    for side in sides.values():
        side()
    rounds = [[side() for side in sides.values()] for _ in range(repeats)]
    medians = [Sample._make(map(statistics.median, zip(*runs, strict=True))) for runs in zip(*rounds, strict=True)]
    load.samples.update(zip(sides, medians, strict=True))
    return medians
