"""What a scrape of the metrics answers."""

import re

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Stack
from tests.waiting import eventually

Series = tuple[str, frozenset[tuple[str, str]]]


class Scrape:
    """All series of one moment."""

    def __init__(self, text: str) -> None:
        self.series: dict[Series, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                series = sample.name, frozenset(sample.labels.items())
                assert series not in self.series, f"{series} came twice"
                self.series[series] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the series of this name that have these labels, perhaps among others; 0 if there is none."""
        wanted = set(labels.items())
        return sum(value for (each, having), value in self.series.items() if each == name and wanted <= having)

    @property
    def labels(self) -> set[tuple[str, str]]:
        return {label for _, labels in self.series for label in labels}


def scrape(stack: Stack) -> Scrape:
    """The metrics of the stack's run."""
    return Scrape(httpx.get(stack.metrics_url).raise_for_status().text)


def all_told(stack: Stack) -> Scrape:
    """A scrape to which both workers have told everything: they do so four times a second."""

    def times_told() -> list[float]:
        found = scrape(stack)
        return [found("mo_event_loop_lag_seconds_count", process=f"worker-{number}") for number in range(2)]

    # Telling comes before counting, so what is being told just now may be from before.
    asked = times_told()
    eventually(lambda: all(now >= before + 2 for now, before in zip(times_told(), asked, strict=True)), 10)
    return scrape(stack)


PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9 _./-]*|\+Inf|[0-9.]+(e[-+][0-9]+)?")
