"""Value series of a release, and where each was seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

BASELINE, CANARY = 0, 1
LONGEST_GRID = 200_000  # ticks; a series over more is read from its newest on


class Edge(NamedTuple):
    """Calls from one service to another."""

    caller: str
    callee: str

    def __str__(self) -> str:
        return f"{self.caller}>{self.callee}"


class Source(NamedTuple):
    """Where a series was seen: `CALLER>CALLEE@OBSERVER INSTANCE`, of which each part may be left out.

    `edge`: None where it is about an instance as a whole. `observer`: the service whose instance saw it; empty: the
    one that is released. `instance`: which of them; empty: all together.
    """

    edge: Edge | None
    observer: str
    instance: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """Any text is legal: what has no `>` in its first word names an instance."""
        first, _, rest = text.strip().partition(" ")
        calls, _, observer = first.partition("@")
        caller, arrow, callee = calls.partition(">")
        if not arrow or not caller or not callee:
            return cls(None, "", text.strip()) if not first.startswith("@") else cls(None, first[1:], rest.strip())
        return cls(Edge(caller, callee), observer, rest.strip())


NOWHERE = Source(None, "", "")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """Values of one KPI in its own unit; shares in [0, 1].

    `at_s`, `value` : (N,) seconds after the release began (negative: before), rising; finite values. What was not
    measured, or had nothing to measure, is left out: that a version says nothing is evidence of its own.
    """

    kpi: str
    arm: int
    at_s: Floats
    value: Floats
    source: Source = NOWHERE
    segment: str = ""

    def until(self, at_s: float) -> Series:
        """What was measured by then."""
        n = int(np.searchsorted(self.at_s, at_s, side="right"))
        return self if n == len(self.at_s) else replace(self, at_s=self.at_s[:n], value=self.value[:n])

    def later(self, by_s: float) -> Series:
        """The same, with every time later."""
        return self if by_s == 0 else replace(self, at_s=self.at_s + by_s)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Release:
    """One release of one service. `interval_s` > 0: how often its series are measured.

    Series whose observer is another service tell of that service while this one was released, whatever their arm.
    """

    rollout: str
    service: str
    started_unix_s: float
    interval_s: float
    series: tuple[Series, ...]

    def observer(self, series: Series) -> str:
        return series.source.observer or self.service

    def own(self) -> list[Series]:
        """The series that instances of the released service saw themselves."""
        return [each for each in self.series if self.observer(each) == self.service]

    def until(self, now_unix_s: float) -> Release:
        """The release as it was known at a time."""
        cut = [each.until(now_unix_s - self.started_unix_s) for each in self.series]
        return replace(self, series=tuple(each for each in cut if len(each.at_s)))


class Stream(NamedTuple):
    """What is compared with each other: one KPI of one segment at one place, over all instances."""

    kpi: str
    segment: str
    edge: Edge | None

    def __str__(self) -> str:
        where = f" of {self.edge}" if self.edge is not None else ""
        return f"{self.kpi}{where}{f' in {self.segment}' if self.segment else ''}"


def streams(series: Iterable[Series]) -> dict[Stream, list[Series]]:
    """Series by what they are about, in their own order."""
    found: dict[Stream, list[Series]] = {}
    for each in series:
        found.setdefault(Stream(each.kpi, each.segment, each.source.edge), []).append(each)
    return found


def tick_of(at_s: npt.ArrayLike, interval_s: float) -> npt.NDArray[np.int64]:
    """The tick that ends at or after a time; below 0: before the release."""
    return np.ceil(np.asarray(at_s, float) / interval_s).astype(np.int64) - 1


def grid(series: Sequence[Series], *, interval_s: float, first: int, ticks: int) -> Floats:
    """(instances, ticks) values by tick; NaN where there is none, means where there are several.

    Tick i spans (i, i + 1] intervals after the beginning; column 0 is tick `first`.
    Series of the same instance share a row.
    """
    rows = {name: row for row, name in enumerate(dict.fromkeys(each.source.instance for each in series))}
    total, count = np.zeros((len(rows), ticks)), np.zeros((len(rows), ticks))
    for each in series:
        column = tick_of(each.at_s, interval_s) - first
        inside = (column >= 0) & (column < ticks)
        row = rows[each.source.instance]
        np.add.at(total[row], column[inside], each.value[inside])
        np.add.at(count[row], column[inside], 1)
    values: Floats = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return values


def span(series: Iterable[Series], interval_s: float) -> tuple[int, int]:
    """First tick, and how many there are up to the last one; (0, 0) without any value."""
    ends = [(each.at_s[0], each.at_s[-1]) for each in series if len(each.at_s)]
    if not ends:
        return 0, 0
    first = int(tick_of(min(begin for begin, _ in ends), interval_s))
    last = int(tick_of(max(end for _, end in ends), interval_s))
    first = max(first, last - LONGEST_GRID + 1)
    return first, last - first + 1


def mean(values: Floats) -> Floats:
    """(ticks,) means over the instances that were measured; NaN where none was."""
    seen = np.isfinite(values)
    count = seen.sum(axis=0)
    total = np.where(seen, values, 0.0).sum(axis=0)
    means: Floats = np.divide(total, count, out=np.full(values.shape[1], np.nan), where=count > 0)
    return means
