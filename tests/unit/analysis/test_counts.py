"""The count-level simulator tells the ramp what single people and the observer would, in distribution."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import ks_2samp

from analysis.observer import Observer
from analysis.session import NS
from analysis.simulation.counts import CountSimulator, Tick
from analysis.simulation.people import LABELS, People
from analysis.simulation.rates import Rates
from analysis.simulation.scenario import Effect, Group, Habits, Kpi, Must, Scenario, Traffic
from analysis.spec import KpiKind, KpiSpec, RolloutSpec, SegmentSpec, ServiceSpec, SessionSpec
from analysis.window import BASELINE, CANARY, Window

EU, DEFAULT = 0, 1
TICK_S, EXPOSED, RAISED, TICKS = 10.0, 6, 24, 90
SPLITS_BP = [0] * EXPOSED + [2_000] * (RAISED - EXPOSED) + [5_000] * (TICKS - RAISED)
SETTLED = RAISED + 14  # from this tick on everybody who is judged has come at 50 %
LOAD, RUNS = 200.0, 30
EPOCH_NS = 1_000_000 * NS
MOST_ERRORS = 4.0  # standard errors that the two may differ by, in any of some hundred comparisons
HABITS = Habits(errors=0.08, errors_in_a_row=1, think_s=3, visits=1.8, again_s=450)
CANARY_IS_WORSE = (
    Effect(kpi=Kpi.ERRORS, times=1.5, segment="default"), Effect(kpi=Kpi.LATENCY, times=1.15),
    Effect(kpi=Kpi.ABANDONMENT, plus=0.05), Effect(kpi=Kpi.FEATURE, times=0.8),
)  # fmt: skip
NOISE = {"bots": 0.1, "unlucky": 0.02, "unlucky_visits": 10.0, "drift_per_h": 0.2}


def _spec() -> ServiceSpec:
    # with what is waited for late entries whole ticks, at whose end counts are judged
    ages = ((KpiKind.ERROR_RATE, 58.5), (KpiKind.LATENCY, 58.5), (KpiKind.ABANDONMENT, 88.5), (KpiKind.FEATURE, 58.5))
    return ServiceSpec(
        name="shop",
        baseline="v1",
        versions=("v1", "v2"),
        segments=(SegmentSpec(name="eu"), SegmentSpec(name="default")),
        kpis=tuple(
            KpiSpec(
                kind=kind, judge_after_s=age_s, tolerance=0.02, feature="wishlist" if kind is KpiKind.FEATURE else None
            )
            for kind, age_s in ages
        ),
        session=SessionSpec(gap_s=120, goal_path="/done"),
        rollout=RolloutSpec(interval_s=TICK_S, settle_s=50.0),
    )


SPEC = _spec()


def _scenario(*effects: Effect, **traffic: float) -> Scenario:
    groups = (Group(name="eu", share=0.4, habits=HABITS), Group(name="default", share=0.6, habits=HABITS))
    return Scenario(name="s", title="t", must=Must.KEEP, groups=groups, effects=effects, traffic=Traffic(**traffic))


def _of_people(scenario: Scenario, *, load: float = LOAD, seed: int = 1) -> tuple[list[Window], People]:
    people = People(scenario, SPEC, load=load, rng=np.random.default_rng(seed))
    observer = Observer(SPEC)
    observer.begin(dict.fromkeys(SPEC.segment_index, ("v1", "v2")))
    observer.tracker.slow_ms[:] = Rates(SPEC, scenario).slow_ms  # as a baseline without end would freeze it
    windows = []
    for tick, split_bp in enumerate(SPLITS_BP):
        begin_ns = EPOCH_NS + int(tick * TICK_S * NS)
        for name in SPEC.segment_index:
            observer.set_split(name, split_bp, begin_ns)
            observer.settle(name, begin_ns)
        observer.observe(
            people.advance((tick + 1) * TICK_S, {EU: split_bp, DEFAULT: split_bp}, epoch_ns=EPOCH_NS), LABELS
        )
        windows.append(observer.window(begin_ns + int(TICK_S * NS)))
    return windows, people


def _of_counts(scenario: Scenario, *, runs: int = RUNS, load: float = LOAD, seed: int = 1) -> list[Tick]:
    simulator = CountSimulator(SPEC, scenario, load=load, n_runs=runs, rng=np.random.default_rng(seed))
    return [simulator.advance(np.full((runs, 2), split_bp)) for split_bp in SPLITS_BP]


@dataclass(frozen=True, slots=True)
class Both:
    """What single people (T, …) and counts (T, B, …) came to, tick by tick."""

    windows: list[Window]
    people: People
    ticks: list[Tick]

    def total(self, field: str, since: int = 0) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Sums over the ticks, of each segment and at the end of both; of counts the sum over all runs."""
        single = sum(np.asarray(getattr(window, field), float) for window in self.windows[since:])
        counted = sum(np.asarray(getattr(tick.window, field), float).sum(axis=0) for tick in self.ticks[since:])
        return _with_sum(np.asarray(single)), _with_sum(np.asarray(counted))

    def errors_of_share(self, bad: str, n: str) -> npt.NDArray[np.float64]:
        """By how many standard errors the shares of bad ones differ (two proportions, pooled)."""
        (x, xs), (m, ms) = self.total(bad), self.total(n)
        pooled = (x + xs) / (m + ms)
        z: npt.NDArray[np.float64] = (x / m - xs / ms) / np.sqrt(pooled * (1 - pooled) * (1 / m + 1 / ms))
        return z

    def errors_of_count(self, field: str) -> npt.NDArray[np.float64]:
        """By how many standard errors the numbers differ (two Poisson counts)."""
        single, counted = self.total(field)
        z: npt.NDArray[np.float64] = (single - counted / RUNS) / np.sqrt(single * (1 + 1 / RUNS))
        return z


