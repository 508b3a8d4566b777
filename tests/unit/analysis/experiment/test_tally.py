"""People are counted once, where they were first exposed, and tallies add up however they are grouped."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.experiment.design import Kind, Metric
from analysis.experiment.tally import CROSS, PRIOR, SUM, SUM_SQ, Exposures, N, Tally, merge, tally_people
from tests.unit.analysis.experiment.experiments import experiment

METRICS = (Metric(name="conversion"), Metric(name="revenue", kind=Kind.MEAN))


def _rows(*rows: tuple[int, int, int, float, float, float]) -> Exposures:
    person, segment, variant, at, converted, revenue = (np.array(x) for x in zip(*rows, strict=True))
    outcomes = np.stack([converted, revenue], -1).astype(float)
    return Exposures(
        person=person, segment=segment, variant=variant, at_s=at.astype(float), outcomes=outcomes,
        prior=np.full_like(outcomes, 2.0),
    )  # fmt: skip


def test_first_exposures_count_and_people_with_several_variants_are_left_out() -> None:
    rows = _rows(
        (1, 0, 0, 5, 1, 30), (1, 0, 0, 90, 0, 99),  # comes again: the first one counts
        (2, 1, 1, 65, 0, 7),
        (3, 0, 1, 61, 1, 5), (3, 0, 0, 3, 1, 5),  # met a first, then b
        (4, 0, 1, 64, np.nan, np.inf),  # exposed, not judged
        (5, 0, 1, 500, 1, 1),  # after the end
        (6, 0, 1, 66, 0.5, 4),  # no rate has a half
    )  # fmt: skip
    found = tally_people(experiment(runs=2, metrics=METRICS, start_s=0, end_s=200), rows, tick_s=60)
    assert sorted(found) == [0, 1]
    assert found[0].exposed.tolist() == [[1, 0], [0, 0]]
    assert found[0].multiple.tolist() == [1, 0]
    assert found[0].cells[0, 0, 1].tolist() == [1, 30, 900, 2, 4, 60]
    assert found[1].exposed.tolist() == [[0, 2], [0, 1]]
    assert found[1].cells[0, 1, :, N].tolist() == [0, 1]
    assert found[1].cells[1, 1, :, SUM].tolist() == [0, 7]
    assert np.isfinite(found[1].cells).all()


def test_without_history_the_covariate_is_zero() -> None:
    rows = _rows((1, 0, 0, 5, 1, 30))
    rows.prior[:] = np.nan
    cell = tally_people(experiment(metrics=METRICS), rows, tick_s=60)[0].cells[0, 0, 1]
    assert cell[[PRIOR, CROSS]].tolist() == [0, 0]
    assert cell[SUM_SQ] == 900


def _tallies(seed: int) -> dict[int, Tally]:
    rng = np.random.default_rng(seed)
    return {
        int(tick): Tally(rng.integers(0, 9, (1, 2, 1, 6)) * 1.0, rng.integers(0, 9, (1, 2)), rng.integers(0, 9, 1))
        for tick in rng.choice(5, 3, replace=False)
    }


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_merging_is_associative_and_order_makes_no_difference(seed: int) -> None:
    a, b, c = (_tallies(3 * seed + i) for i in range(3))
    grouped = [merge([merge([a, b]), c]), merge([a, merge([b, c])]), merge([c, a, b])]
    for one in grouped[1:]:
        assert list(one) == list(grouped[0]) == sorted(one)
        for tick, tally in one.items():
            for name in ("cells", "exposed", "multiple"):
                np.testing.assert_array_equal(getattr(tally, name), getattr(grouped[0][tick], name))


def test_processes_that_saw_different_people_add_up_to_one_that_saw_all() -> None:
    rng = np.random.default_rng(4)
    n = 300
    rows = [
        (i, int(rng.integers(2)), int(rng.integers(2)), float(rng.uniform(0, 200)), float(rng.integers(2)), 3.0 * i)
        for i in range(n)
    ]
    plan = experiment(runs=2, metrics=METRICS)
    parts = [tally_people(plan, _rows(*rows[i::3]), tick_s=60) for i in range(3)]
    whole = tally_people(plan, _rows(*rows), tick_s=60)
    for tick, tally in merge(parts).items():
        np.testing.assert_allclose(tally.cells, whole[tick].cells)
