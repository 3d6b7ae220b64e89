"""Whose address a call comes from, and how often an address may call."""

import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
from mo.customers.v1 import customers_pb2, customers_pb2_grpc

from tests.conftest import TLS
from tests.doors import refused
from tests.e2e.edges import Upstream, bare_edge
from tests.waiting import eventually

ORIGIN = "https://app.example"
RATE = 5
# An exemption for nobody here.
NOBODY = "192.0.2.0/24"
SPOOFED = "6.6.6.6"


@pytest.fixture(scope="module")
def proxied(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An edge behind two proxies."""
    with bare_edge(tmp_path_factory.mktemp("proxied"), upstream, mo_trusted_proxies=2) as url:
        yield url


@pytest.fixture(scope="module")
def limited(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An edge behind one proxy, with a low rate for all but one network."""
    limits = {"mo_rate_limit_per_address": RATE, "mo_rate_limit_exempt": NOBODY, "mo_trusted_proxies": 1}
    with bare_edge(tmp_path_factory.mktemp("limited"), upstream, **limits, cors_allowed_origins=ORIGIN) as url:
        yield url


# --- The client's address --------------------------------------------------------------------------------------------------


def address_told(upstream: Upstream, url: str, *claimed: str) -> list[str | bytes]:
    """Where the service is told that a call comes from, when the call claims something by X-Forwarded-For."""
    headers = [("x-forwarded-for", claim) for claim in claimed]
    answer = httpx.get(f"{url}/v1/customers/c-1", headers=headers, verify=TLS)
    assert answer.status_code == 200, answer.text
    return upstream.heard("x-forwarded-for")


@pytest.mark.parametrize("claimed", [(), (SPOOFED,), (SPOOFED, f"{SPOOFED}, 7.7.7.7"), ("nonsense",), (",,,",)])
def test_without_proxies_the_address_is_the_peers_whatever_is_claimed(
    upstream: Upstream, direct: str, claimed: tuple[str, ...]
) -> None:
    assert address_told(upstream, direct, *claimed) == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("claimed", "address"),
    [
        ((f"{SPOOFED}, 203.0.113.7, 10.0.0.1",), "203.0.113.7"),
        ((SPOOFED, "203.0.113.7, 10.0.0.1"), "203.0.113.7"),
        ((SPOOFED, "2001:db8::7", "10.0.0.1"), "2001:db8::7"),
        # Fewer than the proxies would have written, or nothing that is an address: the peer is all that is known.
        (("203.0.113.7",), "127.0.0.1"),
        (("nonsense, 10.0.0.1",), "127.0.0.1"),
        ((), "127.0.0.1"),
    ],
)
def test_behind_two_proxies_it_is_the_one_that_the_first_of_them_saw(
    upstream: Upstream, proxied: str, claimed: tuple[str, ...], address: str
) -> None:
    assert address_told(upstream, proxied, *claimed) == [address]


def test_grpc_callers_cannot_forge_it_either(upstream: Upstream, direct: str) -> None:
    with grpc.insecure_channel(urlsplit(direct).netloc) as channel:
        stub = customers_pb2_grpc.CustomerServiceStub(channel)
        stub.GetCustomer(customers_pb2.GetCustomerRequest(), metadata=(("x-forwarded-for", SPOOFED),))
    assert upstream.heard("x-forwarded-for") == ["127.0.0.1"]


def test_what_only_envoy_may_say_is_not_believed_from_callers(upstream: Upstream, direct: str) -> None:
    forged = {
        "x-envoy-external-address": SPOOFED,
        "x-envoy-internal": "true",
        "x-envoy-original-path": "/forged",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-retry-on": "5xx",
    }
    upstream.open.clear()
    threading.Timer(0.05, upstream.open.set).start()
    assert httpx.get(f"{direct}/v1/customers/c-1", headers=forged, verify=TLS).status_code == 200
    told = {str(key): value for key, value in upstream.seen[-1]}
    assert not set(forged.values()) & set(told.values())


