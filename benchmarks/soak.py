"""Ten minutes at 80 % of the peak, with retries: nothing fails, memory does not grow, the audit finds nothing."""

import itertools
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator

from mo.customers.v1.customers_pb2 import GetCustomerRequest

from benchmarks.client import Call, grpc_call
from benchmarks.measure import CREATE_PAYMENT, CUSTOMERS, GET, Load, Row
from benchmarks.stack import memory_mib

SECONDS = 600
SHARE = 0.8
WARM_UP = 60
RETRIED = 10  # each so many payments, one is sent again, a thousand payments later


def soak(load: Load) -> Row:
    """Half reads, half payments with idempotency keys, some of which are sent again; a burst each second.

    Raises:
        RuntimeError: a call failed, a retry took effect twice, or the audit found something.
    """
    calls = _calls(load)
    peak = max(load.sample(list(itertools.islice(calls, 20_000)), 64).rate for _ in range(3))
    a_second = int(peak * SHARE)
    started, made, warm, late = time.monotonic(), 0, 0.0, 0
    for second in range(SECONDS):
        load.sample(list(itertools.islice(calls, a_second)), 64)
        made += a_second
        if second == WARM_UP:
            warm = memory_mib(load.stack.server.pid)
        left = started + second + 1 - time.monotonic()
        late += left < 0
        time.sleep(max(0.0, left))
    memory = memory_mib(load.stack.server.pid)
    with load.stack.connect() as connection:
        # Every payment is there once: its number is in its id, and none is missing up to the last.
        counted = connection.execute("SELECT count(*), max(substr(external_id, 8)::bigint) FROM payments").fetchone()
    audit = subprocess.run([sys.executable, "-m", "mo_grpc", "audit"], capture_output=True, text=True, check=False)
    if not counted or counted[0] != counted[1] or audit.returncode:
        raise RuntimeError(f"payments and the last one's number: {counted}; audit: {audit.stdout}{audit.stderr}")
    detail = f"{made:,} calls at {a_second:,}/s, {late} seconds late, {counted[0]:,} payments, none failed, audit clean"
    return Row("Memory after 10 minutes at 80 %", "MiB", memory, "after one minute", warm, 1.1, at_most=True, detail=detail)


def _calls(load: Load) -> Iterator[Call]:
    """Calls without end."""
    to_retry: deque[Call] = deque()
    for number in itertools.count():
        yield grpc_call(GET, GetCustomerRequest(external_id=f"bench-{number % CUSTOMERS + 1}"), load.stack.key)
        payment = load.payment(f"bench-{number * 7 % CUSTOMERS + 1}")
        call = grpc_call(CREATE_PAYMENT, payment, load.stack.key, idempotency_key=payment.payment.external_id)
        yield call
        if number % RETRIED == 0:
            to_retry.append(call)
            if len(to_retry) > CUSTOMERS // RETRIED:
                yield to_retry.popleft()
