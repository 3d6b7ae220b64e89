"""Every API key in memory, kept current by the database, so that checking a key costs no query (docs/security.md)."""

from datetime import UTC, datetime
from hashlib import sha256

from mo.errors.v1.error_reason_pb2 import ErrorReason

from mo_grpc.auth.api_keys import store
from mo_grpc.auth.api_keys.models import KEYS_CHANNEL
from mo_grpc.auth.api_keys.rules import ApiKey, Credential
from mo_grpc.db.cache import LATELY, Cache, Look
from mo_grpc.db.engine import Database
from mo_grpc.db.listen import follow
from mo_grpc.errors import Unauthenticated
from mo_grpc.process.tasks import Tasks

TOUCH_INTERVAL = 5.0
"""Seconds between two writes of when keys were last used."""

_INVALID = "The API key is not valid."


class KeyRing(Cache):
    """The keys, by id; current while its tasks run."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        self._keys: dict[str, ApiKey] = {}
        # By the hash of what was presented, which tells an attacker nothing: the key that it was found to be, and until when.
        self._recognized: dict[bytes, tuple[ApiKey, datetime]] = {}
        self._used: dict[str, datetime] = {}

    def start(self, tasks: Tasks) -> None:
        """Follow the keys, and write behind when they were last used."""
        tasks.start("API keys", follow(self._database, KEYS_CHANNEL, self))
        tasks.write_behind("last use of API keys", self.flush, TOUCH_INTERVAL)

    def has(self, key_id: str) -> bool:
        """Whether there is such a key, or was one."""
        return key_id in self._keys

    async def authenticate(self, presented: str) -> ApiKey:
        """Find the key that a caller presents.

        Raises:
            Unauthenticated: it is malformed, unknown, expired or revoked.
            Unavailable: the database has been out of reach for so long that a revocation may have been missed.
        """
        digest = sha256(presented.encode()).digest()
        known = self._recognized.get(digest)
        if known is None or known[0] is not self._keys.get(known[0].id):
            known = self._recognized[digest] = await self._recognize(presented)
        self.require_current()
        now = datetime.now(UTC)
        key, until = known
        if now >= until or not key.is_active(now):
            raise Unauthenticated(ErrorReason.API_KEY_INVALID, _INVALID)
        self._used[key.id] = now
        return key

    async def _recognize(self, presented: str) -> tuple[ApiKey, datetime]:
        """Find the key whose secret a caller knows, and until when it is the secret."""
        credential = Credential.parse(presented)
        if credential is None:
            raise Unauthenticated(ErrorReason.API_KEY_INVALID, _INVALID)
        self.require_current()
        key_id = credential.id
        key = self._keys.get(key_id) or await self.look_up(lambda: self._keys.get(key_id), key_id)
        until = key and key.valid_until(credential)
        if key is None or until is None:
            raise Unauthenticated(ErrorReason.API_KEY_INVALID, _INVALID)
        return key, until

    async def load(self, change: str | Look) -> None:
        """Read the key of this id again, or those that changed lately, or all of them."""
        if change is Look.ALL:
            keys = await self._database.read(store.list_api_keys)
            self._keys = {key.id: self._held(key) for key in keys}
        elif change is Look.LATELY:
            for key in await self._database.read(lambda connection: store.changed_api_keys(connection, LATELY)):
                self._keys[key.id] = self._held(key)
        else:
            key_id = str(change)
            [found] = await self._database.read(lambda connection: store.get_api_keys(connection, [key_id]))
            if found:
                self._keys[key_id] = self._held(found)
            else:
                self._keys.pop(key_id, None)

    def _held(self, key: ApiKey) -> ApiKey:
        """The key as it is held: the same object for as long as it is the same, so that it stays recognized."""
        key = key._replace(last_used_at=None)
        known = self._keys.get(key.id)
        return known if known == key else key

    async def flush(self) -> None:
        """Write when keys were last used; what cannot be written now is kept."""
        used, self._used = self._used, {}
        if used:
            try:
                await self._database.write(lambda connection: store.touch_api_keys(connection, used))
            except BaseException:
                self._used = used | self._used
                raise
