"""The rows of DESIGN §7, each a figure beside its limit, in one run on one machine."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grpc
import psycopg
from google.protobuf.message import Message
from mo.customers.v1.customers_pb2 import GetCustomerRequest, ListCustomersRequest
from mo.customers.v1.customers_pb2_grpc import CustomerServiceStub
from mo.payments.v1.payments_pb2 import BatchCreatePaymentsRequest, CreatePaymentRequest, Payment
from mo.payments.v1.payments_pb2_grpc import PaymentServiceStub

from benchmarks.client import Call, Result, grpc_call, rest_get, run
from benchmarks.stack import EMPTY_RPC, Stack, cpu_seconds, memory_mib
from mo_grpc.customers import store as customers
from mo_grpc.payments import store as payments

IN_FLIGHT = 64
CALLS = 20_000
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
        """The figure, in limits."""
        return self.figure / self.limit

    @property
    def passed(self) -> bool:
        """Whether the target is met."""
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target


class Load:
    """Fills the database, makes calls that take effect once, and measures both sides of a comparison in turns."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._number = 0
        with stack.connect() as connection:
            connection.execute(
                """
                INSERT INTO customers (external_id, score, created_at, updated_at)
                SELECT 'bench-' || n, 9999999999, now(), now() FROM generate_series(1, %s) AS n
            """,
                [CUSTOMERS],
            )
            self._lend(connection, "bench-%", 1, 900_000_000)

    def _lend(self, connection: "psycopg.Connection[Any]", customers: str, loans: int, amount: int) -> None:
        """Give customers so many ACTIVE loans."""
        connection.execute(
            """
            INSERT INTO loans (customer_id, external_id, amount, outstanding, status, taken_at, maximum_payment_date,
                created_at, updated_at)
            SELECT customers.id, external_id || '-' || n, %s, %s, 2, now(), now(), now(), now()
            FROM customers, generate_series(1, %s) AS n WHERE external_id LIKE %s
        """,
            [amount, amount, loans, customers],
        )
        connection.execute("ANALYZE")

    def payment(self, customer: str, amount: str = "0.01") -> CreatePaymentRequest:
        """A payment that no other run has made."""
        self._number += 1
        payment = Payment(external_id=f"bench-p{self._number}", customer_external_id=customer, total_amount=amount)
        return CreatePaymentRequest(payment=payment)

    def payments(self, count: int, customers: int) -> list[Call]:
        """Prepared payments, spread over so many customers."""
        requests = (self.payment(f"bench-{n % customers + 1}") for n in range(count))
        return [grpc_call(CREATE_PAYMENT, request, self.stack.key) for request in requests]

    def empty(self, request: Message) -> Result:
        """The limit: as many calls of the empty server."""
        return self._measure(self.stack.empty_address, [grpc_call(EMPTY_RPC, request, self.stack.key)] * CALLS)

    def service(self, calls: Sequence[Call]) -> Result:
        """Calls of the service."""
        return self._measure(self.stack.service_address, calls)

    def _measure(self, address: str, calls: Sequence[Call], ok: bytes = GRPC_OK) -> Result:
        result = run([address], calls, IN_FLIGHT, ok)
        if result.failed:
            raise RuntimeError(f"{result.failed} of {len(calls)} calls failed")
        return result

    def rest(self, path: str) -> Result:
        """Calls through Envoy."""
        return self._measure(self.stack.rest_address, [rest_get(path, self.stack.key)] * CALLS, REST_OK)


def compare(figure: Callable[[], Result], limit: Callable[[], Result]) -> tuple[Result, Result]:
    """Measure in turns, after a warm-up; answer the median runs."""
    figure(), limit()
    pairs = [(figure(), limit()) for _ in range(REPEATS)]
    return _median([figure for figure, _ in pairs]), _median([limit for _, limit in pairs])


