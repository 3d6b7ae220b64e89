"""From where and how often a key may call: over both doors, over several workers, and after a restart."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import grpc
import httpx
import pytest

from mo_grpc.auth.api_keys.rules import Credential
from tests.auth.users.conftest import rows
from tests.conftest import TLS, Stack
from tests.databases import owner
from tests.doors import Door, GrpcDoor, Refused, RestDoor
from tests.servers import a_server
from tests.waiting import eventually

READ = ("--scope", "customers:read")


def new_key(stack: Stack, *options: str) -> str:
    return stack.cli("keys", "create", "limited", *READ, *options).stdout.strip()


def outcome(door: Door) -> str:
    """OK, or the reason of the refusal."""
    try:
        door("customers.ListCustomers", page_size=1)
    except Refused as refused:
        return refused.reason
    return "OK"


def with_key(door: Door, key: str) -> Door:
    if isinstance(door, GrpcDoor):
        return GrpcDoor(door.channel, (("x-api-key", key),))
    assert isinstance(door, RestDoor)
    return RestDoor(door.client, {"x-api-key": key})


def calls_told(stack: Stack, key: str) -> int:
    """How many calls of a key the servers have told each other of."""
    [(calls,)] = rows(stack, "SELECT coalesce(sum(calls), 0) FROM api_key_calls WHERE key_id = %s", key.split("_")[1])
    return int(calls)


def retry_delay(door: Door) -> float:
    """How long a refused call shall wait."""
    while outcome(door) == "OK":
        pass
    with pytest.raises(Refused) as refused:
        door("customers.ListCustomers", page_size=1)
    assert refused.value.code == 8
    [retry] = [detail for detail in refused.value.details if detail["@type"].endswith("RetryInfo")]
    return float(retry["retry_delay"].rstrip("s"))


def test_a_key_opens_nothing_from_another_network(door: Door, stack: Stack) -> None:
    elsewhere = with_key(door, new_key(stack, "--network", "192.0.2.0/24", "--network", "2001:db8::/32"))
    with pytest.raises(Refused) as refused:
        elsewhere("customers.ListCustomers")
    assert (refused.value.code, refused.value.reason) == (7, "NETWORK_NOT_ALLOWED")
    assert refused.value.info["metadata"] == {"address": "127.0.0.1"}
    assert outcome(with_key(door, new_key(stack, "--network", "127.0.0.0/8"))) == "OK"


def test_nobody_claims_to_call_from_there(stack: Stack, grpc_channel: grpc.Channel) -> None:
    key = new_key(stack, "--network", "192.0.2.0/24")
    claims = {"x-api-key": key, "x-forwarded-for": "192.0.2.1", "x-real-ip": "192.0.2.1", "forwarded": "for=192.0.2.1"}
    assert outcome(GrpcDoor(grpc_channel, tuple(claims.items()))) == "NETWORK_NOT_ALLOWED"
    with httpx.Client(base_url=stack.http_url, timeout=30, verify=TLS) as client:
        assert outcome(RestDoor(client, claims)) == "NETWORK_NOT_ALLOWED"


def test_an_edge_on_another_host_is_believed_if_it_is_named(stack: Stack) -> None:
    key = new_key(stack, "--network", "192.0.2.0/24")
    headers = (("x-api-key", key), ("x-forwarded-for", "192.0.2.1"))
    for networks, expected in (("127.0.0.0/8", "OK"), ("192.0.2.0/24", "NETWORK_NOT_ALLOWED")):
        with a_server(stack.environment, MO_TRUSTED_EDGES=networks) as server:
            assert outcome(GrpcDoor(server.channel, headers)) == expected


def test_calls_past_the_rate_are_told_when_to_come_back_and_then_get_through(door: Door, stack: Stack) -> None:
    limited = with_key(door, new_key(stack, "--per-second", "2"))
    answers = Counter(outcome(limited) for _ in range(60))
    assert set(answers) == {"OK", "KEY_RATE_EXCEEDED"}
    assert 0 < retry_delay(limited) < 30
    eventually(lambda: outcome(limited) == "OK", 30)


def test_over_rest_a_header_says_when_to_come_back(stack: Stack, rest: httpx.Client) -> None:
    headers = {"x-api-key": new_key(stack, "--per-day", "1")}
    answer = rest.get("/v1/customers", headers=headers)
    while answer.status_code == 200:
        answer = rest.get("/v1/customers", headers=headers)
    assert answer.status_code == 429
    [retry] = [detail for detail in answer.json()["details"] if detail["@type"].endswith("RetryInfo")]
    assert abs(int(answer.headers["retry-after"]) - float(retry["retry_delay"].rstrip("s"))) <= 1


def test_in_the_long_run_all_workers_together_keep_to_the_rate(stack: Stack) -> None:
    rate, seconds, workers = 20, 6, 3
    key = new_key(stack, "--per-second", str(rate))
    with ExitStack() as servers:
        doors = [
            GrpcDoor(servers.enter_context(a_server(stack.environment)).channel, (("x-api-key", key),)) for _ in range(workers)
        ]
        over = threading.Event()
        end = threading.Timer(seconds, over.set)

        def call_on(door: GrpcDoor) -> int:
            done = 0
            while not over.wait(0.01):  # many times the rate, and not as often as two cores can
                done += outcome(door) == "OK"
            return done

        with ThreadPoolExecutor(workers) as threads:
            end.start()
            through = sum(threads.map(call_on, doors))
        assert rate * seconds / 2 < through <= rate * (seconds + 2 * workers)
        eventually(lambda: calls_told(stack, key) == through, 10)


def test_a_quota_ends_at_midnight_and_outlives_a_restart(stack: Stack) -> None:
    key = new_key(stack, "--per-day", "7")
    with a_server(stack.environment) as server:
        limited = GrpcDoor(server.channel, (("x-api-key", key),))
        assert [outcome(limited) for _ in range(9)] == ["OK"] * 7 + ["KEY_QUOTA_EXCEEDED"] * 2
        now = datetime.now(UTC)
        left = 86_400 - (now.hour * 3600 + now.minute * 60 + now.second)
        assert abs(retry_delay(limited) - left) < 60
    assert calls_told(stack, key) == 7
    with a_server(stack.environment) as server:
        limited = GrpcDoor(server.channel, (("x-api-key", key),))
        assert outcome(limited) == "KEY_QUOTA_EXCEEDED"
        with owner(stack.data_dir) as connection:
            connection.execute("UPDATE api_key_calls SET day = day - 1 WHERE key_id = %s", [key.split("_")[1]])
        eventually(lambda: outcome(limited) == "OK", 10)


def test_only_calls_that_the_key_opens_use_it_up(stack: Stack) -> None:
    key = new_key(stack, "--per-day", "2")
    found = Credential.parse(key)
    assert found
    forged = str(Credential(found.id, Credential.generate().secret))
    with a_server(stack.environment) as server:
        limited, attacker = (GrpcDoor(server.channel, (("x-api-key", each),)) for each in (key, forged))
        for _ in range(20):
            assert outcome(attacker) == "API_KEY_INVALID"
            with pytest.raises(Refused) as refused:
                limited("loans.ListLoans")
            assert refused.value.reason == "SCOPE_MISSING"
        assert [outcome(limited) for _ in range(3)] == ["OK", "OK", "KEY_QUOTA_EXCEEDED"]


def test_both_secrets_of_a_rotated_key_share_its_calls(stack: Stack) -> None:
    old = new_key(stack, "--per-day", "3")
    new = stack.cli("keys", "rotate", old.split("_")[1]).stdout.strip()
    with a_server(stack.environment) as server:
        doors = [GrpcDoor(server.channel, (("x-api-key", key),)) for key in (old, new, old, new)]
        assert [outcome(door) for door in doors] == ["OK"] * 3 + ["KEY_QUOTA_EXCEEDED"]


def test_limits_are_changed_and_felt_within_a_second(stack: Stack, over_grpc: GrpcDoor) -> None:
    key = new_key(stack)
    limited = with_key(over_grpc, key)
    assert outcome(limited) == "OK"
    limits = ("--network", "192.0.2.1", "--per-second", "50", "--per-day", "1000")
    assert "has these limits now" in stack.cli("keys", "limit", key.split("_")[1], *limits).stdout
    eventually(lambda: outcome(limited) == "NETWORK_NOT_ALLOWED", 5)
    assert "50 a second, 1,000 a day, 192.0.2.1/32" in stack.cli("keys", "list").stdout
    assert "has no limits now" in stack.cli("keys", "limit", key.split("_")[1]).stdout
    eventually(lambda: outcome(limited) == "OK", 5)


@pytest.mark.parametrize("options", [("--network", "x"), ("--network", "192.0.2.1/24"), ("--network", "10.0.0.1") * 33])
def test_what_is_no_network_is_refused(stack: Stack, options: tuple[str, ...]) -> None:
    assert stack.cli("keys", "create", "x", *options, check=False).returncode == 2


def test_there_is_a_key_to_limit(stack: Stack) -> None:
    done = stack.cli("keys", "limit", "0" * 12, check=False)
    assert (done.returncode, done.stderr) == (1, f"There is no API key {'0' * 12}.\n")


def test_limits_are_given_over_the_api(stack: Stack, door: Door) -> None:
    scopes = [word for scope in ("keys:write", "keys:read", "customers:read") for word in ("--scope", scope)]
    maker = with_key(door, stack.cli("keys", "create", "maker", *scopes).stdout.strip())

    def make(**limits: Any) -> Any:
        return maker("auth.CreateApiKey", api_key={"name": "shop", "scopes": ["customers:read"]} | limits)

    limits = {"allowed_networks": ["127.0.0.0/8", "::1/128"], "calls_per_second": 10, "calls_per_day": 2}
    made = make(**limits)
    assert {name: made[name] for name in limits} == limits
    assert maker("auth.GetApiKey", id=made["id"]) == made | {"key": ""}
    assert outcome(with_key(door, made["key"])) == "OK"
    assert make(allowed_networks=["192.0.2.1"])["allowed_networks"] == ["192.0.2.1/32"]
    for wrong, fields in (
        ({"allowed_networks": ["127.0.0.1", "192.0.2.1/24", ""]}, {"allowed_networks[1]", "allowed_networks[2]"}),
        ({"calls_per_second": -1, "calls_per_day": -1}, {"calls_per_second", "calls_per_day"}),
    ):
        with pytest.raises(Refused) as refused:
            make(**wrong)
        assert set(refused.value.fields) == fields