def test_a_grpc_caller_cannot_pass_for_a_rest_caller(direct: str) -> None:
    # The transcoder leaves this header, by which the edge tells whose refusal it is.
    forged = {"content-type": "application/grpc", "grpc-timeout": "soon", "x-envoy-original-method": "GET"}
    answer = httpx.post(f"{direct}/mo.customers.v1.CustomerService/GetCustomer", headers=forged, verify=TLS)
    assert (answer.status_code, answer.headers.get("grpc-status")) == (200, "3")


@pytest.mark.parametrize("value", ["???", "AAAA", ""])
def test_binary_metadata_of_rest_callers_is_dropped_sound_or_not(upstream: Upstream, direct: str, value: str) -> None:
    answer = httpx.get(f"{direct}/v1/customers/c-1", headers={"foo-bin": value, "x-kept": "kept"}, verify=TLS)
    assert answer.status_code == 200, answer.text
    assert upstream.heard("x-kept") == ["kept"]
    assert upstream.heard("foo-bin") == []


def test_headers_that_grpc_knows_no_name_like_are_dropped(upstream: Upstream, direct: str) -> None:
    odd = {f"x{sign}y": "1" for sign in "!#$%&'*+^`|~"}
    answer = httpx.get(f"{direct}/v1/customers/c-1", headers=odd | {"x-kept_1.a": "kept"}, verify=TLS)
    assert answer.status_code == 200, answer.text
    assert upstream.heard("x-kept_1.a") == ["kept"]
    assert not [key for key, _ in upstream.seen[-1] if set(str(key)) & set("!#$%&'*+^`|~")]


# --- The rate of an address ------------------------------------------------------------------------------------------------


def until_refused(url: str, **headers: str) -> tuple[int, httpx.Response]:
    """Call until the edge has enough: how many calls it took, and how it said no."""
    with httpx.Client(verify=TLS) as client:
        for count in range(200):
            answer = client.get(f"{url}/v1/customers/c-1", headers=headers)
            if answer.status_code != 200:
                return count, answer
    raise AssertionError("never refused")


def test_an_address_that_calls_too_often_is_refused_and_told_when_to_retry_and_others_are_not(limited: str) -> None:
    count, answer = until_refused(limited, **{"x-forwarded-for": "203.0.113.1", "origin": ORIGIN})
    assert count >= RATE
    assert (answer.status_code, answer.headers["content-type"]) == (429, "application/json")
    body = answer.json()
    assert body["code"] == 8
    info, retry = body["details"]
    assert (info["reason"], info["domain"]) == ("RATE_LIMITED", "mo")
    assert retry == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "1s"}
    assert int(answer.headers["retry-after"]) >= 1
    # Pages can read it.
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "retry-after" in answer.headers["access-control-expose-headers"]
    other = httpx.get(f"{limited}/healthz", headers={"x-forwarded-for": "203.0.113.2"}, verify=TLS)
    assert other.status_code == 200
    again = {"x-forwarded-for": "203.0.113.1"}
    eventually(lambda: httpx.get(f"{limited}/healthz", headers=again, verify=TLS).status_code == 200, 20)


def test_real_addresses_count_each_for_itself(limited: str) -> None:
    for address in ("127.0.0.2", "127.0.0.3"):
        with httpx.Client(transport=httpx.HTTPTransport(local_address=address, verify=TLS)) as client:
            statuses = [client.get(f"{limited}/healthz").status_code for _ in range(RATE)]
        assert statuses == [200] * RATE


def test_what_is_claimed_before_the_proxies_does_not_help(limited: str) -> None:
    with httpx.Client(verify=TLS) as client:
        claims = (f"198.51.100.{number}, 203.0.113.3" for number in range(200))
        statuses = {client.get(f"{limited}/healthz", headers={"x-forwarded-for": claim}).status_code for claim in claims}
    assert statuses == {200, 429}