def _with_sum(by_segment: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.concatenate([by_segment, by_segment.sum(axis=0, keepdims=True)])


@pytest.fixture(scope="module")
def both() -> Both:
    """A canary that is worse in every KPI, machines and broken devices, and a base rate that drifts."""
    scenario = _scenario(*CANARY_IS_WORSE, **NOISE)
    return Both(*_of_people(scenario), _of_counts(scenario))


def test_judged_shares_are_those_of_single_people(both: Both) -> None:
    assert np.abs(both.errors_of_share("bad", "n")).max() < MOST_ERRORS, both.errors_of_share("bad", "n")
    assert np.abs(both.errors_of_share("unexposed_bad", "unexposed_n")).max() < MOST_ERRORS


@pytest.mark.parametrize("field", ["n", "harm_n", "exposed", "arrived", "unexposed_n", "unexposed_harm_n"])
def test_as_many_are_judged_in_each_arm(field: str, both: Both) -> None:
    assert np.abs(both.errors_of_count(field)).max() < MOST_ERRORS, both.errors_of_count(field)


@pytest.mark.parametrize("times", [0.9, 1.1])
def test_a_tenth_more_or_less_would_be_seen(times: float, both: Both) -> None:
    """In each arm, of the share of bad ones and of the number of judged people."""
    scenario = _scenario(*CANARY_IS_WORSE, **NOISE)
    off = replace(HABITS, errors=HABITS.errors * times, abandoned=HABITS.abandoned * times)
    groups = tuple(replace(group, habits=off) for group in scenario.groups)
    wrong = Both(both.windows, both.people, _of_counts(replace(scenario, groups=groups)))
    assert np.abs(wrong.errors_of_share("bad", "n"))[-1, [0, 2]].min() > MOST_ERRORS
    crowded = Both(both.windows, both.people, _of_counts(scenario, load=LOAD * times))
    for field in ("n", "exposed", "arrived"):
        assert np.abs(crowded.errors_of_count(field))[-1].min() > MOST_ERRORS, field


@pytest.mark.parametrize("field", ["n", "bad", "exposed", "arrived", "harm_n"])
def test_ticks_are_distributed_alike(field: str, both: Both) -> None:
    """Not the sums alone: what a single tick adds, once everybody has come at one split."""
    single = np.array([getattr(window, field) for window in both.windows[SETTLED:]])
    counted = np.array([getattr(tick.window, field) for tick in both.ticks[SETTLED:]])
    for where in np.ndindex(single.shape[1:]):
        counts = counted[(slice(None), slice(None), *where)].ravel()
        assert ks_2samp(single[(slice(None), *where)], counts).pvalue > 1e-4, (field, where)


def test_harm_is_about_that_of_single_people(both: Both) -> None:
    """Among single people those who leave have fewer chances to be slow: a little fewer are bad in two ways at once."""
    single, counted = both.total("harm_bad")
    np.testing.assert_allclose(counted / RUNS, single, rtol=0.05)
    truth = sum(tick.harm.mean(axis=0) for tick in both.ticks)
    np.testing.assert_allclose(truth, both.people.harmed(SPEC.rollout.harm.bad), rtol=0.12)


def test_new_people_go_where_they_are_asked_to(both: Both) -> None:
    single: Counter[tuple[int, int, int]] = Counter()
    for window in both.windows:
        single += window.newcomers
    rows = np.concatenate([tick.newcomers for tick in both.ticks])
    counted: Counter[tuple[int, int, int]] = Counter()
    for _, segment, asked_bp, arm, n in rows.tolist():
        counted[segment, asked_bp, arm] += n
    assert set(single) == set(counted)
    for key, n in single.items():  # single people who come around a change are left out
        assert n == pytest.approx(counted[key] / RUNS, rel=0.05), key


def test_the_hard_tier_sees_as_many_people(both: Both) -> None:
    single, counted = both.total("people", since=RAISED + 2)
    np.testing.assert_allclose(counted / RUNS, single, rtol=0.03)


def test_about_as_many_of_them_have_just_met_an_error() -> None:
    """Without machines, which do not try again."""
    scenario = _scenario(Effect(kpi=Kpi.ERRORS, times=3.0))
    windows, people = _of_people(scenario, load=25.0)
    both = Both(windows, people, _of_counts(scenario, load=25.0))
    single, counted = both.total("failing", since=RAISED + 2)
    np.testing.assert_allclose(counted[-1] / RUNS, single[-1], rtol=0.35)


def test_where_everything_fails_everybody_in_sight_does() -> None:
    scenario = _scenario(Effect(kpi=Kpi.ERRORS, plus=1.0))
    tick = _of_counts(scenario, runs=2)[-1]
    assert np.array_equal(tick.window.people[..., CANARY], tick.window.failing[..., CANARY])


def test_the_same_seed_gives_the_same_windows() -> None:
    scenario = _scenario(*CANARY_IS_WORSE, bursts_per_h=20.0)
    for one, other in zip(_of_counts(scenario, runs=3), _of_counts(scenario, runs=3), strict=True):
        for f in fields(Window):
            assert np.array_equal(getattr(one.window, f.name), getattr(other.window, f.name)) or f.name == "traffic"


def test_stalls_hit_as_many_as_among_single_people_in_both_arms() -> None:
    """They come in lumps: many short ones, so that their number is about the same."""
    scenario = _scenario(bursts_per_h=1_200.0, burst_s=0.2)
    windows, people = _of_people(scenario, load=25.0)
    both = Both(windows, people, _of_counts(scenario, load=25.0))
    (bad, bads), (n, ns) = both.total("bad"), both.total("n")
    np.testing.assert_allclose((bad / n)[:, 0], (bads / ns)[:, 0], rtol=0.15)
    np.testing.assert_allclose((bads / ns)[:, 0, BASELINE], (bads / ns)[:, 0, CANARY], rtol=0.1)
