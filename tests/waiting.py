"""Waiting for what takes a moment, without ever sleeping longer than it takes."""

import asyncio
import time
from collections.abc import Callable

TO_START = 90
"""Seconds that a program may take to start on a busy machine."""


def eventually(what: Callable[[], bool], seconds: float) -> None:
    """Ask again and again until it is so; fail when it still is not after some seconds."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"still not so after {seconds} seconds"
        time.sleep(0.02)


async def until(what: Callable[[], bool], seconds: float = 30) -> None:
    """`eventually`, while other tasks go on."""
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110 - there is no one event for it
            await asyncio.sleep(0.01)
