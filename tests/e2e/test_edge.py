"""What the edge adds to the service: refusals of its own, and gRPC, gRPC-Web, HTTP/1.1 and HTTP/2 on one port."""

import base64
import json
import socket
import struct
from collections.abc import Iterator
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from mo.customers.v1 import customers_pb2

from mo_grpc.config import Settings
from tests.conftest import Stack
from tests.doors import GrpcDoor, Refused, refused

LIMIT = Settings.model_fields["mo_max_request_bytes"].default
GET_CUSTOMER = "/mo.customers.v1.CustomerService/GetCustomer"


@pytest.fixture
def through_edge(stack: Stack) -> Iterator[grpc.Channel]:
    """A gRPC channel to the HTTP port."""
    with grpc.insecure_channel(urlsplit(stack.http_url).netloc) as channel:
        yield channel


def refusal(answer: httpx.Response, status: int, code: int, reason: str) -> str:
    """Check that an answer is a refusal in the shape of all errors, and return its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"code", "message", "details"}
    assert answer.headers["x-request-id"]
    assert body["code"] == code
    assert body["details"][0] == {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "mo",
        "metadata": body["details"][0]["metadata"],
    }
    return str(body["message"])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"external_id": nonsense}', "Unexpected token"),
        (b'{"external_id": "a"', "Unexpected end"),
        (b'{"external_id": ["a"]}', "not repeating"),
        (b'{"external_id": "\xff\xfe<script>"}', "non UTF-8"),
    ],
)
def test_malformed_json_is_400_and_says_what_is_wrong(rest: httpx.Client, body: bytes, told: str) -> None:
    assert told in refusal(rest.post("/v1/customers", content=body), 400, 3, "MALFORMED_REQUEST")


def test_an_unknown_path_is_404(rest: httpx.Client) -> None:
    for answer in (
        rest.get("/nope"),
        rest.get("/"),
        rest.delete("/v1/customers/c-1/nope"),
        rest.post("/v1/loans/l-1:frobnicate"),
        # A gRPC path without gRPC.
        rest.post(GET_CUSTOMER, json={"external_id": "c-1"}),
    ):
        assert refusal(answer, 404, 5, "ROUTE_NOT_FOUND") == "No such path."


def test_an_unknown_or_malformed_query_parameter_is_400_and_named(rest: httpx.Client) -> None:
    answer = rest.get("/v1/customers", params={"colour": "red"})
    assert '"colour"' in refusal(answer, 400, 3, "MALFORMED_REQUEST")
    answer = rest.get("/v1/customers", params={"page_size": "many"})
    assert "page_size" in refusal(answer, 400, 3, "MALFORMED_REQUEST")


def test_an_id_in_the_body_does_not_override_the_one_in_the_path(rest: httpx.Client) -> None:
    answer = rest.patch("/v1/customers/edge-a", json={"external_id": "edge-b", "score": "1.00"})
    assert "conflicting" in refusal(answer, 400, 3, "MALFORMED_REQUEST")


@pytest.mark.parametrize("path", ["a%2Fb", "a%20b", "..%2Floans", "a:b", "%C3%A9"])
def test_an_escaped_id_reaches_the_service_which_finds_it_invalid(rest: httpx.Client, path: str) -> None:
    refusal(rest.get(f"/v1/customers/{path}"), 400, 3, "INVALID_FIELDS")


def test_an_escaped_zero_byte_is_malformed(rest: httpx.Client) -> None:
    refusal(rest.get("/v1/customers/%00"), 400, 3, "MALFORMED_REQUEST")


def test_an_empty_id_is_not_skipped(rest: httpx.Client) -> None:
    refusal(rest.get("/v1/customers//balance"), 400, 3, "INVALID_FIELDS")


def test_a_body_over_the_limit_is_413_and_one_at_the_limit_is_read(rest: httpx.Client) -> None:
    refusal(rest.post("/v1/customers", content=b" " * (LIMIT + 1)), 413, 3, "REQUEST_TOO_LARGE")
    chunks = (b" " * 65536 for _ in range(LIMIT // 65536 + 1))
    refusal(rest.post("/v1/customers", content=chunks), 413, 3, "REQUEST_TOO_LARGE")
    refusal(rest.post("/v1/customers", content=b"[" * LIMIT), 400, 3, "MALFORMED_REQUEST")


def test_too_long_or_too_many_headers_are_431(rest: httpx.Client) -> None:
    refusal(rest.get("/v1/customers", headers={"x-long": "x" * 9000}), 431, 3, "HEADERS_TOO_LARGE")
    many = {f"x-{number}": "1" for number in range(120)}
    refusal(rest.get("/v1/customers", headers=many), 431, 3, "HEADERS_TOO_LARGE")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /v1/customers HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        (b"POST /v1/customers HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /v1/customers HTTP/1.0\r\n\r\n", 426),
    ],
)
def test_what_is_no_http_is_refused_in_the_same_shape(stack: Stack, request_bytes: bytes, status: int) -> None:
    head, _, body = exchange(stack, request_bytes, b"}]").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/json" in head
    assert b"x-request-id: " in head
    assert b'"MALFORMED_REQUEST"' in body


def test_an_upgrade_is_refused(rest: httpx.Client) -> None:
    answer = rest.get("/v1/customers", headers={"connection": "upgrade", "upgrade": "websocket"})
    refusal(answer, 403, 7, "MALFORMED_REQUEST")


def test_the_details_of_an_error_reach_rest(rest: httpx.Client) -> None:
    answer = rest.get("/v1/customers/edge-nobody")
    refusal(answer, 404, 5, "CUSTOMER_NOT_FOUND")
    info, resource = answer.json()["details"]
    assert info["metadata"] == {"external_id": "edge-nobody"}
    assert resource["@type"].endswith("google.rpc.ResourceInfo")
    assert resource["resource_name"] == "edge-nobody"


def test_without_a_key_rest_is_401(stack: Stack) -> None:
    refusal(httpx.get(f"{stack.http_url}/v1/customers"), 401, 16, "API_KEY_MISSING")


@pytest.mark.parametrize("path", ["/v1/customers", "/v1/customers/edge-nobody", "/nope", "/healthz", "/readyz"])
def test_rest_answers_say_nothing_of_grpc_nor_of_envoy(rest: httpx.Client, path: str) -> None:
    names = set(rest.get(path).headers)
    assert not {name for name in names if name.startswith(("grpc-", "x-envoy-", "server"))}
    assert {"x-content-type-options", "x-request-id"} <= names


def test_each_answer_has_a_request_id_of_ours(rest: httpx.Client) -> None:
    ids = {rest.get("/v1/customers", headers={"x-request-id": "forged"}).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    assert "forged" not in ids


def test_healthz_and_readyz(stack: Stack) -> None:
    assert httpx.get(f"{stack.http_url}/healthz").status_code == 200
    assert httpx.get(f"{stack.http_url}/readyz").status_code == 200


def test_grpc_passes_with_its_errors_and_their_details(stack: Stack, through_edge: grpc.Channel) -> None:
    call = GrpcDoor(through_edge, (("x-api-key", stack.api_key),))
    assert "customers" in call("customers.ListCustomers", page_size=1)
    with pytest.raises(Refused) as caught:
        call("customers.GetCustomer", external_id="edge-nobody")
    assert (caught.value.code, caught.value.reason) == (5, "CUSTOMER_NOT_FOUND")
    assert caught.value.info["metadata"] == {"external_id": "edge-nobody"}


def test_grpc_health_and_reflection_pass(through_edge: grpc.Channel) -> None:
    answer = health_pb2_grpc.HealthStub(through_edge).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    ask = reflection_pb2.ServerReflectionRequest(list_services="*")
    reflection = reflection_pb2_grpc.ServerReflectionStub(through_edge)
    [listed] = reflection.ServerReflectionInfo(iter([ask]))
    assert "mo.loans.v1.LoanService" in {service.name for service in listed.list_services_response.service}


def test_an_unknown_grpc_method_is_unimplemented(through_edge: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        through_edge.unary_unary("/mo.customers.v1.CustomerService/Frobnicate", bytes, bytes)(b"")
    assert refused(caught.value).reason == "RPC_NOT_FOUND"


@pytest.mark.parametrize("text", [False, True])
def test_grpc_web(stack: Stack, rest: httpx.Client, text: bool) -> None:
    created = rest.post("/v1/customers", json={"external_id": f"edge-web-{text}", "score": "5.00"})
    assert created.status_code == 200, created.text
    answer = web_call(stack, customers_pb2.GetCustomerRequest(external_id=f"edge-web-{text}").SerializeToString(), text)
    assert answer.status_code == 200
    kind = "application/grpc-web-text+proto" if text else "application/grpc-web+proto"
    assert answer.headers["content-type"] == kind
    # The text form pads each of its pieces.
    pieces = [piece + b"=" * (-len(piece) % 4) for piece in answer.content.replace(b"=", b" ").split()]
    frames = b"".join(base64.b64decode(piece) for piece in pieces) if text else answer.content
    size = struct.unpack(">I", frames[1:5])[0]
    customer = customers_pb2.Customer.FromString(frames[5 : 5 + size])
    assert (customer.external_id, customer.score) == (f"edge-web-{text}", "5.00")
    trailers = frames[5 + size :]
    assert trailers[0] == 0x80
    assert b"grpc-status:0\r\n" in trailers


def test_grpc_web_errors_are_grpc_statuses(stack: Stack) -> None:
    missing = web_call(stack, customers_pb2.GetCustomerRequest(external_id="edge-nobody").SerializeToString())
    assert missing.status_code == 200
    # Without a message, the trailers may come as headers.
    assert missing.headers.get("grpc-status") == "5" or b"grpc-status:5\r\n" in missing.content
    large = web_call(stack, b"x" * LIMIT)
    assert (large.status_code, large.headers["grpc-status"]) == (200, "3")
    assert large.headers["grpc-message"] == "The body is over the limit."


def web_call(stack: Stack, message: bytes, text: bool = False) -> httpx.Response:
    """Call GetCustomer as a browser would, framed by hand."""
    frame = b"\0" + struct.pack(">I", len(message)) + message
    kind = "application/grpc-web-text" if text else "application/grpc-web+proto"
    headers = {"content-type": kind, "accept": kind, "x-grpc-web": "1", "x-api-key": stack.api_key}
    return httpx.post(stack.http_url + GET_CUSTOMER, content=base64.b64encode(frame) if text else frame, headers=headers)


def exchange(stack: Stack, sent: bytes, until: bytes) -> bytes:
    """Send bytes to the HTTP port, and read until some bytes arrive or the connection ends."""
    address = urlsplit(stack.http_url)
    assert address.hostname is not None
    received = b""
    with socket.create_connection((address.hostname, address.port or 80), timeout=10) as connection:
        connection.sendall(sent)
        while until not in received and (piece := connection.recv(65536)):
            received += piece
    return received


def test_http2_without_tls_on_the_same_port(stack: Stack) -> None:
    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload

    def literal(name: bytes, value: bytes) -> bytes:
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

    get, http = b"\x82", b"\x86"  # HPACK's static table
    header_block = (
        get + http + literal(b":path", b"/v1/customers?page_size=1") + literal(b":authority", b"edge")
        + literal(b"x-api-key", stack.api_key.encode())
    )  # fmt: skip
    settings, end_stream_and_headers = frame(4, 0, 0, b""), 0x5
    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + frame(1, end_stream_and_headers, 1, header_block)
    answer = exchange(stack, sent, b'"next_page_token"')
    assert b"\x88" in answer  # `:status: 200`
    start = answer.index(b'{"customers"')
    assert "customers" in json.JSONDecoder().raw_decode(answer[start:].decode(errors="replace"))[0]