def _median(results: Sequence[Result]) -> Result:
    return sorted(results, key=lambda result: result.rate)[len(results) // 2]


def _latency(result: Result) -> str:
    return "p50/p95/p99 " + "/".join(f"{result.percentile(p):.1f}" for p in (50, 95, 99)) + " ms"


def _with_costs(load: Load, measure: Callable[[], Result]) -> Callable[[], tuple[Result, str]]:
    """Measure, and tell what a call cost whom."""

    def measured() -> tuple[Result, str]:
        parts = {"server": load.stack.server.pid, "PostgreSQL": load.stack.postgres.pid}
        before = {name: cpu_seconds(pid) for name, pid in parts.items()}
        client = time.process_time()
        result = measure()
        calls = len(result.latencies)
        costs = [f"{name} {(cpu_seconds(pid) - before[name]) / calls * 1e6:.0f}" for name, pid in parts.items()]
        costs.append(f"client {(time.process_time() - client) / calls * 1e6:.0f}")
        memory = f"{memory_mib(load.stack.server.pid):.0f} MiB"
        return result, f"{_latency(result)}; CPU µs a call: {', '.join(costs)}; worker {memory}"

    return measured


def get_customer(load: Load) -> Row:
    """A read, against an empty call."""
    request = GetCustomerRequest(external_id="bench-1")
    calls = [grpc_call(GET, GetCustomerRequest(external_id=f"bench-{n % CUSTOMERS + 1}"), load.stack.key) for n in range(CALLS)]
    figure, limit = compare(lambda: load.service(calls), lambda: load.empty(request))
    _, detail = _with_costs(load, lambda: load.service(calls))()
    return Row("GetCustomer, 64 in flight", "calls/s", figure.rate, "an empty call", limit.rate, 0.7, detail=detail)


def create_payment(load: Load) -> Row:
    """A write over many customers, against an empty call."""
    request = load.payment("bench-1")
    figure, limit = compare(lambda: load.service(load.payments(CALLS, CUSTOMERS)), lambda: load.empty(request))
    _, detail = _with_costs(load, lambda: load.service(load.payments(CALLS, CUSTOMERS)))()
    return Row(
        "CreatePayment, 64 in flight, 1,000 customers", "calls/s", figure.rate, "an empty call", limit.rate, 0.5, detail=detail
    )


def hot_customer(load: Load) -> Row:
    """A write on one customer, against one over many."""
    figure, limit = compare(
        lambda: load.service(load.payments(CALLS, 1)), lambda: load.service(load.payments(CALLS, CUSTOMERS))
    )
    return Row(
        "CreatePayment, one customer", "calls/s", figure.rate, "1,000 customers", limit.rate, 0.8, detail=_latency(figure)
    )


def batch(load: Load) -> Row:
    """Payments in batches, against the same statements by psycopg alone."""
    size, batches = 500, 20
    with grpc.insecure_channel(load.stack.service_address) as channel, load.stack.connect() as connection:
        stub = PaymentServiceStub(channel)
        sides: dict[str, list[float]] = {"service": [], "psycopg": []}
        for _ in range(REPEATS + 1):
            requests = [[load.payment(f"bench-{n + 1}") for n in range(size)] for _ in range(batches)]
            started = time.perf_counter()
            for items in requests:
                answer = stub.BatchCreatePayments(
                    BatchCreatePaymentsRequest(requests=items), metadata=(("x-api-key", load.stack.key),)
                )
                assert all(result.HasField("payment") for result in answer.results)
            sides["service"].append(time.perf_counter() - started)
            sets = [[load.payment(f"bench-{n + 1}").payment for n in range(size)] for _ in range(batches)]
            started = time.perf_counter()
            for some in sets:
                _raw_payments(connection, some)
            sides["psycopg"].append(time.perf_counter() - started)
    rates = {name: size * batches / statistics.median(seconds[1:]) for name, seconds in sides.items()}
    return Row("BatchCreatePayments, 500 items", "payments/s", rates["service"], "its SQL by psycopg", rates["psycopg"], 0.6)


def _raw_payments(connection: "psycopg.Connection[Any]", some: Sequence[Payment]) -> None:
    """What the store's statements cost by themselves: each payment pays its customer's only loan."""

    def execute(statement: Any, values: dict[str, Any]) -> Any:
        query = str(statement.text)
        for name in sorted(values, key=len, reverse=True):
            query = query.replace(f":{name}", f"%({name})s")
        return connection.execute(query, values)

    ids = [payment.external_id for payment in some]
    with connection.transaction():
        owners = execute(customers._LOCK_ALL, {"external_ids": [p.customer_external_id for p in some]}).fetchall()
        by_name = {row[1]: row[0] for row in owners}
        loans = {row[0]: row for row in execute(payments._OPEN_LOANS, {"customer_ids": list(by_name.values())})}
        now, _, new_ids = execute(payments._PREPARE, {"external_ids": ids, "count": len(some)}).fetchone()
        mine = [by_name[payment.customer_external_id] for payment in some]
        paid = [loans[customer] for customer in mine]
        nothing: list[Any] = [None] * len(some)
        execute(
            payments._CREATE,
            {
                "ids": new_ids,
                "customer_ids": mine,
                "external_ids": ids,
                "total_amounts": [payment.total_amount for payment in some],
                "statuses": [1] * len(some),
                "paid_ats": [now] * len(some),
                "rejected_ats": nothing,
                "rejection_kinds": nothing,
                "rejection_reasons": nothing,
                "created_ats": [now] * len(some),
                "detail_payment_ids": new_ids,
                "detail_loan_ids": [row[1] for row in paid],
                "detail_customer_ids": mine,
                "detail_amounts": [payment.total_amount for payment in some],
                "loan_ids": [row[1] for row in paid],
                "outstandings": [row[3] for row in paid],
                "updated_ats": [now] * len(some),
            },
        )


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
                connection.execute(
                    """
                    INSERT INTO loans (customer_id, external_id, amount, outstanding, status, taken_at, maximum_payment_date,
                        created_at, updated_at)
                    SELECT customers.id, external_id || %s || '-' || n, 1, 1, 2, now(), now(), now(), now()
                    FROM customers, generate_series(1, %s) AS n WHERE external_id = %s
                """,
                    [f"-{turn}", loans, name],
                )
                request = load.payment(name, f"{loans}.00")
                started = time.perf_counter()
                payment = stub.CreatePayment(request, metadata=(("x-api-key", load.stack.key),))
                seconds[name].append(time.perf_counter() - started)
                assert len(payment.payment_details) == loans
    wide, narrow = (statistics.median(seconds[name]) * 1000 for name in ("wide", "narrow"))
    return Row("A payment over 1,000 loans", "ms", wide, "over one loan", narrow, 10, at_most=True)


def rest(load: Load) -> Row:
    """A read through Envoy, against the same over gRPC."""
    call = grpc_call(GET, GetCustomerRequest(external_id="bench-1"), load.stack.key)
    figure, limit = compare(lambda: load.rest("/v1/customers/bench-1"), lambda: load.service([call] * CALLS))
    return Row("REST through Envoy", "calls/s", figure.rate, "the same over gRPC", limit.rate, 0.6, detail=_latency(figure))


SIZES = (10_000, 10_000_000)


def table_size(load: Load) -> list[Row]:
    """A get and a deep page of a large table, against a small one."""
    figures = size_figures(load, SIZES)
    small, large = SIZES
    return [
        Row(f"{name} at {large:,} rows", "ms", figures[name, large], f"at {small:,}", figures[name, small], 1.3, at_most=True)
        for name in dict.fromkeys(name for name, _ in figures)
    ]


def size_figures(load: Load, sizes: Sequence[int]) -> dict[tuple[str, int], float]:
    """Milliseconds of a get, of the first page and of a deep page, by the number of customers."""
    figures: dict[tuple[str, int], float] = {}
    with load.stack.connect() as connection, grpc.insecure_channel(load.stack.service_address) as channel:
        stub = CustomerServiceStub(channel)
        metadata = (("x-api-key", load.stack.key),)
        known = 0
        for size in sizes:
            connection.execute(
                """
                INSERT INTO customers (external_id, score, created_at, updated_at)
                SELECT 'row-' || n, 1, now(), now() FROM generate_series(%s::int, %s::int) AS n
            """,
                [known + 1, size],
            )
            known = size
            connection.execute("VACUUM ANALYZE customers")
            token = ""
            for _ in range(5):
                answer = stub.ListCustomers(ListCustomersRequest(page_size=1000, page_token=token), metadata=metadata)
                token = answer.next_page_token
            works: dict[str, Callable[[int], object]] = {
                "GetCustomer": lambda n, size=size: stub.GetCustomer(  # type: ignore[misc]
                    GetCustomerRequest(external_id=f"row-{n * 7919 % size + 1}"), metadata=metadata
                ),
                "A deep page": lambda _, token=token: stub.ListCustomers(  # type: ignore[misc]
                    ListCustomersRequest(page_size=50, page_token=token), metadata=metadata
                ),
            }
            for name, work in works.items():
                times = [_timed(lambda n=n, work=work: work(n)) for n in range(600)]  # type: ignore[misc]
                figures[name, size] = statistics.median(times[100:]) * 1000
    return figures


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


ROWS: dict[str, Callable[[Load], Row | list[Row]]] = {
    "get": get_customer,
    "payment": create_payment,
    "hot": hot_customer,
    "batch": batch,
    "loans": many_loans,
    "rest": rest,
    "size": table_size,
}
