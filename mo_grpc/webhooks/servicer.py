"""WebhookService over the store of webhooks."""

import secrets
import time
from operator import attrgetter

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from mo.journal.v1.journal_pb2 import Event
from mo.webhooks.v1 import webhooks_pb2, webhooks_pb2_grpc

from mo_grpc.audit_log.rules import Actor, printable
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database
from mo_grpc.errors import FieldViolation, InvalidFields, NotFound
from mo_grpc.rpc.caller import caller
from mo_grpc.rpc.context import Context
from mo_grpc.rpc.conversions import moment, timestamp
from mo_grpc.rpc.metadata import NO_STORE, Addresses
from mo_grpc.rpc.pages import PageRequest
from mo_grpc.webhooks import deliveries, store
from mo_grpc.webhooks.addresses import resolve
from mo_grpc.webhooks.administration import WebhookAdministration
from mo_grpc.webhooks.rules import ATTEMPT, Attempt, NewWebhook, Webhook, WebhookChange, not_found
from mo_grpc.webhooks.sender import Sender, written
from mo_grpc.webhooks.signing import new_secret, parse_secret, shown

_CHANGEABLE = ("url", "kinds", "description", "disabled")


class WebhookServicer(webhooks_pb2_grpc.WebhookServiceServicer):
    """See `mo/webhooks/v1/webhooks.proto`."""

    def __init__(self, database: Database, vault: Vault, addresses: Addresses, sender: Sender) -> None:
        self._database = database
        self._vault = vault
        self._addresses = addresses
        self._sender = sender

    async def CreateWebhook(self, request: webhooks_pb2.CreateWebhookRequest, context: Context) -> webhooks_pb2.Webhook:
        wanted = request.webhook
        secret = parse_secret(wanted.secret) if wanted.secret else new_secret()
        await resolve(wanted.url, allow_private=self._sender.allow_private)
        command = NewWebhook(
            id=0,
            url=wanted.url,
            kinds=sorted(set(wanted.kinds)),
            customer_external_id=wanted.customer_external_id,
            description=wanted.description,
            disabled=wanted.disabled,
            secret=b"",
            created_by=printable(caller().id),
        )
        created = await self._administration(context).create(command, secret)
        await context.send_initial_metadata(NO_STORE)
        return to_message(created, secret)

    async def GetWebhook(self, request: webhooks_pb2.GetWebhookRequest, context: Context) -> webhooks_pb2.Webhook:
        return to_message(await self._find(request.id))

    async def ListWebhooks(
        self, request: webhooks_pb2.ListWebhooksRequest, context: Context
    ) -> webhooks_pb2.ListWebhooksResponse:
        page = PageRequest(request)
        found = await self._database.read(lambda connection: store.list_webhooks(connection, page.after, page.size + 1))
        rows, token = page.cut(found, attrgetter("id"))
        return webhooks_pb2.ListWebhooksResponse(webhooks=map(to_message, rows), next_page_token=token)

    async def UpdateWebhook(self, request: webhooks_pb2.UpdateWebhookRequest, context: Context) -> webhooks_pb2.Webhook:
        change = to_change(request)
        if change.url is not None:
            await resolve(change.url, allow_private=self._sender.allow_private)
        return to_message(await self._administration(context).change(int(request.webhook.id), change))

    async def DeleteWebhook(self, request: webhooks_pb2.DeleteWebhookRequest, context: Context) -> Empty:
        await self._administration(context).delete(int(request.id))
        return Empty()

    async def RotateSecret(self, request: webhooks_pb2.RotateSecretRequest, context: Context) -> webhooks_pb2.Webhook:
        secret = parse_secret(request.secret) if request.secret else new_secret()
        rotated = await self._administration(context).rotate_secret(int(request.id), secret)
        await context.send_initial_metadata(NO_STORE)
        return to_message(rotated, secret)

    async def SendTestEvent(self, request: webhooks_pb2.SendTestEventRequest, context: Context) -> webhooks_pb2.WebhookAttempt:
        webhook = await self._find(request.id)
        name = f"test_{secrets.token_hex(12)}"
        answer = await self._sender.send(webhook, name, written("webhook.test", Timestamp(seconds=int(time.time())), {}))
        return attempt_message(
            await self._database.write(lambda connection: deliveries.tell_test(connection, webhook.id, name, answer))
        )

    async def ListAttempts(
        self, request: webhooks_pb2.ListAttemptsRequest, context: Context
    ) -> webhooks_pb2.ListAttemptsResponse:
        page = PageRequest(request)
        webhook = await self._find(request.webhook_id)
        found = await self._database.read(
            lambda connection: store.list_attempts(
                connection, webhook.id, page.after, page.size + 1, failed_only=request.failed_only
            )
        )
        rows, token = page.cut(found, attrgetter("id"))
        return webhooks_pb2.ListAttemptsResponse(attempts=map(attempt_message, rows), next_page_token=token)

    async def ResendAttempt(self, request: webhooks_pb2.ResendAttemptRequest, context: Context) -> webhooks_pb2.ResendResponse:
        webhook = await self._find(request.webhook_id)
        count = await self._database.write(lambda c: deliveries.resend_attempt(c, webhook.id, int(request.id)))
        if count is None:
            raise NotFound(ATTEMPT, request.id)
        return webhooks_pb2.ResendResponse(resent_count=count)

    async def ResendFailed(self, request: webhooks_pb2.ResendFailedRequest, context: Context) -> webhooks_pb2.ResendResponse:
        since = moment(request.since, "since") if request.HasField("since") else None
        webhook = await self._find(request.id)
        count = await self._database.write(lambda connection: deliveries.resend_failed(connection, webhook.id, since))
        return webhooks_pb2.ResendResponse(resent_count=count)

    def _administration(self, context: Context) -> WebhookAdministration:
        return WebhookAdministration(self._database, self._vault, Actor(caller().id, self._addresses(context)))

    async def _find(self, webhook_id: str) -> Webhook:
        found = await self._database.read(lambda connection: store.get_webhook(connection, int(webhook_id)))
        if found is None:
            raise not_found(int(webhook_id))
        return found


