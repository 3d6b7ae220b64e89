"""The plots of docs/performance.md: latency against load, rate against batch size, cost against rows."""

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
import matplotlib as mpl
from mo.customers.v1.customers_pb2 import GetCustomerRequest
from mo.payments.v1.payments_pb2 import BatchCreatePaymentsRequest
from mo.payments.v1.payments_pb2_grpc import PaymentServiceStub

from benchmarks.client import grpc_call, run
from benchmarks.measure import CUSTOMERS, GET, GRPC_OK, Load, Row
from benchmarks.sizes import SIZES, size_figures

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "mo-grpc"  # the same picture from the same figures
from matplotlib import pyplot as plt  # noqa: E402 - after the choice of its backend

FOLDER = Path(__file__).parent.parent / "docs" / "performance"
LEVELS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BATCHES = (1, 3, 10, 30, 100, 300, 1000)

Curve = Mapping[str, Sequence[float]]


def draw(name: str, x: str, y: str, at: Sequence[float], curves: Curve, *, logarithmic: bool = True) -> None:
    """Write one plot as SVG."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for label, values in curves.items():
        axes.plot(at, values, marker="o", markersize=3, label=label)
    axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log" if logarithmic else "linear")
    if not logarithmic:
        axes.set_ylim(bottom=0)
    axes.set_xticks(at, [f"{value:,.0f}" for value in at], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def load_curves(load: Load) -> None:
    """Latency, and calls a second, of a read and of a write, from one call in flight to 256."""
    calls = [grpc_call(GET, GetCustomerRequest(external_id=f"bench-{n % CUSTOMERS + 1}"), load.stack.key) for n in range(8000)]
    latency: dict[str, list[float]] = {}
    rate: dict[str, list[float]] = {}
    for level in LEVELS:
        count = min(8000, 400 * level)
        for name, some in (("GetCustomer", calls[:count]), ("CreatePayment", load.payments(count))):
            result = run([load.stack.service_address], some, level, GRPC_OK)
            for percent in (50, 99):
                latency.setdefault(f"{name}, p{percent}", []).append(result.percentile(percent))
            rate.setdefault(name, []).append(result.rate)
    draw("latency-against-load", "calls in flight", "ms", LEVELS, latency)
    draw("rate-against-load", "calls in flight", "calls/s", LEVELS, rate, logarithmic=False)


def batch_curve(load: Load) -> None:
    """Payments a second, by the size of the batch."""
    rates = []
    with grpc.insecure_channel(load.stack.service_address) as channel:
        stub = PaymentServiceStub(channel)
        for size in BATCHES:
            seconds = []
            for _ in range(20):
                batch = BatchCreatePaymentsRequest(requests=[load.payment(f"bench-{n + 1}") for n in range(size)])
                started = time.perf_counter()
                stub.BatchCreatePayments(batch, metadata=(("x-api-key", load.stack.key),))
                seconds.append(time.perf_counter() - started)
            rates.append(size / statistics.median(seconds[5:]))
    draw("rate-against-batch-size", "payments in a batch", "payments/s", BATCHES, {"BatchCreatePayments": rates})


def size_curve(load: Load) -> None:
    """What a read costs, by the number of customers there are."""
    sizes = (*SIZES[:1], 100_000, 1_000_000, *SIZES[1:])
    figures = size_figures(load, sizes)
    names = dict.fromkeys(name for name, _ in figures)
    curves = {name: [figures[name, size] for size in sizes] for name in names}
    draw("cost-against-rows", "customers", "ms", sizes, curves, logarithmic=False)


def curves(load: Load) -> list[Row]:
    """Draw them all."""
    load_curves(load)
    batch_curve(load)
    size_curve(load)
    return []
