"""API keys over the API: made with what their maker has, rotated with an overlap, revoked; the key is shown once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.conftest import KEY, Stack
from tests.databases import owner
from tests.doors import Door, GrpcDoor, Json, Refused, RestDoor, opens
from tests.factories import mutation, new_id
from tests.waiting import eventually

SCOPES = ("keys:read", "keys:write", "customers:read", "customers:write", "payments:write")


def scoped(*scopes: str) -> list[str]:
    return [argument for scope in scopes for argument in ("--scope", scope)]


def with_key(door: Door, key: str) -> Door:
    """The same door, with another key."""
    if isinstance(door, GrpcDoor):
        return GrpcDoor(door.channel, (("x-api-key", key),))
    assert isinstance(door, RestDoor)
    return RestDoor(door.client, {"x-api-key": key})


@pytest.fixture(scope="module")
def maker_key(stack: Stack) -> str:
    return stack.cli("keys", "create", "maker", *scoped(*SCOPES)).stdout.strip()


@pytest.fixture
def maker(door: Door, maker_key: str) -> Door:
    made = with_key(door, maker_key)
    eventually(lambda: opens(made), 5)
    return made


def make(maker: Door, *scopes: str, **fields: object) -> Json:
    return maker("auth.CreateApiKey", api_key={"name": "shop", "scopes": list(scopes or ("customers:read",))} | fields)


def test_a_key_is_shown_once_and_opens_what_it_says(maker: Door, stack: Stack) -> None:
    made = make(maker)
    assert KEY.fullmatch(made["key"])
    assert made["key"].split("_")[1] == made["id"]
    assert (made["name"], made["scopes"]) == ("shop", ["customers:read"])
    door = with_key(maker, made["key"])
    assert opens(door)
    with pytest.raises(Refused) as refused:
        door("customers.CreateCustomer", customer={"external_id": "x", "score": "1"})
    assert refused.value.reason == "SCOPE_MISSING"
    assert maker("auth.GetApiKey", id=made["id"]) == made | {"key": ""}
    assert made["id"] in stack.cli("keys", "list").stdout


@pytest.mark.parametrize("rpc", ["auth.GetApiKey", "auth.RotateApiKey", "auth.RevokeApiKey"])
def test_what_is_no_id_of_a_key_is_refused_in_words(maker: Door, rpc: str) -> None:
    for wrong in ("zz", "a" * 13, "-" * 12):
        with pytest.raises(Refused) as refused:
            maker(rpc, id=wrong)
        assert refused.value.fields == {"id": "must be the id of an API key: 12 letters or digits"}


def test_a_key_gives_only_what_its_maker_has(maker: Door) -> None:
    for scope in ("loans:read", "payments:read"):
        with pytest.raises(Refused) as refused:
            make(maker, "customers:read", scope)
        assert (refused.value.code, refused.value.reason) == (7, "SCOPE_MISSING")
        assert refused.value.info["metadata"] == {"scope": scope}


def test_what_is_no_key_is_refused_field_by_field(maker: Door) -> None:
    def fields(**api_key: object) -> set[str]:
        with pytest.raises(Refused) as refused:
            maker("auth.CreateApiKey", api_key=api_key)
        return set(refused.value.fields)

    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    assert fields() == {"name", "scopes"}
    assert fields(name="x" * 101, scopes=["customers:read"]) == {"name"}
    assert fields(name="x", scopes=["customers:read", "no:scope", "account:write"]) == {"scopes[1]", "scopes[2]"}
    assert fields(name="x", scopes=["customers:read"], expires_at=past) == {"expires_at"}
    assert fields(name="x", scopes=["customers:read"] * 2) == {"scopes"}


def test_a_key_ends_when_it_says(maker: Door) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=2)
    door = with_key(maker, make(maker, expires_at=ends.isoformat())["key"])
    assert opens(door)
    eventually(lambda: not opens(door), 10)
    assert datetime.now(UTC) >= ends


def test_a_rotated_key_counts_twice_and_then_once(maker: Door, stack: Stack) -> None:
    made = make(maker)
    old = with_key(maker, made["key"])
    rotated = maker("auth.RotateApiKey", id=made["id"], overlap_seconds=3)
    new = with_key(maker, rotated["key"])
    assert rotated["id"] == made["id"]
    assert rotated["key"] != made["key"]
    eventually(lambda: opens(new), 5)
    assert opens(old)
    eventually(lambda: not opens(old), 10)
    assert datetime.now(UTC) >= datetime.fromisoformat(rotated["previous_expires_at"])
    assert opens(new)
    # Without an overlap, the old one ends at once; the one before it does not come back.
    newest = with_key(maker, maker("auth.RotateApiKey", id=made["id"], overlap_seconds=0)["key"])
    eventually(lambda: opens(newest) and not opens(new), 5)
    assert not opens(old)
    by_hand = with_key(maker, stack.cli("keys", "rotate", made["id"]).stdout.strip())
    eventually(lambda: opens(by_hand), 5)
    assert opens(newest)


def test_a_rotated_key_gets_the_answers_of_its_idempotency_keys(maker: Door, maker_key: str, stack: Stack) -> None:
    made = make(maker, "customers:write", "customers:read")
    request = mutation(maker, "customers.CreateCustomer")
    first = keyed(maker, made["key"], "once")
    answer = first("customers.CreateCustomer", **request)
    again = keyed(maker, maker("auth.RotateApiKey", id=made["id"])["key"], "once")
    eventually(lambda: opens(again), 5)
    assert again("customers.CreateCustomer", **request) == answer
    assert again.replayed


def keyed(door: Door, key: str, idempotency_key: str) -> Door:
    if isinstance(door, RestDoor):
        return RestDoor(door.client, {"x-api-key": key, "Idempotency-Key": idempotency_key})
    return with_key(door, key).keyed(idempotency_key)


def test_only_who_has_its_scopes_rotates_a_key(maker: Door, door: Door, new_key: Callable[..., str]) -> None:
    strong = new_key(*scoped("loans:read", "keys:write")).split("_")[1]
    with pytest.raises(Refused) as refused:
        maker("auth.RotateApiKey", id=strong)
    assert (refused.value.reason, refused.value.info["metadata"]) == ("SCOPE_MISSING", {"scope": "loans:read"})


def test_a_revoked_key_opens_nothing_and_is_not_rotated(maker: Door) -> None:
    made = make(maker)
    door = with_key(maker, made["key"])
    assert opens(door)
    revoked = maker("auth.RevokeApiKey", id=made["id"])
    assert revoked["revoked_at"]
    eventually(lambda: not opens(door), 1)
    assert maker("auth.RevokeApiKey", id=made["id"])["revoked_at"] == revoked["revoked_at"], "again changes nothing"
    with pytest.raises(Refused) as refused:
        maker("auth.RotateApiKey", id=made["id"])
    assert (refused.value.code, refused.value.reason) == (9, "API_KEY_REVOKED")


@pytest.mark.parametrize("rpc", ["GetApiKey", "RotateApiKey", "RevokeApiKey"])
def test_a_key_that_is_not_there_is_not_found(maker: Door, rpc: str) -> None:
    with pytest.raises(Refused) as refused:
        maker(f"auth.{rpc}", id="x" * 12)
    assert (refused.value.code, refused.value.reason) == (5, "API_KEY_NOT_FOUND")
    with pytest.raises(Refused) as refused:
        maker(f"auth.{rpc}", id="short")
    assert set(refused.value.fields) == {"id"}


def test_keys_are_listed_newest_first_page_by_page(maker: Door) -> None:
    ids = [make(maker)["id"] for _ in range(3)]
    first = maker("auth.ListApiKeys", page_size=2)
    second = maker("auth.ListApiKeys", page_size=1, page_token=first["next_page_token"])
    assert [key["id"] for key in first["api_keys"] + second["api_keys"]] == ids[::-1]
    assert not [key for key in first["api_keys"] if key["key"]]


def test_no_answer_with_a_key_is_kept(maker: Door, maker_key: str, stack: Stack) -> None:
    once = keyed(maker, maker_key, new_id("key"))
    api_key = {"name": "twice", "scopes": ["customers:read"]}
    made = [once("auth.CreateApiKey", api_key=api_key) for _ in range(2)]
    assert made[0]["id"] != made[1]["id"]
    with owner(stack.data_dir) as connection:
        rows = connection.execute("SELECT answer FROM idempotency_records").fetchall()
        hashes = connection.execute("SELECT secret_hash FROM api_keys").fetchall()
    secrets = [key["key"].split("_")[2].encode() for key in made]
    assert not [row for row in (*rows, *hashes) for secret in secrets if secret in bytes(row[0])]
