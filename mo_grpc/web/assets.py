"""Static files: compressed once, at start; their names contain a hash of their content, so browsers may keep them for ever."""

import gzip
import hashlib
from pathlib import PurePosixPath
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOR_EVER = "public, max-age=31536000, immutable"
"""For what has its content in its name (RFC 8246)."""

ASK_AGAIN = "no-cache"
"""For what keeps its name: browsers cache it, and ask each time whether it is still current (RFC 9111)."""


# Python's own table depends on the system's files.
_TYPES = {".css": "text/css", ".js": "text/javascript", ".json": "application/json", ".svg": "image/svg+xml"}


class Asset(NamedTuple):
    """A file as it is sent."""

    content: bytes
    compressed: bytes
    media_type: str
    digest: str

    def answer(self, request: Request, cache_control: str) -> Response:
        """The file, compressed if the browser accepts that; 304 if it has it already."""
        headers = {"cache-control": cache_control, "etag": f'W/"{self.digest}"', "vary": "accept-encoding"}
        if self.digest in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if not takes_gzip(request.headers.get("accept-encoding", "")):
            return Response(self.content, headers=headers, media_type=self.media_type)
        return Response(self.compressed, headers=headers | {"content-encoding": "gzip"}, media_type=self.media_type)


def asset(name: str, content: bytes) -> Asset:
    """Make an asset of a file."""
    media_type = _TYPES[PurePosixPath(name).suffix]
    return Asset(content, gzip.compress(content, mtime=0), media_type, hashlib.sha256(content).hexdigest()[:16])


def takes_gzip(accept_encoding: str) -> bool:
    """Whether a header `Accept-Encoding` allows gzip (RFC 9110, 12.5.3)."""
    for each in accept_encoding.lower().split(","):
        name, _, weight = each.replace(" ", "").partition(";q=")
        if name == "gzip":
            return weight.strip("0.") != "" or not weight
    return False


class Assets:
    """The files below a path; each name contains a hash of its content."""

    def __init__(self, url: str, files: dict[str, bytes]) -> None:
        self._url = url
        self._names: dict[str, str] = {}
        self._assets: dict[str, Asset] = {}
        for name, content in files.items():
            made, path = asset(name, content), PurePosixPath(name)
            self._names[name] = f"{path.stem}.{made.digest}{path.suffix}"
            self._assets[self._names[name]] = made

    def url(self, name: str) -> str:
        """Where a file is."""
        return self._url + self._names[name]

    def route(self, url: str | None = None) -> Route:
        """The route that serves them; `url` is their path within an application that is mounted below another path."""
        return Route(f"{self._url if url is None else url}{{name}}", self._show)

    async def _show(self, request: Request) -> Response:
        found = self._assets.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return found.answer(request, FOR_EVER)
