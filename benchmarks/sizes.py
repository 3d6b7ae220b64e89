"""What reads cost, by how many rows there are."""

import statistics
import time
from collections.abc import Callable, Sequence

import grpc
from mo.customers.v1.customers_pb2 import GetCustomerRequest, ListCustomersRequest
from mo.customers.v1.customers_pb2_grpc import CustomerServiceStub

from benchmarks.measure import Load, Row

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
