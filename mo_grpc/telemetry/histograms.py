"""Histograms that take many observations at once.

Telling prometheus_client of each costs a call several microseconds; noting it here costs a tenth of that.
"""

from bisect import bisect_left
from collections.abc import Sequence

import prometheus_client


class Histogram(prometheus_client.Histogram):
    """A histogram of the library's, which can be told of observations that were noted elsewhere."""

    @property
    def bounds(self) -> Sequence[float]:
        """The upper bounds of the buckets, the last of which is infinite."""
        return self._upper_bounds

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add so many observations to each bucket; `total` is their sum."""
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        self._sum.inc(total)


class Notes:
    """Observations that a histogram has not been told of yet."""

    __slots__ = ("_bounds", "_counts", "_histogram", "_total")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._bounds = histogram.bounds
        self._counts = [0] * len(self._bounds)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Note an observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def tell(self) -> None:
        """Tell the histogram."""
        if any(self._counts):
            self._histogram.add(self._counts, self._total)
            self._counts = [0] * len(self._bounds)
            self._total = 0.0
