"""ApiKeyService over the store of API keys."""

from collections.abc import Iterable
from datetime import UTC, datetime
from operator import attrgetter

from mo.auth.v1 import api_keys_pb2, api_keys_pb2_grpc

from mo_grpc.audit_log.rules import Actor
from mo_grpc.auth.api_keys import store
from mo_grpc.auth.api_keys.administration import ApiKeyAdministration
from mo_grpc.auth.api_keys.rules import (
    OVERLAP,
    ApiKey,
    Credential,
    KeyLimits,
    NewApiKey,
    Rotation,
    not_found,
    parse_network,
)
from mo_grpc.crypto import Vault
from mo_grpc.db.engine import Database
from mo_grpc.errors import FieldViolation, InvalidFields, PermissionDenied
from mo_grpc.rpc.access import BINDABLE, GRANTABLE
from mo_grpc.rpc.binding import BoundCustomers
from mo_grpc.rpc.caller import caller
from mo_grpc.rpc.context import Context
from mo_grpc.rpc.conversions import moment, timestamp
from mo_grpc.rpc.metadata import NO_STORE, Addresses
from mo_grpc.rpc.pages import PageRequest


class ApiKeyServicer(api_keys_pb2_grpc.ApiKeyServiceServicer):
    """See `mo/auth/v1/api_keys.proto`."""

    def __init__(self, database: Database, vault: Vault, addresses: Addresses) -> None:
        self._addresses = addresses
        self._database = database
        self._vault = vault

    async def CreateApiKey(self, request: api_keys_pb2.CreateApiKeyRequest, context: Context) -> api_keys_pb2.ApiKey:
        wanted = request.api_key
        expires_at = moment(wanted.expires_at, "expires_at") if wanted.HasField("expires_at") else None
        violations = [
            FieldViolation(f"scopes[{place}]", "is no scope that a key can have")
            for place, scope in enumerate(wanted.scopes)
            if scope not in GRANTABLE
        ]
        if expires_at and expires_at <= datetime.now(UTC):
            violations.append(FieldViolation("expires_at", "must be in the future"))
        networks = []
        for place, text in enumerate(wanted.allowed_networks):
            try:
                networks.append(parse_network(text))
            except ValueError:
                violations.append(FieldViolation(f"allowed_networks[{place}]", "is no network, such as 192.0.2.0/24"))
        customers = BoundCustomers.of(wanted.customer_external_ids, wanted.customer_external_id_prefix)
        if customers:
            violations += [
                FieldViolation(f"scopes[{place}]", "is no scope that a key bound to customers can have")
                for place, scope in enumerate(wanted.scopes)
                if scope in GRANTABLE - BINDABLE
            ]
        if violations:
            raise InvalidFields(violations)
        _require(wanted.scopes)
        command = NewApiKey(
            Credential.generate(),
            wanted.name,
            frozenset(wanted.scopes),
            expires_at,
            KeyLimits(tuple(networks), wanted.calls_per_second, wanted.calls_per_day),
            customers=customers,
        )
        await self._administration(context).create(command)
        made = await self._find(command.credential.id)
        await context.send_initial_metadata(NO_STORE)
        return to_message(made, command.credential)

    async def GetApiKey(self, request: api_keys_pb2.GetApiKeyRequest, context: Context) -> api_keys_pb2.ApiKey:
        return to_message(await self._find(request.id))

    async def ListApiKeys(self, request: api_keys_pb2.ListApiKeysRequest, context: Context) -> api_keys_pb2.ListApiKeysResponse:
        page = PageRequest(request)
        found = await self._database.read(lambda connection: store.page_api_keys(connection, page.after, page.size + 1))
        rows, token = page.cut(found, attrgetter("number"))
        return api_keys_pb2.ListApiKeysResponse(api_keys=map(to_message, rows), next_page_token=token)

    async def RotateApiKey(self, request: api_keys_pb2.RotateApiKeyRequest, context: Context) -> api_keys_pb2.ApiKey:
        # Whoever rotates a key holds it: that must not buy scopes.
        _require((await self._find(request.id)).scopes)
        overlap = request.overlap_seconds if request.HasField("overlap_seconds") else OVERLAP
        command = Rotation(Credential.generate()._replace(id=request.id), overlap)
        rotated = await self._administration(context).rotate(command)
        await context.send_initial_metadata(NO_STORE)
        return to_message(rotated, command.credential)

    async def RevokeApiKey(self, request: api_keys_pb2.RevokeApiKeyRequest, context: Context) -> api_keys_pb2.ApiKey:
        await self._administration(context).revoke(request.id)
        return to_message(await self._find(request.id))

    def _administration(self, context: Context) -> ApiKeyAdministration:
        return ApiKeyAdministration(self._database, self._vault, Actor(caller().id, self._addresses(context)))

    async def _find(self, key_id: str) -> ApiKey:
        [found] = await self._database.read(lambda connection: store.get_api_keys(connection, [key_id]))
        if found is None:
            raise not_found(key_id)
        return found


def _require(scopes: Iterable[str]) -> None:
    """Refuse a caller who lacks one of the scopes: nobody gives what they do not have."""
    for scope in sorted(scopes):
        if scope not in caller().scopes:
            raise PermissionDenied(scope)


def to_message(key: ApiKey, credential: Credential | None = None) -> api_keys_pb2.ApiKey:
    """A stored key, as the wire has it; with the key itself only where it was just made."""
    return api_keys_pb2.ApiKey(
        id=key.id,
        name=key.name,
        scopes=sorted(key.scopes),
        created_at=timestamp(key.created_at),
        expires_at=timestamp(key.expires_at),
        revoked_at=timestamp(key.revoked_at),
        last_used_at=timestamp(key.last_used_at),
        previous_expires_at=timestamp(key.previous_expires_at),
        key=str(credential) if credential else "",
        allowed_networks=map(str, key.allowed_networks),
        calls_per_second=key.calls_per_second,
        calls_per_day=key.calls_per_day,
        created_by=key.created_by,
        customer_external_ids=sorted(key.customers.external_ids) if key.customers else (),
        customer_external_id_prefix=key.customers.prefix or None if key.customers else None,
    )
