"""API keys: made, rotated and revoked. A key is shown once, in the answer to the form that made it."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from mo.auth.v1 import api_keys_pb2
from starlette.responses import Response

from mo_grpc.auth.api_keys.rules import BUSINESS_SCOPES
from mo_grpc.formats import is_key_id
from mo_grpc.rpc.access import GRANTABLE
from mo_grpc.web.admin.api import Refusal
from mo_grpc.web.admin.pages.listing import ListPage
from mo_grpc.web.admin.queries import resources
from mo_grpc.web.admin.queries.lists import KEYS
from mo_grpc.web.admin.rules import chosen
from mo_grpc.web.admin.site import NotHereError, Site, Visit

_OVERLAPS = {0: "at once", 3600: "an hour", 86_400: "a day", 604_800: "a week"}


class KeyPages:
    """The pages of API keys."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.list = ListPage(site, KEYS, "keys.html")

    async def show_list(self, visit: Visit) -> Response:
        """The keys, without their secrets."""
        return await self.list.render(visit, now=datetime.now(UTC))

    async def show_form(self, visit: Visit) -> Response:
        """The form for a new key."""
        return self._form(visit, "", [])

    async def create(self, visit: Visit) -> Response:
        """Make a key, and show it this once."""
        scopes = visit.lists.get("scope", [])
        key = api_keys_pb2.ApiKey(name=visit.form.get("name", "").strip(), scopes=scopes)
        key.allowed_networks.extend(visit.form.get("networks", "").replace(",", " ").split())
        try:
            key.calls_per_second = int(visit.form.get("calls_per_second") or 0)
            if ends := visit.form.get("expires"):
                last = date.fromisoformat(ends)
                key.expires_at.FromDatetime(datetime(last.year, last.month, last.day, 23, 59, 59, tzinfo=UTC))
        except ValueError:
            return self._form(visit, "The day or the number of calls cannot be read.", scopes, 400)
        rpc = self._site.api.keys.CreateApiKey
        try:
            made = await self._site.api.call(rpc, api_keys_pb2.CreateApiKeyRequest(api_key=key), visit.session, visit.address)
        except Refusal as refusal:
            return self._form(visit, refusal.message, scopes, 400)
        return self._site.render(visit, "key_made.html", key=made.key, owner=made.name, id=made.id, rotated=False)

    async def show(self, visit: Visit) -> Response:
        """One key."""
        found = await self._find(visit)
        return self._site.render(visit, "key.html", key=found, now=datetime.now(UTC))

    async def confirm_rotation(self, visit: Visit) -> Response:
        """Ask when the old secret ends, before a key has another one."""
        found = await self._find(visit)
        return self._site.ask(
            visit,
            "confirm_rotation.html",
            title=f"Rotate the key of {found['name']}",
            text="The new secret is shown once. Whoever still calls with the old one when it ends is refused.",
            button="Make another secret",
            back=f"keys/{found['id']}",
            overlaps=_OVERLAPS,
        )

    async def confirm_revocation(self, visit: Visit) -> Response:
        """Ask once more before a key is revoked."""
        found = await self._find(visit)
        return self._site.ask(
            visit,
            title=f"Revoke the key of {found['name']}",
            text="Every server refuses it within a second. This cannot be undone.",
            button="Revoke",
            back=f"keys/{found['id']}",
        )

    async def rotate(self, visit: Visit) -> Response:
        """Give a key another secret, and show it this once."""
        overlap = chosen(visit.form.get("overlap", ""), _OVERLAPS)
        seconds = 86_400 if overlap is None else overlap
        request = api_keys_pb2.RotateApiKeyRequest(id=self._id(visit), overlap_seconds=seconds)
        rpc = self._site.api.keys.RotateApiKey
        made = await self._site.api.call(rpc, request, visit.session, visit.address)
        return self._site.render(visit, "key_made.html", key=made.key, owner=made.name, id=made.id, rotated=True)

    async def revoke(self, visit: Visit) -> Response:
        """Revoke a key for good."""
        key_id = self._id(visit)
        request = api_keys_pb2.RevokeApiKeyRequest(id=key_id)
        rpc = self._site.api.keys.RevokeApiKey
        done = "The key is revoked; every server refuses it within a second."
        return await self._site.act(visit, rpc, request, done=done, to=f"keys/{key_id}", once=False)

    async def _find(self, visit: Visit) -> Mapping[str, Any]:
        key_id = self._id(visit)
        found = await self._site.database.read(lambda c: resources.find_key(c, key_id))
        if found is None:
            raise NotHereError(f"There is no API key {key_id}.")
        return found

    def _id(self, visit: Visit) -> str:
        key_id = str(visit.request.path_params["id"])
        if not is_key_id(key_id):
            raise NotHereError("There is no such API key.")
        return key_id

    def _form(self, visit: Visit, fault: str, chosen: list[str], status: int = 200) -> Response:
        values: dict[str, Any] = {"scopes": sorted(GRANTABLE), "chosen": chosen or list(BUSINESS_SCOPES), "form": visit.form}
        return self._site.render(visit, "key_new.html", status, fault=fault, **values)
