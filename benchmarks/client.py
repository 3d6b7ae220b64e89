"""A cheap load generator: HTTP/2 frames are prepared in advance, and answers are parsed only as far as needed.

The same client drives both sides of every comparison. It speaks just enough HTTP/2 (RFC 9113) for gRPC and for REST: literal
headers without indexing, so that a frame does not depend on those before it.
"""

import asyncio
import struct
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import uvloop
from google.protobuf.message import Message

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_MAX_FRAME = 16_384
# No table, so that answers come in literals too; windows so large that they never fill.
_OUR_SETTINGS = struct.pack(">HIHI", 1, 0, 4, 2**31 - 1)


class Call(NamedTuple):
    """A prepared call: its headers and its body, as payloads of frames."""

    headers: bytes
    body: bytes

    def frames(self, stream: int) -> bytes:
        """The call as a stream."""
        if not self.body:
            return _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, self.headers)
        starts = range(0, len(self.body), _MAX_FRAME)
        data = (
            _frame(_DATA, _END_STREAM if start == starts[-1] else 0, stream, self.body[start : start + _MAX_FRAME])
            for start in starts
        )
        return _frame(_HEADERS, _END_HEADERS, stream, self.headers) + b"".join(data)


class Result(NamedTuple):
    """The result of a run: its seconds, and the seconds of each call, sorted."""

    seconds: float
    latencies: list[float]
    failed: int

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """The milliseconds within which this percentage of the calls was answered."""
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * percent / 100))] * 1000


def grpc_call(rpc: str, request: Message, key: str, idempotency_key: str = "") -> Call:
    """Prepare a gRPC call of `package.Service/Method`."""
    body = request.SerializeToString()
    headers = {":path": f"/{rpc}", "te": "trailers", "content-type": "application/grpc", "x-api-key": key}
    if idempotency_key:
        headers["idempotency-key"] = idempotency_key
    return Call(_headers("POST", headers), b"\0" + struct.pack(">I", len(body)) + body)


def rest_get(path: str, key: str) -> Call:
    """Prepare a GET."""
    return Call(_headers("GET", {":path": path, "x-api-key": key}), b"")


def run(addresses: Sequence[str], calls: Sequence[Call], in_flight: int, ok: bytes) -> Result:
    """Make the calls, this many in flight at a time, spread over the addresses (`unix:…` or `host:port`).

    An answer counts as good when the frames of its stream's headers hold `ok`.
    """
    return uvloop.run(_run(addresses, calls, in_flight, ok))


async def _run(addresses: Sequence[str], calls: Sequence[Call], in_flight: int, ok: bytes) -> Result:
    left = iter(calls)
    share = max(1, in_flight // len(addresses))
    connections = [_Connection(left, share, ok) for _ in addresses]
    loop = asyncio.get_running_loop()
    for address, connection in zip(addresses, connections, strict=True):
        if address.startswith("unix:"):
            await loop.create_unix_connection(lambda c=connection: c, address.removeprefix("unix:"))  # type: ignore[misc]
        else:
            host, _, port = address.rpartition(":")
            await loop.create_connection(lambda c=connection: c, host, int(port))  # type: ignore[misc]
    await asyncio.gather(*(connection.ready for connection in connections))
    started = time.perf_counter()
    for connection in connections:
        connection.start()
    await asyncio.gather(*(connection.done for connection in connections))
    seconds = time.perf_counter() - started
    latencies = sorted(latency for connection in connections for latency in connection.latencies)
    return Result(seconds, latencies, sum(connection.failed for connection in connections))


class _Connection(asyncio.Protocol):
    """One connection, with this many calls in flight."""

    def __init__(self, calls: Iterator[Call], share: int, ok: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.latencies: list[float] = []
        self.failed = 0
        self._calls = calls
        self._share = share
        self._ok = ok
        self._good: set[int] = set()
        self._started: dict[int, float] = {}
        self._stream = 1
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open with the client's settings, and the largest window."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is not derived from it
        window = _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - 65535))
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, _OUR_SETTINGS) + window)

    def connection_lost(self, error: Exception | None) -> None:
        """Notify the caller that waits."""
        for future in (self.ready, self.done):
            if not future.done():
                future.set_exception(error or ConnectionError("the server hung up"))

    def start(self) -> None:
        """Send the first calls."""
        self._transport.write(b"".join(self._next() for _ in range(self._share)))

    def _next(self) -> bytes:
        call = next(self._calls, None)
        if call is None:
            if not self._started and not self.done.done():
                self.done.set_result(None)
            return b""
        stream, self._stream = self._stream, self._stream + 2
        self._started[stream] = time.perf_counter()
        return call.frames(stream)

    def data_received(self, data: bytes) -> None:
        """Parse the frames; for each stream that ended, begin another."""
        buffer, at, out = self._buffer + data, 0, []
        while len(buffer) - at >= 9:
            length = int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) - at < 9 + length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            payload = buffer[at + 9 : at + 9 + length]
            at += 9 + length
            if kind == _HEADERS and self._ok in payload:
                self._good.add(stream)
            if kind == _RST_STREAM or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                out.append(self._ended(stream))
            elif kind in (_SETTINGS, _PING) and not flags & _ACK:
                out.append(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
                if not self.ready.done():
                    self.ready.set_result(None)
            elif kind == _GOAWAY:
                self._transport.close()
        self._buffer = buffer[at:]
        self._transport.write(b"".join(out))

    def _ended(self, stream: int) -> bytes:
        self.latencies.append(time.perf_counter() - self._started.pop(stream))
        if stream in self._good:
            self._good.discard(stream)
        else:
            self.failed += 1
        return self._next()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _headers(method: str, headers: dict[str, str]) -> bytes:
    """A header block of literals without indexing (RFC 7541, 6.2.2)."""
    pseudo = {":method": method, ":scheme": "http", ":authority": "localhost"}
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in (pseudo | headers).items())


def _string(text: str) -> bytes:
    data = text.encode()
    assert len(data) < 127, "longer ones have their length in several bytes"
    return bytes((len(data),)) + data
