"""Events are sent to webhooks, signed, in order, and again until they were received."""

import ssl
from typing import Any

import pytest

from mo_grpc.webhooks.rules import MAX_ATTEMPTS
from tests.doors import GrpcDoor, Json, Refused
from tests.factories import a_customer, a_loan, new_id, pay
from tests.waiting import eventually
from tests.webhooks.conftest import Own
from tests.webhooks.receiver import Receiver, a_receiver


def a_webhook(door: GrpcDoor, receiver: Receiver, path: str = "", **fields: Any) -> tuple[str, str, Json]:
    """Create a webhook; answers its id, the path of its URL, and all of it."""
    path = path or f"/{new_id('hook')}"
    webhook = door("webhooks.CreateWebhook", webhook={"url": receiver.url + path} | fields)
    return str(webhook["id"]), path, webhook


def an_old_customer(door: GrpcDoor) -> str:
    """Create a customer, and wait until that has its position: a webhook that is created later does not get it."""
    customer = a_customer(door)
    eventually(lambda: bool(door("journal.ListEvents", customer_external_id=customer)["events"]), 30)
    return customer


def attempts(door: GrpcDoor, webhook_id: str, *, failed_only: bool = False) -> list[Json]:
    found: list[Json] = door("webhooks.ListAttempts", webhook_id=webhook_id, failed_only=failed_only)["attempts"]
    return found


def failures(door: GrpcDoor, webhook_id: str, count: int = 1) -> list[Json]:
    """Wait until so many attempts have failed."""
    eventually(lambda: len(attempts(door, webhook_id, failed_only=True)) >= count, 30)
    return attempts(door, webhook_id, failed_only=True)


def change(door: GrpcDoor, customer: str, score: int) -> None:
    door("customers.UpdateCustomer", customer={"external_id": customer, "score": str(score)})


def scores(receiver: Receiver, path: str, customer: str = "") -> list[str]:
    """The credit lines of the events that came to a path."""
    found = [each.content["data"] for each in receiver.at(path)]
    return [each["balance_after"]["score"] for each in found if customer in ("", each["customer_external_id"])]


def get(door: GrpcDoor, webhook_id: str) -> Json:
    return door("webhooks.GetWebhook", id=webhook_id)


def test_every_event_is_sent_signed_and_in_order_as_the_journal_has_it(own_door: GrpcDoor, receiver: Receiver) -> None:
    _, _, other = a_webhook(own_door, receiver)
    webhook_id, path, webhook = a_webhook(own_door, receiver)
    customer = a_customer(own_door)
    loan = a_loan(own_door, customer)
    pay(own_door, customer, "100.00")
    received = receiver.waits_for(path, 5)
    kinds = ["customer.created", "loan.created", "loan.activated", "payment.completed", "loan.paid"]
    assert receiver.kinds(path) == kinds
    events = own_door("journal.ListEvents", customer_external_id=customer)["events"]
    assert [each.content["data"] for each in received] == events
    assert [each.content["timestamp"] for each in received] == [event["recorded_at"] for event in events]
    assert [each.event_id for each in received] == [f"evt_{event['position']}" for event in events]
    assert received[3].content["data"]["loans"][0]["external_id"] == loan
    assert all(each.verify(webhook["secret"]) for each in received)
    assert not any(each.verify(other["secret"]) for each in received)
    eventually(lambda: len(attempts(own_door, webhook_id)) == 5, 30)
    newest = attempts(own_door, webhook_id)[0]
    assert (newest["event_id"], newest["number"], newest["succeeded"]) == (received[-1].event_id, 1, True)
    assert (newest["status_code"], newest["error"], newest["given_up"]) == (204, "", False)
    assert attempts(own_door, webhook_id, failed_only=True) == []
    page = own_door("webhooks.ListAttempts", webhook_id=webhook_id, page_size=2)
    rest = own_door("webhooks.ListAttempts", webhook_id=webhook_id, page_size=9, page_token=page["next_page_token"])
    assert page["attempts"] + rest["attempts"] == attempts(own_door, webhook_id)
    for each in (webhook_id, other["id"]):
        own_door("webhooks.DeleteWebhook", id=each)


