"""What one tick adds for one service: counts of people and sessions by segment, KPI and arm. Windows add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from analysis.sketch import Sketch

BASELINE, CANARY = 0, 1
"""Index of the two arms."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests of one segment to one version. `slow`: longer than the threshold frozen from the baseline.

    `duration`: what the client waited for, in ms, until the last byte; `first_byte`: until the upstream's first one.
    Streams have neither.
    """

    requests: int
    errors: int
    slow: int
    duration: Sketch
    first_byte: Sketch

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Counts of one tick. S segments, K KPIs, two arms (BASELINE, CANARY); every number is a count >= 0.

    `n`, `bad` : (S, K, 2) people judged for the first time in this rollout, and those who showed the KPI's bad side
    `harm_n`, `harm_bad` : (S, 2) sessions judged for harm, and the bad ones; a person's later sessions count too
    `exposed` : (S,) sessions that started on the canary; `arrived` : (S,) sessions that started on either arm
    `unexposed_n`, `unexposed_bad` : (S, K) baseline sessions from before the first exposure, for the base rate only
    `unexposed_harm_n`, `unexposed_harm_bad` : (S,) the same for harm
    `newcomers` : by (segment, split asked for in basis points, arm), people new in this rollout, by where their first
    request went; without those who came while a split was changing
    `people`, `failing` : (S, 2) people seen in the last seconds, and those of them whose newest request failed
    `bots` : (S,) sessions that were judged for nothing, since they say of themselves that they are machines
    `traffic` : by (segment, version), UNKNOWN for what no version was chosen for
    `entries` : access log entries behind this window
    """

    n: Counts
    bad: Counts
    harm_n: Counts
    harm_bad: Counts
    exposed: Counts
    arrived: Counts
    unexposed_n: Counts
    unexposed_bad: Counts
    unexposed_harm_n: Counts
    unexposed_harm_bad: Counts
    newcomers: Counter[tuple[int, int, int]]
    people: Counts
    failing: Counts
    bots: Counts
    traffic: Mapping[tuple[int, int], Traffic]
    entries: int

    def row(self, rollout: int, newcomers: Counts) -> Window:
        """One rollout's window out of those of many; `newcomers`: as `SampleRatio.update` takes them."""
        mine = newcomers[newcomers[:, 0] == rollout, 1:]
        arrays = {
            f.name: getattr(self, f.name)[rollout]
            for f in fields(self)
            if f.name not in ("newcomers", "traffic", "entries")
        }
        people = Counter({(s, split_bp, arm): n for s, split_bp, arm, n in mine.tolist()})
        return Window(**arrays, newcomers=people, traffic=self.traffic, entries=self.entries)

    def __add__(self, other: Window) -> Window:
        """The window of both: counts add, so merging is associative and loses nothing."""
        added = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "traffic"}
        return Window(**added, traffic=_merged(self.traffic, other.traffic))


def _merged(
    one: Mapping[tuple[int, int], Traffic], other: Mapping[tuple[int, int], Traffic]
) -> dict[tuple[int, int], Traffic]:
    both = dict(one)
    for key, traffic in other.items():
        both[key] = both[key] + traffic if key in both else traffic
    return both


def empty(n_segments: int, n_kpis: int) -> Window:
    """A window in which nothing happened."""

    def zeros(*shape: int) -> Counts:
        return np.zeros(shape, np.int64)

    s, k = n_segments, n_kpis
    return Window(
        n=zeros(s, k, 2), bad=zeros(s, k, 2), harm_n=zeros(s, 2), harm_bad=zeros(s, 2), exposed=zeros(s),
        arrived=zeros(s), unexposed_n=zeros(s, k), unexposed_bad=zeros(s, k), unexposed_harm_n=zeros(s),
        unexposed_harm_bad=zeros(s), newcomers=Counter(), people=zeros(s, 2), failing=zeros(s, 2), bots=zeros(s),
        traffic={}, entries=0,
    )  # fmt: skip
