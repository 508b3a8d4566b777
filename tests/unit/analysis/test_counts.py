"""The count-level simulator tells the ramp what the person-level one would."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from analysis.observer import Observer
from analysis.session import NS
from analysis.simulation.counts import CountSimulator, SegmentWorld
from analysis.simulation.people import LABELS
from analysis.simulation.scenario import Effect, Kpi
from analysis.spec import HarmSpec, KpiKind, KpiSpec, RolloutSpec, SegmentSpec, ServiceSpec, SessionSpec
from analysis.window import BASELINE, CANARY, Window
from tests.simulated import shop

SPLITS_BP = [0] * 6 + [2_000] * 8 + [5_000] * 26  # of each tick of a second


def _spec() -> ServiceSpec:
    ages = ((KpiKind.ERROR_RATE, 4.0), (KpiKind.ABANDONMENT, 10.0), (KpiKind.FEATURE, 10.0))
    return ServiceSpec(
        name="shop",
        baseline="v1",
        versions=("v1", "v2"),
        segments=(SegmentSpec(name="default"),),
        kpis=tuple(
            KpiSpec(
                kind=kind, judge_after_s=age_s, tolerance=0.02, feature="wishlist" if kind is KpiKind.FEATURE else None
            )
            for kind, age_s in ages
        ),
        session=SessionSpec(gap_s=8, goal_path="/done"),
        rollout=RolloutSpec(harm=HarmSpec(budget=500, tolerance=0.02), interval_s=1, warmup_s=5),
    )


def _of_people(seed: int, effect: Effect, sessions_per_s: float) -> list[Window]:
    spec = _spec()
    people = shop(spec, (effect,), rates=[sessions_per_s], seed=seed)
    observer = Observer(spec)
    observer.begin({"default": ("v1", "v2")})
    windows = []
    for tick, split_bp in enumerate(SPLITS_BP):
        observer.set_split("default", split_bp, tick * NS)
        observer.settle("default", tick * NS)
        rows = people.advance(tick + 1.0, {0: split_bp})
        rows["bucket"] = rows["user"] % 10_000
        observer.observe(rows, LABELS)
        windows.append(observer.window((tick + 1) * NS))
    return windows


def _of_counts(seed: int, world: SegmentWorld) -> list[Window]:
    simulator = CountSimulator(_spec(), [world], rng=np.random.default_rng(seed))
    return [simulator.advance([split_bp]) for split_bp in SPLITS_BP]


def _sum(windows: list[Window]) -> Window:
    total = windows[0]
    for window in windows[1:]:
        total = total + window
    return total


@pytest.fixture(scope="module")
def both() -> tuple[list[Window], list[Window]]:
    """Windows of people and of counts: the canary fails every fourth session, and the rates are those of the people."""
    of_people = _of_people(3, Effect(kpi=Kpi.ERRORS, plus=0.25), 60.0)
    total = _sum(of_people)
    shares = total.bad[0] / total.n[0]
    base = shares[:, BASELINE]
    excess = shares[:, CANARY] - base
    world = SegmentWorld(sessions_per_s=60.0, base=tuple(base.tolist()), excess=tuple(excess.tolist()))
    return of_people, _of_counts(3, world)


def test_the_same_seed_gives_the_same_windows() -> None:
    world = SegmentWorld(sessions_per_s=20.0, base=(0.01, 0.1, 0.6), excess=(0.1, 0.0, 0.0), onset_s=10.0)
    for one, other in zip(_of_counts(1, world), _of_counts(1, world), strict=True):
        assert all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


def test_as_many_people_are_judged_in_each_arm_as_among_single_people(both: tuple[list[Window], list[Window]]) -> None:
    people, counts = (_sum(windows) for windows in both)
    np.testing.assert_allclose(counts.n[0], people.n[0], rtol=0.15)
    np.testing.assert_allclose(counts.harm_n[0], people.harm_n[0], rtol=0.15)
    np.testing.assert_allclose(counts.unexposed_n[0], people.unexposed_n[0], rtol=0.2)
    np.testing.assert_allclose(counts.exposed, people.exposed, rtol=0.15)
    np.testing.assert_allclose(counts.arrived, people.arrived, rtol=0.1)


def test_new_people_go_where_they_are_asked_to(both: tuple[list[Window], list[Window]]) -> None:
    """Among single people those around a change are left out: two of eight seconds at 20 %, one of the rest at 50 %."""
    people, counts = (_sum(windows).newcomers for windows in both)
    assert set(people) == set(counts) == {(0, bp, arm) for bp in (2_000, 5_000) for arm in (BASELINE, CANARY)}
    for key, n in people.items():
        assert n == pytest.approx(counts[key] * (6 / 8 if key[1] == 2_000 else 1), rel=0.15)
        share = n / sum(people[0, key[1], arm] for arm in (BASELINE, CANARY))
        assert share == pytest.approx(key[1] / 1e4 if key[2] == CANARY else 1 - key[1] / 1e4, abs=0.07)


def test_judged_shares_agree(both: tuple[list[Window], list[Window]]) -> None:
    people, counts = (_sum(windows) for windows in both)
    np.testing.assert_allclose(counts.bad[0] / counts.n[0], people.bad[0] / people.n[0], atol=0.04)
    # among people a failed last request is an error and an abandoned visit at once: fewer are bad in any way
    np.testing.assert_allclose(counts.harm_bad[0] / counts.harm_n[0], people.harm_bad[0] / people.harm_n[0], atol=0.1)


def test_the_first_person_of_the_canary_is_judged_as_late(both: tuple[list[Window], list[Window]]) -> None:
    for kpi in range(3):
        first = [next(t for t, window in enumerate(windows) if window.n[0, kpi, CANARY]) for windows in both]
        assert abs(first[0] - first[1]) <= 1


def test_the_hard_tier_sees_about_as_many_people(both: tuple[list[Window], list[Window]]) -> None:
    people, counts = (_sum(windows[20:]) for windows in both)
    np.testing.assert_allclose(counts.people[0], people.people[0], rtol=0.35)


def test_who_was_moved_is_judged_in_neither_arm() -> None:
    world = SegmentWorld(sessions_per_s=500.0, base=(0.0, 0.0, 0.0), excess=(0.0, 0.0, 0.0))
    moved = _of_counts(1, world)[12 + 6]  # judges the errors of those who began in tick 12, two before the step to 50 %
    stayed = _of_counts(1, world)[25 + 6]
    assert moved.n[0, 0, BASELINE] == pytest.approx(250, rel=0.15)  # 80 % began on the baseline, 50 % never left it
    assert moved.n[0, 0, CANARY] == pytest.approx(100, rel=0.3)
    assert stayed.n[0, 0].sum() == pytest.approx(500, rel=0.15)


def test_a_fault_begins_at_its_onset() -> None:
    world = SegmentWorld(sessions_per_s=100.0, base=(0.0, 0.0, 0.0), excess=(1.0, 0.0, 0.0), onset_s=20.0)
    bad = np.array([window.bad[0, 0, CANARY] for window in _of_counts(1, world)])
    assert not bad[:26].any()
    assert bad[26:].all()


def test_harm_is_any_of_the_bad_outcomes() -> None:
    world = SegmentWorld(sessions_per_s=1_000.0, base=(0.2, 0.3, 0.9), excess=(0.0, 0.0, 0.0))
    total = _sum(_of_counts(1, world))
    share = total.harm_bad[0, BASELINE] / total.harm_n[0, BASELINE]
    assert share == pytest.approx(1 - 0.8 * 0.7, abs=0.02)  # a feature not used is no harm
