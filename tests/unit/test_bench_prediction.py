"""The predictions' bench measures what it says, and its rows tell met from missed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.goal_table import markdown
from benchmarks.prediction import failure, goals


def test_the_best_possible_prediction_has_no_gap_and_the_prior_has_all_of_it() -> None:
    fleet = failure._fleet(9_001, 60)
    assert fleet is not None
    ideal = failure._Fleet(failed=fleet.failed, risks=fleet.bayes, bayes=fleet.bayes)
    assert ideal.gap(0) == ideal.gap(1) == 0
    blind = failure._Fleet(failed=fleet.failed, risks=np.full_like(fleet.bayes, 0.1), bayes=fleet.bayes)
    assert blind.gap(1) == pytest.approx(failure.auc(fleet.failed, fleet.bayes[1]).value - 0.5)
    assert 0 < fleet.gap(1) < blind.gap(1)


def test_rows_say_whether_a_goal_is_met() -> None:
    rows = failure._known(50, 0.4, 3) + failure._known(50, -0.4, 3)
    assert [row.met for row in rows if row.measure.startswith("AUC")] == [True, True, False, False]
    assert "**missed**" in markdown(rows).splitlines()[2]
    assert all(row.n in (3, 3 * failure.TESTED) for row in rows)
    assert len(goals.MEASURES["failure"](0.1)) == 2 + len(failure.GAPS)
