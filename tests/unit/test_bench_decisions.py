"""The decisions' bench plays what it says, and its rows tell met from missed."""

from __future__ import annotations

import numpy as np

from benchmarks.decisions import goals
from benchmarks.decisions.knowing import first_alarm_s
from benchmarks.decisions.plans import ERRORS_ALONE, ONE, plan
from benchmarks.decisions.rolling import rollouts
from benchmarks.decisions.watching import first_proof_s, steady
from benchmarks.goal_table import markdown


def test_watched_splits_prove_a_fault_and_nothing_else() -> None:
    quiet = plan("quiet", ONE)
    bad = plan("bad", ONE, must="rollback", effects="{kpi: errors, times: 40}")
    for file, is_found in ((quiet, False), (bad, True)):
        found = first_proof_s(file, load=50.0, n=4, seconds=240.0, splits=steady(0.2), seed=1)
        assert np.isfinite(found).all() == is_found
        assert np.isfinite(found).any() == is_found
        assert not (found < 0).any()


def test_late_faults_are_timed_from_their_onset() -> None:
    bad = plan("bad", ONE, must="rollback", effects="{kpi: errors, times: 40, at: 360s}")
    found = first_proof_s(bad, load=50.0, n=3, seconds=300.0, splits=steady(0.2), seed=1, since_s=300.0)
    assert (found > 0).all()
    assert (found < 200).all()


def test_steered_rollouts_end_as_the_truth_has_it() -> None:
    bad = plan("bad", ONE, ERRORS_ALONE, must="rollback", effects="{kpi: errors, plus: 30pp}")
    ends = rollouts(bad, load=20.0, n=4, seconds=1_800.0, seed=1)
    assert (ends.outcome == goals.ROLLED_BACK).all()
    assert (ends.harm > 0).all()
    assert (ends.harm < ends.exposed).all()
    assert np.isinf(ends.full_s).all()


def test_who_knows_the_effect_is_not_slower() -> None:
    own, knowing = first_alarm_s(load=20.0, base=0.005, times=20.0, tolerance=0.0, split=0.2, n=40, seed=1)
    assert knowing.mean() <= own.mean() < 3 * knowing.mean() + 60


def test_missed_goals_come_first() -> None:
    rows = [goals._share_row("a", "s", [False] * 9 + [True], 0.2), goals._share_row("b", "s", [True] * 10, 0.2)]
    rows.append(goals._minutes_row("c", "s", np.array([60.0, 120.0, 600.0]), {0.5: 2}))
    assert [row.met for row in rows] == [True, False, True]
    lines = markdown(rows).splitlines()
    assert "**missed**" in lines[2]
    assert "median 2.0 min" in lines[4]


def test_a_tick_of_few_segments_is_timed() -> None:
    row = goals._cost(3, goal_ms=1e6)
    assert row.met
    assert row.measured.endswith(" ms")
