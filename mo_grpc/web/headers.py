"""Headers that every page has unless it sets its own; and the client's address."""

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mo_grpc.rpc.addresses import believed_address

STRICT = {
    "default-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "img-src": "'self' data:",
    "object-src": "'none'",
}
"""Nothing from another host, no script or style within a page, no frame around it (CSP level 3)."""


def policy(**directives: str) -> str:
    """The content security policy of a page with other directives; their names are written with `_` for `-`."""
    return "; ".join(
        f"{name} {value}" for name, value in (STRICT | {k.replace("_", "-"): v for k, v in directives.items()}).items()
    )


class SecurityHeaders:
    """Adds the headers to every response, except below the paths `apart`, which set all of their headers themselves."""

    def __init__(self, app: ASGIApp, apart: tuple[str, ...] = ()) -> None:
        self._app = app
        self._apart = tuple(f"{path.rstrip('/')}/" for path in apart)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers to the response."""

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("content-security-policy", policy())
                headers.setdefault("referrer-policy", "same-origin")
                headers.setdefault("x-content-type-options", "nosniff")
            await send(message)

        ours = scope["type"] == "http" and not f"{scope['path']}/".startswith(self._apart)
        await self._app(scope, receive, add if ours else send)


def address_of(request: Request, trusted: tuple[str, ...]) -> str:
    """The client's address; empty if it is unknown."""
    peer = request.client.host if request.client else None
    hops = request.headers.getlist("x-forwarded-for")
    return believed_address(peer, hops[-1] if hops else "", trusted)
