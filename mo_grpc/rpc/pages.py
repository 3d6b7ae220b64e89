"""Pages of lists (AIP-158), by keyset: each starts behind the last row of the one before, so all cost the same."""

import base64
import binascii
import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from google.protobuf.message import Message

from mo_grpc.errors import InvalidPageToken

DEFAULT_SIZE: Final = 50
MAX_SIZE: Final = 1000

_TOKEN = struct.Struct(">q8s")
_OWN_FIELDS = ("page_size", "page_token")

R = TypeVar("R")


class PageRequest:
    """The page that the request of a `List` RPC asks for.

    Raises:
        InvalidPageToken: the token is damaged, or of another list, or of other filters.
    """

    def __init__(self, request: Message) -> None:
        asked, token = (getattr(request, name) for name in _OWN_FIELDS)
        self._request = request
        self.size: int = min(asked or DEFAULT_SIZE, MAX_SIZE)
        """The most rows to answer: the default for 0, and never more than the most."""
        self.after: int | None = self._parse(token) if token else None
        """The key of the row that the page starts behind; None for the first page."""

    def cut(self, found: Sequence[R], key: Callable[[R], int]) -> tuple[Sequence[R], str]:
        """The rows of the page, of up to `size` + 1 that were found, and the token of the next page; empty if there is none."""
        rows = found[: self.size]
        return rows, self.next_token(key(rows[-1])) if len(found) > self.size else ""

    def next_token(self, last: int) -> str:
        """The token of the page that follows the row with this key, in the list that was asked for."""
        return base64.urlsafe_b64encode(_TOKEN.pack(last, self._seal(last))).decode()

    def _parse(self, token: str) -> int:
        try:
            last, seal = _TOKEN.unpack(base64.b64decode(token, altchars=b"-_", validate=True))
        except (binascii.Error, struct.error, ValueError) as error:
            raise InvalidPageToken from error
        if seal != self._seal(last):
            raise InvalidPageToken
        return int(last)

    def _seal(self, last: int) -> bytes:
        """Binds a token to its list: the request's type stands for the RPC, and its other fields are filters."""
        filters = type(self._request)()
        filters.CopyFrom(self._request)
        for name in _OWN_FIELDS:
            filters.ClearField(name)
        content = f"{last} {filters.DESCRIPTOR.full_name} ".encode() + filters.SerializeToString(deterministic=True)
        return hashlib.blake2b(content, digest_size=8).digest()
