"""Latencies of segments that are watched more closely, both versions side by side.

People read them, nothing decides by them: evidence is of one threshold alone, which was frozen from the baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.sketch import Sketch
from analysis.window import Window

QUANTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Requests since the watch began, streams left out: how many on each version, and QUANTILES of them in ms.

    Within 1 % (`analysis.sketch`); NaN where there are none.
    """

    baseline_n: int
    canary_n: int
    baseline_ms: tuple[float, ...]
    canary_ms: tuple[float, ...]


class WatchedLatencies:
    """Durations of requests by watched segment and arm. One owner; a restart begins anew."""

    def __init__(self) -> None:
        self._sketches: dict[int, tuple[Sketch, Sketch]] = {}

    def learn(self, window: Window, watched: Mapping[int, tuple[int, int]]) -> None:
        """Add a tick's requests. `watched`: baseline and canary of each watched segment, all as the window has them.

        What was known of other segments is forgotten.
        """
        none = Sketch()
        self._sketches = {segment: self._sketches.get(segment, (none, none)) for segment in watched}
        for segment, versions in watched.items():
            before = self._sketches[segment]
            baseline, canary = (
                sketch + window.traffic[segment, version].duration if (segment, version) in window.traffic else sketch
                for sketch, version in zip(before, versions, strict=True)
            )
            self._sketches[segment] = baseline, canary

    def view(self, segment: int) -> Latencies | None:
        """What is known of a segment; None: it is not watched."""
        sketches = self._sketches.get(segment)
        if sketches is None:
            return None
        baseline, canary = sketches
        return Latencies(
            baseline_n=baseline.n,
            canary_n=canary.n,
            baseline_ms=tuple(map(baseline.quantile, QUANTILES)),
            canary_ms=tuple(map(canary.quantile, QUANTILES)),
        )
