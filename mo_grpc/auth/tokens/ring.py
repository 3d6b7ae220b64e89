"""What tokens stand for, in memory and kept current by the database: checking one costs no query (docs/security.md)."""

import hashlib
import time
from collections import OrderedDict
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from mo_grpc.auth.tokens import store
from mo_grpc.auth.tokens.rules import (
    ACCESS_TOKEN,
    CHALLENGE,
    Claims,
    KeyPair,
    TokenKind,
    is_current,
    key_id,
    new_key_pair,
    sealed_for,
    sign,
    token_invalid,
    verify,
)
from mo_grpc.auth.users.models import USERS_CHANNEL
from mo_grpc.auth.users.rules import ROLE_SCOPES, Role, User, UserStatus, fingerprint
from mo_grpc.auth.users.sessions import Session, revoked_sessions
from mo_grpc.auth.users.store import changed_statuses, find_status, list_statuses
from mo_grpc.config import Settings
from mo_grpc.crypto import Vault
from mo_grpc.db.cache import LATELY, Cache, Look
from mo_grpc.db.engine import Database
from mo_grpc.db.listen import follow
from mo_grpc.errors import Unavailable
from mo_grpc.process.tasks import Tasks
from mo_grpc.rpc.caller import UserSession

SLACK = timedelta(minutes=1)
"""How far this clock and the database's may be apart."""

REMEMBERED = 10_000
"""Tokens whose signature is known to be right."""


