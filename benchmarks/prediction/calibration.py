"""Is the chance of a breach within half an hour what it says? One forecast a run, of releases as they may come.

Of the releases, most are no worse; the rest have an excess that stays or that grows, evenly drawn in size and pace,
from an onset in the first two hours on. Each is asked once, at a random time, whether its true error rate crosses 2 %
in the next 30 minutes, if it has not yet; so many are left out that one in ten of those asked does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from analysis.forecast.excess import ExcessTrends
from benchmarks.contest.intervals import rate
from benchmarks.goal_table import Row

Floats = npt.NDArray[np.float64]
Job = Callable[[], Row]

SEED, LIMIT, BASE, SPLIT, TICK_S, HORIZON_S = 20_264, 0.02, 0.005, 0.05, 10.0, 1_800.0
TOLERANCE = 0.005
HOURS, BREACHES = 4.0, 0.1
WORSE, GROWS = 0.4, 0.6  # of all releases, and of those
ASKED_MIN = (20.0, 210.0)


def _excess(rng: np.random.Generator, n: int, ticks: int) -> Floats:
    """(ticks, n) the truth."""
    at = np.arange(ticks)[:, None] * TICK_S / 60
    worse, grows = rng.random(n) < WORSE, rng.random(n) < GROWS
    onset, size = rng.uniform(0, 120, n), np.exp(rng.uniform(np.log(0.001), np.log(0.012), n))
    pace = np.exp(rng.uniform(np.log(0.015 / 300), np.log(0.015 / 30), n))  # a minute
    since = np.maximum(at - onset, 0.0)
    return worse * np.where(grows, pace * since, size * (at >= onset * (rng.random(n) < 0.5)))


@lru_cache(maxsize=2)
def _asked(load: float, n: int, seed: int) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
    """Of the runs that are asked: P, whether it breaks, mean, lower, upper of the forecast, and the truth then."""
    rng, ticks = np.random.default_rng(seed), round(HOURS * 360)
    ahead = round(HORIZON_S / TICK_S)
    truth = BASE + _excess(rng, n, ticks + ahead)
    asked = rng.integers(round(ASKED_MIN[0] * 6), round(ASKED_MIN[1] * 6), n)
    trends = ExcessTrends(["error_rate"], [LIMIT], [TOLERANCE], 1, n, horizon_s=HORIZON_S)
    people = np.array([load * (1 - SPLIT), load * SPLIT]) * TICK_S
    told = np.full((4, n), np.nan)
    seen_n = seen_bad = np.zeros(n)
    for tick in range(int(asked.max()) + 1):
        count = rng.poisson(people, (n, 2)).astype(float)
        bad = rng.binomial(count.astype(int), np.stack([np.full(n, BASE), truth[tick]], axis=-1)).astype(float)
        base = (seen_bad + 0.1) / (seen_n + 20)
        trends.update(
            count[:, None, None], bad[:, None, None], base[:, None, None], seen_n[:, None, None], elapsed_s=TICK_S
        )
        seen_n, seen_bad = seen_n + count[:, 0], seen_bad + bad[:, 0]
        for run in np.flatnonzero(asked == tick).tolist():
            found = trends.forecast(run, 0, 0)
            if found is not None:
                told[:, run] = found.p_breach, found.mean, found.lower, found.upper
    runs = np.arange(n)
    broken = truth[asked, runs] > LIMIT
    breaks = np.array([(truth[t : t + ahead + 1, i] > LIMIT).any() for i, t in enumerate(asked)]) & ~broken
    kept = np.flatnonzero(~broken & np.isfinite(told[0]))
    yes, no = kept[breaks[kept]], kept[~breaks[kept]]
    many = min(len(yes), round(len(no) * BREACHES / (1 - BREACHES)))
    chosen = np.concatenate([yes[:many], no[: round(many * (1 - BREACHES) / BREACHES)]])
    p, mean, lower, upper = told[:, chosen]
    return p, breaks[chosen].astype(float), mean, lower, upper, truth[asked + ahead, runs][chosen]


def _brier(load: float, n: int) -> Row:
    p, breaks, *_ = _asked(load, n, SEED)
    errors, climate = (p - breaks) ** 2, breaks.mean() * (1 - breaks.mean())
    skill = 1 - float(errors.mean()) / climate
    draws = np.random.default_rng(SEED).integers(0, len(p), (1_000, len(p)))
    again = 1 - errors[draws].mean(axis=1) / (breaks[draws].mean(axis=1) * (1 - breaks[draws].mean(axis=1)))
    low, high = np.quantile(again, [0.025, 0.975])
    bins = ", ".join(
        f"{a:.0%}–{b:.0%}: {breaks[inside].mean():.0%} of {inside.sum()}"
        for a, b in ((0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.01))
        if (inside := (p >= a) & (p < b)).any()
    )
    return Row(
        measure="Brier skill of P(breach in 30 min) against climatology", setting=f"{load:g}/s, 5 %",
        measured=f"{skill:.2f} [{low:.2f}, {high:.2f}]; broke of those told {bins}", n=len(p), goal="≥ 0.3",
        met=skill >= 0.3,
    )  # fmt: skip


def _cover(load: float, n: int) -> Row:
    _, _, mean, lower, upper, truth = _asked(load, n, SEED)
    del mean
    inside = rate((lower <= truth) & (truth <= upper))
    return Row(
        measure="95 % band holds the true error rate in 30 min", setting=f"{load:g}/s, 5 %",
        measured=f"{inside.value:.1%} [{inside.low:.1%}, {inside.high:.1%}]", n=inside.n, goal="93–97 %",
        met=0.93 <= inside.value <= 0.97,
    )  # fmt: skip


def calibrations(share: float) -> list[Job]:
    n = max(round(2_000 * share), 200)
    return [partial(what, load, n) for load in (100.0, 20.0) for what in (_brier, _cover)]
