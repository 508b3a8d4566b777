"""What one tick adds for one service: counts of people and sessions by segment, KPI and arm. Windows add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

BASELINE, CANARY = 0, 1
"""Index of the two arms."""

Counts = npt.NDArray[np.int64]


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
    entries: int

    def __add__(self, other: Window) -> Window:
        """The window of both: counts add, so merging is associative and loses nothing."""
        return Window(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


def empty(n_segments: int, n_kpis: int) -> Window:
    """A window in which nothing happened."""

    def zeros(*shape: int) -> Counts:
        return np.zeros(shape, np.int64)

    s, k = n_segments, n_kpis
    return Window(
        n=zeros(s, k, 2), bad=zeros(s, k, 2), harm_n=zeros(s, 2), harm_bad=zeros(s, 2), exposed=zeros(s),
        arrived=zeros(s), unexposed_n=zeros(s, k), unexposed_bad=zeros(s, k), unexposed_harm_n=zeros(s),
        unexposed_harm_bad=zeros(s), newcomers=Counter(), people=zeros(s, 2), failing=zeros(s, 2), entries=0,
    )  # fmt: skip
