"""Makes the demo's calls, one moment after the other, to a gRPC server of its own whose clock follows the calls.

Nobody can set the clock of the service that users call, so the demo starts another over the same database: the same
interceptors and servicers, behind a socket that only this user can reach, with an API key that is revoked at the end.
"""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple

import grpc
import uvloop
from google.protobuf.message import Message
from mo.customers.v1.customers_pb2 import CreateCustomerRequest
from mo.loans.v1.loans_pb2 import CreateLoanRequest
from mo.payments.v1.payments_pb2 import CreatePaymentRequest
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from mo_grpc.audit_log.rules import operator
from mo_grpc.auth.api_keys.administration import ApiKeyAdministration
from mo_grpc.auth.api_keys.keyring import KeyRing
from mo_grpc.auth.api_keys.temporary import temporary_key
from mo_grpc.config import Settings
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database, database_url
from mo_grpc.demo.api import CHANNEL_OPTIONS, CONNECTIONS, EXISTS, OK, Api, slices
from mo_grpc.demo.portfolio import Portfolio
from mo_grpc.demo.story import YEAR, Event, customer_id, story
from mo_grpc.server.server import make_server
from mo_grpc.server.state import server_state

_MAX_BATCH = 1000

_START_TIMEOUT = 10.0
"""Seconds that the private server may take to start."""

_KEY_LIFETIME = timedelta(hours=1)
"""Real time; the key of a demo that was killed before it could revoke it ends by itself."""


class DemoError(Exception):
    """The demo had to stop; the message says why."""


class Tally(NamedTuple):
    """What became of the calls."""

    customers: int
    loans: int
    payments: int
    existing: int
    refused: int

    def __str__(self) -> str:
        if not self.customers + self.loans + self.payments:
            return "All of it was there already; nothing was created."
        text = f"Created: customers {self.customers:,}, loans {self.loans:,}, payments {self.payments:,}."
        if self.refused:
            text += f" Refused: {self.refused:,}, such as loans over the credit line."
        if self.existing:
            text += f" There already: {self.existing:,}, from an earlier run."
        return text


class _Clock:
    """The time that the private server sees."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def fill(settings: Settings, customers: int, seed: int, end: datetime) -> tuple[Tally, Portfolio]:
    """Make those calls of the year before `end` that no earlier run has made; answer what there is then.

    Raises:
        DemoError: a call failed. What was done stays, and another run goes on from there.
    """
    try:
        return uvloop.run(_fill(settings, customers, seed, end))
    except grpc.aio.AioRpcError as error:
        raise DemoError(f"The demo stopped: {error.details()} Run it again, and it goes on from there.") from error


async def _fill(settings: Settings, customers: int, seed: int, end: datetime) -> tuple[Tally, Portfolio]:
    numbers = range(1, customers + 1)
    names = [customer_id(seed, number) for number in numbers]
    clock = _Clock(end - YEAR)
    async with _private_server(settings, clock) as api:
        portfolio = await api.portfolio(names)
        done = portfolio.traces()
        stories = [story(seed, number, end) for number in numbers]
        pending = sorted((event for events in stories for event in _pending(events, done)), key=lambda event: event.at)
        outcomes = await _make(api, clock, pending)
        tally = Tally(
            customers=outcomes[CreateCustomerRequest, OK],
            loans=outcomes[CreateLoanRequest, OK],
            payments=outcomes[CreatePaymentRequest, OK],
            existing=sum(map(len, stories)) - len(pending) + sum(n for (_, code), n in outcomes.items() if code is EXISTS),
            refused=sum(n for (_, code), n in outcomes.items() if code not in (OK, EXISTS)),
        )
        return tally, await api.portfolio(names) if pending else portfolio


def _pending(events: list[Event], done: set[str]) -> list[Event]:
    """The calls of a story that are not made yet: they are made in order, so all before the last one done were made."""
    last = max((place for place, event in enumerate(events) if event.trace in done), default=-1)
    return events[last + 1 :]


async def _make(api: Api, clock: _Clock, events: list[Event]) -> "Counter[tuple[type[Message], grpc.StatusCode]]":
    """Make the calls in order, each at its moment; lists follow the order of creation, so there is one call at a time."""
    outcomes: Counter[tuple[type[Message], grpc.StatusCode]] = Counter()
    if not events:
        return outcomes
    columns = (TextColumn("{task.description:10}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(events))
        for at, requests in _calls(events):
            clock.now = at
            progress.update(task, description=f"{at:%Y-%m-%d}")
            codes = await api.make(requests)
            outcomes.update((type(request), code) for request, code in zip(requests, codes, strict=True))
            progress.advance(task, len(requests))
    return outcomes


def _calls(events: list[Event]) -> Iterator[tuple[datetime, list[Message]]]:
    """The moments and their requests: payments of one moment together, everything else one by one."""
    for (at, kind), group in groupby(events, key=lambda event: (event.at, type(event.request))):
        for some in slices(list(group), _MAX_BATCH if kind is CreatePaymentRequest else 1):
            yield at, [event.request for event in some]


@asynccontextmanager
async def _private_server(settings: Settings, clock: Callable[[], datetime]) -> AsyncIterator[Api]:
    """Serve on a socket of our own, to a key of our own, for as long as the context lasts."""
    database = Database(database_url(settings), CONNECTIONS, clock)
    try:
        administration = ApiKeyAdministration(database, Vault(settings), operator())
        async with (
            temporary_key(administration, "mo-grpc demo", _KEY_LIFETIME) as key,
            server_state(settings, database) as state,
        ):
            server = make_server(settings, database, state).server
            # The folder is this user's alone, and so is the socket in it.
            with tempfile.TemporaryDirectory(prefix="mo-demo-") as folder:
                address = f"unix:{folder}/grpc.sock"
                server.add_insecure_port(address)
                # An interrupt may come within the start, which gRPC does not bear.
                starting = asyncio.create_task(server.start())
                try:
                    await asyncio.shield(starting)
                    await _wait_for_keys(state.keys)
                    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
                        yield Api(channel, ((settings.api_key_custom_header, str(key)),))
                finally:
                    await starting
                    await server.stop(grace=None)
    finally:
        await database.close()


async def _wait_for_keys(keys: KeyRing) -> None:
    """The server trusts no key until it has read them all, a moment after its start."""
    deadline = time.monotonic() + _START_TIMEOUT
    while not keys.is_current:
        if time.monotonic() > deadline:
            raise DemoError("The demo's server cannot follow the API keys in the database; see the log above.")
        await asyncio.sleep(0.01)
