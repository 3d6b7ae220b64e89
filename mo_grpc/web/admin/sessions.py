"""The session of a browser: one encrypted cookie, which holds the person's tokens.

Each request asks the database whether the login is still valid. So logging out, locking a user or changing a role takes effect
at once, and an old copy of a cookie is useless.
"""

import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from dataclasses import asdict, dataclass, field
from hmac import compare_digest
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mo_grpc.crypto import Vault, VaultError

COOKIE = "mo_admin"
_PURPOSE = "admin cookie"
_RENEWED_AFTER = 60
"""Seconds: a cookie is not written anew for each request, only to say every minute that somebody is still there."""


def _token() -> str:
    return secrets.token_urlsafe(24)


@dataclass
class BrowserSession:
    """What the cookie holds. Before the login, it holds the CSRF token alone, so that a login cannot be forged either."""

    csrf: str = field(default_factory=_token)
    seen: int = 0
    login: str = ""
    """The id of the login (`sessions.id`); empty before it."""
    access_token: str = ""
    access_expires: int = 0
    refresh_token: str = ""
    expires: int = 0
    challenge: str = ""
    email: str = ""
    flash: list[tuple[str, str]] = field(default_factory=list)
    """Kinds and texts of messages for the next page."""

    def say(self, text: str, kind: str = "good") -> None:
        """Leave a message for the next page."""
        self.flash.append((kind, text))

    def take_flash(self) -> list[tuple[str, str]]:
        """The messages, this once."""
        taken, self.flash = self.flash, []
        return taken

    def begin(self, login: str) -> None:
        """Become the session of a login; the CSRF token of before is not its own (session fixation)."""
        self.csrf, self.login, self.challenge = _token(), login, ""

    def is_forged(self, token: str) -> bool:
        """Whether a form does not come from a page of this session."""
        return not compare_digest(self.csrf.encode(), token.encode())


class Cookies:
    """Reads and writes the cookie."""

    def __init__(self, vault: Vault, path: str, idle_seconds: int, *, tls: bool) -> None:
        self._vault = vault
        self._path = path
        self._idle = idle_seconds
        self._tls = tls

    def read(self, request: Request) -> tuple[BrowserSession, str]:
        """The session, a new one if there is none that counts, and what it was, to see whether it changes."""
        session = self._open(request.cookies.get(COOKIE, ""))
        return session, json.dumps(asdict(session))

    def write(self, request: Request, response: Response, session: BrowserSession, before: str) -> None:
        """Set the cookie, if the session changed or was quiet for a while."""
        now = int(time.time())
        if json.dumps(asdict(session)) == before and now - session.seen < _RENEWED_AFTER:
            return
        session.seen = now
        content = json.dumps(asdict(session)).encode()
        secure = self._tls or request.headers.get("x-forwarded-proto") == "https"
        value = urlsafe_b64encode(self._vault.encrypt(content, _PURPOSE)).decode().rstrip("=")
        # It goes with the browser's window; how long it counts at most is said inside.
        response.set_cookie(COOKIE, value, path=self._path, secure=secure, httponly=True, samesite="strict")

    def _open(self, value: str) -> BrowserSession:
        try:
            values: dict[str, Any] = json.loads(
                self._vault.decrypt(urlsafe_b64decode(value + "=" * (-len(value) % 4)), _PURPOSE)
            )
            session = BrowserSession(**values)
        except (Base64Error, VaultError, ValueError, TypeError):
            return BrowserSession()
        session.flash = [(kind, text) for kind, text in session.flash]
        now = time.time()
        idle = now - session.seen > self._idle
        if idle or (session.login and now > session.expires):
            ended = BrowserSession()
            if session.login:
                ended.say("You were logged out because nothing happened for a while; please log in again.", "note")
            return ended
        return session
