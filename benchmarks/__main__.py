"""Run the benchmarks and print the table: `python -m benchmarks [ROW …]`; `curves` and `soak` run by name only."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.admin import admin
from benchmarks.choices import choices
from benchmarks.curves import curves
from benchmarks.imports import import_file
from benchmarks.keys import keys
from benchmarks.rows import ROWS, Load, Row
from benchmarks.soak import soak
from benchmarks.stack import running

ALL: dict[str, Callable[[Load], Row | list[Row]]] = ROWS | {"import": import_file, "keys": keys, "admin": admin}
LONG: dict[str, Callable[[Load], Row | list[Row]]] = {"curves": curves, "soak": soak, "choices": choices}
RESULTS = Path(__file__).parent / "results" / "latest.json"


def main(names: list[str]) -> int:
    """Measure the rows named, or all; the exit status is 1 when a target is missed."""
    console = Console(width=180)
    rows: list[Row] = []
    with running() as stack:
        load = Load(stack)
        for name in names or ALL:
            measured = (ALL | LONG)[name](load)
            for row in measured if isinstance(measured, list) else [measured]:
                rows.append(row)
                console.print(f"{row.name}: {row.figure:,.1f} {row.unit}, {row.ratio:.2f} of {row.against}", highlight=False)
    table = Table("work", "figure", "against", "limit", "ratio", "target", "")
    for row in rows:
        sign = "≤" if row.at_most else "≥"
        verdict = "pass" if row.passed else "[red]miss"
        numbers = (f"{row.figure:,.1f} {row.unit}", row.against, f"{row.limit:,.1f}", f"{row.ratio:.2f}")
        table.add_row(row.name, *numbers, f"{sign} {row.target}", verdict)
    console.print(table)
    for row in rows:
        if row.detail:
            console.print(f"{row.name}: {row.detail}", highlight=False)
    if not names:
        RESULTS.parent.mkdir(exist_ok=True)
        kept = [{**row._asdict(), "ratio": row.ratio, "pass": row.passed} for row in rows]
        RESULTS.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
