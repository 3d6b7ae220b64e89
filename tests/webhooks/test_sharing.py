"""Servers share the work of sending, and one that is killed loses nothing."""

import signal
import subprocess
import sys

from tests.conftest import Stack
from tests.databases import owner
from tests.doors import GrpcDoor
from tests.factories import a_customer
from tests.waiting import eventually
from tests.webhooks.conftest import Own
from tests.webhooks.receiver import Receiver, a_receiver
from tests.webhooks.test_deliveries import a_webhook, an_old_customer, attempts, change, scores


def test_what_a_killed_server_was_sending_another_sends_again(own: Own, receiver: Receiver) -> None:
    with own.server() as (first, door):
        customer = an_old_customer(door)
        webhook_id, path, _ = a_webhook(door, receiver, customer_external_id=customer)
        release = receiver.hold(path)
        for score in (1, 2):
            change(door, customer, score)
        [event] = receiver.waits_for(path, 1)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(30)
        with own.server() as (_, other):
            # The lease of the killed one ends.
            own.hurry(claimed=True)
            again = receiver.waits_for(path, 2)[1]
            assert (again.event_id, again.body) == (event.event_id, event.body)
            release.set()
            eventually(lambda: scores(receiver, path) == ["1.00", "1.00", "2.00"], 30)
            eventually(lambda: len(attempts(other, webhook_id)) == 2, 30)


def test_two_servers_send_each_event_once_and_in_order(own: Own, own_door: GrpcDoor, receiver: Receiver) -> None:
    with own.server() as (_, door):
        webhook_id, path, webhook = a_webhook(door, receiver, kinds=["CUSTOMER_CHANGED"])
        customers = [a_customer(door) for _ in range(10)]
        for score in range(1, 6):
            for number, customer in enumerate(customers):
                change((door, own_door)[number % 2], customer, score)
        received = receiver.waits_for(path, 50)
        eventually(lambda: len(attempts(door, webhook_id)) == 50, 30)
        assert len({each.event_id for each in received}) == len(received) == 50
        assert all(scores(receiver, path, customer) == [f"{score}.00" for score in range(1, 6)] for customer in customers)
        assert all(each.verify(webhook["secret"]) for each in received)
        door("webhooks.DeleteWebhook", id=webhook_id)


def test_an_address_is_checked_again_when_an_event_is_sent(over_grpc: GrpcDoor, stack: Stack) -> None:
    """What was public when the webhook was created may lead to the service's own network now."""
    with a_receiver() as receiver:
        webhook_id = over_grpc("webhooks.CreateWebhook", webhook={"url": "https://203.0.114.7/", "disabled": True})["id"]
        for host in ("localhost", "127.0.0.1", "[::ffff:127.0.0.1]"):
            url = receiver.url.replace("http://localhost", f"https://{host}")
            with owner(stack.data_dir) as connection:
                connection.execute("UPDATE webhooks SET url = %s WHERE id = %s", [url, webhook_id])
            sent = over_grpc("webhooks.SendTestEvent", id=webhook_id)
            assert not sent["succeeded"]
            assert "has an address that is not public" in sent["error"]
        assert not receiver.received
        over_grpc("webhooks.DeleteWebhook", id=webhook_id)


def test_a_celery_worker_sends_events_without_any_server(own: Own, receiver: Receiver) -> None:
    with own.server(USE_CELERY="true") as (_, door):
        customer = an_old_customer(door)
        webhook_id, path, _ = a_webhook(door, receiver, customer_external_id=customer, disabled=True)
        change(door, customer, 1)
        eventually(lambda: len(door("journal.ListEvents", customer_external_id=customer)["events"]) == 2, 30)
    own.sql("UPDATE webhooks SET disabled_at = NULL, disabled_reason = 0 WHERE id = %s", webhook_id)
    command = [sys.executable, "-m", "mo_grpc", "worker"]
    environment = own.environment | {"USE_CELERY": "true", "CELERY_BROKER_URL": "memory://"}
    with subprocess.Popen(command, env=environment) as worker:
        try:
            assert receiver.waits_for(path, 1)[0].content["type"] == "customer.changed"
        finally:
            worker.send_signal(signal.SIGTERM)
            # By itself, or before Celery has looked at signals.
            assert worker.wait(60) in (0, -signal.SIGTERM)
