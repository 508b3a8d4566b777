"""Winners, losers, and experiments that end without an answer."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.experiment.design import Better, Metric
from analysis.experiment.effects import Effects
from analysis.experiment.tally import Tally
from analysis.experiment.verdict import Standing, Verdict, judge
from tests.unit.analysis.experiment.experiments import experiment, rates

ERRORS = Metric(name="errors", better=Better.DOWN, margin=0.01)


def _judge(yes: list[int], n: int = 4_000, *, better: Better = Better.UP, now_s: float = 50.0) -> Verdict:
    plan = experiment(len(yes), metrics=(Metric(name="conversion", better=better),), start_s=0.0, end_s=100.0)
    effects = Effects(plan)
    effects.update(rates(np.full((1, len(yes)), n), np.array([yes])), [1 / len(yes)] * len(yes))
    return judge(effects, now_s=now_s)[-1]


def test_whoever_is_ahead_of_all_others_wins_and_the_others_are_withdrawn_but_the_control() -> None:
    found = _judge([400, 800, 500])
    assert (found.standing, found.winner) == (Standing.WINNER, "b")
    assert found.withdrawn == {"c": "conversion is worse than b"}
    turned = _judge([400, 800, 500], better=Better.DOWN)
    assert turned.winner is None
    assert list(turned.withdrawn) == ["b"]


def test_the_control_can_win() -> None:
    found = _judge([800, 400])
    assert (found.standing, found.winner, list(found.withdrawn)) == (Standing.WINNER, "a", ["b"])


@pytest.mark.parametrize(("now_s", "standing"), [(99.0, Standing.RUNNING), (100.0, Standing.FUTILE)])
def test_without_a_difference_it_goes_on_until_the_end(now_s: float, standing: Standing) -> None:
    assert _judge([400, 410], now_s=now_s) == Verdict(standing=standing, winner=None, withdrawn={})


def test_nobody_wins_by_beating_some() -> None:
    found = _judge([400, 800, 810])
    assert (found.standing, found.winner, found.withdrawn) == (Standing.RUNNING, None, {})


def _guarded(errors: list[int], n: int) -> Verdict:
    effects = Effects(experiment(metrics=(Metric(name="conversion"), ERRORS)))
    cells = np.zeros((1, 2, 2, 6))
    cells[..., 0] = n
    for metric, yes in enumerate(([n // 10, n // 5], errors)):
        cells[0, :, metric, 1] = cells[0, :, metric, 2] = yes
    effects.update(Tally(cells, np.full((1, 2), n), np.zeros(1, np.int64)), [0.5, 0.5])
    return judge(effects, now_s=0.0)[-1]


def test_guardrails_hold_up_and_withdraw() -> None:
    assert _guarded([40, 42], 20_000).standing is Standing.WINNER
    waiting = _guarded([60, 62], 3_000)
    assert (waiting.standing, waiting.winner) == (Standing.WAITING, "b")
    breached = _guarded([200, 900], 20_000)
    assert breached.winner == "a"
    assert breached.withdrawn == {"b": "errors is worse than the control by more than its margin"}


def test_segments_have_verdicts_of_their_own_at_their_part_of_alpha() -> None:
    effects = Effects(experiment(runs=2))
    n = np.full((2, 2), 3_000)
    effects.update(rates(n, np.array([[300, 600], [300, 310]])), [0.5, 0.5])
    first, second, together = judge(effects, now_s=0.0)
    assert (first.winner, second.winner, together.winner) == ("b", None, "b")
