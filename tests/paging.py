"""What every list owes its callers, whatever it lists."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.doors import Door, Refused

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def walk(
    door: Door, rpc: str, kind: str, page_size: int, between: Callable[[], object] = lambda: None, **filters: Any
) -> list[str]:
    """The ids on all pages of a list; `between` happens after each page. All pages but the last are full."""
    found: list[str] = []
    token = ""
    while True:
        page = door(rpc, page_size=page_size, page_token=token, **filters)
        found += [item["external_id"] for item in page[kind]]
        token = page["next_page_token"]
        if not token:
            return found
        assert len(page[kind]) == page_size
        between()


def damages(token: str) -> list[str]:
    """Tokens that were damaged on the way: each character changed in turn, some lost, some added."""
    changed = [
        token[:place] + _ALPHABET[_ALPHABET.index(token[place]) ^ 32] + token[place + 1 :]
        for place in range(len(token.rstrip("=")))
    ]
    return [*changed, token[:-1], token[4:], token + "AAAA", token * 2, "x", "====", "é", " " + token]


def refuses_token(door: Door, rpc: str, token: str, **filters: Any) -> None:
    """Check that a list does not take this token."""
    with pytest.raises(Refused) as refused:
        door(rpc, page_token=token, **filters)
    assert (refused.value.code, refused.value.reason) == (3, "INVALID_PAGE_TOKEN"), token
    assert list(refused.value.fields) == ["page_token"]
