"""Runs imports, chunk by chunk. Their state is in PostgreSQL, so another runner can continue where one stopped."""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog

from mo_grpc.db.engine import Database
from mo_grpc.imports import store
from mo_grpc.imports.layout import Layout
from mo_grpc.imports.lines import Chunk, UnreadableError, chunks
from mo_grpc.imports.rules import Import, State
from mo_grpc.objects.base import ObjectNotFound, ObjectStore
from mo_grpc.process.tasks import is_outage, outlast
from mo_grpc.telemetry.counts import Happening, count

log = structlog.get_logger()

LOOK_INTERVAL = 1.0
"""Seconds between two searches for imports that nobody runs."""

SEND_AGAIN = 10.0
"""Seconds after which an import that still nobody runs is handed to Celery's workers again."""


class Runner:
    """Runs imports, under a lease that each chunk renews; a runner that is paused for longer loses its import.

    The lease belongs to one claim: when an import was lost and claimed again, even by this process, the old claim is void.
    """

    def __init__(self, database: Database, objects: ObjectStore, lease_seconds: float) -> None:
        self._database = database
        self.objects = objects
        self._lease = f"{lease_seconds} seconds"

    async def run(self, import_id: int | None) -> bool:
        """Run an import, this one or the oldest, as far as it goes; False if there is none to run.

        Raises:
            ServiceError: the database or the file is out of reach; the import continues when its lease has expired.
        """
        claim = secrets.token_hex(8)
        found = await self._database.write(lambda c: store.claim_import(c, claim, self._lease, import_id))
        if found is None:
            return False
        log.info("import runs", id=found.id, bytes_done=found.bytes_done)
        try:
            await self._take(found, claim)
        except (UnreadableError, ObjectNotFound) as error:
            await self._finish(found, claim, State.FAILED, str(error))
        except Exception as error:
            if is_outage(error):
                raise
            log.exception("import failed", id=found.id)
            await self._finish(found, claim, State.FAILED, "The service failed; its log tells more.")
        return True

    async def _take(self, found: Import, claim: str) -> None:
        """Import the file from where the last runner stopped."""
        blocks = self.objects.read(found.source, found.bytes_done)
        layout = Layout.parse(found.layout) if found.layout else None
        async for chunk in chunks(blocks, layout):
            after = await self._take_chunk(found, claim, chunk)
            if after is None:
                log.info("import was taken away", id=found.id)
                return
            count(Happening.IMPORT_LINE, "created", after.created_count - found.created_count)
            count(Happening.IMPORT_LINE, "failed", after.failed_count - found.failed_count)
            found = after
        if found.bytes_total and not found.lines_count:
            raise UnreadableError("There is no line of a customer in the file.")
        await self._finish(found, claim, State.SUCCEEDED)

    async def _take_chunk(self, found: Import, claim: str, chunk: Chunk) -> Import | None:
        return await self._database.write(lambda c: store.take_chunk(c, claim, self._lease, found, chunk))

    async def _finish(self, found: Import, claim: str, state: State, failure: str = "") -> None:
        finished = await self._database.write(lambda c: store.finish_import(c, claim, found.id, state, failure))
        log.info("import is over" if finished else "import was taken away", id=found.id, state=state.name)


class Background:
    """Starts imports: in this process, or by Celery if `send` hands their ids to its workers."""

    def __init__(self, database: Database, runner: Runner, send: Callable[[int], None] | None = None) -> None:
        self.runner = runner
        self._database = database
        self._send = send
        self._new = asyncio.Event()
        self._sent: dict[int, float] = {}

    def begin(self) -> None:
        """Search at once, because an import was created; without this, `follow` finds it a little later."""
        self._new.set()

    async def follow(self) -> None:
        """Search for imports that nobody runs, when one was created and from time to time, for ever, through all outages.

        Raises:
            Exception: a failure that is not an outage.
        """
        while True:
            self._new.clear()
            await outlast("imports", self._run_all if self._send is None else partial(self._send_all, self._send))
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self._new.wait()

    async def _run_all(self) -> None:
        while await self.runner.run(None):
            pass

    async def _send_all(self, send: Callable[[int], None]) -> None:
        """Hand over the imports that nobody runs; again after a while, because messages may get lost."""
        unclaimed = await self._database.read(store.list_unclaimed)
        self._sent = {import_id: self._sent[import_id] for import_id in unclaimed if import_id in self._sent}
        for import_id in unclaimed:
            if time.monotonic() - self._sent.get(import_id, -SEND_AGAIN) >= SEND_AGAIN:
                await asyncio.to_thread(send, import_id)
                self._sent[import_id] = time.monotonic()
