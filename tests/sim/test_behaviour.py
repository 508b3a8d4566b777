"""A canary that drives people away without an error or a slow answer: how soon it is found, and what is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analysis.evidence.regression import Against, RegressionEvidence
from analysis.evidence.two_by_two import expected_log_e
from analysis.observer import Observer
from analysis.session import NS
from analysis.simulation.people import LABELS
from analysis.simulation.scenario import Effect, Kpi
from analysis.spec import KpiKind, KpiSpec, SegmentSpec, ServiceSpec, SessionSpec
from analysis.window import Window
from tests.simulated import SHOPPERS, shop

ALPHA = 0.01
ABANDONED = 0.30
WORSE = 1.2 * ABANDONED  # a fifth more, relatively
SPLIT_BP = 5_000
SESSIONS_PER_S = 40.0
RUNS = 21
NAMED_RUNS = 10
EXPOSED_S = 10
TRUTH = ("page checkout → page done", "left after page checkout", "page done")
"""Names of what is broken: the way from the one page to the other."""


def _spec() -> ServiceSpec:
    ages = ((KpiKind.ERROR_RATE, 4.0), (KpiKind.LATENCY, 4.0), (KpiKind.ABANDONMENT, 10.0), (KpiKind.ANOMALY, 12.0))
    return ServiceSpec(
        name="shop",
        baseline="v1",
        versions=("v1", "v2"),
        segments=(SegmentSpec(name="default"),),
        kpis=tuple(KpiSpec(kind=kind, judge_after_s=age_s, tolerance=0.02) for kind, age_s in ages),
        session=SessionSpec(gap_s=8, goal_path="/done"),
    )


class _Found:
    """One run: judged sessions until the evidence against zero excess came to 1/ALPHA, by KPI; and what is named."""

    def __init__(self, seed: int, *, to_be_named: bool) -> None:
        spec = _spec()
        people = shop(
            spec, (Effect(kpi=Kpi.ABANDONMENT, plus=WORSE - ABANDONED),), rates=[SESSIONS_PER_S],
            habits=replace(SHOPPERS, abandoned=ABANDONED, errors=0.002), seed=seed,
        )  # fmt: skip
        observer, self._evidence = Observer(spec), RegressionEvidence(spec)
        observer.begin({"default": ("v1", "v2")})
        self._zero = {
            spec.kpis[test.kpi].kind: t for t, test in enumerate(self._evidence.tests) if test.against is Against.ZERO
        }
        self.judged, self.delay = 0, dict[KpiKind, int]()
        for second in range(1, 260):
            if second == EXPOSED_S:
                observer.set_split("default", SPLIT_BP, second * NS)
            rows = people.advance(float(second), {0: SPLIT_BP if second > EXPOSED_S else 0})
            rows["bucket"] = rows["user"] % 10_000
            observer.observe(rows, LABELS)
            self._take(observer.window(second * NS), second - EXPOSED_S)
            if KpiKind.ABANDONMENT in self.delay and (second > 120 or not to_be_named):
                break
        self.named = [difference.name for difference in observer.differences("default")]

    def _take(self, window: Window, since_s: float) -> None:
        self._evidence.update(window, since_exposure_s=max(since_s, 0))
        self.judged += int(window.n[0, 2].sum())
        for kind, test in self._zero.items():
            if self._evidence.log_e_values[0, -1, test] >= -np.log(ALPHA):
                self.delay.setdefault(kind, self.judged)


def test_abandonment_a_fifth_higher_is_found_within_twice_the_least_delay_and_named() -> None:
    """Nobody who looks at sessions as they come can find it sooner than after log(1/alpha)/KL of them."""
    runs = [_Found(seed, to_be_named=seed < NAMED_RUNS) for seed in range(RUNS)]
    least = -np.log(ALPHA) / float(expected_log_e(SPLIT_BP / 10_000, WORSE, ABANDONED, 0.0))
    delays = [run.delay.get(KpiKind.ABANDONMENT, np.inf) for run in runs]
    assert np.median(delays) <= 2 * least, (delays, least)
    for kind in (KpiKind.ERROR_RATE, KpiKind.LATENCY):
        assert sum(kind in run.delay for run in runs) <= 1, kind
    named = [run.named[0] for run in runs[:NAMED_RUNS] if run.named]
    assert sum(name in TRUTH for name in named) >= NAMED_RUNS - 1, named
