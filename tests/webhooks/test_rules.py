"""The decisions about attempts, and the address that a connection is made to."""

import asyncio
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mo_grpc.config import Settings
from mo_grpc.crypto import Vault
from mo_grpc.webhooks.rules import (
    FIRST_DELAY,
    LONGEST_DELAY,
    MAX_ATTEMPTS,
    Answer,
    Claim,
    DeliveryState,
    Webhook,
    delay,
    outcome,
)
from mo_grpc.webhooks.sender import Sender
from mo_grpc.webhooks.signing import sealed_for
from tests.webhooks.receiver import a_receiver

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_an_event_is_sent_again_later_and_later_for_about_three_days() -> None:
    delays = [delay(attempts, 0.5) for attempts in range(1, MAX_ATTEMPTS)]
    assert delays[:4] == [FIRST_DELAY, 10, 20, 40]
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY
    assert 2.5 < sum(delays) / 86_400 < 3.5
    assert (delay(1, 0), delay(1, 1)) == (FIRST_DELAY * 0.8, FIRST_DELAY * 1.2)


@pytest.mark.parametrize(
    ("attempts", "status", "state"),
    [
        (0, 204, DeliveryState.RECEIVED),
        (0, 500, DeliveryState.PENDING),
        (MAX_ATTEMPTS - 2, 500, DeliveryState.PENDING),
        (MAX_ATTEMPTS - 1, 500, DeliveryState.GIVEN_UP),
        (MAX_ATTEMPTS - 1, 204, DeliveryState.RECEIVED),
        # Kept for when the receiver is enabled again.
        (MAX_ATTEMPTS - 1, 410, DeliveryState.PENDING),
    ],
)
def test_what_comes_of_an_attempt(attempts: int, status: int, state: DeliveryState) -> None:
    answer = Answer(NOW, 1, status, "" if status == 204 else "no", "")
    found = outcome(Claim(1, 2, "t", attempts), "evt_2", answer, 0.5)
    assert found.state == state
    assert (found.delay is not None) == (state == DeliveryState.PENDING)


def test_a_name_is_resolved_once_and_called_at_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The name is known only to the first who asks; the second address takes the connection that the first does not."""
    vault = Vault(Settings(mo_data_dir=tmp_path))
    asked: list[str] = []

    real = socket.getaddrinfo

    def once(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host != "hook.example":
            return real(host, port, *rest, **options)
        asked.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", int(port))),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port))),
        ]

    async def main(port: str) -> Answer:
        url = f"http://hook.example:{port}/hook"
        sealed = vault.encrypt(b"x" * 24, sealed_for(1))
        webhook = Webhook(1, url, [], "", "", sealed, None, None, 0, 0, None, None, "", NOW, NOW)
        return await Sender(vault, allow_private=True).send(webhook, "evt_1", b'{"data":{},"type":"x"}')

    monkeypatch.setattr(socket, "getaddrinfo", once)
    with a_receiver() as receiver:
        answer = asyncio.run(main(receiver.url.rpartition(":")[2]))
        [received] = receiver.received
    assert (answer.error, answer.status_code) == ("", 204)
    assert received.headers["host"].startswith("hook.example:")
    assert asked == ["hook.example"]