class TokenRing(Cache):
    """Users' status, ended sessions and signing keys; current while its task runs."""

    def __init__(self, settings: Settings, database: Database, vault: Vault) -> None:
        super().__init__()
        self._database = database
        self._vault = vault
        self._lifetime = timedelta(seconds=settings.token_expired_after_seconds)
        self._challenge_lifetime = timedelta(seconds=settings.otp_token_expiration_time)
        self._statuses: dict[int, UserStatus] = {}
        # Since when each is known to have ended; an access token does not outlive that for long.
        self._ended: dict[str, float] = {}
        self._keys: dict[str, KeyPair] = {}
        self._private: dict[str, bytes] = {}
        self._genuine: OrderedDict[bytes, Claims] = OrderedDict()

    def start(self, tasks: Tasks) -> None:
        """Follow what tokens stand for."""
        tasks.start("tokens", follow(self._database, USERS_CHANNEL, self))

    async def authenticate(self, token: str) -> UserSession:
        """Find whose access token it is, and what that user may do.

        Raises:
            Unauthenticated: it is malformed, not ours, expired or revoked, or the user is locked out.
            Unavailable: the database has been out of reach for so long that a revocation may have been missed.
        """
        self.require_current()
        digest = hashlib.sha256(token.encode()).digest()
        claims = self._genuine.get(digest) or await self._verify(ACCESS_TOKEN, token)
        if claims is None or not is_current(claims, self._lifetime, datetime.now(UTC)) or claims.about in self._ended:
            raise token_invalid()
        if not self._signs(claims.kid):
            raise token_invalid()
        status = self._statuses.get(claims.user_id) or await self._status(claims.user_id)
        if status is None or status.locked:
            raise token_invalid()
        self._remember(digest, claims)
        return UserSession(claims.user_id, claims.about, ROLE_SCOPES[Role(status.role)])

    async def access_token(self, session: Session) -> tuple[str, datetime]:
        """Sign an access token for a session; answers when it ends, too."""
        now = datetime.now(UTC)
        expires_at = min(now + self._lifetime, session.expires_at).replace(microsecond=0)
        return await self._sign(ACCESS_TOKEN, session.user_id, session.id, expires_at, now), expires_at

    async def challenge(self, user: User) -> tuple[str, datetime]:
        """Sign that this user's password was right, for as long as it and the codes stay what they are."""
        now = datetime.now(UTC)
        expires_at = (now + self._challenge_lifetime).replace(microsecond=0)
        return await self._sign(CHALLENGE, user.id, fingerprint(user), expires_at, now), expires_at

    async def read_challenge(self, challenge: str) -> Claims | None:
        """What a challenge says; None if it is not ours or has expired."""
        self.require_current()
        claims = await self._verify(CHALLENGE, challenge)
        if claims and self._signs(claims.kid) and is_current(claims, self._challenge_lifetime, datetime.now(UTC)):
            return claims
        return None

    async def keys(self) -> list[KeyPair]:
        """The signing keys whose tokens are valid, newest first."""
        self.require_current()
        await self._signing_key()
        return [key for key in self._keys.values() if self._signs(key.kid)]

    def _signs(self, kid: str) -> bool:
        key = self._keys.get(kid)
        return key is not None and (key.valid_until is None or datetime.now(UTC) < key.valid_until)

    def _remember(self, digest: bytes, claims: Claims) -> None:
        self._genuine[digest] = claims
        self._genuine.move_to_end(digest)
        if len(self._genuine) > REMEMBERED:
            self._genuine.popitem(last=False)

    async def _verify(self, kind: TokenKind, token: str) -> Claims | None:
        kid = key_id(token)
        if kid is None:
            return None
        key = self._keys.get(kid) or await self.look_up(lambda: self._keys.get(kid), f"key {kid}")
        return verify(kind, token, key) if key else None

    async def _status(self, user_id: int) -> UserStatus | None:
        """Ask for a user who may have been made this very moment: the signature is right, so nobody made the id up."""
        await self._load_status(user_id)
        return self._statuses.get(user_id)

    async def _sign(self, kind: TokenKind, user_id: int, about: str, expires_at: datetime, now: datetime) -> str:
        key = await self._signing_key()
        if key.kid not in self._private:
            self._private[key.kid] = self._vault.decrypt(key.private_key, sealed_for(key.kid))
        return sign(kind, key.kid, self._private[key.kid], user_id, about, expires_at, now)

    async def _signing_key(self) -> KeyPair:
        """The key that signs now; the first one is made when it is first needed."""
        current = self._current()
        if current is None:
            await self._database.write(lambda connection: add_signing_key(connection, self._vault))
            await self._load_keys()
            current = self._current()
        if current is None:  # it was retired this very moment
            raise Unavailable
        return current

    def _current(self) -> KeyPair | None:
        return next((key for key in self._keys.values() if key.valid_until is None), None)

    async def _load_keys(self) -> None:
        keys = await self._database.read(store.list_keys)
        self._keys = {key.kid: key for key in keys}
        self._private = {kid: private for kid, private in self._private.items() if kid in self._keys}

    async def _load_status(self, user_id: int) -> None:
        found = await self._database.read(lambda connection: find_status(connection, user_id))
        if found:
            self._statuses[user_id] = found
        else:
            self._statuses.pop(user_id, None)

    async def load(self, change: str | Look) -> None:
        """Read again what has changed: `session …`, `user 5`, `key …`; or what changed lately, or all."""
        if change is Look.ALL:
            await self._load_ended(self._lifetime + SLACK)
            self._statuses = {found.id: found for found in await self._database.read(list_statuses)}
            await self._load_keys()
        elif change is Look.LATELY:
            await self._load_ended(LATELY)
            changed = await self._database.read(lambda connection: changed_statuses(connection, LATELY))
            self._statuses.update((found.id, found) for found in changed)
            await self._load_keys()
        else:
            kind, _, name = str(change).partition(" ")
            if kind == "session":
                self._ended[name] = time.monotonic()
            elif kind == "user":
                await self._load_status(int(name))
            elif kind == "key":
                await self._load_keys()

    async def _load_ended(self, age: timedelta) -> None:
        """Read which sessions ended within the last `age`, and forget those whose tokens have all expired."""
        now = time.monotonic()
        forgotten = now - (self._lifetime + SLACK).total_seconds()
        ended = await self._database.read(lambda connection: revoked_sessions(connection, age))
        self._ended = {name: since for name, since in self._ended.items() if since > forgotten}
        for name in ended:
            self._ended.setdefault(name, now)


async def add_signing_key(connection: AsyncConnection, vault: Vault) -> str:
    """Make the key that signs, unless there is one; answers its id."""
    kid, public_key, private_key = new_key_pair()
    await store.add_key(connection, kid, public_key, vault.encrypt(private_key, sealed_for(kid)))
    return kid
