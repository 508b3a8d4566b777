"""The experiments' bench plays what it says, reads tables as they are, and tells met from missed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.experiment.design import Allocation
from benchmarks.experiments import tables
from benchmarks.experiments.simulated import family, play, rates, revenue
from benchmarks.goal_table import Row, markdown


def test_a_plain_difference_is_found_held_and_won() -> None:
    played = play(replace(rates(0.1, 0.3), ticks=30), 8, 1)
    assert played.excluded.all()
    assert not played.missed.any()
    assert (played.winner == 1).all()
    assert (play(replace(rates(0.3, 0.1), ticks=30), 8, 1).winner == 0).all()
    assert played.people.sum() == 8 * 3_000


def test_a_wrong_truth_is_missed() -> None:
    assert play(replace(rates(0.1, 0.3), ticks=30, truth=0.0), 8, 1).missed.all()


def test_people_follow_results_and_stay_with_the_winner() -> None:
    played = play(replace(rates(0.1, 0.3), ticks=60, allocation=Allocation.THOMPSON), 8, 1)
    assert (played.people[:, 1] > 0.85 * played.people.sum(axis=1)).all()
    assert (played.winner == 1).all()


def test_revenue_has_the_lift_that_is_asked_for() -> None:
    played = play(revenue(buy=0.5, spread=0.3, known=0.5, lift=5.0), 8, 1)
    assert not played.missed.any()
    assert played.excluded.all()


def test_families_of_nothing_are_kept_by_nobody_here() -> None:
    ever, last = family(8, 1, ticks=20)
    assert ever.shape == last.shape == (8,)
    assert ever.sum() <= 1


def test_what_is_missed_comes_first() -> None:
    rows = [Row(measure=name, setting="", measured="1", n=1, goal="2", met=met) for name, met in
            (("fine", True), ("bad", False), ("plain", None))]  # fmt: skip
    lines = markdown(rows).splitlines()
    assert lines[2].startswith("| bad |")
    assert lines[2].endswith("**missed** |")
    assert lines[3].endswith("| met |")


def test_streams_of_looks_go_through_the_command(tmp_path: Path) -> None:
    """One stream with an effect, one without, one with too few looks; moments come back from means and variances."""
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import Table

    looks = [
        {"experiment_id": "x", "variant_id": 1, "metric_id": metric, "time_since_start": float(at),
         "count_c": 1_000.0 * at, "count_t": 1_000.0 * at, "mean_c": 2.0, "mean_t": 2.0 + lift,
         "variance_c": 1.0, "variance_t": 1.0 if at else np.nan}
        for metric, lift, n_looks in ((1, 0.5, 6), (2, 0.0, 6), (3, 0.5, 4))
        for at in range(n_looks + 1)
    ]  # fmt: skip
    parquet.write_table(Table.from_pylist(looks), tmp_path / "looks.parquet")
    found = tables.asos(tmp_path / "looks.parquet", tmp_path)
    assert found["ours"].tolist() == found["last"].tolist() == found["corrected"].tolist() == [True, False]
