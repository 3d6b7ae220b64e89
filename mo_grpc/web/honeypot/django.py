"""The details by which a Django 5.2 admin is recognised: tokens, the cookie, and headers in their order."""

import re
import secrets
import string
from collections.abc import Iterable
from email.utils import formatdate
from urllib.parse import quote

from starlette.responses import Response

COOKIE = "csrftoken"
YEAR = 31_449_600
"""Seconds that the cookie lives."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that need no token."""

_SIGNS = string.ascii_letters + string.digits
_SECRET = re.compile(r"[A-Za-z0-9]{32}(?:[A-Za-z0-9]{32})?")
_ELSEWHERE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|[/\\]{2}")

Headers = Iterable[tuple[str, str]]


def new_secret() -> str:
    """A secret for the cookie."""
    return "".join(secrets.choice(_SIGNS) for _ in range(32))


def secret_of(value: str) -> str:
    """The secret in a cookie or in a form's token; empty if it has another format."""
    if not _SECRET.fullmatch(value):
        return ""
    if len(value) == 32:
        return value
    return "".join(_SIGNS[_SIGNS.index(sign) - _SIGNS.index(mask)] for mask, sign in zip(value[:32], value[32:], strict=True))


def token(secret: str) -> str:
    """The secret as a form contains it, masked anew each time (against BREACH)."""
    mask = new_secret()
    pairs = zip(mask, secret, strict=True)
    return mask + "".join(_SIGNS[(_SIGNS.index(a) + _SIGNS.index(b)) % len(_SIGNS)] for a, b in pairs)


def full_path(path: str, query: str) -> str:
    """A path and its query, as Django puts them into links."""
    escaped = quote(query, safe="/#%[]=:;$&()+,!?*@'~")
    return quote(path, safe="/:@&+$,") + (f"?{escaped}" if escaped else "")


def next_page(value: str) -> str:
    """Where a login would lead to, if that is on this site."""
    return "" if _ELSEWHERE.match(value) else value


def faults(username: str, password: str) -> dict[str, str]:
    """What is wrong with the fields of the login form, by name."""
    required = "This field is required."
    found = {name: required for name, value in (("username", username), ("password", password)) if not value}
    if len(username) > 150:
        found["username"] = f"Ensure this value has at most 150 characters (it has {len(username)})."
    return found | {
        name: "Null characters are not allowed."
        for name, value in (("username", username), ("password", password))
        if "\0" in value
    }


class Answers:
    """Answers with the headers that Django's middleware gives them."""

    def __init__(self, *, secure: bool, hsts_seconds: int) -> None:
        self._secure = secure
        hsts = [("strict-transport-security", f"max-age={hsts_seconds}")] if secure and hsts_seconds else []
        self._security: Headers = [
            *hsts,
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ]

    def page(self, content: str, secret: str, now: float) -> Response:
        """A page with a form, which sets the cookie again. `now` is in seconds since 1970."""
        head = [*_never_cached(now), ("vary", "Cookie"), ("x-frame-options", "DENY"), _length(content)]
        cookie = f"{COOKIE}={secret}; expires={formatdate(now + YEAR, usegmt=True)}; Max-Age={YEAR}; Path=/; SameSite=Lax"
        return self._made(200, content, head, [("set-cookie", cookie + ("; Secure" if self._secure else ""))])

    def forbidden(self, content: str) -> Response:
        """A refusal of a forged form."""
        return self._made(403, content, [("x-frame-options", "DENY"), _length(content)])

    def moved(self, path: str) -> Response:
        """A redirect to the same path with a slash; Django sends no `content-length` here."""
        return self._made(301, "", [("location", path)])

    def redirect(self, path: str, now: float | None) -> Response:
        """Another page; without a time, it may be cached."""
        head = [("location", path), *(_never_cached(now) if now else ()), ("x-frame-options", "DENY"), _length("")]
        return self._made(302, "", [*head, ("vary", "Cookie")])

    def allowed(self, status: int, now: float) -> Response:
        """Which methods the login form takes."""
        head = [("allow", "GET, POST, PUT, HEAD, OPTIONS"), _length(""), *_never_cached(now), ("x-frame-options", "DENY")]
        return self._made(status, "", [*head, ("vary", "Cookie")])

    def _made(self, status: int, content: str, head: Headers, tail: Headers = ()) -> Response:
        response = Response(content, status)
        headers = [("content-type", "text/html; charset=utf-8"), *head, *self._security, *tail]
        response.raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        return response


def _never_cached(now: float) -> Headers:
    return [
        ("expires", formatdate(now, usegmt=True)),
        ("cache-control", "max-age=0, no-cache, no-store, must-revalidate, private"),
    ]


def _length(content: str) -> tuple[str, str]:
    return "content-length", str(len(content.encode()))
