"""Sends events to webhooks, in a server or a Celery worker. What to send is in PostgreSQL, so processes share the work."""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

import structlog
from google.protobuf import json_format
from mo.journal.v1.journal_pb2 import Event
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.db.engine import Database
from mo_grpc.journal.events import StoredEvent, events_at
from mo_grpc.journal.messages import to_message
from mo_grpc.process.tasks import attempt, outlast
from mo_grpc.webhooks import deliveries
from mo_grpc.webhooks.rules import Claim, Outcome, Webhook, event_id, event_type, outcome
from mo_grpc.webhooks.sender import Sender, written

log = structlog.get_logger()

LOOK_INTERVAL = 0.5
"""Seconds between two looks for events to send."""

MAX_SENDING = 200
"""How many events a process sends at a time; of one webhook, many fewer (`deliveries.AT_ONCE`)."""

LAST_CHANCE = 2.0
"""Seconds that what is being sent gets when the process ends; after that, another process sends it again."""


class Deliverer:
    """Sends events."""

    def __init__(self, database: Database, sender: Sender) -> None:
        self._database = database
        self._sender = sender
        self._sending: dict[asyncio.Task[None], Claim] = {}
        self._outcomes: list[Outcome] = []
        self._ended = asyncio.Event()

    async def follow(self) -> None:
        """Send what is due, for ever, through all outages.

        Raises:
            Exception: a failure that is not an outage.
        """
        try:
            while True:
                self._ended.clear()
                await outlast("webhooks", self._look)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_INTERVAL):
                        await self._ended.wait()
        finally:
            if self._sending:
                await asyncio.wait(self._sending, timeout=LAST_CHANCE)
            for task in self._sending:
                task.cancel()
            await attempt("webhooks", self._record)

    async def _look(self) -> None:
        """Record what has ended, then begin what is due."""
        await self._record()
        if not await self._database.read(deliveries.is_work):
            return
        if await self._database.write(deliveries.queue_events):
            self._ended.set()  # there may be more; what is due already comes first
        busy = Counter(claim.webhook_id for claim in self._sending.values())
        free = MAX_SENDING - busy.total()
        token = secrets.token_hex(8)
        claims = await self._database.write(lambda connection: deliveries.claim(connection, token, busy, free)) if free else []
        if claims:
            await self._begin(claims)

    async def _begin(self, claims: list[Claim]) -> None:
        async def work(connection: AsyncConnection) -> tuple[Mapping[int, Webhook], Mapping[int, StoredEvent]]:
            webhooks = await deliveries.get_webhooks(connection, [claim.webhook_id for claim in claims])
            return webhooks, await events_at(connection, [claim.position for claim in claims])

        webhooks, events = await self._database.read(work)
        for claim in claims:
            if not webhooks[claim.webhook_id].secret:
                continue  # deleted this very moment
            task = asyncio.create_task(self._deliver(claim, webhooks[claim.webhook_id], events[claim.position]))
            self._sending[task] = claim
            task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        del self._sending[task]
        self._ended.set()

    async def _deliver(self, claim: Claim, webhook: Webhook, event: StoredEvent) -> None:
        message = to_message(event)
        data = json_format.MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        body = written(event_type(Event.Kind.Name(message.kind)), message.recorded_at, data)
        name = event_id(claim.position)
        answer = await self._sender.send(webhook, name, body)
        self._outcomes.append(outcome(claim, name, answer, random.random()))  # noqa: S311 - not a secret

    async def _record(self) -> None:
        """Record what has come of attempts; when the database is away, it stays to be recorded."""
        outcomes = self._outcomes.copy()
        if not outcomes:
            return
        disabled = await self._database.write(lambda connection: deliveries.record(connection, outcomes))
        del self._outcomes[: len(outcomes)]
        for webhook_id in disabled:
            log.warning("webhook was disabled, because its receiver is gone or fails for long", id=webhook_id)
