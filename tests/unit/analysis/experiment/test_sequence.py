"""Evidence and interval are one thing, and chance does not reach it more often than alpha allows."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.experiment.sequence import critical_square, half_width, log_e


@pytest.mark.parametrize("information", [1.0, 250.0, 1e4, 3e7])
@pytest.mark.parametrize("alpha", [1e-9, 0.01, 0.05, 0.4])
def test_the_interval_ends_where_the_evidence_reaches_its_level(information: float, alpha: float) -> None:
    half = float(half_width(2.0 * information, information, alpha))
    assert float(log_e(half * information, 2.0 * information, information)) == pytest.approx(-np.log(alpha))
    assert float(half_width(2.0 * information, information, alpha / 2)) > half


def test_nothing_known_is_no_evidence_and_an_endless_interval() -> None:
    assert float(log_e(0.0, 0.0, 0.0)) == pytest.approx(0.0, abs=1e-12)
    assert float(log_e(3.0, 0.0, 5.0)) <= 0.0
    assert np.isinf(critical_square(0.0, 0.05))
    assert np.isinf(half_width(1.0, 0.0, 0.05))


def test_chance_reaches_the_level_at_no_look_more_often_than_alpha() -> None:
    steps = np.random.default_rng(1).normal(0.0, np.sqrt(20.0), (1_000, 1_500))
    information = 20.0 * np.arange(1, 1_501)
    evidence = log_e(np.cumsum(steps, axis=1), information, information)
    ever = (evidence >= np.log(20)).any(axis=1).mean()
    assert 0.005 <= ever <= 0.05
    assert np.exp(evidence[:, 50]).mean() == pytest.approx(1.0, abs=0.3)  # a fair bet
    assert (np.abs(np.cumsum(steps, axis=1)) > 1.96 * np.sqrt(information)).any(axis=1).mean() > 0.4  # peeking
