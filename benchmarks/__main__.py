"""Run the benchmarks and print their tables in Markdown: `python -m benchmarks [ROW …]`; `curves` and others by name only."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.admin import admin
from benchmarks.batches import batch, many_loans
from benchmarks.choices import choices
from benchmarks.curves import curves
from benchmarks.distance import distance
from benchmarks.imports import import_file
from benchmarks.journal import journal
from benchmarks.keys import flood, keys
from benchmarks.measure import Load, Row, Sample
from benchmarks.rows import eight, hot_customer, one, rest, sixty_four
from benchmarks.sizes import table_size
from benchmarks.soak import soak
from benchmarks.stack import running
from benchmarks.telemetry import telemetry

Benchmark = Callable[[Load], Row | list[Row]]
ALL: dict[str, Benchmark] = {
    "1": one,
    "8": eight,
    "64": sixty_four,
    "hot": hot_customer,
    "batch": batch,
    "journal": journal,
    "telemetry": telemetry,
    "distance": distance,
    "flood": flood,
    "rest": rest,
    "loans": many_loans,
    # Before the keys, whose wrong passwords make the next login from this address wait.
    "admin": admin,
    "keys": keys,
    "import": import_file,
    "size": table_size,
}
LONG: dict[str, Benchmark] = {"curves": curves, "soak": soak, "choices": choices}
MINUTES = 20
"""Minutes after which no further row begins; the rows that are left out are listed."""
RESULTS = Path(__file__).parent / "results" / "latest.json"


def main(names: Sequence[str]) -> int:
    """Measure the rows named, or all; the exit status is 1 when a target is missed or a row was left out."""
    known = ALL | LONG
    if unknown := [name for name in names if name not in known]:
        print(f"No such row: {', '.join(unknown)}. There are: {', '.join(known)}.", file=sys.stderr)
        return 2
    rows: list[Row] = []
    left_out: list[str] = []
    started = time.monotonic()
    with running() as stack:
        load = Load(stack)
        for name in names or ALL:
            if not names and time.monotonic() - started > MINUTES * 60:
                left_out.append(name)
                continue
            begun = time.monotonic()
            measured = known[name](load)
            rows += measured if isinstance(measured, list) else [measured]
            print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    _print(rows, load.samples)
    if left_out:
        print(f"\nLeft out after {MINUTES} minutes: {', '.join(left_out)}.")
    if not names and not left_out:
        RESULTS.parent.mkdir(exist_ok=True)
        kept = [{**row._asdict(), "ratio": row.ratio, "pass": row.passed} for row in rows]
        costs = {name: sample._asdict() for name, sample in load.samples.items()}
        RESULTS.write_text(json.dumps({"rows": kept, "samples": costs}, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row.passed for row in rows) and not left_out else 1


def _print(rows: Sequence[Row], samples: dict[str, Sample]) -> None:
    """The targets, then what the samples behind them cost."""
    if rows:
        _table("work", "figure", "against", "ratio", "target", "")
    for row in rows:
        against, target = f"{row.against}, {_number(row.limit)}", f"{'≤' if row.at_most else '≥'} {row.target}"
        verdict = "met" if row.passed else "**missed**"
        _line(row.name, f"{_number(row.figure)} {row.unit}", against, f"{row.ratio:.2f}", target, verdict)
    for row in rows:
        if row.detail:
            print(f"\n{row.name}: {row.detail}.")
    if samples:
        print()
        _table("", "calls/s", "p50, p95, p99 ms", "CPU µs a call: server", "PostgreSQL", "Envoy", "client")
    for name, sample in samples.items():
        latencies = ", ".join(f"{value:,.1f}" for value in sample[1:4])
        _line(name, f"{sample.rate:,.0f}", latencies, *(f"{cost:,.0f}" for cost in sample[4:]))


def _table(*heads: str) -> None:
    _line(*heads)
    print("|" + "---|" * len(heads))


def _line(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2g}" if value < 1 else f"{value:,.1f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
