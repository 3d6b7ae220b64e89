"""The limit of payments: the work of a batch of payments in literal SQL, with its parameters prepared, by synchronous psycopg.

The statements do the work of the store's (mo_grpc/payments/store.py), and stand here by themselves so that the limit stays
what it is when the store changes: lock the customers, read their loans, the ids that are taken, new ids and the clock; write
the payments, their details and what is left of the loans; COMMIT. What the service decides between the two is known here
beforehand, and costs nothing. Whoever changes what a payment writes changes it here as well.
"""

import time
from typing import Any

import psycopg

from benchmarks.measure import CUSTOMERS, Load, Sample
from benchmarks.stack import cpu_seconds

# In one statement, which the store must not do, because reads beside a lock see the state before it. Here nobody else pays.
_LOCK_AND_READ = """
    WITH locked AS (
        SELECT id, external_id, status, score FROM customers WHERE external_id = ANY(%s::text[]) ORDER BY id FOR NO KEY UPDATE
    )
    SELECT locked.id, locked.external_id, locked.status, score, loans.id, loans.external_id, outstanding, mo_clock(),
        nextval('payments_id_seq'), ARRAY(SELECT external_id FROM payments WHERE external_id = ANY(%s::text[]))
    FROM locked JOIN loans ON customer_id = locked.id AND loans.status = 2 ORDER BY customer_id, taken_at, loans.id
"""

_WRITE = """
    WITH new AS (
        SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::numeric[])
            AS new (id, customer_id, loan_id, external_id, amount), mo_clock() AS now
    ), new_payments AS (
        INSERT INTO payments (id, customer_id, external_id, total_amount, status, paid_at, created_at, updated_at)
        SELECT id, customer_id, external_id, amount, 1, now, now, now FROM new ORDER BY external_id
    ), new_details AS (
        INSERT INTO payment_details (payment_id, loan_id, customer_id, amount) SELECT id, loan_id, customer_id, amount FROM new
    )
    UPDATE loans SET outstanding = outstanding - new.amount, status = CASE WHEN outstanding = new.amount THEN 4 ELSE 2 END,
        updated_at = now
    FROM new WHERE loans.id = loan_id
"""


class RawPayments:
    """Batches of payments, each over customers of its own who owe one loan."""

    def __init__(self, connection: "psycopg.Connection[Any]", load: Load) -> None:
        self._cursor = connection.cursor()
        self._load = load
        self._numbers = 0
        connection.prepare_threshold = 0
        connection.execute("SET enable_seqscan = off")  # as the service's role has it
        self._owners = connection.execute(
            """
            SELECT customers.external_id, customer_id, loans.id FROM loans JOIN customers ON customers.id = customer_id
            WHERE customers.external_id LIKE 'bench-%%' ORDER BY customer_id LIMIT %s
            """,
            [CUSTOMERS],
        ).fetchall()

    def _batch(self, size: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The parameters of the two statements, as literals of arrays."""
        start = self._numbers
        self._numbers += size
        owners = [self._owners[n % CUSTOMERS] for n in range(start, start + size)]
        ids = self._cursor.execute("SELECT nextval('payments_id_seq') FROM generate_series(1, %s)", [size]).fetchall()
        names = _array(f"bench-p{self._load.number()}" for _ in range(size))
        columns = (_array(row[0] for row in ids), _array(owner[1] for owner in owners), _array(owner[2] for owner in owners))
        return (_array(owner[0] for owner in owners), names), (*columns, names, _array(["0.01"] * size))

    def sample(self, batches: int, size: int) -> Sample:
        """So many batches, one after the other; rates and costs are of one payment, latencies of one batch."""
        prepared = [self._batch(size) for _ in range(batches)]
        postgres, client = cpu_seconds(self._load.stack.postgres.pid), time.process_time()
        execute, latencies = self._cursor.execute, []
        for lock_and_read, write in prepared:
            started = time.perf_counter()
            execute("BEGIN")
            execute(_LOCK_AND_READ, lock_and_read).fetchall()
            execute(_WRITE, write)
            execute("COMMIT")
            latencies.append(time.perf_counter() - started)
        each = 1e6 / (batches * size)
        costs = ((cpu_seconds(self._load.stack.postgres.pid) - postgres) * each, (time.process_time() - client) * each)
        seconds = sum(latencies)
        p50, p95, p99 = (sorted(latencies)[int(batches * share)] * 1000 for share in (0.5, 0.95, 0.99))
        return Sample(batches * size / seconds, p50, p95, p99, server=0.0, postgres=costs[0], envoy=0.0, client=costs[1])


def _array(values: Any) -> str:
    """A literal; ids and amounts need no quotes."""
    return "{" + ",".join(map(str, values)) + "}"
