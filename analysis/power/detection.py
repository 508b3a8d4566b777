"""What effect is found by when: per segment, KPI and split, and over all segments together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.evidence.regression import Against, RegressionEvidence, Test
from analysis.power.growth import Stream, TickGrowth, median_ticks, seconds
from analysis.spec import TOTAL_BP, ServiceSpec

Floats = npt.NDArray[np.float64]

SMALL_SPLIT = 0.05
EVEN_SPLIT = 0.5  # teaches most a session
DAY_S = 86_400.0
HORIZONS_S = (1_800.0, 7_200.0, DAY_S)
MULTIPLES = (2.0, 4.0, 10.0)  # of the base rate
EVERYWHERE = "all together"
_GRID_POINTS = 96  # excesses tried, evenly spaced in their logarithm from a tenth of the tolerance on: 7 % apart or so


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a mesh file cannot know. S segments and K KPIs in the order of the specification.

    `sessions_per_s`: (S,) sessions that are judged, of both arms; a person counts once. `base`: (S, K) the baseline's
    shares of bad sessions, in (0, 1).
    """

    sessions_per_s: tuple[float, ...]
    base: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One size of regression and the median time until it is proven, from the first exposure on.

    `excess`: canary minus baseline, as a difference of shares; None: the rate would pass 1. `median_s`: None where it
    is never proven at this split; `accepted`: since it is within the tolerance.
    """

    name: str
    excess: float | None
    median_s: float | None
    accepted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What is found at one split. `base`: the baseline's share of bad sessions, over all segments a mean.

    `tolerance`: the excess up to which nothing is proven. Where latency is held against a threshold raised for the
    canary it is 0: the excess is that of the canary's sessions beyond the raised one.
    `smallest`: for each of HORIZONS_S the smallest excess that is found within it in half of the releases that have it;
    None: none.
    """

    segment: str
    kpi: str
    split: float
    base: float
    tolerance: float
    smallest: tuple[float | None, ...]
    effects: tuple[Effect, ...]


def detections(spec: ServiceSpec, traffic: Traffic) -> Iterator[Detection]:
    """Every segment that takes part, KPI and split; then, of several segments, what all of them show together."""
    rows = participating(spec)
    for index in rows:
        for split in splits(spec, [index]):
            yield from (_detection(spec, traffic, [index], k, split) for k in range(len(spec.kpis)))
    if len(rows) > 1:
        for split in splits(spec, rows):
            yield from (_detection(spec, traffic, rows, k, split) for k in range(len(spec.kpis)))


def participating(spec: ServiceSpec) -> list[int]:
    """Indices of the segments that a rollout exposes."""
    return [i for i, segment in enumerate(spec.segments) if segment.pin is None]


def splits(spec: ServiceSpec, rows: Sequence[int]) -> list[float]:
    """A small split and the best one, as far as the segments allow."""
    most = min(spec.segments[i].max_split_bp for i in rows) / TOTAL_BP
    return sorted({min(SMALL_SPLIT, most), min(EVEN_SPLIT, most)})


def _detection(spec: ServiceSpec, traffic: Traffic, rows: Sequence[int], k: int, split: float) -> Detection:
    """`rows`: the segments whose evidence is multiplied."""
    kpi, rate = spec.kpis[k], np.array([traffic.sessions_per_s[i] for i in rows])
    evidence = RegressionEvidence(spec)
    place, test = _ground(evidence, k)
    bases = np.array([traffic.base[i][k] for i in rows])
    base = float(np.average(bases, weights=rate if rate.sum() > 0 else None))
    threshold = float(evidence.log_thresholds[rows[0] if len(rows) == 1 else -1, place])
    found_s = _timer(spec, traffic, rows, test, split, threshold)
    grid = np.geomspace(max(test.value / 10, 1e-4), 1 - base - 1e-3, _GRID_POINTS)
    times_s = found_s([grid] * len(rows))
    effects = [_effect(f"x{m:g}", (m - 1) * bases, bases, test.value, found_s) for m in MULTIPLES]
    if test.value > 0:
        twice = np.full(len(rows), 2 * test.value)
        effects.append(_effect("2 tolerances", twice, bases, test.value, found_s))
    return Detection(
        segment=EVERYWHERE if len(rows) > 1 else spec.segments[rows[0]].name,
        kpi=kpi.name,
        split=split,
        base=base,
        tolerance=test.value,
        smallest=tuple(_smallest(grid, times_s <= horizon_s) for horizon_s in HORIZONS_S),
        effects=tuple(effects),
    )


def _ground(evidence: RegressionEvidence, k: int) -> tuple[int, Test]:
    """The test that holds a KPI against the baseline, and its place."""
    return next(
        (t, test)
        for t, test in enumerate(evidence.tests)
        if test.kpi == k and test.against in (Against.TOLERANCE, Against.RATIO)
    )


def _timer(
    spec: ServiceSpec, traffic: Traffic, rows: Sequence[int], test: Test, split: float, log_threshold: float
) -> Callable[[list[Floats]], Floats]:
    """Median seconds until proof, (X,), of excesses (X,) in each segment."""
    kpi, rollout = spec.kpis[test.kpi], spec.rollout
    growth = [
        TickGrowth.of(
            Stream(sessions_per_s=traffic.sessions_per_s[i], base=traffic.base[i][test.kpi]),
            split=split,
            test=test,
            interval_s=rollout.interval_s,
        )
        for i in rows
    ]

    def found_s(excess: list[Floats]) -> Floats:
        return seconds(median_ticks(growth, excess, log_threshold=log_threshold, kind=kpi.kind), kpi, rollout)

    return found_s


def _effect(
    name: str, excess: Floats, base: Floats, tolerance: float, found_s: Callable[[list[Floats]], Floats]
) -> Effect:
    if np.any(base + excess >= 1):
        return Effect(name=name, excess=None, median_s=None)
    median_s = float(found_s([np.array([x]) for x in excess])[0])
    return Effect(
        name=name,
        excess=float(excess.mean()),
        median_s=median_s if math.isfinite(median_s) else None,
        accepted=bool(np.all(excess <= tolerance)),
    )


def _smallest(grid: Floats, found: npt.NDArray[np.bool_]) -> float | None:
    return float(grid[found.argmax()]) if found.any() else None
