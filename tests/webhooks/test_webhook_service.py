"""Webhooks are created, read, changed and deleted; what would be sent is shown by the other files of this folder."""

import base64
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Stack
from tests.databases import owner
from tests.doors import Door, GrpcDoor, Json, Refused
from tests.factories import a_customer

URL = "https://203.0.114.7/hook?token=abc123"
"""A public address, which nobody calls, because the webhooks here are disabled."""

FORBIDDEN = [
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "localhost", "0", "10.0.0.1", "172.16.0.1",
    "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1",
    "[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[ff02::1]", "[2001:db8::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[::ffff:10.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fec0::1]",
]  # fmt: skip
NO_URLS = [
    "shop.example", "http://203.0.114.7/", "ftp://203.0.114.7/", "https://", "https:///x", "https:203.0.114.7", "//203.0.114.7",
    "https://ana@203.0.114.7/", "https://ana:pw@203.0.114.7/", "https://203.0.114.7:0/", "https://203.0.114.7:65536/",
    "https://203.0.114.7:x/", "https://203.0.114.7/a b", "https://203.0.114.7/é", "https://203.0.114.7\\@127.0.0.1/",
    "https://203.0.114.7/#x", "https://no-such-host.invalid/", "https://203.0.114.7/\n", "https://[::1/", "https://0177.0.0.1/",
    "https://a..b/",
]  # fmt: skip
NO_SECRETS = [
    "c2VjcmV0", base64.b64encode(b"x" * 32).decode(), "whsec_x", "whsec_" + base64.b64encode(b"x" * 23).decode(),
    "whsec_" + base64.b64encode(b"x" * 65).decode(), "whsec_!!!!", "whsec_" + base64.b64encode(b"x" * 32).decode() + "=",
]  # fmt: skip


@pytest.fixture
def webhook(door: Door) -> Iterator[Json]:
    created = door("webhooks.CreateWebhook", webhook={"url": URL, "disabled": True, "description": "the shop's"})
    yield created
    door("webhooks.DeleteWebhook", id=created["id"])


