"""Sends a webhook what it gets: signed, once, and to a public address only."""

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version

import httpx
import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from mo_grpc.audit_log.rules import printable
from mo_grpc.crypto import Vault, VaultError
from mo_grpc.errors import InvalidArgument
from mo_grpc.webhooks.addresses import Target, resolve
from mo_grpc.webhooks.rules import Answer, Webhook
from mo_grpc.webhooks.signing import headers, sealed_for

log = structlog.get_logger()

CONNECT_TIMEOUT = 5.0
"""Seconds for a connection."""

TIMEOUT = 15.0
"""Seconds for all of an attempt."""

MAX_RESPONSE = 1000
"""Characters of an answer that are kept; no more than some KiB of it are read."""

_READ = 4096


class Sender:
    """Sends to webhooks. No connection is used twice: those to one address might be to different hosts."""

    def __init__(self, vault: Vault, *, allow_private: bool) -> None:
        self._vault = vault
        self.allow_private = allow_private

    async def send(self, webhook: Webhook, name: str, body: bytes) -> Answer:
        """Send a body under the id `name`; whatever happens is the answer."""
        at, began = datetime.now(UTC), time.monotonic()
        status, response = 0, ""
        try:
            signed = headers(name, at, body, self._secrets(webhook, at))
            async with asyncio.timeout(TIMEOUT):
                target = await resolve(webhook.url, allow_private=self.allow_private)
                status, response = await self._send(target, signed, body)
            error = "" if 200 <= status < 300 else f"the answer has the status code {status}"
        except TimeoutError:
            error = f"no answer within {TIMEOUT:.0f} seconds"
        except InvalidArgument as refused:
            error = refused.message
        except VaultError:
            error = "the secret was encrypted with a SECRET_KEY that is not known any more; rotate the secret"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as failure:
            error = printable(f"{type(failure).__name__}: {failure}")
        except Exception:
            log.exception("webhook failed", id=webhook.id, event=name)
            error = "the service failed; its log tells more"
        return Answer(at, round((time.monotonic() - began) * 1000), status, error, response)

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        """Made at the first need, because it reads all certificate authorities of the system."""
        return httpx.AsyncClient(
            verify=ssl.create_default_context(),
            timeout=httpx.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            headers={"user-agent": f"mo-grpc/{version('mo-grpc')}", "content-type": "application/json", "connection": "close"},
            follow_redirects=False,
            # No proxy of the environment, which would resolve names on its own.
            trust_env=False,
        )

    def _secrets(self, webhook: Webhook, now: datetime) -> list[bytes]:
        found = [webhook.secret]
        if webhook.previous_secret and webhook.previous_expires_at and now < webhook.previous_expires_at:
            found.append(webhook.previous_secret)
        return [self._vault.decrypt(secret, sealed_for(webhook.id)) for secret in found]

    async def _send(self, target: Target, signed: Mapping[str, str], body: bytes) -> tuple[int, str]:
        """Call the first address that takes a connection."""
        *others, last = target.addresses
        for address in others:
            try:
                return await self._call(target.url, address, signed, body)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._call(target.url, last, signed, body)

    async def _call(self, url: httpx.URL, address: str, signed: Mapping[str, str], body: bytes) -> tuple[int, str]:
        """Call the URL's host at an address; the header, TLS and its certificate are those of the host."""
        host = url.netloc.decode()
        request = self._client.build_request(
            "POST",
            url.copy_with(host=address),
            content=body,
            headers={**signed, "host": host},
            extensions={"sni_hostname": url.host.rstrip(".")},
        )
        answer = await self._client.send(request, stream=True)
        content = b""
        async with aclosing(answer):
            async for block in answer.aiter_raw(_READ):
                content += block
                if len(content) >= _READ:
                    break
        return answer.status_code, printable(content.decode(errors="replace"), MAX_RESPONSE)


def written(kind: str, at: Timestamp, data: object) -> bytes:
    """What is sent, as the specification has it: the type, the time, and the data."""
    content = {"type": kind, "timestamp": at.ToJsonString(), "data": data}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
