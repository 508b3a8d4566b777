"""Lead before a limit is crossed in truth, always beside the false calls at the same setting."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from benchmarks.contest.intervals import rate
from benchmarks.decisions.plans import ONE, plan
from benchmarks.goal_table import Row
from benchmarks.prediction.calling import Called, call
from xds_server.scenario_file import ScenarioFile

Floats = npt.NDArray[np.float64]
Job = Callable[[], Row]

SEED = 20_262
SPLIT, HOUR_S, WARMUP_S, TICK_S = 0.05, 3_600.0, 60.0, 10.0
LIMIT = 0.02
EIGHT = """people: {visits: 1}
session: {goal: {path: /checkout/done}}
kpis: {error_rate: {limit: 2%}}
"""
"""Eight segments of five KPIs and the pooled row of each: 45 streams; the error rate has a limit."""
LIMITED = "kpis: {error_rate: {limit: 2%}}\n"
HALF = "0.25pp"
"""Of the tolerance: what a release may be worse by, and must be left alone."""
RULES = ("serinus", "reactive", "predict_linear")


def _plan(effects: str = "", *, one: bool = False) -> ScenarioFile:
    return plan("lead", ONE if one else EIGHT, LIMITED if one else "", must="keep", effects=effects)


@lru_cache(maxsize=2)  # the rules are rows of one play
def _called(effects: str, load: float, n: int, seconds: float, *, one: bool = False) -> Called:
    return call(_plan(effects, one=one), load=load, n=n, seconds=seconds, splits=lambda _: SPLIT, seed=SEED)


def _effects(minutes: float) -> str:
    return f"{{kpi: errors, plus: 1.5pp, shape: ramp, over: {minutes:g}m, at: {WARMUP_S:g}s}}" if minutes else ""


def _median_interval(values: Floats) -> tuple[float, float]:
    """Order statistics that hold the median with 95 %."""
    ordered, n = np.sort(values), len(values)
    low = max(int(np.floor(n / 2 - 0.98 * np.sqrt(n))), 0)
    return float(ordered[low]), float(ordered[min(n - 1 - low, n - 1)])


def _lead(minutes: float, load: float, n: int, rule: str, goal: float | None) -> Row:
    found = getattr(_called(_effects(minutes), load, n, minutes * 60 + 300), rule)
    first, last = (found.min(axis=1), found.max(axis=1)) if found.ndim > 1 else (found, found)
    lead, whole = (minutes * 60 - first) / 60, (minutes * 60 - last) / 60
    low, high = _median_interval(lead)
    before = rate(lead > 0)
    everywhere = f"; in all segments median {np.median(whole):.1f} min" if found.ndim > 1 else ""
    return Row(
        measure=f"lead, errors .5 → 2 % in {minutes:g} min: {rule}", setting=f"{load:g}/s, 5 %, limit 2 %",
        measured=f"median {np.median(lead):.1f} min [{low:.1f}, {high:.1f}], before {before.value:.1%} "
        f"[{before.low:.1%}, {before.high:.1%}]{everywhere}",
        n=n, goal="" if goal is None else f"≥ {goal:g} min, ≥ 95 % before",
        met=None if goal is None else bool(np.median(lead) >= goal and before.value >= 0.95),
    )  # fmt: skip


def _false(load: float, n: int, rule: str, goal: float | None, excess: str = "", *, one: bool = False) -> Row:
    effects = f"{{kpi: errors, plus: {excess}}}" if excess else ""
    found = getattr(_called(effects, load, n, 6 * HOUR_S, one=one), rule)
    hits = rate(np.isfinite(found).any(axis=-1) if found.ndim > 1 else np.isfinite(found))
    what = f"an excess of {excess} that stays, 6 h" if excess else "the same version twice, 6 h"
    what += ", one segment" if one else ""
    return Row(
        measure=f"called bad: {rule}", setting=f"{what}; {load:g}/s, 5 %, limit 2 %",
        measured=f"{hits.value:.1%} [{hits.low:.1%}, {hits.high:.1%}]", n=n,
        goal="" if goal is None else f"≤ {goal:.0%}", met=None if goal is None else hits.value <= goal,
    )  # fmt: skip


def leads(share: float) -> list[Job]:
    n = max(round(200 * share), 8)
    jobs: list[Job] = []
    for minutes, goal in ((120, 72.0), (30, 11.0)):
        for load in (100.0, 20.0):
            for rule in RULES:
                mine = goal if rule == "serinus" and load == 100 else None
                jobs.append(partial(_lead, minutes, load, n, rule, mine))
    for load in (100.0, 20.0):
        jobs += [partial(_false, load, n, rule, 0.02 if rule == "serinus" else None) for rule in RULES]
    for load in (100.0, 20.0):
        jobs += [partial(_false, load, n, "serinus", 0.02, HALF, one=one) for one in (False, True)]
    return jobs


# -- load --------------------------------------------------------------------------------------------------------------

STEPS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
DWELL_S = 900.0
CROSSES = 4
"""The step from which on the limit is crossed in truth: .5 % + 3 pp · split; at 40 % it is 1.7 %, at 60 % 2.3 %."""


@lru_cache(maxsize=2)
def _loaded(effects: str, load: float, n: int) -> Called:
    def split(at_s: float) -> float:
        return STEPS[min(int(at_s // DWELL_S), len(STEPS) - 1)]

    return call(_plan(effects), load=load, n=n, seconds=len(STEPS) * DWELL_S, splits=split, seed=SEED + 1)


def _load(load: float, n: int, rule: str, *, bad: bool) -> Row:
    effects = "{kpi: errors, plus: 3pp, shape: load, above: 0%}" if bad else ""
    found = getattr(_loaded(effects, load, n), rule)
    first = found.min(axis=1) if found.ndim > 1 else found
    crosses_s = CROSSES * DWELL_S
    if not bad:
        hits = rate(np.isfinite(first))
        return Row(
            measure=f"called bad: {rule}", setting=f"the same version twice, steps of 15 min; {load:g}/s",
            measured=f"{hits.value:.1%} [{hits.low:.1%}, {hits.high:.1%}]", n=n, goal="", met=None,
        )  # fmt: skip
    lead, before = (crosses_s - first) / 60, rate(first < crosses_s)
    return Row(
        measure=f"lead, errors grow with the split: {rule}", setting=f"5, 10, 20, 40, 60 %, 15 min each; {load:g}/s",
        measured=f"median {np.median(lead):.1f} min, before {before.value:.1%} [{before.low:.1%}, {before.high:.1%}]",
        n=n, goal="", met=None,
    )  # fmt: skip


def loads(share: float) -> list[Job]:
    n = max(round(200 * share), 8)
    return [partial(_load, load, n, rule, bad=bad) for bad in (True, False) for load in (100.0, 20.0) for rule in RULES]
