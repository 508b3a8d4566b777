"""Faults of a whole system: places where old versions were well before anything was released, and are not now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from analysis.change.kpis import kind_of
from analysis.change.looks import FALSE_ALARM, corrected
from analysis.change.series import BASELINE, Edge, Flags, Floats, Release, Series, grid, mean, span, tick_of

WINDOW = 8  # newest ticks, of which enough must be ill
BEFORE_MIN = 10  # ticks before, to know what is usual
SPREADS = 4.0  # robust standard deviations beyond which a tick is ill
SPOKE_MIN = 0.8  # share of the ticks before with a value, from which on silence is illness
RUN_SHARE = 2 / 3  # share of ill ticks that makes a run of them one fault
MAD_TO_SD = 1.4826


class Place(NamedTuple):
    """`edge`: where calls fail; a service's calls to itself where no edge was named. `observer`: who saw it."""

    kpi: str
    segment: str
    edge: Edge
    observer: str

    def __str__(self) -> str:
        where = str(self.edge) if self.edge.caller != self.edge.callee else self.edge.callee
        return f"{self.kpi} of {where} as seen by {self.observer}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`onset_s`, `found_s`: of the first ill measurement, and of the one that proved it, after the first release began.

    `p` in [0, 1]. `is_silent`: calls stopped, none failed.
    """

    place: Place
    onset_s: float
    found_s: float
    p: float
    is_silent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`faults` in order of discovery. `ill`: unix times of the ticks at which calls to each service were ill."""

    faults: tuple[Fault, ...] = ()
    ill: Mapping[str, Floats] = field(default_factory=dict)

    def is_ill(self, service: str, unix_s: Floats, interval_s: float) -> Flags:
        """Whether calls to a service were ill within half a tick of each time."""
        ill = self.ill.get(service)
        if ill is None or not len(ill):
            return np.zeros(len(unix_s), bool)
        after = np.searchsorted(ill, unix_s)
        nearest = np.minimum(
            np.abs(unix_s - ill[np.minimum(after, len(ill) - 1)]), np.abs(unix_s - ill[np.maximum(after - 1, 0)])
        )
        close: Flags = nearest <= interval_s / 2
        return close


def health(releases: Sequence[Release]) -> Health:
    """What went ill in old versions and other services after the first of these releases began.

    Only KPIs that are shares, such as success rates: latencies and loads change with what people do. A tick is ill
    where the mean over instances is worse than the median before by more than the KPI's tolerance and SPREADS robust
    standard deviations, or where nobody calls any more. A fault is found once more of the newest WINDOW ticks are ill
    than the ticks before make likely (binomial test).
    """
    seen = _places(releases)
    begin, interval_s = min(each.started_unix_s for each in releases), max(each.interval_s for each in releases)
    everything = [each for series in seen.values() for each in series]
    first, ticks = span(everything, interval_s)
    start = -first
    if start < BEFORE_MIN or ticks <= start:
        return Health()
    times = _times(everything, interval_s, first, ticks)
    found: list[Fault] = []
    ill_calls: dict[str, Flags] = {}
    for place, series in seen.items():
        values = grid(series, interval_s=interval_s, first=first, ticks=ticks)
        ill, known, silent = _ill(values, start, place.kpi)
        if place.edge.caller != place.edge.callee:
            ill_calls[place.edge.callee] = ill_calls.get(place.edge.callee, np.zeros(ticks, bool)) | ill
        fault = _fault(place, ill, known, silent, start, times, n_places=len(seen))
        if fault is not None:
            found.append(fault)
    return Health(
        faults=tuple(sorted(found, key=lambda fault: fault.found_s)),
        ill={service: begin + times[flags] for service, flags in ill_calls.items()},
    )


def _times(series: Sequence[Series], interval_s: float, first: int, ticks: int) -> Floats:
    """(ticks,) when each tick was measured: the median time of what was; else its end."""
    at_s = np.concatenate([each.at_s for each in series])
    column = tick_of(at_s, interval_s) - first
    times: Floats = np.arange(first + 1, first + 1 + ticks, dtype=np.float64) * interval_s
    for tick in np.unique(column[(column >= 0) & (column < ticks)]):
        times[tick] = np.median(at_s[column == tick])
    return times


def _places(releases: Sequence[Release]) -> dict[Place, list[Series]]:
    """Series of old versions by place, all in seconds after the first release's beginning."""
    begin = min(release.started_unix_s for release in releases)
    seen: dict[Place, list[Series]] = {}
    for release in releases:
        for each in release.series:
            kind, observer = kind_of(each.kpi), release.observer(each)
            if not (kind.is_share and kind.decisive) or each.arm != BASELINE:
                continue
            place = Place(each.kpi, each.segment, each.source.edge or Edge(observer, observer), observer)
            seen.setdefault(place, []).append(each.later(release.started_unix_s - begin))
    return seen


def _fault(
    place: Place, ill: Flags, known: Flags, silent: Flags, start: int, times: Floats, *, n_places: int
) -> Fault | None:
    usual = (1 + ill[:start].sum()) / (known[:start].sum() + 2)
    for tick in range(start, len(ill)):
        recent = slice(max(tick - WINDOW + 1, start), tick + 1)
        n, n_ill = int(known[recent].sum()), int(ill[recent].sum())
        if n_ill < 2:
            continue
        p = corrected(float(binom.logsf(n_ill - 1, n, usual)), n_places=n_places, look=tick - start + 1)
        if p <= FALSE_ALARM:
            onset = _onset(ill, known, start, tick)
            is_silent = bool(silent[onset : tick + 1].sum() * 2 > ill[onset : tick + 1].sum())
            return Fault(place=place, onset_s=float(times[onset]), found_s=float(times[tick]), p=p, is_silent=is_silent)
    return None


def _ill(values: Floats, start: int, kpi: str) -> tuple[Flags, Flags, Flags]:
    """By tick: whether it is ill, whether that is known, and whether nobody spoke."""
    kind = kind_of(kpi)
    means = mean(values)
    spoke = np.isfinite(means)
    before = means[:start][spoke[:start]]
    speaks = spoke[:start].mean() >= SPOKE_MIN
    if len(before) < BEFORE_MIN:
        nothing = np.zeros(values.shape[1], bool)
        return nothing, nothing, nothing
    level = np.median(before)
    spread = MAD_TO_SD * np.median(np.abs(before - level))
    worse = np.maximum.reduce([sign * (np.where(spoke, means, level) - level) for sign in kind.signs])
    silent = ~spoke & speaks
    ill = (spoke & (worse > max(kind.tolerance, SPREADS * spread))) | silent
    return ill, spoke | silent, silent


def _onset(ill: Flags, known: Flags, start: int, tick: int) -> int:
    """First ill tick from which on most ticks were ill until now."""
    onset = tick
    for first in range(tick, start - 1, -1):
        if ill[first] and ill[first : tick + 1].sum() >= RUN_SHARE * known[first : tick + 1].sum():
            onset = first
    return onset
