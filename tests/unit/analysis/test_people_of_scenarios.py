"""Simulated people do what a scenario says of them, and meet what it says is true."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from analysis.sample import SampleKind
from analysis.session import NS
from analysis.simulation.people import Fault, People
from analysis.simulation.scenario import Effect, Group, Habits, Kpi, Must, On, Scenario, Traffic
from analysis.simulation.visits import CHECKOUT, GOAL
from analysis.spec import Outcome
from tests.unit.analysis.rows import small_spec

HALF = 5_000
QUICK = Habits(think_s=0.2, visits=1, errors=0.0, errors_in_a_row=1)

Rows = npt.NDArray[np.void]


def _people(
    *effects: Effect, habits: Habits = QUICK, load: float = 200.0, seed: int = 0, **traffic: float,
) -> People:  # fmt: skip
    groups = (Group(name="power", share=0.25, habits=habits), Group(name="default", share=0.75, habits=habits))
    scenario = Scenario(
        name="s", title="t", must=Must.KEEP, groups=groups, effects=effects, traffic=Traffic(**traffic)
    )  # fmt: skip
    return People(scenario, small_spec(), load=load, rng=np.random.default_rng(seed))


def _play(people: People, until_s: float, split_bp: int = HALF, tick_s: float = 5.0) -> Rows:
    rows = []
    while people.now_s < until_s:
        rows.append(people.advance(people.now_s + tick_s, {0: split_bp, 1: split_bp}))
    return np.concatenate(rows)


def _requests(rows: Rows, version: int | None = None) -> Rows:
    mine = rows["kind"] == SampleKind.REQUEST
    return rows[mine if version is None else mine & (rows["version"] == version)]


def _share(rows: Rows, flag: str, version: int | None = None) -> float:
    """Of people, those with a request that has the flag."""
    mine = _requests(rows, version)
    return len(np.unique(mine["user"][mine[flag]])) / len(np.unique(mine["user"]))


def _near(share: float, n: int) -> object:
    """Within four standard errors of a share of `n`."""
    return pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / n))


def test_sessions_come_at_the_load_and_by_the_segments_shares() -> None:
    people = _people()
    _play(people, 100)
    total = int(people.sessions.sum())
    assert total == pytest.approx(20_000, abs=5 * np.sqrt(20_000))
    assert people.sessions[0].sum() / total == _near(0.25, total)
    assert people.sessions[:, 1].sum() / total == _near(0.5, total)


def test_the_same_seed_gives_the_same_rows_and_another_one_others() -> None:
    first, again, other = (_play(_people(seed=seed, load=20), 20) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert len(first) != len(other)


def test_rows_are_in_order_of_their_time_and_within_the_stretch() -> None:
    people = _people(load=50)
    people.advance(10.0, {})
    start = people.advance(20.0, {}, epoch_ns=7 * NS)["start_unix_ns"]
    assert (np.diff(start) >= 0).all()
    assert start[0] >= 17 * NS
    assert start[-1] <= 27 * NS


def test_it_is_fast_enough() -> None:
    people = _people(habits=replace(QUICK, errors=0.005, errors_in_a_row=2, think_s=5, visits=1.5))
    _play(people, 20, tick_s=10)
    begin, n = time.process_time(), 0
    while people.now_s < 120:
        n += len(people.advance(people.now_s + 10, {0: HALF, 1: HALF}))
    assert n / (time.process_time() - begin) >= 100_000


def test_a_person_stays_on_the_side_of_the_split() -> None:
    rows = _requests(_play(_people(), 20, split_bp=3_000))
    assert np.array_equal(rows["version"] == 1, rows["bucket"] < 3_000)


def test_a_session_changes_version_in_the_middle_when_the_split_falls() -> None:
    people = _people(habits=replace(QUICK, think_s=5))
    rows = np.concatenate([people.advance(20.0, {0: HALF, 1: HALF}), people.advance(60.0, {})])
    seen = {version: set(_requests(rows, version)["user"].tolist()) for version in (0, 1)}
    assert len(seen[0] & seen[1]) > 100
    assert (_requests(rows, 1)["start_unix_ns"] <= 20 * NS).all()


@pytest.mark.parametrize(
    ("kpi", "effect", "flag", "base", "worse"),
    [
        (Kpi.ERRORS, {"times": 2}, "error", 0.1, 0.2),
        (Kpi.ERRORS, {"plus": -0.02}, "error", 0.1, 0.08),
        (Kpi.ABANDONMENT, {"times": 1.5}, "goal", 0.7, 0.55),
        (Kpi.ABANDONMENT, {"plus": -0.2}, "goal", 0.7, 0.9),
    ],
)
def test_the_canary_has_the_share_that_is_true(
    kpi: Kpi, effect: dict[str, float], flag: str, base: float, worse: float
) -> None:
    """Within less than a tenth of each share."""
    people = _people(Effect(kpi=kpi, **effect), habits=replace(QUICK, errors=0.1), load=700)
    rows = _play(people, 60)
    done = rows[np.isin(rows["user"], rows["user"][rows["start_unix_ns"] < 50 * NS])]  # the last ones are still there
    n = int(people.sessions.sum()) // 2
    assert n > 20_000
    assert _share(done, flag, 0) == _near(base, n)
    assert _share(done, flag, 1) == _near(worse, n)


def test_what_is_certain_hits_every_request() -> None:
    rows = _requests(_play(_people(Effect(kpi=Kpi.ERRORS, plus=1.0)), 10), 1)
    assert rows["error"].all()


def test_failed_requests_come_in_rows_and_are_tried_again() -> None:
    rows = _requests(_play(_people(habits=replace(QUICK, errors=0.2, errors_in_a_row=8)), 100))
    failed = np.unique(rows["user"][rows["error"]], return_counts=True)[1]
    assert failed.mean() == pytest.approx(8, rel=0.15)  # a few meet two
    assert rows["goal"].sum() / len(np.unique(rows["user"])) == pytest.approx(0.7, abs=0.03)


def test_those_who_leave_have_made_fewer_requests() -> None:
    rows = _requests(_play(_people(), 60))
    rows = rows[np.isin(rows["user"], rows["user"][rows["start_unix_ns"] < 50 * NS])]
    users, n = np.unique(rows["user"], return_counts=True)
    complete = np.isin(users, rows["user"][rows["goal"]])
    assert n[complete].mean() == pytest.approx(5, rel=0.05)
    assert n[~complete].mean() < 0.7 * n[complete].mean()


def test_a_canary_loses_people_at_the_checkout() -> None:
    rows = _play(_people(Effect(kpi=Kpi.ABANDONMENT, plus=1.0), habits=replace(QUICK, abandoned=0.0)), 20)
    assert not _requests(rows, 1)["goal"].any()
    assert (_requests(rows, 1)["label"] == CHECKOUT).any()
    assert not (_requests(rows, 1)["label"] == GOAL).any()


def test_features_are_used_by_the_share_that_is_true() -> None:
    people = _people(Effect(kpi=Kpi.FEATURE, times=0.5))
    rows = _play(people, 60)
    used = rows[rows["kind"] == SampleKind.FEATURE]
    for version, share in ((0, 0.35), (1, 0.175)):
        n = int(people.sessions[:, version].sum())
        assert (used["version"] == version).sum() / n == _near(share, n)
    assert people.hit(Fault.FEATURE).sum() == pytest.approx(0.175 * people.sessions[:, 1].sum(), rel=0.1)


def test_latency_is_lognormal_and_a_tail_is_the_tail_alone() -> None:
    rows = _play(_people(Effect(kpi=Kpi.LATENCY, tail_times=3)), 60)
    baseline, canary = (_requests(rows, version)["duration_ms"] for version in (0, 1))
    assert np.median(baseline) == pytest.approx(40, rel=0.02)
    assert np.log(baseline).std() == pytest.approx(0.5, rel=0.02)
    assert np.quantile(canary, 0.95) == pytest.approx(np.quantile(baseline, 0.95), rel=0.03)
    assert np.quantile(canary, 0.99) == pytest.approx(3 * np.quantile(baseline, 0.99), rel=0.06)


def test_sessions_come_in_a_daily_wave_and_a_spike() -> None:
    people = _people(load=1, daily=0.8, peak_s=6 * 3_600, spike_times=4, spike_at_s=18 * 3_600, spike_s=3_600)
    by_hour = []
    for hour in range(1, 25):
        before = people.sessions.sum()
        people.advance(hour * 3_600.0, {})
        by_hour.append(people.sessions.sum() - before)
    expected = 3_600 * (1 + 0.8 * np.cos(2 * np.pi * (np.arange(24) + 0.5 - 6) / 24))
    expected[18] *= 4
    np.testing.assert_allclose(by_hour, expected, atol=5 * np.sqrt(expected.max()))


def test_machines_go_on_and_on_and_reach_no_goal() -> None:
    rows = _requests(_play(_people(bots=0.2), 100))
    users, n = np.unique(rows["user"], return_counts=True)
    assert (n > 12).mean() == pytest.approx(0.19, abs=0.03)
    assert not np.isin(users[n > 14], rows["user"][rows["goal"]]).mean() > 0.02
    assert not rows["bot"].any(), "they do not say so"


def test_a_stall_fails_everybody_who_is_there_on_either_version() -> None:
    rows = _requests(_play(_people(bursts_per_h=60, burst_s=3.0), 240, tick_s=2.0))
    failed = rows[rows["error"]]
    seconds = np.unique(failed["start_unix_ns"] // NS)
    assert 0 < len(seconds) < 40
    assert 0.4 < (failed["version"] == 1).mean() < 0.6
    within = np.isin(rows["start_unix_ns"] // NS, seconds)
    assert rows["error"][within].mean() > 0.5
    assert failed["duration_ms"].max() > 2_500


def test_broken_devices_meet_an_error_in_every_session_and_come_often() -> None:
    habits = replace(QUICK, visits=1.5, again_s=100)
    people = _people(habits=habits, unlucky=0.02, load=40)
    rows = _requests(_play(people, 1_500, tick_s=50))
    users, n = np.unique(rows["user"], return_counts=True)
    unlucky = np.isin(users, rows["user"][rows["error"]])
    often, usual = 0.02 * 20 * 5.25, 0.98 * 1.5 * 4.25  # requests; each of their sessions has one that is tried again
    share = often / (often + usual)
    assert n[unlucky].sum() / n.sum() == pytest.approx(share, abs=0.03)
    assert n[unlucky].mean() > 3 * n[~unlucky].mean()
    assert people.harmed().sum() == 0, "it is nobody's fault"


def test_people_come_again_but_not_within_the_gap_of_a_session() -> None:
    people = _people(habits=replace(QUICK, visits=2.0, again_s=100), load=20)
    rows = _requests(_play(people, 1_000, tick_s=10))
    users = np.unique(rows["user"])
    assert people.sessions.sum() / len(users) == pytest.approx(2.0, rel=0.15)
    order = np.lexsort((rows["start_unix_ns"], rows["user"]))
    gaps_s = np.diff(rows["start_unix_ns"][order]) / NS
    same = rows["user"][order][1:] == rows["user"][order][:-1]
    assert not ((gaps_s > 8) & (gaps_s < 60) & same).any()


def test_novelty_hits_the_first_session_on_the_canary_alone() -> None:
    habits = replace(QUICK, abandoned=0.0, visits=5, again_s=80)
    effect = Effect(kpi=Kpi.ABANDONMENT, plus=1.0, first_session=True)
    rows = _requests(_play(_people(effect, habits=habits, load=20), 600), 1)
    order = np.argsort(rows["start_unix_ns"], kind="stable")
    first_goal = {}
    for user, goal, at in rows[order][["user", "goal", "start_unix_ns"]].tolist():
        first_goal.setdefault(user, [at, None])
        if goal and first_goal[user][1] is None:
            first_goal[user][1] = at
    reached = [(goal - begin) / NS for begin, goal in first_goal.values() if goal is not None]
    assert len(reached) > 200, "they do come to their goal later"
    assert min(reached) > 60, "and never in their first session"


def test_a_cold_cache_is_cold_from_the_first_exposure_on() -> None:
    effect = Effect(kpi=Kpi.LATENCY, times=10, since_exposure=True, until_s=20)
    people = _people(effect, load=50)
    _play(people, 50, split_bp=0)
    warming, warm = _play(people, 70), _play(people, 90)
    assert np.median(_requests(warming, 1)["duration_ms"]) == pytest.approx(400, rel=0.1)
    assert np.median(_requests(warming, 0)["duration_ms"]) == pytest.approx(40, rel=0.1)
    assert np.median(_requests(warm, 1)["duration_ms"]) == pytest.approx(40, rel=0.1)


def test_an_effect_can_hit_some_people_of_one_segment_alone_and_always_the_same() -> None:
    rows = _requests(_play(_people(Effect(kpi=Kpi.ERRORS, plus=1.0, segment="power", people=0.3)), 30), 1)
    assert not rows["error"][rows["segment"] == 1].any()
    power = rows[rows["segment"] == 0]
    failed = np.isin(power["user"], power["user"][power["error"]])
    assert power["error"][failed].all()
    assert len(np.unique(power["user"][failed])) / len(np.unique(power["user"])) == pytest.approx(0.3, abs=0.05)


def test_what_hits_both_versions_is_nobodys_fault() -> None:
    people = _people(Effect(kpi=Kpi.ERRORS, on=On.BOTH, plus=0.3), Effect(kpi=Kpi.LATENCY, on=On.BOTH, times=3))
    rows = _play(people, 30)
    assert _share(rows, "error", 0) == pytest.approx(_share(rows, "error", 1), abs=0.05)
    assert people.harmed().sum() == 0


def test_drift_raises_the_errors_of_both_versions() -> None:
    people = _people(habits=replace(QUICK, errors=0.1), drift_per_h=20.0)
    early = _share(_play(people, 20), "error")
    people.advance(180.0, {})
    late = _share(_play(people, 200), "error")
    assert early == pytest.approx(0.1 * (1 + 20 * 10 / 3_600), abs=0.02)
    assert late == pytest.approx(0.1 * (1 + 20 * 190 / 3_600), abs=0.03)


def test_half_of_the_canarys_sessions_are_not_logged() -> None:
    people = _people(Effect(kpi=Kpi.LOGS, times=0.5))
    rows = _requests(_play(people, 60))
    seen = [len(np.unique(rows["user"][rows["version"] == version])) for version in (0, 1)]
    baseline, canary = people.sessions.sum(axis=0).tolist()
    assert seen[0] == baseline
    assert seen[1] / canary == _near(0.5, canary)


def test_a_routing_bug_gives_some_of_the_canarys_people_the_baseline() -> None:
    rows = _requests(_play(_people(Effect(kpi=Kpi.ROUTING, times=0.7)), 60))
    meant = rows[rows["bucket"] < HALF]
    wrong = len(np.unique(meant["user"][meant["version"] == 0])) / len(np.unique(meant["user"]))
    assert wrong == _near(0.3, 6_000)
    assert not (rows["version"][rows["bucket"] >= HALF] == 1).any()


def test_what_a_fault_left_behind_shows_in_the_next_session_on_either_version() -> None:
    habits = replace(QUICK, visits=4, again_s=80)
    people = _people(Effect(kpi=Kpi.ERRORS, plus=1.0), habits=habits, load=20, carry_over=1.0)
    _play(people, 200)
    rows = _requests(_play(people, 350, split_bp=0))
    assert 0.1 < _share(rows, "error") < 0.6
    assert people.harmed((Outcome.SLOW, Outcome.ABANDONED)).sum() == 0


def test_harm_is_what_the_canary_did_beyond_chance() -> None:
    effects = Effect(kpi=Kpi.ERRORS, plus=0.1), Effect(kpi=Kpi.ABANDONMENT, plus=0.2)
    people = _people(*effects, habits=replace(QUICK, errors=0.05))
    _play(people, 60)
    canary = int(people.sessions[:, 1].sum())
    assert people.harmed((Outcome.ERROR,)).sum() / canary == _near(0.1, canary)
    assert people.harmed((Outcome.ABANDONED,)).sum() / canary == pytest.approx(0.2, abs=0.03)
    both = people.harmed((Outcome.ERROR, Outcome.ABANDONED)).sum() / canary
    assert both == pytest.approx(0.95 * 0.7 - 0.85 * 0.5, abs=0.03), "those that would have been fine, and are not"


def test_the_wave_of_many_times_is_that_of_each() -> None:
    traffic = Traffic(daily=0.5, peak_s=100, spike_times=3, spike_at_s=50, spike_s=20)
    at_s = np.arange(0.0, 86_400.0, 997.0)
    np.testing.assert_allclose(traffic.rate_times(at_s), [traffic.rate_times(t) for t in at_s.tolist()])
