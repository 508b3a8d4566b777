"""Sample ratios: Pearson's test where shares stand still, valid where they move, and the e-value at every look."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chisquare

from analysis.experiment.checks import MultipleExposure, Stage, sample_ratio


def test_with_one_allocation_it_is_pearsons_test() -> None:
    found = sample_ratio([Stage(shares=(0.5, 0.3, 0.2), exposed=(510, 270, 220))])
    assert found.p_value == pytest.approx(chisquare([510, 270, 220], [500, 300, 200]).pvalue)
    assert found.observed == (510, 270, 220)
    assert found.expected == (500, 300, 200)
    assert not found.is_mismatch


def test_a_small_mismatch_of_many_people_is_flagged_and_a_large_one_proven() -> None:
    small = sample_ratio([Stage(shares=(0.5, 0.5), exposed=(50_000, 50_900))])
    assert small.p_value is not None
    assert 0.001 < small.p_value < 0.01
    assert small.is_mismatch
    assert not small.is_proven
    assert math.exp(small.log_e) > 1
    large = sample_ratio([Stage(shares=(0.5, 0.5), exposed=(50_000, 53_000))])
    assert large.is_proven


def test_moving_shares_are_no_mismatch_and_swapped_ones_are() -> None:
    rng = np.random.default_rng(1)
    shares = [(b, 1 - b) for b in np.linspace(0.1, 0.9, 9)]
    p_values = []
    for _ in range(200):
        stages = [Stage(shares=p, exposed=tuple(rng.multinomial(200, p).tolist())) for p in shares]
        p_values.append(sample_ratio(stages).p_value)
    assert 0.01 <= np.mean(np.array(p_values) < 0.1) <= 0.19
    swapped = [Stage(shares=(p[1], p[0]), exposed=stage.exposed) for p, stage in zip(shares, stages, strict=True)]
    assert sample_ratio(swapped[:3]).is_proven


def test_the_e_value_is_a_fair_bet() -> None:
    rng = np.random.default_rng(2)
    e = [
        math.exp(sample_ratio([Stage(shares=(0.2, 0.3, 0.5), exposed=tuple(n.tolist()))]).log_e)
        for n in rng.multinomial(60, [0.2, 0.3, 0.5], 2_000)
    ]
    assert np.mean(e) <= 1 + 3 * np.std(e) / np.sqrt(len(e))


def test_nobody_is_no_evidence_and_people_where_nobody_was_sent_are_strays() -> None:
    for stages in ([], [Stage(shares=(0.5, 0.5), exposed=(0, 0))]):
        found = sample_ratio(stages)
        assert (found.p_value, found.log_e, found.is_mismatch) == (None, pytest.approx(0.0, abs=1e-9), False)
    strays = sample_ratio([Stage(shares=(0.5, 0.5, 0.0), exposed=(50, 50, 7))])
    assert (strays.strays, strays.observed, strays.p_value) == (7, (50, 50, 0), 1.0)


@pytest.mark.parametrize(
    ("people", "of", "bad"), [(9, 100, False), (10, 1_000, False), (11, 1_000, True), (0, 0, False)]
)
def test_many_people_with_several_variants_are_too_many(people: int, of: int, bad: bool) -> None:
    assert MultipleExposure(people=people, of=of).is_too_many is bad
