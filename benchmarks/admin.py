"""The web admin over a million customers: how long a user waits for a page, through Envoy."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median

import httpx

from benchmarks.measure import Load, Row
from benchmarks.stack import Stack
from mo_grpc.config import Settings
from mo_grpc.process.children import spawn, stop
from mo_grpc.process.sockets import serving_socket, worker_sockets

CUSTOMERS = 1_000_000
REPEATS = 5
LIMIT = 1000.0
"""Milliseconds: a page that takes longer feels slow."""
FIRST_LIMIT = 10_000.0
"""Milliseconds for the first dashboard, which reads whole tables; later ones are cached."""

_EMAIL, _PASSWORD = "bench@example.org", "harbour lantern 42"

# Each has a PENDING loan, an ACTIVE one that is paid in part, and the payment of that part, all within the last hundred days.
_FILL = (
    """
    INSERT INTO customers (external_id, status, score, created_at, updated_at)
    SELECT 'admin-' || n, CASE WHEN n % 1000 = 0 THEN 2 ELSE 1 END, 1000 + n % 5000, now(), now()
    FROM generate_series(1, 1000000) AS n
    """,
    """
    INSERT INTO loans (customer_id, external_id, amount, outstanding, status, taken_at, maximum_payment_date, created_at,
        updated_at)
    SELECT id, external_id || '-' || kind, 500, CASE kind WHEN 1 THEN 500 ELSE 400 - id % 300 END, kind,
        CASE kind WHEN 2 THEN at END, at + interval '90 days', at, at
    FROM customers, generate_series(1, 2) AS kind, LATERAL (SELECT now() - (id % 100) * interval '1 day' AS at) AS time
    WHERE external_id LIKE 'admin-%'
    """,
    """
    INSERT INTO payments (customer_id, external_id, total_amount, status, paid_at, created_at, updated_at)
    SELECT customer_id, external_id || '-p', amount - outstanding, 1, at, at, at
    FROM loans, LATERAL (SELECT taken_at + (now() - taken_at) / 2 AS at) AS time
    WHERE status = 2 AND external_id LIKE 'admin-%'
    """,
    """
    INSERT INTO payment_details (payment_id, loan_id, customer_id, amount)
    SELECT payments.id, loans.id, payments.customer_id, total_amount
    FROM payments JOIN loans ON payments.external_id = loans.external_id || '-p'
    """,
    "VACUUM ANALYZE",
)


def _fill(stack: Stack) -> None:
    with stack.connect() as connection:
        for statement in _FILL:
            connection.execute(statement.encode())


def admin(load: Load) -> list[Row]:
    """Fill the tables, log in, and look at pages one after the other."""
    _fill(load.stack)
    # The workers' supervisor keeps this link; the benchmarks' one worker has none.
    settings = Settings()
    serving_socket(settings).symlink_to(worker_sockets(settings)[0])
    process = spawn([sys.executable, "-m", "mo_grpc", "web"])
    try:
        with httpx.Client(
            base_url=f"http://{load.stack.rest_address}/grappelli/", timeout=60, follow_redirects=True
        ) as visitor:
            _log_in(visitor)
            first = _milliseconds(visitor, "")
            pages = {name: median(_milliseconds(visitor, path) for _ in range(REPEATS)) for name, path in _pages()}
            again = median(_milliseconds(visitor, "") for _ in range(REPEATS))
    finally:
        stop(process, signal.SIGTERM, 30)
    detail = ", ".join(f"{name} {value:.0f}" for name, value in pages.items())
    slowest = max(pages.values())
    return [
        Row("admin: the slowest page of a list", "ms", slowest, "a second", LIMIT, 1.0, at_most=True, detail=f"ms: {detail}"),
        Row("admin: the dashboard, the first time", "ms", first, "ten seconds", FIRST_LIMIT, 1.0, at_most=True),
        Row("admin: the dashboard again", "ms", again, "a second", LIMIT, 1.0, at_most=True),
    ]


def _pages() -> Sequence[tuple[str, str]]:
    middle = CUSTOMERS // 2
    return (
        ("customers", "customers"),
        ("customers, deep", f"customers?after={middle}"),
        ("customers, searched", "customers?search=admin-77"),
        ("customers by id, deep", "customers?sort=external_id&after=admin-5"),
        ("inactive customers", "customers?status=2"),
        ("inactive customers, deep", f"customers?status=2&after={middle}"),
        ("loans", "loans"),
        ("pending loans, deep", f"loans?status=1&after={middle}"),
        ("loans of a customer", f"loans?customer=admin-{middle}"),
        ("payments", "payments"),
        ("payments, deep", f"payments?status=1&after={middle}"),
        ("a customer", f"customers/admin-{middle}"),
    )


def _milliseconds(visitor: httpx.Client, path: str) -> float:
    began = time.perf_counter()
    answer = visitor.get(path)
    answer.raise_for_status()
    return (time.perf_counter() - began) * 1000


def _log_in(visitor: httpx.Client) -> None:
    command = [sys.executable, "-m", "mo_grpc", "users", "create", _EMAIL]
    subprocess.run(command, input=f"{_PASSWORD}\n", text=True, check=True, capture_output=True)
    deadline = time.monotonic() + 30
    while (answer := visitor.get("login")).status_code != 200:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the pages answer {answer.status_code}")
        time.sleep(0.1)
    token = re.findall(r'name="csrf" value="([^"]+)"', answer.text)[0]
    form = {"csrf": token, "email": _EMAIL, "password": _PASSWORD}
    status = visitor.post("login", data=form, follow_redirects=False).status_code
    if status != 303:
        raise RuntimeError(f"the login was refused: {status}")
