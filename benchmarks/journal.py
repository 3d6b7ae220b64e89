"""What the journal costs a payment: the service against the same service whose changes write no event."""

import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import grpc

from benchmarks.distance import free_port
from benchmarks.measure import CALLS, Load, Row, Sample, in_turns
from mo_grpc.customers.accounts import Accounts
from mo_grpc.db.embedded import embedded_url
from mo_grpc.journal.rules import NewEvent, Recorded
from mo_grpc.process.children import spawn, stop

IN_FLIGHT = (1, 8, 64)


def journal(load: Load) -> list[Row]:
    """Payments with and without their events: the processor time of the server and of PostgreSQL."""
    rows = []
    with _without_events(load) as (address, server):
        for in_flight in IN_FLIGHT:
            sides = {
                f"CreatePayment, {in_flight} in flight, with its event": partial(_sample, load, in_flight, None, None),
                f"CreatePayment without its event, {in_flight} in flight": partial(
                    _sample, load, in_flight, address, server.pid
                ),
            }
            with_events, without = (each.server + each.postgres for each in in_turns(load, sides))
            name = f"CreatePayment, {in_flight} in flight: CPU with its event"
            rows.append(Row(name, "µs", with_events, "without", without, 1.1, at_most=True))
    return rows


def _sample(load: Load, in_flight: int, address: str | None, pid: int | None) -> Sample:
    return load.sample(load.payments(CALLS[in_flight]), in_flight, [address] if address else (), server=pid)


@contextmanager
def _without_events(load: Load) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    """Another worker over the same database, which writes no events."""
    url = embedded_url(load.stack.folder / "data").render_as_string(hide_password=False)
    folder = load.stack.folder / "without"
    folder.mkdir()
    # One database, one key: another worker of the same service.
    shutil.copy(load.stack.folder / "data" / "secret.key", folder)
    settings = {"MO_DATABASE_URL": url, "MO_DATA_DIR": str(folder), "MO_GRPC_PORT": str(free_port())}
    with patch.dict(os.environ, settings):
        server = spawn([sys.executable, "-m", "benchmarks.journal", "serve", "--worker", "0"])
    try:
        address = f"unix:{folder}/run/grpc-0.sock"
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        yield address, server
    finally:
        stop(server, signal.SIGTERM, 30)


def _no_event(_: Accounts, new: NewEvent) -> Recorded:
    return Recorded(0, new.score_after, new.debt_after)


if __name__ == "__main__":
    with patch.object(Accounts, "_append", _no_event):
        runpy.run_module("mo_grpc", run_name="__main__", alter_sys=True)
