"""Receivers of webhooks: a real HTTP server, which answers as a test wants."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import standardwebhooks

from tests.waiting import eventually

Json = dict[str, Any]


@dataclass(frozen=True)
class Received:
    """What came to a path."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def content(self) -> Json:
        found: Json = json.loads(self.body)
        return found

    def verify(self, secret: str) -> bool:
        """Whether the library takes it for signed with the secret; it also checks the time."""
        try:
            standardwebhooks.Webhook(secret).verify(self.body, self.headers)
        except standardwebhooks.WebhookVerificationError:
            return False
        return True


@dataclass
class Receiver:
    """A server at an address, with what it has received."""

    url: str
    received: list[Received] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    """From a path, or from a path and a customer (`/a ana`), to the status code that is answered there; 204 elsewhere."""
    held: dict[str, threading.Event] = field(default_factory=dict)
    """Paths that do not answer until the event is set."""

    def at(self, path: str) -> list[Received]:
        return [each for each in self.received if each.path == path]

    def kinds(self, path: str) -> list[str]:
        return [each.content["type"] for each in self.at(path)]

    def waits_for(self, path: str, count: int) -> list[Received]:
        """Wait until so many events have come to a path."""
        eventually(lambda: len(self.at(path)) >= count, 30)
        return self.at(path)

    def hold(self, path: str) -> threading.Event:
        self.held[path] = threading.Event()
        return self.held[path]


@contextmanager
def a_receiver(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver, by HTTPS if there is a context."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got = Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            receiver.received.append(got)
            if self.path in receiver.held:
                receiver.held[self.path].wait(60)
            customer = got.content["data"].get("customer_external_id", "")
            status = receiver.answers.get(f"{self.path} {customer}") or receiver.answers.get(self.path, 204)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", f"{receiver.url}/elsewhere")
            self.end_headers()
            if status not in (204, 304):
                self.wfile.write(f"answer {status}".encode() * 200)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver = Receiver(f"{'https' if context else 'http'}://localhost:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        for event in receiver.held.values():
            event.set()
        server.shutdown()
        thread.join()
        server.server_close()
