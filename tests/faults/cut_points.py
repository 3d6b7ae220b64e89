"""The table of cuts in docs/proofs.md."""

import re
from typing import Final, NamedTuple

from tests.repository import ROOT


class CutPoints(NamedTuple):
    """How many statements the transaction of an RPC has, and how many cuts are tried."""

    with_key: int
    without_key: int
    tried: int


CUT_POINTS: Final = {
    row[0]: CutPoints(*map(int, row[1:]))
    for row in re.findall(
        r"^\| `(\w+\.\w+)` \| (\d+) \| (\d+) \| (\d+) \| none \| none \| none \|$",
        (ROOT / "docs" / "proofs.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}
