"""First minutes are counted alike live and from a record, and what is not known stays missing."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from analysis.failure.facts import FIRST_MINUTES_S
from analysis.failure.watch import Watch, first_minutes_of

KPIS = ("error_rate", "anomaly")
TICK_S, TICKS, SEGMENTS = 10.0, 40, 2


@dataclass(frozen=True)
class Record:
    kpis: tuple[str, ...]
    segments: tuple[str, ...]
    at_s: npt.NDArray[np.float64]
    n: npt.NDArray[np.int64]
    bad: npt.NDArray[np.int64]
    exposed: npt.NDArray[np.float64]
    arrived: npt.NDArray[np.float64]
    split_bp: npt.NDArray[np.float64]


def _record(
    excess: float = 0.0, *, growth: float = 0.0, seed: int = 1, people: int = 100, silent: bool = False
) -> Record:
    """A warm-up of ten ticks, then half of all people on the canary; the second segment has ten times the base rate."""
    rng, split = np.random.default_rng(seed), np.zeros((TICKS, SEGMENTS))
    split[10:] = 5_000
    n = np.stack([people * (1 - split / 10_000), people * split / 10_000], axis=-1).astype(int)
    n = np.repeat(n[:, :, None], len(KPIS), axis=2)
    base = np.array([0.01, 0.1])[None, :, None, None]
    grown = growth * np.maximum(np.arange(TICKS) - 10, 0)[:, None, None, None] / 30
    rate = np.broadcast_to(base + (excess + grown) * np.array([0.0, 1.0]), n.shape)
    exposed = n[:, :, 0, 1].astype(float) * (not silent)
    return Record(
        kpis=KPIS, segments=("a", "b"), at_s=TICK_S * (1 + np.arange(TICKS)), n=n, bad=rng.binomial(n, rate),
        exposed=exposed, arrived=np.full((TICKS, SEGMENTS), float(people)), split_bp=split,
    )  # fmt: skip


def test_effects_are_standard_normal_where_there_is_none() -> None:
    found = [first_minutes_of(_record(seed=seed)) for seed in range(150)]
    z = np.array([first.effects["error_rate"] for first in found if first is not None])
    slopes = np.array([first.slopes["error_rate"] for first in found if first is not None])
    assert len(z) == 150
    for values in (z, slopes):
        assert abs(values.mean()) < 0.3
        assert 0.8 < values.std() < 1.2


def test_harm_its_growth_and_silence_show() -> None:
    harmed, growing, silent = (
        first_minutes_of(record) for record in (_record(0.05), _record(growth=0.1), _record(silent=True))
    )
    assert harmed is not None
    assert growing is not None
    assert silent is not None
    assert harmed.effects["error_rate"] > 4
    assert harmed.anomaly == pytest.approx(0.05, abs=0.02)
    assert growing.slopes["error_rate"] > 3
    assert silent.silence == 1.0
    assert harmed.silence == 0.0


def test_segments_with_other_rates_and_splits_make_no_difference_of_their_own() -> None:
    """All in the bad segment are on the canary and all in the good one on the baseline, but for a few."""
    watch = Watch(KPIS, 2)
    n = np.array([[[900, 100]] * 2, [[100, 900]] * 2])
    watch.add(n, n * np.array([0.01, 0.1])[:, None, None], expected=1_000, came=1_000, since_s=100)
    first = watch.first_minutes()
    assert first is not None
    assert abs(first.effects["error_rate"]) < 0.01


def test_what_comes_after_the_first_minutes_is_left_out() -> None:
    record = _record(0.05)
    watch = Watch(KPIS, SEGMENTS)
    for t in range(10, TICKS):
        watch.add(record.n[t], record.bad[t], expected=1.0, came=1.0, since_s=10.0 * (t - 9))
    before = watch.first_minutes()
    watch.add(record.n[-1], record.n[-1], expected=1.0, came=1.0, since_s=FIRST_MINUTES_S + 1)
    assert watch.first_minutes() == before
    assert before is not None
    assert before.seen_s == FIRST_MINUTES_S


def test_few_people_and_unrecorded_splits_are_missing_and_no_zero() -> None:
    few = first_minutes_of(_record(people=2, seed=2))
    assert few is None or "error_rate" in few.effects  # sixty of each by then
    lonely = Watch(KPIS, SEGMENTS)
    lonely.add(np.ones((2, 2, 2)), np.zeros((2, 2, 2)), expected=2.0, came=2.0, since_s=10.0)
    first = lonely.first_minutes()
    assert first is not None
    assert first.effects == {} == first.slopes
    assert first.anomaly is None is first.silence
    record = _record()
    unrecorded = Record(**{**record.__dict__, "split_bp": np.full_like(record.split_bp, np.nan)})
    assert first_minutes_of(unrecorded) is None
    halfway = Record(**{**record.__dict__, "exposed": np.full_like(record.exposed, np.nan)})
    found = first_minutes_of(halfway)
    assert found is not None
    assert found.silence is None


def test_a_restart_changes_nothing() -> None:
    record = _record(0.02)
    whole, parted = Watch(KPIS, SEGMENTS), Watch(KPIS, SEGMENTS)
    for t in range(10, TICKS):
        for watch in (whole, parted):
            watch.add(record.n[t], record.bad[t], expected=float("nan"), came=1.0, since_s=10.0 * (t - 9))
        state = json.loads(json.dumps(parted.state(), allow_nan=False))
        parted = Watch(KPIS, SEGMENTS)
        parted.restore(state)
    assert parted.first_minutes() == whole.first_minutes()
    with pytest.raises(ValueError, match="reshape"):
        Watch(KPIS, 3).restore(state)


def test_a_small_segment_takes_nothing_from_what_a_large_one_shows() -> None:
    def effect(sizes: tuple[int, ...]) -> float:
        watch = Watch(KPIS, len(sizes))
        n = np.array([[[size, size]] * 2 for size in sizes])
        bad = n * np.array([0.01, 0.03])
        bad[1:] = n[1:] * 0.1  # as bad on both
        watch.add(n, bad, expected=1.0, came=1.0, since_s=100)
        first = watch.first_minutes()
        assert first is not None
        return first.effects["error_rate"]

    assert effect((2_000, 20)) == pytest.approx(effect((2_000,)), rel=0.05)
