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
"""Seconds after which the cookie is written again, with the time of the latest request; not at each request."""


def _token() -> str:
    return secrets.token_urlsafe(24)


@dataclass
class BrowserSession:
    """The cookie's content. Before the login, it is only the CSRF token, so that a login cannot be forged either."""

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
        """Become the session of a login, with a new CSRF token (against session fixation)."""
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
        """The session, a new one if there is no valid one, and its content, to see later whether it has changed."""
        session = self._open(request.cookies.get(COOKIE, ""))
        return session, json.dumps(asdict(session))

    def write(self, request: Request, response: Response, session: BrowserSession, before: str) -> None:
        """Set the cookie if the session has changed, or was last set a while ago."""
        now = int(time.time())
        if json.dumps(asdict(session)) == before and now - session.seen < _RENEWED_AFTER:
            return
        session.seen = now
        content = json.dumps(asdict(session)).encode()
        secure = self._tls or request.headers.get("x-forwarded-proto") == "https"
        value = urlsafe_b64encode(self._vault.encrypt(content, _PURPOSE)).decode().rstrip("=")
        # The browser deletes it when it closes; the content says until when it is valid at most.
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
