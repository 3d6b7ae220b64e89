"""API keys: created, rotated and revoked. A key is shown once, in the answer to the form that created it."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from mo.auth.v1 import api_keys_pb2
from starlette.responses import Response

from mo_grpc.auth.api_keys.rules import BUSINESS_SCOPES
from mo_grpc.formats import is_key_id
from mo_grpc.rpc.access import GRANTABLE
from mo_grpc.web.admin.client import CallFailed
from mo_grpc.web.admin.context import NotHereError, RequestContext
from mo_grpc.web.admin.pages.listing import ListPage
from mo_grpc.web.admin.queries import resources
from mo_grpc.web.admin.queries.lists import KEYS
from mo_grpc.web.admin.rules import chosen
from mo_grpc.web.admin.site import Site

_OVERLAPS = {0: "at once", 3600: "an hour", 86_400: "a day", 604_800: "a week"}

_REVOKED = "The key is revoked already."


class KeyPages:
    """The pages of API keys."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.list = ListPage(site, KEYS, "keys.html")

    async def show_list(self, context: RequestContext) -> Response:
        """The keys, without their secrets."""
        return await self.list.render(context, now=datetime.now(UTC))

    async def show_form(self, context: RequestContext) -> Response:
        """The form for a new key."""
        return self._form(context, "", [])

    async def create(self, context: RequestContext) -> Response:
        """Create a key, and show it this once."""
        scopes = context.lists.get("scope", [])
        key = api_keys_pb2.ApiKey(name=context.form.get("name", "").strip(), scopes=scopes)
        key.allowed_networks.extend(context.form.get("networks", "").replace(",", " ").split())
        key.customer_external_ids.extend(context.form.get("customers", "").replace(",", " ").split())
        if prefix := context.form.get("prefix", "").strip():
            key.customer_external_id_prefix = prefix
        try:
            key.calls_per_second = int(context.form.get("calls_per_second") or 0)
            if ends := context.form.get("expires"):
                last = date.fromisoformat(ends)
                key.expires_at.FromDatetime(datetime(last.year, last.month, last.day, 23, 59, 59, tzinfo=UTC))
        except ValueError:
            return self._form(context, "The last day must be a date, and the calls per second a number.", scopes, 400)
        rpc = self._site.client.keys.CreateApiKey
        try:
            made = await self._site.client.call(rpc, api_keys_pb2.CreateApiKeyRequest(api_key=key), context)
        except CallFailed as failure:
            return self._form(context, failure.message, scopes, 400)
        return self._site.render.page(context, "key_made.html", key=made.key, owner=made.name, id=made.id, rotated=False)

    async def show(self, context: RequestContext) -> Response:
        """One key."""
        found = await self._find(context)
        return self._site.render.page(context, "key.html", key=found, now=datetime.now(UTC))

    async def confirm_rotation(self, context: RequestContext) -> Response:
        """Ask when the old secret ends, before a key has another one."""
        found = await self._find(context)
        if found["revoked_at"]:
            return self._site.refuse(context, _REVOKED, f"keys/{found['id']}")
        return self._site.render.confirm(
            context,
            "confirm_rotation.html",
            title=f"Rotate the key of {found['name']}",
            text="The new secret is shown only once. Calls with the old one are refused once it has stopped working.",
            button="Create a new secret",
            back=f"keys/{found['id']}",
            overlaps=_OVERLAPS,
        )

    async def confirm_revocation(self, context: RequestContext) -> Response:
        """Ask once more before a key is revoked."""
        found = await self._find(context)
        if found["revoked_at"]:
            return self._site.refuse(context, _REVOKED, f"keys/{found['id']}")
        return self._site.render.confirm(
            context,
            title=f"Revoke the key of {found['name']}",
            text="Every server refuses it within a second. This cannot be undone.",
            button="Revoke",
            back=f"keys/{found['id']}",
        )

    async def rotate(self, context: RequestContext) -> Response:
        """Give a key another secret, and show it this once."""
        overlap = chosen(context.form.get("overlap", ""), _OVERLAPS)
        seconds = 86_400 if overlap is None else overlap
        request = api_keys_pb2.RotateApiKeyRequest(id=self._id(context), overlap_seconds=seconds)
        rpc = self._site.client.keys.RotateApiKey
        made = await self._site.client.call(rpc, request, context)
        return self._site.render.page(context, "key_made.html", key=made.key, owner=made.name, id=made.id, rotated=True)

    async def revoke(self, context: RequestContext) -> Response:
        """Revoke a key for good."""
        key_id = self._id(context)
        request = api_keys_pb2.RevokeApiKeyRequest(id=key_id)
        rpc = self._site.client.keys.RevokeApiKey
        done = "The key is revoked; every server refuses it within a second."
        return await self._site.call_rpc(context, rpc, request, done=done, to=f"keys/{key_id}", once=False)

    async def _find(self, context: RequestContext) -> Mapping[str, Any]:
        key_id = self._id(context)
        found = await self._site.database.read(lambda c: resources.find_key(c, key_id))
        if found is None:
            raise NotHereError(f"There is no API key {key_id}.")
        return found

    def _id(self, context: RequestContext) -> str:
        key_id = str(context.request.path_params["id"])
        if not is_key_id(key_id):
            raise NotHereError("There is no such API key.")
        return key_id

    def _form(self, context: RequestContext, fault: str, chosen: list[str], status: int = 200) -> Response:
        values: dict[str, Any] = {"scopes": sorted(GRANTABLE), "chosen": chosen or list(BUSINESS_SCOPES), "form": context.form}
        return self._site.render.page(context, "key_new.html", status, fault=fault, **values)
