"""Requests that can never work: each has a final answer in the usual shape."""

import json
import re

import httpx
import pytest

from tests.auth.users.conftest import NewUser, basic, new_user, no_login_failures  # noqa: F401 - fixtures
from tests.conftest import Stack
from tests.e2e.test_edge import GET_CUSTOMER, exchange, refusal


def grpc_status(answer: httpx.Response) -> tuple[int, str | None, str]:
    """The parts of a refusal in gRPC's shape."""
    return answer.status_code, answer.headers.get("grpc-status"), answer.headers["grpc-message"]


MALFORMED = (200, "3", "The request is malformed.")


@pytest.mark.parametrize(
    "kind", ["application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpc-web-text"]
)
@pytest.mark.parametrize("path", [GET_CUSTOMER, "/v1/customers"])
def test_grpc_is_post_alone(rest: httpx.Client, kind: str, path: str) -> None:
    assert grpc_status(rest.get(path, headers={"content-type": kind})) == MALFORMED


def test_grpc_in_another_format_is_not_understood(rest: httpx.Client) -> None:
    for kind in ("application/grpc+foo", "application/grpc+json"):
        answer = rest.post(GET_CUSTOMER, content=b"\0\0\0\0\0", headers={"content-type": kind})
        assert grpc_status(answer) == (200, "3", "The body's content type, or its encoding, is not understood.")
    answer = rest.post(GET_CUSTOMER, content=b"\0\0\0\0\0", headers={"content-type": "application/grpc-web+foo"})
    refusal(answer, 415, 3, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc-web+proto"])
@pytest.mark.parametrize(
    "body", [b"", b"\0", b"xyzxyz", b"\0\0\0\0\5abc", b"\0\0\0\0\1abcd", b"\0\xff\xff\xff\xff", b"\1\0\0\0\0"]
)
def test_a_body_that_is_no_whole_message_is_malformed(rest: httpx.Client, kind: str, body: bytes) -> None:
    """gRPC itself would wait for the rest of it until the deadline."""
    assert grpc_status(rest.post(GET_CUSTOMER, content=body, headers={"content-type": kind})) == MALFORMED
    if kind != "application/grpc":
        chunks = (piece for piece in (body,))
        assert grpc_status(rest.post(GET_CUSTOMER, content=chunks, headers={"content-type": kind})) == MALFORMED


@pytest.mark.parametrize(
    ("start", "status", "code"),
    [
        (b"POST /v1/customers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, 12),
        (b"POST /v1/customers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, 12),
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n", 403, 7),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Type: text/plain\r\n\r\n", 403, 7),
    ],
)
def test_what_is_not_served_is_refused_at_once(stack: Stack, start: bytes, status: int, code: int) -> None:
    head, _, body = exchange(stack, start, b"}\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["code"] == code
    assert json.loads(body)["details"][0]["reason"] == "MALFORMED_REQUEST"


def test_every_line_of_the_services_log_is_json_whatever_callers_send(stack: Stack, rest: httpx.Client) -> None:
    headers = {"content-type": "application/grpc", "grpc-previous-rpc-attempts": "zz", "grpc-encoding": "zork"}
    answer = rest.post(GET_CUSTOMER, content=b"\0\0\0\0\0", headers=headers)
    assert re.fullmatch(r"[1-9]\d*", answer.headers["grpc-status"])
    for line in (stack.data_dir / "log" / "serve.log").read_text(encoding="utf-8").splitlines():
        assert json.loads(line)["event"]
