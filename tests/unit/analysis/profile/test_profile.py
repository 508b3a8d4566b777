"""A profile is kept as bytes that give it back; hours of the week are rates that old weeks fade from."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.errors import StateError
from analysis.profile.hours import ENOUGH_N, HOUR_NS, MOST_AHEAD, WEEK_H, HourOfWeek, ahead
from analysis.profile.profile import MIN_N, Profile, train
from analysis.profile.reservoir import Reservoir
from analysis.profile.tails import UpperTail
from tests.unit.analysis.visits import LABELS, usual

AGE_S = 60.0


def _trained(n: int = 400) -> Profile:
    rng = np.random.default_rng(1)
    return train(usual(n, rng), LABELS, age_s=AGE_S, rng=rng, trained_unix_ns=5)


def test_bytes_give_the_profile_back() -> None:
    profile, sessions = _trained(), usual(100, np.random.default_rng(2))
    again = Profile.from_bytes(profile.to_bytes())
    assert again.to_bytes() == profile.to_bytes()
    assert (again.labels, again.n_sessions, again.trained_unix_ns) == (profile.labels, 400, 5)
    assert again.fingerprint == profile.fingerprint
    np.testing.assert_array_equal(
        again.p_values(again.visits(sessions, LABELS)), profile.p_values(profile.visits(sessions, LABELS))
    )


def test_damaged_bytes_are_refused() -> None:
    data = _trained().to_bytes()
    for damaged in (b"", b"PK\x03\x04", data[: len(data) // 2], data[:60] + b"\xff\xff" + data[62:], b"\x00" * 99):
        with pytest.raises(StateError, match="profile"):
            Profile.from_bytes(damaged)
    with pytest.raises(StateError, match="sample of sessions"):
        Reservoir.from_bytes(data)


def test_a_profile_says_what_its_people_use() -> None:
    profile = _trained(2_000)
    use = dict(zip(profile.labels, profile.use.tolist(), strict=True))
    assert use["page /"] == 1.0
    assert 0.2 < use["feature voucher"] < 0.4
    assert use["other"] == 0.0


def test_too_few_sessions_are_no_profile() -> None:
    with pytest.raises(ValueError, match="at least 20"):
        _trained(MIN_N - 1)


def test_the_sample_does_not_depend_on_the_order_of_sessions() -> None:
    sessions = usual(500, np.random.default_rng(3))
    one, two = Reservoir(100), Reservoir(100)
    one.offer(sessions, LABELS)
    for part in np.array_split(sessions[::-1], 7):
        two.offer(part, LABELS)
    assert len(one) == len(two) == 100
    assert one.seen_n == two.seen_n == 500
    np.testing.assert_array_equal(one.sessions["key"], two.sessions["key"])
    again = Reservoir.from_bytes(one.to_bytes(), 100)
    assert again.to_bytes() == one.to_bytes()


def test_hours_of_the_week_are_rates_and_old_weeks_fade() -> None:
    hours = HourOfWeek()
    assert np.isnan(hours.rates()).all()
    for week in range(8):
        busy = 30 if week < 4 else 60
        hours.observe(np.repeat((week * WEEK_H + 5) * HOUR_NS, busy))
        hours.advance((week + 1) * WEEK_H)
    rates = hours.rates()
    assert 40 < rates[5] < 60
    assert (np.delete(rates, 5) < 0.2).all()
    hours.observe(np.array([(8 * WEEK_H + 60 * WEEK_H) * HOUR_NS]))  # a year of nothing: begin anew
    assert np.isnan(hours.rates()).all()


def test_hours_that_have_not_passed_are_not_known_and_the_first_counts_as_far_as_it_was_watched() -> None:
    hours = HourOfWeek()
    hours.observe((np.linspace(0.5, 2.0, 150, endpoint=False) * HOUR_NS).astype(np.int64))
    hours.advance(2)
    rates = hours.rates()
    assert rates[:2] == pytest.approx([100.0, 100.0], rel=0.05)
    assert np.isnan(rates[2:]).all()
    again = HourOfWeek.going_on(rates)
    np.testing.assert_allclose(again.rates()[:2], rates[:2], rtol=0.01)
    assert np.isnan(again.rates()[2:]).all()
    again.advance(2 * WEEK_H)  # begins there: what was kept stays
    assert again.rates()[:2] == pytest.approx(rates[:2], rel=0.01)


@pytest.mark.parametrize(
    ("hour", "said"),
    [
        (8.0, 4.0),  # 400 in the ninth hour after 100 in each before
        (8.5, 400 / 250),
        (9.0, 1.0),
        (9.5, 1.0),
        (30.0, 1.0),
        (WEEK_H + 8.0, 4.0),
        (50.0, 1.0),  # not known
        (49.5, 1.0),  # … nor is half of what comes
        (47.0, 1 / MOST_AHEAD),  # all is over
        (45.0, 1.0),
    ],
)
def test_the_next_hour_beside_the_last_one(hour: float, said: float) -> None:
    rates = np.full((2, WEEK_H), 50.0)
    rates[:, 8:30] = 200.0
    rates[:, 29:46] = 200.0
    rates[:, 47:50] = 0.0
    rates[:, 46] = 200.0
    rates[:, 50:60] = np.nan
    rates = np.vstack([rates, np.where(np.arange(WEEK_H) == 8, 1e6, np.nan)])  # a segment that knows too little
    assert ahead(rates, round(hour * HOUR_NS)) == pytest.approx(said)


def test_of_few_sessions_and_of_none_nothing_is_said_of_the_next_hour() -> None:
    rates = np.full((1, WEEK_H), 0.4 * ENOUGH_N)
    rates[:, 8] = 0.55 * ENOUGH_N
    assert ahead(rates, 8 * HOUR_NS) == 1.0
    assert ahead(2 * rates, 8 * HOUR_NS) == pytest.approx(0.55 / 0.4)
    assert ahead(np.full((2, WEEK_H), np.nan), 0) == 1.0


def test_tails_go_on_beyond_what_was_seen() -> None:
    tail = UpperTail.of(np.random.default_rng(4).exponential(size=5_000))
    depths = tail.depth(np.array([-1.0, 0.7, 3.0, 8.0, 20.0, 40.0]))
    assert (np.diff(depths) > 0).all()
    assert depths[1:3] == pytest.approx([0.7, 3.0], abs=0.2)
    assert depths[4] == pytest.approx(20.0, rel=0.3)
    flat = UpperTail.of(np.ones(50))
    assert flat.depth(np.array([0.0, 1.0, 2.0])).tolist() == sorted(flat.depth(np.array([0.0, 1.0, 2.0])).tolist())
    assert flat.depth(np.array([2.0]))[0] > flat.depth(np.array([1.0]))[0]
