"""The report: plain data, the whole course, bounded; what chance finds among many metrics is not kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.experiment.design import Metric
from analysis.experiment.effects import Effects
from analysis.experiment.report import ALL, MAX_LOOKS, Course, analyse
from analysis.experiment.tally import Tally
from tests.unit.analysis.experiment.experiments import experiment, rates


def _ticks(n_ticks: int, rate_b: float, runs: int = 1) -> dict[float, Tally]:
    rng = np.random.default_rng(1)
    counts = [rng.multinomial(400, [0.5, 0.5], runs) for _ in range(n_ticks)]
    return {float(i): rates(n, rng.binomial(n, [0.1, rate_b])) for i, n in enumerate(counts)}


def _analyse(ticks: dict[float, Tally], *, totals: bool = False, runs: int = 1) -> dict:
    shares = {at: [0.5, 0.5] for at in ticks}
    return analyse(experiment(runs=runs), ticks, shares=shares, totals=totals, rng=np.random.default_rng(2))


def test_it_tells_the_course_and_the_end_in_what_json_has() -> None:
    report = json.loads(json.dumps(_analyse(_ticks(30, 0.2)), allow_nan=False))
    assert [look["at_s"] for look in report["effects_over_time"]] == list(range(30))
    assert 0.05 < report["effects_over_time"][0]["rows"][0]["p"] <= 1.0
    (last,) = report["effects"]
    assert last["low"] > 0.05
    assert last["high"] < 0.15
    assert last["discovery"]
    assert last["p"] == pytest.approx(np.exp(-last["log_e"]), rel=0.5)
    assert report["verdicts"][ALL]["winner"] == "b"
    assert report["allocation_over_time"] == [{"at_s": 0.0, "segment": "s0", "shares": [0.5, 0.5]}]
    assert report["checks"]["sample_ratio"]["p_value"] > 0.001
    control, b = report["bayesian"]
    assert (control["chance_to_beat_control"], b["chance_to_beat_control"]) == (0.5, pytest.approx(1.0))
    assert (b["expected_loss"], control["effect"]) == (pytest.approx(0.0, abs=1e-9), 0.0)
    assert report["regret"]["estimate"] == pytest.approx(report["regret"]["of_equal_shares"], rel=0.05)


def test_totals_are_taken_each_as_the_whole() -> None:
    ticks, sums, so_far = _ticks(20, 0.2), {}, None
    for at, tally in ticks.items():
        so_far = tally if so_far is None else so_far + tally
        sums[at] = so_far
    ticked, whole = _analyse(ticks), _analyse(sums, totals=True)
    assert whole["effects"][0]["n"] == ticked["effects"][0]["n"]
    assert whole["effects"][0]["effect"] == pytest.approx(ticked["effects"][0]["effect"], abs=0.003)
    assert whole["checks"]["sample_ratio"]["observed"] == ticked["checks"]["sample_ratio"]["observed"]


def test_totals_that_are_not_told_again_stay() -> None:
    first = rates(np.array([[1_000, 1_000]]), np.array([[100, 200]]))
    report = _analyse({0.0: first, 1.0: rates(np.zeros((1, 2)), np.zeros((1, 2)))}, totals=True)
    assert report["effects"][0]["n"] == 1_000
    assert report["checks"]["sample_ratio"]["observed"] == (1_000, 1_000)


def test_nothing_is_a_report_too() -> None:
    report = json.loads(json.dumps(_analyse({0.0: rates(np.zeros((1, 2)), np.zeros((1, 2)))}), allow_nan=False))
    assert report["effects"][0]["effect"] is None
    assert report["checks"]["sample_ratio"]["p_value"] is None
    assert json.dumps(_analyse({}), allow_nan=False)


def test_segments_are_rows_of_their_own() -> None:
    report = _analyse(_ticks(3, 0.2, runs=2), runs=2)
    assert [row["segment"] for row in report["effects"]] == [ALL, "s0", "s1"]
    assert sum(row["n"] for row in report["effects"][1:]) == report["effects"][0]["n"]


def test_the_course_is_bounded_and_keeps_its_ends() -> None:
    course, effects = Course(experiment()), Effects(experiment())
    for at in range(3 * MAX_LOOKS):
        course.note(effects, float(at))
        course.allot(float(at), [0.5 + at / 1e5, 0.5 - at / 1e5])
    assert len(course.looks) <= MAX_LOOKS
    assert (course.looks[0].at_s, course.looks[-1].at_s) == (0.0, 3 * MAX_LOOKS - 1)
    assert len(course.shared["s0"]) <= MAX_LOOKS


def test_nobody_wins_with_people_that_are_not_where_they_were_sent() -> None:
    ticks = {0.0: rates(np.array([[1_000, 1_200]]), np.array([[100, 300]]))}
    report = _analyse(ticks)
    assert report["checks"]["sample_ratio"]["mismatch"]
    assert (report["verdicts"][ALL]["standing"], report["verdicts"][ALL]["winner"]) == ("waiting", "b")


def test_what_was_proven_once_stays_so_and_a_discovery_is_of_its_look() -> None:
    course, effects = Course(experiment()), Effects(experiment())
    rows = []
    for n, yes in ((1_000, [100, 250]), (5_000, [900, 910])):
        effects.replace(rates(np.array([[n, n]]), np.array([yes])))
        rows += course.note(effects, float(n)).rows
    assert rows[0].p_adjusted == rows[1].p_adjusted < 0.001
    assert rows[0].p == rows[1].p < 0.001
    assert [row.discovery for row in rows] == [True, False]


def test_one_of_many_metrics_is_corrected_for_the_others() -> None:
    metrics = tuple(Metric(name=f"m{i}") for i in range(30))
    effects, course = Effects(experiment(metrics=metrics)), Course(experiment(metrics=metrics))
    cells = np.zeros((1, 2, 30, 6))
    cells[..., 0], cells[..., 1], cells[..., 2] = 4_000, 400, 400
    cells[0, 1, 0, 1:3] = 505  # alone this would be enough
    effects.update(Tally(cells, np.full((1, 2), 4_000), np.zeros(1, np.int64)), [0.5, 0.5])
    rows = course.note(effects, 0.0).rows
    assert rows[0].p < 0.05
    assert rows[0].p_adjusted > 0.05
    assert not any(row.discovery for row in rows)
