"""What the edge keeps out, and how it ends: connections, streams, headers; and its log."""

import base64
import json
import os
import signal
import socket
import struct
import subprocess
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
from mo.customers.v1 import customers_pb2, customers_pb2_grpc

from tests.conftest import TLS
from tests.e2e.edges import EDGE, Upstream, bare_edge, edge_environment, started, status_of
from tests.waiting import eventually

# --- Connections -----------------------------------------------------------------------------------------------------------


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=10)


def ended(connection: socket.socket) -> bool:
    """Whether the other side has ended a connection, perhaps after some last words."""
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def test_over_the_limit_of_connections_a_new_one_is_ended_and_room_is_found_again(upstream: Upstream, tmp_path: Path) -> None:
    with bare_edge(tmp_path, upstream, mo_max_connections=3) as url:
        with ExitStack() as held:
            eventually(lambda: status_of(f"{url}/healthz") == 200, 20)
            for _ in range(3):
                connection = held.enter_context(connect(url))
                # Each must be counted before the next is tried.
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            with connect(url) as one_more:
                assert ended(one_more)
        eventually(lambda: status_of(f"{url}/healthz") == 200, 20)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame (RFC 9113 §4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")


def test_http2_clients_are_told_how_many_streams_they_may_have(direct: str) -> None:
    with connect(direct) as connection:
        connection.sendall(PREFACE)
        received = b""
        while len(received) < 9 or len(received) < 9 + int.from_bytes(received[:3]):
            received += connection.recv(65536)
    settings = dict(struct.iter_unpack(">HI", received[9 : 9 + int.from_bytes(received[:3])]))
    assert settings[3] == 256


def test_a_flood_of_reset_streams_ends_the_connection_and_no_other(direct: str) -> None:
    # `GET http://edge/healthz`, in HPACK's literal form.
    request = b"\x82\x86" + b"\0\x05:path\x08/healthz" + b"\0\x0a:authority\x04edge"
    with connect(direct) as bystander, connect(direct) as attacker:
        flood = (frame(1, 5, stream, request) + frame(3, 0, stream, struct.pack(">I", 8)) for stream in range(1, 20_000, 2))
        # The edge may hang up before it has heard all.
        with suppress(OSError):
            attacker.sendall(PREFACE + b"".join(flood))
        assert ended(attacker)
        bystander.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert bystander.recv(65536).startswith(b"HTTP/1.1 200 ")


# --- What answers say ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/customers/c-1", "/nope", "/healthz"])
def test_answers_are_neither_framed_nor_cached_nor_guessed_at_and_ask_for_tls_only_over_tls(direct: str, path: str) -> None:
    headers = httpx.get(direct + path, verify=TLS).headers
    expected = {
        "cache-control": "no-store",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
    assert {name: headers.get(name) for name in expected} == expected
    assert not {"strict-transport-security", "server", "x-powered-by"} & set(headers)


# --- The log ---------------------------------------------------------------------------------------------------------------


def test_the_log_has_a_line_a_call_without_secrets_and_can_be_rotated(upstream: Upstream, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    secret = "sesame-4711"
    environment = edge_environment(
        tmp_path, upstream.address, MO_HEALTH="false", MO_ACCESS_LOG=str(log), MO_TRUSTED_PROXIES="1"
    )
    url = f"http://127.0.0.1:{environment['MO_HTTP_PORT']}"
    with started(EDGE, environment, lambda: status_of(f"{url}/readyz") == 200) as process:
        headers = {
            "x-api-key": f"mo_{secret}",
            "authorization": "Basic " + base64.b64encode(f"ana@mo.example:{secret}".encode()).decode(),
            "cookie": f"session={secret}",
            "user-agent": secret,
            "idempotency-key": secret,
            "x-forwarded-for": "203.0.113.7",
        }
        body = {"external_id": secret, "score": "1.00"}
        answers = [
            httpx.post(f"{url}/v1/customers?api_key={secret}", json=body, headers=headers, verify=TLS),
            httpx.get(f'{url}/"no"\\n?{secret}#{secret}', headers=headers, verify=TLS),
        ]
        with grpc.insecure_channel(urlsplit(url).netloc) as channel:
            stub = customers_pb2_grpc.CustomerServiceStub(channel)
            stub.GetCustomer(customers_pb2.GetCustomerRequest(external_id=secret), metadata=(("x-api-key", secret),))

        def lines() -> list[dict[str, object]]:
            found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            return [line for line in found if line["path"] != "/readyz"]

        eventually(lambda: len(lines()) == 3, 20)
        assert log.stat().st_mode & 0o077 == 0
        assert secret not in log.read_text()
        assert base64.b64encode(secret.encode()).decode()[:8] not in log.read_text()
        rest, wrong, over_grpc = lines()
        for line, answer in zip((rest, wrong), answers, strict=True):
            assert line["request_id"] == answer.headers["x-request-id"]
            assert (line["status"], line["address"], line["peer"]) == (answer.status_code, "203.0.113.7", "127.0.0.1")
            assert isinstance(line["duration_ms"], int)
        assert (rest["method"], rest["path"], wrong["method"], wrong["status"]) == ("POST", "/v1/customers", "GET", 404)
        assert over_grpc["path"] == "/mo.customers.v1.CustomerService/GetCustomer"
        assert (over_grpc["protocol"], over_grpc["status"], over_grpc["grpc_status"]) == ("HTTP/2", 200, "0")

        log.rename(tmp_path / "old.log")
        process.send_signal(signal.SIGUSR1)
        eventually(log.exists, 20)


# --- The end ---------------------------------------------------------------------------------------------------------------


def test_running_calls_finish_after_sigterm_and_no_new_ones_begin(upstream: Upstream, tmp_path: Path) -> None:
    environment = edge_environment(tmp_path, upstream.address, MO_HEALTH="false")
    url = f"http://127.0.0.1:{environment['MO_HTTP_PORT']}"
    answers: list[httpx.Response] = []
    with started(EDGE, environment, lambda: status_of(f"{url}/readyz") == 200) as process:
        upstream.open.clear()
        heard = len(upstream.seen)
        call = threading.Thread(target=lambda: answers.append(httpx.get(f"{url}/v1/customers/c-1", timeout=30, verify=TLS)))
        call.start()
        try:
            eventually(lambda: len(upstream.seen) > heard, 20)
            process.send_signal(signal.SIGTERM)
            eventually(lambda: status_of(f"{url}/healthz") == 0, 20)
            assert process.poll() is None
        finally:
            upstream.open.set()
            call.join()
        assert [answer.status_code for answer in answers] == [200]
        assert process.wait(20) == 0


def test_it_gives_up_on_calls_that_never_end_and_says_why_there_cannot_be_two(upstream: Upstream, tmp_path: Path) -> None:
    environment = edge_environment(tmp_path, upstream.address, MO_HEALTH="false", MO_SHUTDOWN_GRACE_SECONDS="0.2")
    url = f"http://127.0.0.1:{environment['MO_HTTP_PORT']}"
    with started(EDGE, environment, lambda: status_of(f"{url}/readyz") == 200) as process:
        second = subprocess.run(EDGE, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert second.returncode == 1
        assert "An edge runs with the data folder" in second.stderr
        with connect(url) as trickle:
            trickle.sendall(b"POST /v1/customers HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{")
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(20) == 0
