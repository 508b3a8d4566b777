"""Two versions beside each other: how far apart is too far."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.change.arms import contrast
from analysis.change.kpis import kind_of
from analysis.change.series import Floats
from analysis.change.silence import silence

BEFORE, AFTER = 16, 20
SUCCESS, LATENCY = kind_of("success_rate"), kind_of("latency_ms")


def shares(level: float, instances: int, rng: np.random.Generator, *, noise: float = 0.0) -> Floats:
    return np.clip(level + rng.normal(0, noise, (instances, BEFORE + AFTER)), 0, 1)


def fresh(values: Floats) -> Floats:
    """An instance of the canary, which is not there before."""
    return np.concatenate([np.full((len(values), BEFORE), np.nan), values[:, BEFORE:]], axis=1)


@pytest.mark.parametrize(("level", "is_found"), [(0.955, False), (0.93, True)])
def test_within_the_tolerance_nothing_is_found(level: float, is_found: bool) -> None:
    rng = np.random.default_rng(1)
    canary = fresh(shares(level, 1, rng))
    assert (contrast(shares(1.0, 3, rng), canary, BEFORE, SUCCESS, n_places=5) is not None) == is_found


def test_instances_that_differ_among_themselves_excuse_a_canary_that_differs() -> None:
    """Three instances at 10, 20 and 40 ms; a canary at 100 is no surprise, beside three at 20 it is."""
    rng = np.random.default_rng(2)
    noise = rng.lognormal(0, 0.05, (4, BEFORE + AFTER))
    canary = fresh(100 * noise[3:])
    apart = np.array([[10.0], [20.0], [40.0]]) * noise[:3]
    assert contrast(apart, canary, BEFORE, LATENCY, n_places=5) is None
    assert contrast(20 * noise[:3], canary, BEFORE, LATENCY, n_places=5) is not None


def test_what_both_suffer_is_not_the_canary_s() -> None:
    """The baseline falls by 30 points and the canary by 55: less than twice as far."""
    rng = np.random.default_rng(3)
    baseline = shares(1.0, 3, rng)
    baseline[:, BEFORE:] -= 0.3
    assert contrast(baseline, fresh(shares(0.45, 1, rng)), BEFORE, SUCCESS, n_places=5) is None
    assert contrast(baseline, fresh(shares(0.05, 1, rng)), BEFORE, SUCCESS, n_places=5) is not None


def test_canaries_that_change_nothing_are_found_in_fewer_than_their_share() -> None:
    rng = np.random.default_rng(4)
    found = [
        contrast(shares(0.95, 3, rng, noise=0.05), fresh(shares(0.95, 1, rng, noise=0.05)), BEFORE, SUCCESS, n_places=1)
        for _ in range(100)
    ]
    assert sum(each is not None for each in found) <= 4


def test_a_start_is_waited_for_and_an_instance_that_has_gone_does_not_count() -> None:
    rng = np.random.default_rng(5)
    baseline = shares(1.0, 3, rng)
    baseline[0, BEFORE:] = np.nan  # replaced by the canary
    nobody = np.full((1, BEFORE + AFTER), np.nan)
    early = silence(baseline, nobody, BEFORE, settle_ticks=0, n_places=3)
    late = silence(baseline, nobody, BEFORE, settle_ticks=6, n_places=3)
    assert early is not None
    assert late is not None
    assert early.tick <= 7
    assert late.tick >= early.tick + 4
    assert silence(np.full_like(baseline, np.nan), nobody, BEFORE, settle_ticks=0, n_places=3) is None
