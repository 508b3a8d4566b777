"""The evidence beside a Shiryaev–Roberts test that knows the base rate and the effect, on the same people."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from analysis.evidence.regression import Against, RegressionEvidence
from analysis.evidence.stake import Stake
from analysis.evidence.two_by_two import log_e
from analysis.window import BASELINE, CANARY, Window, empty
from benchmarks.decisions.plans import ONE, plan

Floats = npt.NDArray[np.float64]

MOST_TICKS = 4_000


def first_alarm_s(
    *, load: float, base: float, times: float, tolerance: float, split: float, n: int, seed: int
) -> tuple[Floats, Floats]:
    """(n,) seconds until proof: of the evidence as shipped, and of the test that knows; same threshold and restarts."""
    spec = plan("bad", ONE, f"kpis: {{error_rate: {{max_regression: {100 * tolerance:g}pp}}}}\n").spec
    evidence, stake, rng = RegressionEvidence(spec, n), Stake(n), np.random.default_rng(seed)
    test = next(t for t, each in enumerate(evidence.tests) if each.kpi == 0 and each.against is Against.TOLERANCE)
    threshold, tick_s = float(evidence.log_thresholds[-1, test]), spec.rollout.interval_s
    evidence.base.learn(*_warmup(rng, evidence.base.n.shape, base))
    known, found = np.full(n, -np.inf), np.full((2, n), np.inf)
    for tick in range(MOST_TICKS):
        people = np.stack([rng.poisson(load * tick_s * share, n) for share in (1 - split, split)], axis=-1)
        bad = rng.binomial(people, [base, base * times])
        gain = log_e(
            people[:, CANARY], bad[:, CANARY], people[:, BASELINE], bad[:, BASELINE], base * times, base, tolerance
        )
        with np.errstate(divide="ignore"):
            known = np.logaddexp(known, np.log(stake.due(np.full(n, tick * tick_s)))) + gain
        evidence.update(
            _window(people, bad, len(spec.kpis)), since_exposure_s=np.full(n, tick * tick_s), elapsed_s=tick_s
        )
        now = np.stack([evidence.log_e_values[:, -1, test], known])
        found = np.where((now >= threshold) & np.isinf(found), (tick + 1) * tick_s, found)
        if np.isfinite(found).all():
            break
    return found[0], found[1]


def _warmup(rng: np.random.Generator, shape: tuple[int, ...], base: float) -> tuple[Floats, Floats]:
    """A minute of the baseline, as at 20 sessions a second."""
    n = np.full(shape, 1_200.0)
    return n, rng.binomial(1_200, base, shape).astype(float)


def _window(people: npt.NDArray[np.int64], bad: npt.NDArray[np.int64], n_kpis: int) -> Window:
    n_runs = len(people)
    n, n_bad = np.zeros((2, n_runs, 1, n_kpis, 2), np.int64)
    n[:, 0, 0], n_bad[:, 0, 0] = people, bad
    unexposed = np.zeros((n_runs, 1, n_kpis), np.int64)
    return replace(
        empty(1, n_kpis), n=n, bad=n_bad, unexposed_n=unexposed, unexposed_bad=unexposed, newcomers=Counter()
    )
