"""What is cancelled, at whatever moment, gives its connection back."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.db.embedded import SERVICE_ROLE, embedded_url
from mo_grpc.db.engine import Database
from tests.conftest import Stack

STEPS = 40
"""Turns of the event loop, and more than a transaction takes when each turn waits for its answer."""


async def ask(connection: AsyncConnection) -> int:
    return int(await connection.scalar(text("SELECT 1")) or 0)


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("warm", [True, False], ids=["a connection that is there", "a new connection"])
def test_a_cancelled_call_loses_no_connection(stack: Stack, monkeypatch: pytest.MonkeyPatch, kind: str, *, warm: bool) -> None:
    # psycopg lets others run now and then, also where it need not wait; here always.
    monkeypatch.setattr("psycopg.waiting.MAX_BUSY_TIME", 0)

    async def cancel_after(steps: int) -> None:
        database = Database(embedded_url(stack.data_dir, SERVICE_ROLE), 1)
        try:
            if warm:
                await database.read(ask)
            call = asyncio.create_task(getattr(database, kind)(ask))
            for _ in range(steps):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            # There is one connection in all: who lost it would wait in vain.
            assert await database.read(ask) == 1
        finally:
            await database.close()

    for steps in range(STEPS):
        asyncio.run(cancel_after(steps))