def to_change(request: webhooks_pb2.UpdateWebhookRequest) -> WebhookChange:
    """The command of an update, from the fields that the mask names; the others are not read (AIP-134).

    Raises:
        InvalidFields: a named field is wrong or may not be cleared, or there is nothing to change.
    """
    sent = request.webhook
    named = set(request.update_mask.paths) or {field.name for field, _ in sent.ListFields()} & set(_CHANGEABLE)
    if "*" in named:
        named = set(_CHANGEABLE)
    if not named:
        raise InvalidFields([FieldViolation("update_mask", "names nothing to change, and no field was sent")])
    if "url" in named and not sent.url:
        raise InvalidFields([FieldViolation("url", "is required")])
    return WebhookChange(
        url=sent.url if "url" in named else None,
        kinds=sorted(set(sent.kinds)) if "kinds" in named else None,
        description=sent.description if "description" in named else None,
        disabled=sent.disabled if "disabled" in named else None,
    )


def to_message(webhook: Webhook, secret: bytes | None = None) -> webhooks_pb2.Webhook:
    """A stored webhook, as a message; the secret only for whoever has just got it."""
    return webhooks_pb2.Webhook(
        id=str(webhook.id),
        url=webhook.url,
        kinds=[Event.Kind.ValueType(kind) for kind in webhook.kinds],
        customer_external_id=webhook.customer_external_id or None,
        description=webhook.description,
        disabled=webhook.disabled_at is not None,
        disabled_reason=webhooks_pb2.Webhook.DisabledReason.ValueType(webhook.disabled_reason),
        disabled_at=timestamp(webhook.disabled_at),
        failing_since=timestamp(webhook.failing_since),
        position=webhook.position,
        secret=shown(secret) if secret else "",
        previous_expires_at=timestamp(webhook.previous_expires_at),
        created_at=timestamp(webhook.created_at),
        updated_at=timestamp(webhook.updated_at),
        created_by=webhook.created_by,
    )


def attempt_message(attempt: Attempt) -> webhooks_pb2.WebhookAttempt:
    """A stored attempt, as a message."""
    return webhooks_pb2.WebhookAttempt(
        id=str(attempt.id),
        webhook_id=str(attempt.webhook_id),
        event_id=attempt.event_id,
        position=attempt.position,
        number=attempt.number,
        attempted_at=timestamp(attempt.attempted_at),
        duration_ms=attempt.duration_ms,
        succeeded=not attempt.error,
        status_code=attempt.status_code,
        error=attempt.error,
        response=attempt.response,
        next_attempt_at=timestamp(attempt.next_attempt_at),
        given_up=attempt.given_up,
    )
