"""Readings for the metrics that no event changes: taken of the process several times a second, of the database less often."""

import asyncio
import time

from mo_grpc.config import Settings
from mo_grpc.db.engine import Database
from mo_grpc.db.statistics import statistics
from mo_grpc.imports.store import oldest_open
from mo_grpc.process.tasks import Tasks, repeat
from mo_grpc.server.state import ServerState
from mo_grpc.telemetry.meter import Meter

INTERVAL = 0.25
"""Seconds between two readings of the process."""

DATABASE_INTERVAL = 5.0
"""Seconds between two readings of the database, about."""


def start_sampling(settings: Settings, meter: Meter, database: Database, state: ServerState, tasks: Tasks) -> None:
    """Take readings until the tasks end."""
    meter.processes.workers.set(settings.mo_workers)
    for pool, size in database.pool_sizes.items():
        meter.work.pool_size.labels(pool).set(size)
    tasks.start("metrics of the process", _sample_process(meter, state, tasks))
    tasks.start("metrics of the database", _sample_database(meter, database))


async def _sample_process(meter: Meter, state: ServerState, tasks: Tasks) -> None:
    loop = asyncio.get_running_loop()
    lag = meter.processes.lag.labels(meter.process)
    while True:
        began = loop.time()
        await asyncio.sleep(INTERVAL)
        meter.calls.tell()
        lag.observe(max(0.0, loop.time() - INTERVAL - began))
        now = time.monotonic()
        for ring, cache in (("keys", state.keys), ("tokens", state.tokens)):
            meter.processes.ring_age.labels(ring).set(now - cache.current_at)
        for name in tasks.names:
            meter.processes.tasks.labels(name).set(1)
            meter.business.task_failures.labels(name)  # at zero until it fails


async def _sample_database(meter: Meter, database: Database) -> None:
    async def sample() -> None:
        meter.business.import_backlog.set(await database.read(oldest_open))
        meter.postgres.note(await database.read(statistics))

    await sample()
    await repeat("metrics of the database", sample, DATABASE_INTERVAL, spread=0.2)