def test_a_webhook_gets_the_kinds_and_the_customer_that_it_asks_for(own_door: GrpcDoor, receiver: Receiver) -> None:
    ana, bo = an_old_customer(own_door), an_old_customer(own_door)
    _, of_ana, _ = a_webhook(own_door, receiver, customer_external_id=ana)
    _, lines, _ = a_webhook(own_door, receiver, kinds=["CUSTOMER_CHANGED", "LOAN_REJECTED"])
    a_loan(own_door, ana)
    a_loan(own_door, bo)
    change(own_door, bo, 7)
    change(own_door, ana, 8)
    receiver.waits_for(of_ana, 3)
    assert receiver.kinds(of_ana) == ["loan.created", "loan.activated", "customer.changed"]
    receiver.waits_for(lines, 2)
    assert receiver.kinds(lines) == ["customer.changed"] * 2
    assert sorted(scores(receiver, lines)) == ["7.00", "8.00"]


def test_an_event_that_fails_holds_up_its_customer_and_nobody_else(own: Own, own_door: GrpcDoor, receiver: Receiver) -> None:
    ana, bo = an_old_customer(own_door), an_old_customer(own_door)
    webhook_id, path, _ = a_webhook(own_door, receiver, kinds=["CUSTOMER_CHANGED"])
    receiver.answers[f"{path} {ana}"] = 500
    for score in (1, 2, 3):
        change(own_door, ana, score)
        change(own_door, bo, score)
    eventually(lambda: scores(receiver, path, bo) == ["1.00", "2.00", "3.00"], 30)
    [failed] = failures(own_door, webhook_id)
    assert (failed["number"], failed["status_code"], failed["given_up"]) == (1, 500, False)
    assert failed["error"] == "the answer has the status code 500"
    assert failed["response"].startswith("answer 500answer 500")
    assert len(failed["response"]) == 1000
    assert failed["next_attempt_at"] > failed["attempted_at"]
    own.hurry()
    assert [each["number"] for each in failures(own_door, webhook_id, 2)] == [2, 1]
    del receiver.answers[f"{path} {ana}"]
    own.hurry()
    eventually(lambda: scores(receiver, path, ana)[-2:] == ["2.00", "3.00"], 30)
    sent = [each for each in receiver.at(path) if each.content["data"]["customer_external_id"] == ana]
    assert len({each.event_id for each in sent}) == 3
    assert len({(each.event_id, each.body) for each in sent}) == 3
    assert scores(receiver, path, ana)[:-2] == ["1.00"] * 3
    eventually(lambda: "failing_since" not in get(own_door, webhook_id), 30)


def test_an_endpoint_that_hangs_delays_no_other(own_door: GrpcDoor, receiver: Receiver) -> None:
    customers = [an_old_customer(own_door) for _ in range(12)]
    _, hanging, _ = a_webhook(own_door, receiver, kinds=["CUSTOMER_CHANGED"])
    _, other, _ = a_webhook(own_door, receiver, kinds=["CUSTOMER_CHANGED"])
    release = receiver.hold(hanging)
    for score in (1, 2):
        for customer in customers:
            change(own_door, customer, score)
    receiver.waits_for(other, 24)
    assert len(receiver.at(hanging)) <= 8, "as many at a time as one webhook may have"
    release.set()
    receiver.waits_for(hanging, 24)
    assert all(scores(receiver, hanging, customer) == ["1.00", "2.00"] for customer in customers)


def test_a_redirect_is_not_followed(own_door: GrpcDoor, receiver: Receiver) -> None:
    webhook_id, path, _ = a_webhook(own_door, receiver)
    receiver.answers[path] = 302
    an_old_customer(own_door)
    assert failures(own_door, webhook_id)[0]["error"] == "the answer has the status code 302"
    assert not receiver.at("/elsewhere")
    own_door("webhooks.DeleteWebhook", id=webhook_id)


