"""Runs a worker: it serves until it is told to end, then drains."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import structlog
import uvloop

from mo_grpc.config import Settings
from mo_grpc.db.engine import Database, affordable_pool_size, database_url
from mo_grpc.imports.orphans import remove_for_ever
from mo_grpc.journal.sequencer import sequence
from mo_grpc.process.sockets import READY, REPLACE, WorkersError, claim, notify, worker_socket
from mo_grpc.process.tasks import Tasks
from mo_grpc.rpc.metadata import Addresses
from mo_grpc.server.cleaning import clean_up
from mo_grpc.server.health import HealthServicer
from mo_grpc.server.sampling import start_sampling
from mo_grpc.server.server import Built, make_server
from mo_grpc.server.state import ServerState, server_state
from mo_grpc.telemetry.call_log import CallLog
from mo_grpc.telemetry.calls import observers
from mo_grpc.telemetry.folder import worker_name
from mo_grpc.telemetry.metrics import measured
from mo_grpc.telemetry.traces import traced
from mo_grpc.webhooks.deliverer import Deliverer

if TYPE_CHECKING:
    from mo_grpc.telemetry.meter import Meter

log = structlog.get_logger()

FIRST_CONTACT = 3.0
"""Seconds that a server waits for its database before it listens; whoever connected sooner would only be refused."""


async def report_health(status: HealthServicer, state: ServerState, supervisor: int | None) -> None:
    """Report whether there is all that calls need, and log each change; the first time, tell the supervisor.

    Without it, as when the database is out of reach, all calls are UNAVAILABLE.
    """
    reported = False
    before = None
    while True:
        missing = state.missing
        status.report(ready=not missing)
        if missing != before:
            if missing:
                log.warning("not ready", missing=missing)
            else:
                log.info("ready")
            before = missing
        if not missing and not reported:
            reported = notify(supervisor, READY) or True
        await asyncio.sleep(0.1)


async def first_contact(state: ServerState) -> None:
    """Wait until there is all that calls need, or until it has taken too long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_CONTACT):
            while state.missing:  # noqa: ASYNC110 - it changes with the time, too
                await asyncio.sleep(0.01)


def _listen(server: grpc.aio.Server, settings: Settings, worker: int) -> None:
    """Take the port for direct clients and the private socket for Envoy.

    Raises:
        WorkersError: one of them cannot be used.
    """
    private = worker_socket(settings, worker)
    claim(settings, private)
    addresses = {
        f"Port {settings.mo_grpc_port} of {settings.mo_grpc_host}": settings.grpc_address,
        f"The socket {private}": f"unix:{private}",
    }
    for name, address in addresses.items():
        try:
            server.add_insecure_port(address)
        except RuntimeError:
            raise WorkersError(f"{name} cannot be used.") from None


def background_work(settings: Settings, database: Database, state: ServerState) -> dict[str, Coroutine[Any, Any, None]]:
    """The work that a server does beside the calls, by name; other servers go on with it."""
    work = {
        "cleaning up": clean_up(database, settings),
        "imports": state.background.follow(),
        "old uploads": remove_for_ever(database, state.background.runner.objects, settings.mo_upload_retention_days),
    }
    if not settings.use_celery:
        work["webhooks"] = Deliverer(database, state.sender).follow()
    return work


async def serve_async(settings: Settings, worker: int, supervisor: int | None, meter: "Meter | None") -> bool:
    """Serve until the supervisor ends it (SIGHUP); then drain, and close the database.

    Draining has two steps: it is not ready any more, but takes calls for MO_DRAIN_DELAY_SECONDS, until whoever sends them has
    noticed; then it takes no more, and finishes those that run.

    SIGTERM and SIGINT ask the supervisor for a successor first; without one, they end the server as well.
    A background task that fails ends it, too; then the answer is False.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask_for_successor() -> None:
        if not notify(supervisor, REPLACE):
            stop.set()

    loop.add_signal_handler(signal.SIGHUP, stop.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask_for_successor)
    url = database_url(settings)
    database = Database(url, await affordable_pool_size(url, settings))
    tasks = Tasks(on_failure=stop.set)
    async with server_state(settings, database, tasks) as state:
        observers.append(CallLog(worker, settings.mo_log_calls_ratio, settings.mo_slow_call_seconds))
        built = make_server(settings, database, state)
        await first_contact(state)
        _listen(built.server, settings, worker)
        await built.server.start()
        work = background_work(settings, database, state) | {"health": report_health(built.health, state, supervisor)}
        for name, each in work.items():
            tasks.start(name, each)
        # Until the calls have ended, whose events get their positions.
        tasks.start("positions of events", sequence(url))
        if meter:
            start_sampling(settings, meter, database, state, tasks)
        log.info("serving", address=settings.grpc_address, worker=worker)
        await stop.wait()
        built.health.fail()
        log.info(
            "draining",
            delay_seconds=settings.mo_drain_delay_seconds,
            grace_seconds=settings.mo_shutdown_grace_seconds,
            worker=worker,
        )
        await asyncio.sleep(settings.mo_drain_delay_seconds)
        await tasks.stop(*work)
        await drain(built, settings.mo_shutdown_grace_seconds)
    await database.close()
    log.info("stopped", worker=worker)
    return not tasks.failed


async def drain(built: Built, grace: float) -> None:
    """Take no new calls, and wait `grace` seconds at most for those that run; one that is ended then gets SERVER_STOPPING."""
    await built.health.end()
    built.calls.end(streams=True)
    await built.calls.settle()
    stopping = asyncio.create_task(built.server.stop(grace + 2))
    await asyncio.sleep(0)
    built.calls.release()
    _, left = await asyncio.wait({stopping}, timeout=grace)
    if left:
        built.calls.end(streams=False)
        built.calls.end(streams=True)
        await stopping


def serve(settings: Settings, worker: int, supervisor: int | None) -> None:
    """Serve in this process, on uvloop, at the private socket of this number; `supervisor` is the pipe to the supervisor.

    The exit status is 70 (EX_SOFTWARE) when a background task failed.
    """
    # The garbage collector stops all calls while it looks at every object there is. What has been imported stays, so it need
    # not be looked at, and the calls' own objects go by their reference counts: p99 was 60 ms before, and is 20 ms.
    with (
        traced(settings, worker, Addresses(settings.mo_trusted_edges).is_edge),
        measured(settings, worker_name(worker)) as meter,
    ):
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 20, 50)
        well = uvloop.run(serve_async(settings, worker, supervisor, meter))
    if not well:
        sys.exit(os.EX_SOFTWARE)
