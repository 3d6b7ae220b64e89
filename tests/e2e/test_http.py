"""What HTTP asks of a service (RFC 9110), and what Envoy decides alone."""

import re
import struct

import httpx
import pytest

from mo_grpc.auth.users.rules import Role
from tests.auth.users.conftest import NewUser, basic, new_user, no_login_failures  # noqa: F401 - fixtures
from tests.conftest import ORIGIN, TLS, Stack
from tests.doors import GrpcDoor, Json, Refused
from tests.e2e.test_edge import exchange, refusal
from tests.factories import SOME_DAY, new_id
from tests.repository import ROOT

EDGE_TABLE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").partition("## What Envoy decides")[2].partition("\n## ")[0]
CUSTOMER = {"score": "1.00"}


@pytest.fixture
def customer(rest: httpx.Client) -> str:
    external_id = new_id("http")
    assert rest.post("/v1/customers", json={"external_id": external_id, "score": "10"}).status_code == 200
    return external_id


# --- Who calls -------------------------------------------------------------------------------------------------------------


def test_401_says_what_would_do(stack: Stack) -> None:
    def challenge(method: str, path: str, **headers: str) -> str:
        answer = httpx.request(method, stack.http_url + path, headers=headers, verify=TLS)
        assert (answer.status_code, answer.json()["code"]) == (401, 16)
        return answer.headers["www-authenticate"]

    assert challenge("GET", "/v1/customers") == 'Bearer realm="mo"'
    assert challenge("GET", "/v1/customers", **{"x-api-key": "mo_x"}) == 'Bearer realm="mo"'
    assert challenge("GET", "/v1/customers", authorization="Bearer x") == 'Bearer realm="mo", error="invalid_token"'
    asks = 'Basic realm="mo", charset="UTF-8"'
    assert challenge("POST", "/v1/auth/tokens") == asks
    assert challenge("POST", "/v1/auth/tokens", authorization=basic("nobody@example.org", "wrong")) == asks


def test_retry_after_comes_with_every_retry_info(stack: Stack, new_user: NewUser) -> None:  # noqa: F811
    """Also from the calls whose answers are for no cache, and which say so in a header of their own."""
    user = new_user(Role.ADMINISTRATOR)
    with httpx.Client(base_url=stack.http_url, verify=TLS) as client:
        login = client.post("/v1/auth/tokens", headers={"authorization": basic(user.email)})
        assert login.headers["cache-control"] == "no-store"
        bearer = {"authorization": f"Bearer {login.json()['tokens']['access_token']}"}
        answers = []
        for path, headers in (
            ("/v1/auth/tokens", {"authorization": basic(user.email, "wrong")}),
            ("/v1/auth/otp:enroll", bearer),
        ):
            for _ in range(20):
                answer = client.post(path, headers=headers, json={"password": "wrong"} if headers is bearer else {})
                if answer.status_code == 429:
                    break
            answers.append(answer)
    for answer in answers:
        assert answer.json()["details"][0]["reason"] == "TOO_MANY_ATTEMPTS"
        assert int(answer.headers["retry-after"]) >= 1


