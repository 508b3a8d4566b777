"""What differs between canary and baseline is named: the right feature first, and nothing where nothing differs."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.anomaly.contrast import contrast
from tests.unit.analysis.visits import LABELS, rows, usual

AGE_S = 60.0
RUNS = 10


def test_a_click_that_stops_is_named() -> None:
    right = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        found = contrast(usual(400, rng), usual(60, rng, click_works=0.0), LABELS, age_s=AGE_S)
        right += {"click buy", "left after page /cart"} & {difference.name for difference in found[:3]} != set()
        assert found[0].name != "other"
    assert right >= 9


def test_abandonment_a_fifth_higher_is_named() -> None:
    """30 % of visits end before the goal, 36 % on the canary: with 4,000 of each, that is what is named."""
    right = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(100 + seed)
        found = contrast(usual(4_000, rng, leaves=0.30), usual(4_000, rng, leaves=0.36), LABELS, age_s=AGE_S)
        assert found
        ways_out = ("click buy", "page /done", "page /cart", "left after")
        right += found[0].name.startswith(ways_out) or found[0].name in {"steps", "different steps"}
    assert right >= 9


def test_nothing_is_named_where_nothing_differs() -> None:
    rng = np.random.default_rng(3)
    named = sum(bool(contrast(usual(500, rng), usual(300, rng), LABELS, age_s=AGE_S)) for _ in range(40))
    assert named <= 5


def test_differences_read_as_sentences() -> None:
    rng = np.random.default_rng(4)
    found = contrast(usual(400, rng, leaves=0.0), usual(400, rng, leaves=0.0, click_works=0.0), LABELS, age_s=AGE_S)
    assert "click buy: 100 % → 0 %" in map(str, found)
    assert all(difference.z < 0 for difference in found if difference.name == "click buy")


@pytest.mark.parametrize("n", [0, 1, 19])
def test_few_sessions_say_nothing(n: int) -> None:
    some = usual(200, np.random.default_rng(5))
    assert contrast(some, some[:n], LABELS, age_s=AGE_S) == ()
    assert contrast(rows(*[((), 0.0)] * 30), rows(*[((), 0.0)] * 30), LABELS, age_s=AGE_S) == ()


def test_a_handful_of_sessions_names_what_none_of_them_did() -> None:
    """A canary that is taken back at once has few."""
    rng = np.random.default_rng(7)
    baseline, canary = usual(100, rng, leaves=0.0), usual(8, rng, leaves=0.0, click_works=0.0)
    named = [difference.name for difference in contrast(baseline, canary, LABELS, age_s=600.0)]
    assert "click buy" in named, named
    same = contrast(baseline, usual(8, rng, leaves=0.0), LABELS, age_s=600.0)
    assert same == ()
