"""A plan that contradicts itself is refused, with what is legal."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.errors import SpecError
from analysis.experiment.design import Experiment, Metric, Variant
from tests.unit.analysis.experiment.experiments import experiment


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"alpha": 0.0}, "alpha is 0.0; legal: above 0, below 0.5"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"floor": 0.01}, "floor is 0.01; legal: 0.05 to 0.5"),
        ({"floor": 0.6}, "floor is 0.6"),
        ({"start_s": 5.0, "end_s": 5.0}, "ends at 5.0, starts at 5.0"),
        ({"metrics": (Metric(name="errors", margin=0.01),)}, "every metric has a margin"),
        ({"metrics": (Metric(name="a"), Metric(name="a"))}, "each name once"),
        ({"n_variants": 1}, "1 variants; legal: 2 to 10"),
    ],
)
def test_contradictions_are_named(more: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match="experiment checkout: ") as caught:
        experiment(more.pop("n_variants", 2), **more)
    assert says in str(caught.value)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_shares_are_shares(share: float) -> None:
    with pytest.raises(SpecError, match=r"legal: above 0, at most 1"):
        Variant(name="a", version="v1", share=share)


def test_shares_add_up() -> None:
    variants = tuple(Variant(name=name, version="v1", share=0.4) for name in "ab")
    with pytest.raises(SpecError, match=r"shares add up to 0\.8; legal: 1"):
        Experiment(name="x", variants=variants, metrics=(Metric(name="m"),))


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_margins_are_numbers_from_zero_on(margin: float) -> None:
    with pytest.raises(SpecError, match="legal: a number from 0 on"):
        Metric(name="errors", margin=margin)


def test_the_parts_of_alpha_add_up_to_it_and_the_first_goal_decides() -> None:
    plan = experiment(runs=5, metrics=(Metric(name="errors", margin=0.01), Metric(name="c")), alpha=0.04)
    assert sum(plan.row_alpha(row) for row in range(6)) == pytest.approx(0.04)
    assert experiment(alpha=0.04).row_alpha(1) == 0.04
    assert plan.primary == 1
