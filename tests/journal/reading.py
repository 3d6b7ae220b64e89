"""Reads the journal through the public doors."""

from typing import Any

from tests.conftest import Stack
from tests.databases import owner
from tests.doors import Door, Json
from tests.waiting import eventually


def settle(stack: Stack) -> int:
    """Wait until each event has a position; answers the last one."""
    unread = "SELECT position, (SELECT count(*) FROM journal_events) FROM journal_head"
    with owner(stack.data_dir) as connection:
        connection.autocommit = True

        def counts() -> tuple[int, int]:
            return connection.execute(unread).fetchone() or (0, 1)

        eventually(lambda: counts()[0] == counts()[1], 30)
        return counts()[0]


def events(door: Door, **request: Any) -> list[Json]:
    """All events that pass the filters, from as many pages as there are."""
    found: list[Json] = []
    token = ""
    while True:
        page = door("journal.ListEvents", page_token=token, **request)
        found += page["events"]
        token = page["next_page_token"]
        if not token:
            return found


def positions(found: list[Json]) -> list[int]:
    return [int(event["position"]) for event in found]
