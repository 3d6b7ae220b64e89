"""Every metric of the service: its name, its labels, and the question that it answers (docs/metrics.md).

Labels are bounded: methods and codes of the protos, reasons and kinds of enumerations, processes of this host. None has an id,
a name or an amount of a customer.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from prometheus_client import Counter, Gauge

from mo_grpc.telemetry.histograms import Histogram

LATENCIES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
WAITS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
PHASES: Final = (0.001, 0.005, 0.025, 0.1, 0.5)
COARSE: Final = (1,)
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

RPC: Final = ("grpc_type", "grpc_service", "grpc_method")


def _counter(name: str, question: str, *labels: str) -> Counter:
    return Counter(name, question, labels, registry=None)


def _gauge(name: str, question: str, *labels: str, of_all: str = "livesum") -> Gauge:
    """A gauge of the running processes; `of_all` says how those of several become one."""
    return Gauge(name, question, labels, registry=None, multiprocess_mode=of_all)  # type: ignore[arg-type]


def _histogram(name: str, question: str, buckets: Sequence[float], *labels: str) -> Histogram:
    return Histogram(name, question, labels, buckets=buckets, registry=None)


class CallMetrics:
    """What is asked about calls. The first four have the names that gRPC servers' metrics usually have."""

    def __init__(self, *, histograms: bool) -> None:
        self.started = _counter("grpc_server_started", "How many calls come in?", *RPC)
        self.handled = _counter("grpc_server_handled", "How do calls end?", *RPC, "grpc_code")
        self.seconds = _histogram(
            "grpc_server_handling_seconds", "How long do calls take?", LATENCIES if histograms else COARSE, *RPC
        )
        self.in_flight = _gauge("mo_calls_in_flight", "How many calls run at this moment?")
        self.refusals = _counter("mo_refusals", "Why are calls refused?", "reason")


class WorkMetrics:
    """What is asked about the work in the database."""

    def __init__(self) -> None:
        self.batch_size = _histogram("mo_batch_size", "How many calls share a batch?", SIZES)
        self.batch_wait = _histogram("mo_batch_wait_seconds", "How long does a call wait for its batch?", WAITS)
        self.phases = _histogram("mo_work_phase_seconds", "Where does the time in the database go?", PHASES, "work", "phase")
        self.statements = _counter("mo_statements", "How many statements are sent?")
        self.round_trips = _counter("mo_round_trips", "In how many round trips?")
        self.pool_size = _gauge("mo_pool_size", "How many connections may there be?", "pool")
        self.pool_in_use = _gauge("mo_pool_in_use", "How many connections are in use?", "pool")
        self.pool_waiting = _gauge("mo_pool_waiting", "How much work waits for a connection?", "pool")


class ProcessMetrics:
    """What is asked about the processes."""

    def __init__(self) -> None:
        self.workers = _gauge("mo_workers", "How many server processes should run?", of_all="livemax")
        self.memory = _gauge("mo_memory_bytes", "How much memory does a process hold?", "process")
        self.lag = _histogram("mo_event_loop_lag_seconds", "How late is the event loop?", (*WAITS, 5), "process")
        self.tasks = _gauge("mo_background_tasks", "Does each background task run?", "task")
        self.ring_age = _gauge("mo_ring_age_seconds", "How old is what is known of keys and tokens?", "ring", of_all="livemax")


class BusinessMetrics:
    """What is asked about the money, and about what operators look after."""

    def __init__(self) -> None:
        self.loans = _counter("mo_loans", "What becomes of loans?", "outcome")
        self.payments = _counter("mo_payments", "What becomes of payments?", "outcome")
        self.customers = _counter("mo_customers", "How many customers are created or changed?", "outcome")
        self.money = _counter("mo_money", "How much is lent, repaid and bounced?", "movement")
        self.import_lines = _counter("mo_import_lines", "What becomes of imported lines?", "outcome")
        self.import_backlog = _gauge(
            "mo_import_backlog_seconds", "How old is the oldest import that is not over?", of_all="livemax"
        )
        self.replays = _counter("mo_idempotency_replays", "How many answers are sent again?")
        self.retries = _counter("mo_retries", "Why is work in the database done again?", "reason")
        self.pool_exhausted = _counter("mo_pool_exhausted", "How often was no connection free in time?")
        self.task_failures = _counter("mo_background_task_failures", "Which background task fails and is tried again?", "task")
        self.honeypot = _counter("mo_honeypot_attempts", "How often is the honeypot tried?", "stored")


class PostgresMetrics:
    """What is asked about PostgreSQL; the totals are since its statistics were reset."""

    def __init__(self) -> None:
        def gauge(name: str, question: str, *labels: str) -> Gauge:
            return _gauge(f"mo_postgres_{name}", question, *labels, of_all="livemax")

        self.connections = gauge("connections", "How many connections has PostgreSQL?")
        self.most_connections = gauge("max_connections", "How many may it have?")
        self.size = gauge("size_bytes", "How large is the database?")
        self.transactions = gauge("transactions", "How many transactions have ended, and how?", "outcome")
        self.blocks = gauge("blocks", "How many blocks were found in memory, how many read?", "source")
        self.waiting = gauge("waiting_for_locks", "How many sessions wait for a lock?")
        self.oldest = gauge("oldest_transaction_seconds", "How long has the oldest transaction been open?")
        self.wal = gauge("wal_bytes", "How much has been written to the write-ahead log?")
        self.xid_age = gauge("xid_age", "How near is the wraparound of transaction ids (2 billion)?")
        self.replica_lag = gauge("replica_lag_bytes", "How far behind is the slowest standby?")

    def note(self, readings: Mapping[str, float]) -> None:
        """Take the readings of `mo_grpc.db.statistics`."""
        self.connections.set(readings["connections"])
        self.most_connections.set(readings["max_connections"])
        self.size.set(readings["size_bytes"])
        self.transactions.labels("committed").set(readings["commits"])
        self.transactions.labels("rolled back").set(readings["rollbacks"])
        self.blocks.labels("memory").set(readings["blks_hit"])
        self.blocks.labels("read").set(readings["blks_read"])
        self.waiting.set(readings["waiting_for_locks"])
        self.oldest.set(readings["oldest_transaction_seconds"])
        self.wal.set(readings["wal_bytes"])
        self.xid_age.set(readings["xid_age"])
        self.replica_lag.set(readings["replica_lag_bytes"])
