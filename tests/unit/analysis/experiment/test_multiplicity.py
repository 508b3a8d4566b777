"""e-BH and closed testing are what their definitions say."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.experiment.multiplicity import closed, e_bh

logs = st.lists(st.floats(-5, 12), min_size=1, max_size=6)


@settings(max_examples=50, deadline=None)
@given(logs)
def test_closed_testing_is_the_least_mean_of_any_set_with_the_hypothesis(values: list[float]) -> None:
    e = np.exp(values)
    indices = range(len(e))
    sets = [list(each) for k in range(1, len(e) + 1) for each in combinations(indices, k)]
    expected = [min(e[each].mean() for each in sets if i in each) for i in indices]
    np.testing.assert_allclose(np.exp(closed(values)), expected, rtol=1e-9)


@settings(max_examples=50, deadline=None)
@given(logs)
def test_e_bh_rejects_the_largest_set_that_is_large_enough(values: list[float]) -> None:
    e, n = np.exp(values), len(values)
    enough = [k for k in range(1, n + 1) if np.sort(e)[-k] >= n / (k * 0.05)]
    assert e_bh(values, 0.05).sum() == max(enough, default=0)


def test_what_is_no_number_is_no_evidence() -> None:
    assert e_bh([np.nan, 50.0, np.inf], 0.05).tolist() == [False, True, True]
    assert closed([np.nan, np.inf])[0] == -np.inf
    assert not len(e_bh([], 0.05))
    assert not len(closed([]))


def test_many_weak_findings_do_not_make_one() -> None:
    assert not e_bh([np.log(25)] * 2 + [0.0] * 18, 0.05).any()
    assert e_bh([np.log(25)] * 20, 0.05).all()