def refusal(door: Door, rpc: str, **request: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        door(f"webhooks.{rpc}", **request)
    return refused.value


def test_a_webhook_is_created_and_read_and_its_secret_is_shown_once(door: Door, webhook: Json) -> None:
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", webhook["secret"])
    assert (webhook["url"], webhook["kinds"], webhook["description"]) == (URL, [], "the shop's")
    assert (webhook["disabled"], webhook["disabled_reason"]) == (True, "BY_CALLER")
    assert webhook["disabled_at"]
    found = door("webhooks.GetWebhook", id=webhook["id"])
    assert found == webhook | {"secret": ""}
    assert found in door("webhooks.ListWebhooks", page_size=1000)["webhooks"]
    assert door("webhooks.ListAttempts", webhook_id=webhook["id"])["attempts"] == []


def test_webhooks_are_listed_newest_first_page_by_page(door: Door, webhook: Json) -> None:
    second = door("webhooks.CreateWebhook", webhook={"url": URL, "disabled": True})
    try:
        page = door("webhooks.ListWebhooks", page_size=1)
        assert [each["id"] for each in page["webhooks"]] == [second["id"]]
        after = door("webhooks.ListWebhooks", page_size=1, page_token=page["next_page_token"])
        assert [each["id"] for each in after["webhooks"]] == [webhook["id"]]
    finally:
        door("webhooks.DeleteWebhook", id=second["id"])


def test_a_secret_of_the_callers_choice_is_kept_encrypted(over_grpc: GrpcDoor, stack: Stack) -> None:
    secret = "whsec_" + base64.b64encode(b"0123456789abcdefghijklmn").decode()
    webhook = over_grpc("webhooks.CreateWebhook", webhook={"url": URL, "disabled": True, "secret": secret})
    assert webhook["secret"] == secret
    statement = "SELECT secret, previous_secret FROM webhooks WHERE id = %s"
    with owner(stack.data_dir) as connection:
        [(sealed, _)] = connection.execute(statement, [webhook["id"]]).fetchall()
        assert b"0123456789" not in sealed
        rotated = over_grpc("webhooks.RotateSecret", id=webhook["id"])
        assert rotated["secret"] not in ("", secret)
        assert rotated["previous_expires_at"]
        assert connection.execute(statement, [webhook["id"]]).fetchall()[0][1] == sealed
        over_grpc("webhooks.DeleteWebhook", id=webhook["id"])
        assert connection.execute(statement, [webhook["id"]]).fetchall() == [(b"", None)]


def test_a_webhook_is_changed_in_what_was_sent_or_named(door: Door, webhook: Json) -> None:
    def update(mask: str | None = None, **fields: Any) -> Json:
        request: Json = {"webhook": {"id": webhook["id"]} | fields} | ({"update_mask": mask} if mask else {})
        return door("webhooks.UpdateWebhook", **request)

    changed = update(kinds=["LOAN_PAID", "LOAN_CREATED"], url=f"{URL}&more=1")
    assert changed["kinds"] == ["LOAN_CREATED", "LOAN_PAID"]
    assert (changed["url"], changed["description"], changed["disabled"]) == (f"{URL}&more=1", "the shop's", True)
    assert update("kinds,description", description="other")["kinds"] == []
    assert update(description="x")["disabled_at"] == webhook["disabled_at"]
    assert update(disabled=True)["disabled_at"] == webhook["disabled_at"]
    assert door("webhooks.GetWebhook", id=webhook["id"])["description"] == "x"
    for request, field in (({}, "update_mask"), ({"mask": "url"}, "url"), ({"mask": "secret"}, "update_mask")):
        with pytest.raises(Refused) as refused:
            update(**request)
        assert refused.value.reason == "INVALID_FIELDS"
        assert set(refused.value.fields) == {field}


def test_a_webhook_that_is_enabled_again_has_no_reason_and_no_failure(over_grpc: GrpcDoor, stack: Stack) -> None:
    customer = a_customer(over_grpc)  # whose events are over, so that nothing is sent
    webhook = over_grpc("webhooks.CreateWebhook", webhook={"url": URL, "disabled": True, "customer_external_id": customer})
    with owner(stack.data_dir) as connection:
        connection.execute(
            "UPDATE webhooks SET disabled_reason = 3, failing_since = now(), position = 9223372036854770000 WHERE id = %s",
            [webhook["id"]],
        )
    enabled = over_grpc("webhooks.UpdateWebhook", webhook={"id": webhook["id"], "disabled": False})
    assert (enabled["disabled"], enabled["disabled_reason"]) == (False, "DISABLED_REASON_UNSPECIFIED")
    assert "disabled_at" not in enabled
    assert "failing_since" not in enabled
    over_grpc("webhooks.DeleteWebhook", id=webhook["id"])


def test_a_webhook_that_is_deleted_is_gone(door: Door) -> None:
    webhook_id = door("webhooks.CreateWebhook", webhook={"url": URL, "disabled": True})["id"]
    assert door("webhooks.DeleteWebhook", id=webhook_id) == {}
    by_id = ("GetWebhook", "DeleteWebhook", "RotateSecret", "SendTestEvent", "ResendFailed")
    requests: list[tuple[str, Json]] = [(rpc, {"id": webhook_id}) for rpc in by_id]
    requests += [
        ("UpdateWebhook", {"webhook": {"id": webhook_id, "description": "x"}}),
        ("ListAttempts", {"webhook_id": webhook_id}),
        ("ResendAttempt", {"webhook_id": webhook_id, "id": "1"}),
    ]
    for rpc, request in requests:
        refused = refusal(door, rpc, **request)
        assert (refused.code, refused.reason) == (5, "WEBHOOK_NOT_FOUND"), rpc


@pytest.mark.parametrize("host", FORBIDDEN)
def test_an_address_that_is_not_public_is_refused(over_grpc: GrpcDoor, host: str) -> None:
    refused = refusal(over_grpc, "CreateWebhook", webhook={"url": f"https://{host}:8443/hook", "disabled": True})
    assert (refused.code, refused.reason, refused.info["metadata"]) == (3, "WEBHOOK_ADDRESS_FORBIDDEN", {"field": "url"})


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url_that_can_be_called_is_refused(over_grpc: GrpcDoor, url: str) -> None:
    refused = refusal(over_grpc, "CreateWebhook", webhook={"url": url, "disabled": True})
    assert (refused.code, refused.reason, refused.info["metadata"]) == (3, "WEBHOOK_URL_INVALID", {"field": "url"})


def test_a_change_of_the_url_is_checked_like_a_new_one(door: Door, webhook: Json) -> None:
    for url, reason in (("https://127.0.0.1/", "WEBHOOK_ADDRESS_FORBIDDEN"), ("http://x/", "WEBHOOK_URL_INVALID")):
        assert refusal(door, "UpdateWebhook", webhook={"id": webhook["id"], "url": url}).reason == reason
    assert door("webhooks.GetWebhook", id=webhook["id"])["url"] == URL


@pytest.mark.parametrize("secret", NO_SECRETS)
def test_a_secret_of_another_form_is_refused(over_grpc: GrpcDoor, secret: str) -> None:
    webhook = {"url": URL, "disabled": True, "secret": secret}
    for rpc, request in (("CreateWebhook", {"webhook": webhook}), ("RotateSecret", {"id": "1", "secret": secret})):
        refused = refusal(over_grpc, rpc, **request)
        assert (refused.code, refused.reason) == (3, "WEBHOOK_SECRET_INVALID")
        assert refused.info["metadata"] == {"field": "secret"}
        assert secret not in refused.message


def test_bad_requests_are_refused(door: Door) -> None:
    for fields, field in (
        ({"kinds": ["KIND_UNSPECIFIED"]}, "kinds[0]"),
        ({"description": "x" * 201}, "description"),
        ({}, "url"),
    ):
        refused = refusal(door, "CreateWebhook", webhook=({"url": URL} if fields else {}) | {"disabled": True} | fields)
        assert set(refused.fields) == {field}
    assert refusal(door, "GetWebhook", id="x").fields.keys() == {"id"}
    unknown = refusal(door, "CreateWebhook", webhook={"url": URL, "customer_external_id": "nobody-at-all", "disabled": True})
    assert unknown.reason == "CUSTOMER_NOT_FOUND"


def test_changes_of_webhooks_are_in_the_audit_log_without_secrets(over_grpc: GrpcDoor, stack: Stack, webhook_key: str) -> None:
    webhook_id = over_grpc("webhooks.CreateWebhook", webhook={"url": URL, "kinds": ["LOAN_PAID"], "disabled": True})["id"]
    over_grpc("webhooks.UpdateWebhook", webhook={"id": webhook_id, "kinds": ["LOAN_CREATED"]})
    over_grpc("webhooks.RotateSecret", id=webhook_id)
    over_grpc("webhooks.DeleteWebhook", id=webhook_id)
    with owner(stack.data_dir) as connection:
        statement = "SELECT kind, actor, data FROM events WHERE subject = %s ORDER BY number"
        found = connection.execute(statement, [f"webhook-{webhook_id}"]).fetchall()
    actor = webhook_key.split("_")[1]
    host = {"host": "203.0.114.7", "disabled": "true"}
    assert found == [
        ("webhook_created", actor, host | {"kinds": "LOAN_PAID"}),
        ("webhook_changed", actor, host | {"kinds": "LOAN_CREATED"}),
        ("webhook_secret_rotated", actor, {}),
        ("webhook_deleted", actor, {}),
    ]
