"""What the journal costs a payment: the service against the same service whose changes write no event."""

import runpy
from functools import partial
from unittest.mock import patch

from benchmarks.beside import beside
from benchmarks.measure import CALLS, Load, Row, Sample, in_turns
from mo_grpc.customers.accounts import Accounts
from mo_grpc.journal.rules import NewEvent, Recorded

IN_FLIGHT = (1, 8, 64)


def journal(load: Load) -> list[Row]:
    """Payments with and without their events: the processor time of the server and of PostgreSQL."""
    rows = []
    with beside(load, "without", ("-m", "benchmarks.journal")) as (address, server):
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


def _no_event(_: Accounts, new: NewEvent) -> Recorded:
    return Recorded(0, new.score_after, new.debt_after)


if __name__ == "__main__":
    with patch.object(Accounts, "_append", _no_event):
        runpy.run_module("mo_grpc", run_name="__main__", alter_sys=True)