def test_whoever_is_gone_is_disabled_and_gets_what_was_missed_when_enabled(own_door: GrpcDoor, receiver: Receiver) -> None:
    customer = an_old_customer(own_door)
    webhook_id, path, _ = a_webhook(own_door, receiver, customer_external_id=customer)
    receiver.answers[path] = 410
    change(own_door, customer, 1)
    eventually(lambda: get(own_door, webhook_id)["disabled"], 30)
    assert get(own_door, webhook_id)["disabled_reason"] == "GONE"
    change(own_door, customer, 2)
    del receiver.answers[path]
    enabled = own_door("webhooks.UpdateWebhook", webhook={"id": webhook_id, "disabled": False})
    assert not enabled["disabled"]
    receiver.waits_for(path, 3)
    assert scores(receiver, path) == ["1.00", "1.00", "2.00"]


def test_what_is_given_up_can_be_sent_again(own: Own, own_door: GrpcDoor, receiver: Receiver) -> None:
    customer = an_old_customer(own_door)
    webhook_id, path, _ = a_webhook(own_door, receiver, customer_external_id=customer)
    receiver.answers[path] = 503
    for score in (1, 2, 3):
        change(own_door, customer, score)
    for count in (1, 2):
        failures(own_door, webhook_id, 2 * count - 1)
        # Its last attempt comes.
        own.sql(
            "UPDATE webhook_deliveries SET attempts = %s, next_at = now() WHERE webhook_id = %s AND next_at IS NOT NULL",
            MAX_ATTEMPTS - 1,
            webhook_id,
        )
        last = failures(own_door, webhook_id, 2 * count)[-2 * count]  # the next event may have failed since
        assert (last["number"], last["given_up"], "next_attempt_at" in last) == (MAX_ATTEMPTS, True, False)
    assert scores(receiver, path)[:4] == ["1.00", "1.00", "2.00", "2.00"]
    failures(own_door, webhook_id, 5)
    del receiver.answers[path]
    # The third, which waits, and the two that were given up.
    assert own_door("webhooks.ResendFailed", id=webhook_id, since="2099-01-01T00:00:00Z")["resent_count"] == "1"
    eventually(lambda: scores(receiver, path)[5:] == ["3.00"], 30)
    eventually(lambda: attempts(own_door, webhook_id)[0]["succeeded"], 30)
    assert own_door("webhooks.ResendFailed", id=webhook_id, since="2020-01-01T00:00:00Z")["resent_count"] == "2"
    eventually(lambda: scores(receiver, path)[6:] == ["1.00", "2.00"], 30)
    eventually(lambda: len(attempts(own_door, webhook_id)) == 8, 30)
    assert own_door("webhooks.ResendFailed", id=webhook_id)["resent_count"] == "0"


def test_one_event_can_be_sent_again_though_it_was_received(own_door: GrpcDoor, receiver: Receiver) -> None:
    customer = an_old_customer(own_door)
    webhook_id, path, webhook = a_webhook(own_door, receiver, customer_external_id=customer)
    change(own_door, customer, 1)
    eventually(lambda: len(attempts(own_door, webhook_id)) == 1, 30)
    [attempt] = attempts(own_door, webhook_id)
    own_door("webhooks.ResendAttempt", webhook_id=webhook_id, id=attempt["id"])
    first, second = receiver.waits_for(path, 2)
    assert (first.event_id, first.body) == (second.event_id, second.body)
    assert second.verify(webhook["secret"])
    for request in ({"webhook_id": webhook_id, "id": "999999999"}, {"webhook_id": webhook_id, "id": attempt["id"] + "0"}):
        with pytest.raises(Refused) as refused:
            own_door("webhooks.ResendAttempt", **request)
        assert (refused.value.code, refused.value.reason) == (5, "WEBHOOK_ATTEMPT_NOT_FOUND")