# --- Verbs and bodies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "path", "allowed"),
    [
        ("DELETE", "/v1/customers", "GET, POST"),
        ("HEAD", "/v1/customers", "GET, POST"),
        ("OPTIONS", "/v1/customers", "GET, POST"),
        ("PUT", "/v1/customers/c-1", "GET, PATCH"),
        ("POST", "/v1/customers/c-1?x=y", "GET, PATCH"),
        ("DELETE", "/v1/customers/c-1/balance", "GET"),
        ("GET", "/v1/loans/l-1:activate", "POST"),
        ("PATCH", "/v1/loans/l-1", "GET"),
        ("GET", "/v1/payments:batchCreate", "POST"),
        ("PUT", "/v1/imports/customers", "GET, POST"),
        ("POST", "/v1/imports/1:watch", "GET"),
        ("TRACE", "/v1/auth/jwks", "GET"),
    ],
)
def test_a_known_path_with_another_verb_is_405_and_says_which_it_takes(
    rest: httpx.Client, verb: str, path: str, allowed: str
) -> None:
    answer = rest.request(verb, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert verb == "HEAD" or refusal(answer, 405, 12, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/merge-patch+json"},
        {"content-type": "application/json-patch+json"},
        {"content-type": "application/vnd.api+json"},
        {"content-type": "text/plain"},
        {"content-type": "application/jsonx"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_a_body_that_is_not_understood_is_415_and_changes_nothing(
    rest: httpx.Client, customer: str, headers: dict[str, str]
) -> None:
    for verb, path in (("PATCH", f"/v1/customers/{customer}"), ("POST", "/v1/customers"), ("POST", "/v1/loans/l-1:activate")):
        answer = rest.request(verb, path, content=b'{"score": "77"}', headers=headers)
        refusal(answer, 415, 3, "UNSUPPORTED_MEDIA_TYPE")
        assert answer.headers["accept"] == "application/json"
    assert rest.get(f"/v1/customers/{customer}").json()["score"] == "10.00"


@pytest.mark.parametrize(
    "kind", ["application/json", "APPLICATION/JSON ; charset=utf-8", "application/x-www-form-urlencoded", ""]
)
def test_json_is_understood_under_its_names(rest: httpx.Client, customer: str, kind: str) -> None:
    headers = {"content-type": kind, "content-encoding": "identity"} if kind else {}
    answer = rest.patch(f"/v1/customers/{customer}", content=b'{"score": "77"}', headers=headers)
    assert answer.json()["score"] == "77.00"


BODIES = [
    ("PATCH", "/v1/customers/{customer}", {"score": "77", "preaproved_at": None}),
    ("POST", "/v1/customers", {"external_id": "unknown", "score": "1", "statuss": "INACTIVE"}),
    ("POST", "/v1/customers?x=/v1/loans", {"external_id": "unknown", "score": "1", "amount": "1"}),
    ("POST", "/v1/payments:batchCreate", {"requests": [{"payment": {}}, {"payment": {"total_amout": "1"}}]}),
    ("POST", "/v1/loans/unknown:activate", {"reason": "x"}),
    ("POST", "/v1/auth/tokens:refresh", {"refresh_tokn": "x"}),
]


@pytest.mark.parametrize(("verb", "path", "body"), BODIES)
def test_an_unknown_member_is_refused_by_name(rest: httpx.Client, customer: str, verb: str, path: str, body: Json) -> None:
    message = refusal(rest.request(verb, path.format(customer=customer), json=body), 400, 3, "MALFORMED_REQUEST")
    assert re.search('no member "(preaproved_at|statuss|amount|total_amout|reason|refresh_tokn)"', message)
    refusal(rest.get("/v1/customers/unknown"), 404, 5, "CUSTOMER_NOT_FOUND")
    assert rest.get(f"/v1/customers/{customer}").json()["score"] == "10.00"


def test_a_name_that_is_none_is_not_repeated(rest: httpx.Client) -> None:
    for name in ("<script>", "x" * 61, "é", ""):
        message = refusal(rest.post("/v1/customers", json={name: "1"}), 400, 3, "MALFORMED_REQUEST")
        assert message.endswith("There is no member.")


def test_what_only_looks_like_a_member_is_a_value(rest: httpx.Client, customer: str) -> None:
    loan = {
        "customer_external_id": customer,
        "amount": "1",
        "maximumPaymentDate": SOME_DAY,
        "contract_version": 'a" : \\", "b":\\\\',
    }
    created = rest.post("/v1/loans", json=loan | {"external_id": new_id("http")}).json()
    assert created["contract_version"] == loan["contract_version"]
    # What was read may be sent back.
    rest.patch(f"/v1/customers/{customer}", json={"score": "9", "etag": '"1"', "status": "ACTIVE"}).raise_for_status()
    paid = {"external_id": new_id("http"), "customer_external_id": customer, "total_amount": "1"}
    again = rest.post("/v1/payments", json=paid).json() | {"external_id": new_id("http")}
    assert rest.post("/v1/payments", json=again).status_code == 200
    escaped = b'{"external\\u005fid": "%s", "score": "1"}' % new_id("http").encode()
    assert rest.post("/v1/customers", content=escaped).status_code == 200


def test_the_pages_of_an_allowed_origin_can_read_these_refusals(rest: httpx.Client) -> None:
    for verb, headers in (("PUT", {}), ("POST", {"content-type": "text/plain"}), ("GET", {"grpc-timeout": "soon"})):
        answer = rest.request(verb, "/v1/customers", headers={"origin": ORIGIN, **headers})
        assert answer.status_code in {405, 415, 400}
        assert answer.headers["access-control-allow-origin"] == ORIGIN


# --- If-Match --------------------------------------------------------------------------------------------------------------


def test_if_match_counts_as_the_etag(rest: httpx.Client, customer: str) -> None:
    path = f"/v1/customers/{customer}"

    def patch(if_match: str, score: str, **body: str) -> httpx.Response:
        return rest.patch(path, json={"score": score, **body}, headers={"if-match": if_match})

    first = rest.get(path).json()["etag"]
    second = patch(first, "20").json()["etag"]
    assert second != first
    for stale in (first, f"W/{second}", '"nonsense"'):
        refusal(patch(stale, "30"), 409, 10, "STALE_ETAG")
    refusal(patch(second, "30", etag=first), 400, 3, "INVALID_FIELDS")
    refusal(patch(f"{first}, {second}", "30"), 400, 3, "INVALID_FIELDS")
    refusal(patch("1", "30"), 400, 3, "INVALID_FIELDS")
    assert rest.get(path).json()["score"] == "20.00"
    assert patch(second, "40", etag=second).json()["score"] == "40.00"
    assert patch("*", "50").json()["score"] == "50.00"


def test_a_key_with_another_if_match_is_another_request(rest: httpx.Client, customer: str) -> None:
    path, key = f"/v1/customers/{customer}", {"idempotency-key": new_id("key")}
    assert rest.patch(path, json=CUSTOMER, headers=key).status_code == 200
    refusal(rest.patch(path, json=CUSTOMER, headers=key | {"if-match": '"1"'}), 400, 3, "IDEMPOTENCY_KEY_REUSED")


# --- What Envoy decides alone: a test for each line of the table in docs/api.md ---------------------------------------------


def test_every_line_of_the_table_is_tested_below() -> None:
    assert EDGE_TABLE.count("\n| ") - 1 == 9, "a new line needs a new test"


def test_of_a_query_parameter_that_comes_twice_the_last_counts(rest: httpx.Client, customer: str) -> None:
    assert len(rest.get("/v1/customers?page_size=-1&page_size=1").json()["customers"]) == 1


@pytest.mark.parametrize("name", ["external_id", "externalId"])
def test_of_a_member_that_comes_twice_the_last_counts(rest: httpx.Client, name: str) -> None:
    first, last = new_id("http"), new_id("http")
    body = f'{{"external_id": "{first}", "score": "1", "{name}": "{last}"}}'
    assert rest.post("/v1/customers", content=body.encode()).json()["external_id"] == last
    assert rest.get(f"/v1/customers/{first}").status_code == 404


def test_null_is_not_set_and_among_items_no_item(rest: httpx.Client, customer: str) -> None:
    new = {"external_id": new_id("http"), "score": "1", "preapproved_at": None}
    assert "preapproved_at" not in rest.post("/v1/customers", json=new).json()
    item = {"payment": {"external_id": new_id("http"), "customer_external_id": customer, "total_amount": "1"}}
    answer = rest.post("/v1/payments:batchCreate", json={"requests": [None, item, None]})
    assert [result["payment"]["external_id"] for result in answer.json()["results"]] == [item["payment"]["external_id"]]
    refusal(rest.post("/v1/payments:batchCreate", json={"requests": [None]}), 400, 3, "INVALID_FIELDS")


def test_an_unknown_name_of_an_enum_is_malformed_and_over_grpc_an_unknown_number_a_field(
    rest: httpx.Client, over_grpc: GrpcDoor
) -> None:
    refusal(rest.get("/v1/events?kinds=LOAN_FORGIVEN"), 400, 3, "MALFORMED_REQUEST")
    with pytest.raises(Refused) as refused:
        over_grpc("journal.ListEvents", kinds=[99])
    assert refused.value.reason == "INVALID_FIELDS"


def test_long_headers_are_431_over_http_1_and_end_the_stream_over_http_2(rest: httpx.Client, stack: Stack) -> None:
    refusal(rest.get("/v1/customers", headers={"x-long": "x" * 9000}), 431, 3, "HEADERS_TOO_LARGE")

    def frame(kind: int, flags: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, 1 if payload else 0) + payload

    # `GET http://a/`, in HPACK's literal form, with a header of 9,000 bytes (RFC 7541, 5.1: 127 + 8,873).
    block = b"\x82\x86\x84" + b"\0\x0a:authority\x01a" + b"\0\x06x-long\x7f\xa9\x45" + b"x" * 9000
    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, b"") + frame(1, 5, block)
    reset = struct.pack(">I", 4)[1:] + struct.pack(">BBI", 3, 0, 1)
    assert reset in exchange(stack, sent, reset)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grpc-encoding", "zork"),
        ("grpc-accept-encoding", "zork"),
        ("grpc-previous-rpc-attempts", "zz"),
        ("grpc-retry-pushback-ms", "q"),
        ("grpc-internal-encoding-request", "1"),
        ("grpc-status", "13"),
        ("grpc-message", "%zz"),
        ("grpc-", "x"),
    ],
)
def test_the_headers_of_grpc_are_dropped_from_rest(rest: httpx.Client, customer: str, name: str, value: str) -> None:
    headers = {name: value}
    assert rest.get(f"/v1/customers/{customer}", headers=headers).json()["external_id"] == customer
    assert rest.patch(f"/v1/customers/{customer}", headers=headers, json=CUSTOMER).json()["score"] == "1.00"
    refusal(rest.get("/v1/imports/999999:watch", headers=headers), 404, 5, "IMPORT_NOT_FOUND")
    refusal(rest.get("/nope", headers=headers), 404, 5, "ROUTE_NOT_FOUND")