def test_ipv6_addresses_of_one_network_share_and_networks_do_not(limited: str) -> None:
    with httpx.Client(verify=TLS) as client:

        def status(address: str) -> int:
            return client.get(f"{limited}/healthz", headers={"x-forwarded-for": address}).status_code

        assert 429 in {status(f"2001:db8:1:2::{number:x}") for number in range(1, 200)}
        assert {status(f"2001:db8:1:{number:x}::1") for number in range(3, 40)} == {200}


def test_an_address_is_remembered_while_many_others_call(limited: str) -> None:
    with httpx.Client(verify=TLS) as client:

        def refused_after_others() -> bool:
            until_refused(limited, **{"x-forwarded-for": "203.0.113.6"})
            for number in range(30):
                client.get(f"{limited}/healthz", headers={"x-forwarded-for": f"198.51.100.{number}"})
            return client.get(f"{limited}/healthz", headers={"x-forwarded-for": "203.0.113.6"}).status_code == 429

        # Again, if the others took so long that it was forgiven.
        assert any(refused_after_others() for _ in range(20))


def test_exempt_networks_are_without_a_limit(limited: str) -> None:
    with httpx.Client(verify=TLS) as client:
        claims = [{"x-forwarded-for": "192.0.2.77"}] * (RATE * 10)
        assert {client.get(f"{limited}/healthz", headers=claim).status_code for claim in claims} == {200}


def test_loopback_is_exempt_by_default_and_nobody_else(upstream: Upstream, tmp_path: Path) -> None:
    with (
        bare_edge(tmp_path, upstream, mo_rate_limit_per_address=1, mo_trusted_proxies=1) as url,
        httpx.Client(verify=TLS) as client,
    ):
        for mine in ("127.0.0.1", "127.9.9.9", "::1"):
            claims = [{"x-forwarded-for": mine}] * 10
            assert {client.get(f"{url}/healthz", headers=claim).status_code for claim in claims} == {200}
        assert until_refused(url, **{"x-forwarded-for": "10.0.0.1"})[1].status_code == 429


def test_a_grpc_caller_is_refused_in_grpc(limited: str) -> None:
    with grpc.insecure_channel(urlsplit(limited).netloc) as channel:
        call = customers_pb2_grpc.CustomerServiceStub(channel).GetCustomer
        claim = (("x-forwarded-for", "203.0.113.4"),)
        calls = [call.future(customers_pb2.GetCustomerRequest(), metadata=claim) for _ in range(50)]
        errors = [error for error in (call.exception() for call in calls) if isinstance(error, grpc.RpcError)]
    assert 0 < len(errors) <= 50 - RATE
    status = refused(errors[0])
    assert (status.code, status.reason) == (8, "RATE_LIMITED")
    assert status.details[1]["retry_delay"] == "1s"


def test_a_grpc_web_caller_is_refused_in_grpc_web(limited: str) -> None:
    headers = {"content-type": "application/grpc-web+proto", "x-forwarded-for": "203.0.113.5"}
    url = f"{limited}/mo.customers.v1.CustomerService/GetCustomer"
    with httpx.Client(verify=TLS) as client:
        answers = [client.post(url, content=b"\0\0\0\0\0", headers=headers) for _ in range(50)]
    assert {answer.status_code for answer in answers} == {200}
    assert "8" in {answer.headers.get("grpc-status") for answer in answers}


def test_without_a_rate_there_is_no_limit(upstream: Upstream, tmp_path: Path) -> None:
    settings = {"mo_rate_limit_per_address": 0, "mo_rate_limit_exempt": NOBODY}
    with bare_edge(tmp_path, upstream, **settings) as url, httpx.Client(verify=TLS) as client:
        assert {client.get(f"{url}/healthz").status_code for _ in range(50)} == {200}