def test_an_endpoint_that_fails_for_days_is_disabled(own: Own, own_door: GrpcDoor, receiver: Receiver) -> None:
    customer = an_old_customer(own_door)
    webhook_id, path, _ = a_webhook(own_door, receiver, customer_external_id=customer)
    receiver.answers[path] = 500
    change(own_door, customer, 1)
    failures(own_door, webhook_id)
    assert get(own_door, webhook_id)["failing_since"]
    own.sql("UPDATE webhooks SET failing_since = now() - interval '4 days 23 hours' WHERE id = %s", webhook_id)
    own.hurry()
    failures(own_door, webhook_id, 2)
    assert not get(own_door, webhook_id)["disabled"]
    own.sql("UPDATE webhooks SET failing_since = now() - interval '5 days 1 second' WHERE id = %s", webhook_id)
    own.hurry()
    failures(own_door, webhook_id, 3)
    disabled = get(own_door, webhook_id)
    assert (disabled["disabled"], disabled["disabled_reason"]) == (True, "FAILING")


def test_for_a_day_events_are_signed_with_both_secrets(own: Own, own_door: GrpcDoor, receiver: Receiver) -> None:
    customer = an_old_customer(own_door)
    webhook_id, path, webhook = a_webhook(own_door, receiver, customer_external_id=customer)
    rotated = own_door("webhooks.RotateSecret", id=webhook_id)
    change(own_door, customer, 1)
    [event] = receiver.waits_for(path, 1)
    assert event.verify(webhook["secret"])
    assert event.verify(rotated["secret"])
    own.sql("UPDATE webhooks SET previous_expires_at = now() WHERE id = %s", webhook_id)
    change(own_door, customer, 2)
    event = receiver.waits_for(path, 2)[1]
    assert not event.verify(webhook["secret"])
    assert event.verify(rotated["secret"])


def test_a_test_event_is_sent_at_once_and_only_then(own_door: GrpcDoor, receiver: Receiver) -> None:
    webhook_id, path, webhook = a_webhook(own_door, receiver, disabled=True)
    sent = own_door("webhooks.SendTestEvent", id=webhook_id)
    [event] = receiver.at(path)
    assert event.content["type"] == "webhook.test"
    assert event.verify(webhook["secret"])
    assert (sent["event_id"], sent["position"], sent["succeeded"]) == (event.event_id, "0", True)
    receiver.answers[path] = 500
    failed = own_door("webhooks.SendTestEvent", id=webhook_id)
    assert (failed["succeeded"], failed["status_code"], "next_attempt_at" in failed) == (False, 500, False)
    assert attempts(own_door, webhook_id) == [failed, sent]
    with pytest.raises(Refused) as refused:
        own_door("webhooks.ResendAttempt", webhook_id=webhook_id, id=sent["id"])
    assert refused.value.reason == "WEBHOOK_ATTEMPT_NOT_FOUND"


def test_over_tls_the_certificate_must_be_that_of_the_host(own: Own, own_door: GrpcDoor) -> None:
    for name, error in (("localhost", ""), ("other.example", "certificate verify failed")):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        own.authority.issue_cert(name).configure_cert(context)
        with a_receiver(context) as receiver:
            webhook_id, path, webhook = a_webhook(own_door, receiver, disabled=True)
            sent = own_door("webhooks.SendTestEvent", id=webhook_id)
            assert sent["succeeded"] == (not error)
            assert error in sent["error"]
            assert [each.verify(webhook["secret"]) for each in receiver.at(path)] == ([] if error else [True])


def test_nothing_is_sent_to_what_is_deleted(own: Own, own_door: GrpcDoor, receiver: Receiver) -> None:
    customer = an_old_customer(own_door)
    webhook_id, path, _ = a_webhook(own_door, receiver, customer_external_id=customer)
    _, other, _ = a_webhook(own_door, receiver, customer_external_id=customer)
    receiver.answers[path] = 500
    change(own_door, customer, 1)
    failures(own_door, webhook_id)
    own_door("webhooks.DeleteWebhook", id=webhook_id)
    own.hurry()
    change(own_door, customer, 2)
    receiver.waits_for(other, 2)
    assert scores(receiver, path) == ["1.00"]
    assert own.sql("SELECT count(*) FROM webhook_deliveries WHERE webhook_id = %s AND state = 1", webhook_id) == [(0,)]
