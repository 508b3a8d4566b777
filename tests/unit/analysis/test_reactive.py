"""The fixed-threshold rule beside us: four failing looks, five minutes apart, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from analysis.reactive import FAILURES, LOOK_S, ReactiveRule
from analysis.window import BASELINE, CANARY
from tests.unit.analysis.rows import ABANDONMENT, ERRORS, LATENCY, small_spec

TICK_S = 10.0


class Watched:
    """A rule of two segments that is fed with one and the same share of bad sessions in both."""

    def __init__(self) -> None:
        self.rule = ReactiveRule(small_spec())
        self.since_s = 0.0

    def run(
        self, until_s: float, *, bad: int = 0, n: int = 20, kpi: int = ERRORS, arm: int = CANARY, tick_s: float = TICK_S
    ) -> Watched:
        """`bad` of `n` people a tick."""
        while self.since_s < until_s:
            self.since_s += tick_s
            counts, bads = np.zeros((1, 2, 5, 2)), np.zeros((1, 2, 5, 2))
            counts[..., arm], bads[:, :, kpi, arm] = n, bad
            self.rule.update(counts, bads, since_exposure_s=np.array([self.since_s]))
        return self

    @property
    def has_fired(self) -> bool:
        fired = ~np.isnan(self.rule.fired_s)
        assert fired.all() or not fired.any()
        return bool(fired.all())


def test_it_fires_at_the_fourth_failing_look_and_no_earlier() -> None:
    watched = Watched().run(1_190, bad=4)
    assert watched.rule.failures.tolist() == [[3, 3]]
    assert not watched.has_fired
    watched.run(1_200, bad=4)
    assert watched.rule.fired_s.tolist() == [[1_200.0, 1_200.0]]
    assert pytest.approx(20 * 60) == FAILURES * LOOK_S
    watched.run(4_000, bad=4)
    assert watched.rule.fired_s.tolist() == [[1_200.0, 1_200.0]], "once"


def test_failures_need_not_follow_each_other() -> None:
    """What is counted there is how many have failed, not how many in a row."""
    watched = Watched()
    for look in range(1, 8):
        watched.run(look * LOOK_S, bad=4 if look % 2 else 0)
        assert watched.has_fired is (look >= 7)
    assert watched.rule.failures.tolist() == [[4, 4]]


@pytest.mark.parametrize(
    ("bad", "arm", "kpi"),
    [
        (0, CANARY, ERRORS),
        (1, CANARY, ERRORS),
        (20, BASELINE, ERRORS),
        (20, CANARY, LATENCY),
        (20, CANARY, ABANDONMENT),
    ],
    ids=["good", "95 % exactly", "bad baseline", "slow", "left"],
)
def test_what_meets_the_rule_is_never_rolled_back_by_it(bad: int, arm: int, kpi: int) -> None:
    watched = Watched().run(20_000, bad=bad, arm=arm, kpi=kpi)
    assert not watched.rule.failures.any()
    assert not watched.has_fired


def test_nobody_on_the_canary_is_no_failure() -> None:
    assert not Watched().run(5_000, n=0).rule.failures.any()


@pytest.mark.parametrize("tick_s", [2.5, 10.0, 60.0])
def test_ticks_of_any_length_are_looked_at_alike(tick_s: float) -> None:
    assert Watched().run(1_260, bad=4, tick_s=tick_s).rule.fired_s.tolist() == [[1_200.0] * 2]


def test_an_absence_of_several_looks_is_one_look() -> None:
    watched = Watched().run(290, bad=4).run(2_000, bad=4, tick_s=2_000)
    assert watched.rule.failures.tolist() == [[1, 1]]
    watched.run(2_400, bad=4)
    assert watched.rule.failures.tolist() == [[2, 2]]


def test_service_without_errors_to_count_is_left_alone() -> None:
    spec = small_spec()
    rule = ReactiveRule(replace(spec, kpis=spec.kpis[1:]))
    for tick in range(300):
        rule.update(np.full((1, 2, 4, 2), 9.0), np.full((1, 2, 4, 2), 9.0), since_exposure_s=tick * TICK_S)
    assert np.isnan(rule.fired_s).all()


@pytest.mark.parametrize("at_s", [0, 450, 1_190, 1_500])
def test_restored_it_goes_on_as_if_nothing_had_happened(at_s: int) -> None:
    whole, again = Watched().run(at_s, bad=4), Watched()
    again.rule.restore(json.loads(json.dumps(whole.rule.state())))
    again.since_s = whole.since_s
    for watched in (whole, again):
        watched.run(at_s + 50, bad=0).run(2_000, bad=3)
    assert again.rule.state() == whole.rule.state()
    assert again.rule.fired_s.tolist() == whole.rule.fired_s.tolist()
    assert whole.has_fired


def test_rollouts_are_looked_at_each_by_its_own_time() -> None:
    rule = ReactiveRule(small_spec(), 2)
    for tick in range(1, 151):
        n, bad = np.full((2, 2, 5, 2), 20.0), np.full((2, 2, 5, 2), 4.0)
        rule.update(n, bad, since_exposure_s=np.array([tick * TICK_S, max(tick * TICK_S - 1_000, 0.0)]))
    assert rule.fired_s[0].tolist() == [1_200.0] * 2
    assert rule.failures[1].tolist() == [1, 1]
    assert np.isnan(rule.fired_s[1]).all()
