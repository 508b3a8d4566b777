"""The regression agrees with scikit-learn's where that can say the same, and its covariance with the curvature."""

from __future__ import annotations

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from analysis.failure.logit import drawn_in, fit

RNG = np.random.default_rng(1)
X = RNG.normal(size=(200, 4))
Y = RNG.random(200) < expit(X @ [1.0, -0.5, 0.0, 0.3] - 1)


def test_a_zero_prior_is_an_l2_penalty() -> None:
    theirs = LogisticRegression(C=0.25, fit_intercept=False, tol=1e-10, max_iter=1_000).fit(X, Y)
    ours = fit(X, Y, mean=np.zeros(4), sd=np.full(4, 0.5))  # C is the prior's variance
    np.testing.assert_allclose(ours.coef, theirs.coef_[0], atol=1e-5)


def test_an_offset_is_a_column_with_a_coefficient_of_one() -> None:
    column = X[:, 0]
    sure = fit(X, Y, mean=np.array([1.0, 0, 0, 0]), sd=np.array([1e-6, 1, 1, 1]))
    offset = fit(X[:, 1:], Y, mean=np.zeros(3), sd=np.ones(3), offset=column)
    np.testing.assert_allclose(sure.coef[1:], offset.coef, atol=1e-4)


def test_without_rows_there_is_the_prior() -> None:
    nothing = fit(np.zeros((0, 2)), [], mean=np.array([1.0, -2.0]), sd=np.array([0.5, 2.0]))
    np.testing.assert_allclose(nothing.coef, [1.0, -2.0])
    np.testing.assert_allclose(nothing.covariance, np.diag([0.25, 4.0]))


def test_separable_data_stay_finite_and_are_drawn_to_the_prior() -> None:
    x = np.linspace(-1, 1, 50)[:, None]
    found = fit(x, x[:, 0] > 0, mean=np.zeros(1), sd=np.ones(1))
    assert 0.5 < found.coef[0] < 10
    assert 0 < found.covariance[0, 0] < 1


def test_the_covariance_shrinks_as_data_come() -> None:
    few, many = (fit(X[:n], Y[:n], mean=np.zeros(4), sd=np.ones(4)).covariance for n in (20, 200))
    assert (np.diag(many) < np.diag(few)).all()
    assert drawn_in(0.0) == 1.0
    assert drawn_in(1.0) < 1.0
