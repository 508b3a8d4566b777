"""What a policy is shown of a live segment is what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from analysis.policy import PolicyView, Proposal
from analysis.simulation.draws import Release
from analysis.simulation.rollouts import Rollouts
from analysis.simulation.scenario import Effect, Group, Habits, Kpi, Must, Scenario, Traffic
from analysis.spec import KpiKind, KpiSpec, RolloutSpec, SegmentSpec, ServiceSpec

ERRORS = KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=20, tolerance=0.01)
LATENCY = KpiSpec(kind=KpiKind.LATENCY, judge_after_s=60, tolerance=0.02)
SPEC = ServiceSpec(
    name="shop", baseline="v1", versions=("v1", "v2"), kpis=(LATENCY, ERRORS),
    segments=(SegmentSpec(name="vip", weight=3.0), SegmentSpec(name="default")),
    rollout=RolloutSpec(settle_s=100),
)  # fmt: skip
SCENARIO = Scenario(
    name="night", title="a good canary", must=Must.PROMOTE, traffic=Traffic(daily=0.5, peak_s=43_200),
    groups=(Group(name="vip", share=0.25), Group(name="default", share=0.75, habits=Habits(errors=0.01))),
)  # fmt: skip
FAILING = replace(SCENARIO, must=Must.ROLLBACK, effects=(Effect(kpi=Kpi.ERRORS, plus=0.2),))


@dataclass
class _Watching:
    """Exposes a tenth, and keeps what it was shown."""

    name: str = "watching"
    seen: list[PolicyView] = field(default_factory=list)

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:  # noqa: ARG002
        self.seen.append(view)
        return Proposal(split=min(max(view.cap, view.split), 0.1), propensity=1.0)


def _shown(spec: ServiceSpec, ticks: int, scenario: Scenario = SCENARIO) -> tuple[list[PolicyView], list[PolicyView]]:
    """By segment."""
    watching = _Watching()
    release = Release(spec=spec, scenario=scenario, load=20.0, risk=0.4)
    rollouts = Rollouts(release, [watching], (3,))
    for _ in range(ticks):
        rollouts.tick()
    return watching.seen[::2], watching.seen[1::2]


def test_size_weight_risk_and_what_is_ahead_are_told() -> None:
    vip, default = (views[5] for views in _shown(SPEC, 6))
    assert (vip.weight, default.weight) == (3.0, 1.0)
    assert vip.share == pytest.approx(0.25, abs=0.05)
    assert vip.share + default.share == pytest.approx(1)
    rate = default.at_once / (60 + 3)
    assert rate == pytest.approx(20 * 0.75 * 0.5, rel=0.2)  # the night's trough
    assert vip.risk == 0.4
    assert vip.ahead == pytest.approx(1.0, abs=0.02)


def test_settling_runs_down_from_the_first_exposure() -> None:
    _, default = _shown(SPEC, 24)
    exposed = next(i for i, view in enumerate(default) if view.split > 0)
    assert {view.settling_s for view in default[:exposed]} == {100.0}
    assert [view.settling_s for view in default[exposed : exposed + 3]] == [90.0, 80.0, 70.0]
    assert default[-1].settling_s == 0


def test_nothing_settles_where_latency_is_not_guarded() -> None:
    _, default = _shown(replace(SPEC, kpis=(ERRORS,)), 3)
    assert default[-1].settling_s == 0


def test_it_is_shown_the_kpi_that_speaks_most_against_the_canary() -> None:
    _, default = _shown(SPEC, 16, FAILING)
    view = default[-1]
    assert view.tolerance == ERRORS.tolerance
    assert view.canary.bad / view.canary.n == pytest.approx(0.21, abs=0.2)
    assert view.baseline.bad / view.baseline.n < 0.05
    assert view.baseline.n > view.canary.n > 0
