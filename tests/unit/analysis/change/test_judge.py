"""Whose fault it is: releases in a mesh, by what their series say."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.change import Edge, Ground, Judgement, Release, Series, Source, Verdict, judge
from analysis.change.before_after import PLACEBOS_MIN
from analysis.change.series import BASELINE, CANARY
from tests.unit.analysis.change.meshes import AFTER, EDGES, broken, release, silent, stops

TO_CART, TO_PAY, TO_STOCK = EDGES
NOW = 1e9 + 3_600


def verdicts(*releases: Release, now_unix_s: float = NOW) -> dict[str, Judgement]:
    return {each.service: each for each in judge(releases, now_unix_s=now_unix_s)}


def minutes(judgement: Judgement) -> float:
    return (judgement.at_unix_s - 1e9) / 60


def test_a_release_like_the_old_version_is_kept() -> None:
    found = verdicts(release("cart"), release("pay", starts=2, seed=2))
    assert {each.verdict for each in found.values()} == {Verdict.KEEP}


def test_calls_that_fail_on_the_canary_alone_are_its_fault() -> None:
    found = verdicts(release("cart", canary={TO_CART: broken(0.3)}), release("pay", starts=2))
    assert found["cart"].verdict is Verdict.ROLLBACK
    assert found["cart"].findings[0].ground is Ground.CONTRAST
    assert found["cart"].findings[0].effect == pytest.approx(-0.3)
    assert 3 <= minutes(found["cart"]) <= 6
    assert found["pay"].verdict is Verdict.KEEP


def test_a_better_canary_is_kept() -> None:
    bad_old = {TO_CART: broken(0.3, since=-99)}
    assert verdicts(release("cart", old=bad_old, latency_times=0.3))["cart"].verdict is Verdict.KEEP


@pytest.mark.parametrize(("times", "verdict"), [(4.0, Verdict.ROLLBACK), (1.5, Verdict.KEEP)])
def test_latency_beyond_twice_is_harm(times: float, verdict: Verdict) -> None:
    assert verdicts(release("cart", latency_times=times))["cart"].verdict is verdict


def test_a_canary_of_which_nothing_is_heard_failed() -> None:
    found = verdicts(release("cart", heard=False))["cart"]
    assert (found.verdict, found.findings[0].ground) == (Verdict.ROLLBACK, Ground.SILENCE)
    assert minutes(found) <= 8


def test_silence_at_first_is_not_held_against_it() -> None:
    found = verdicts(release("cart", heard=False), now_unix_s=1e9 + 240)["cart"]
    assert found.verdict is Verdict.HOLD


def test_a_canary_that_nobody_could_call_is_not_blamed_for_its_silence() -> None:
    """Who calls it is not called either; old instances still report their last word."""
    found = verdicts(release("stock", canary={TO_STOCK: silent}, old={TO_CART: stops}))["stock"]
    assert not [each for each in found.findings if each.ground is Ground.SILENCE]


def test_both_versions_worse_is_not_its_fault() -> None:
    ill = {TO_CART: broken(0.4, since=-3)}
    assert verdicts(release("cart", canary=ill, old=ill))["cart"].verdict is not Verdict.ROLLBACK


def test_a_fault_elsewhere_is_the_callee_s_that_began_just_before() -> None:
    """cart fails in all of its instances once stock's canary answers; pay was there long before."""
    old = {TO_CART: broken(0.4, since=6.0)}
    found = verdicts(release("pay", old=old), release("stock", starts=4.5, old=old, seed=2))
    assert (found["stock"].verdict, found["stock"].findings[-1].ground) == (Verdict.ROLLBACK, Ground.BLAME)
    assert found["pay"].verdict is not Verdict.ROLLBACK
    assert "frontend>cart" in found["stock"].reason


def test_releases_at_the_same_moment_share_the_blame() -> None:
    old = {TO_CART: broken(0.4, since=2.0)}
    found = verdicts(release("stock", old=old), release("pay", old=old, seed=2))
    assert found["stock"].blame > found["pay"].blame > 0.2


def test_a_fault_older_than_the_release_is_vetoed() -> None:
    old = {TO_CART: broken(0.4, since=0.0)}
    found = verdicts(release("pay"), release("stock", starts=5, old=old))
    assert found["stock"].blame == 0
    assert found["stock"].verdict is Verdict.KEEP


def test_what_one_release_did_is_not_put_on_the_others() -> None:
    ill = {TO_CART: broken(0.4, since=2.0)}
    found = verdicts(
        release("stock", old=ill, canary={TO_STOCK: broken(0.9)}), release("pay", starts=1, old=ill, seed=2)
    )
    assert found["stock"].verdict is Verdict.ROLLBACK
    assert found["pay"].verdict is Verdict.KEEP


def test_more_data_changes_nothing_that_was_found() -> None:
    releases = [release("cart", canary={TO_CART: broken(0.3)}), release("pay", starts=2)]
    last = verdicts(*releases)["cart"]
    early = [verdicts(*releases, now_unix_s=1e9 + 60 * minute)["cart"] for minute in range(1, AFTER)]
    for minute, each in enumerate(early, 1):
        assert each.verdict is (Verdict.ROLLBACK if minute >= minutes(last) - 0.5 else Verdict.HOLD), minute
        if each.verdict is Verdict.ROLLBACK:
            assert each.at_unix_s == last.at_unix_s
            assert each.findings[0] == last.findings[0]


# -- before and after --------------------------------------------------------------------------------------------------


def alone(values: np.ndarray, *, after: int, kpi: str = "value") -> Release:
    at_s = (np.arange(len(values)) - len(values) + after + 1) * 60.0
    series = tuple(
        Series(kpi=kpi, arm=arm, at_s=at_s[side], value=values[side])
        for arm, side in ((BASELINE, at_s <= 0), (CANARY, at_s > 0))
    )
    return Release(rollout="a", service="a", started_unix_s=1e9, interval_s=60.0, series=series)


def daily(minutes_before: int, after: int, rng: np.random.Generator) -> np.ndarray:
    minute = np.arange(minutes_before + after)
    return 100 + 30 * np.sin(2 * np.pi * minute / 1_440) + rng.normal(0, 2, len(minute))


def test_a_new_level_right_after_the_change_is_found_and_the_daily_rise_is_not() -> None:
    rng = np.random.default_rng(3)
    values = daily(4_320, 60, rng)
    assert verdicts(alone(values, after=60))["a"].verdict is Verdict.KEEP
    values[4_325:] += 20
    found = verdicts(alone(values, after=60))["a"]
    assert (found.verdict, found.findings[0].ground) == (Verdict.ROLLBACK, Ground.BEFORE_AFTER)
    assert 5 <= minutes(found) <= 10


def test_a_jump_as_there_always_are_is_kept() -> None:
    rng = np.random.default_rng(4)
    values = daily(4_320, 60, rng)
    values[::37] += 60
    values[4_320 + 5] += 60
    assert verdicts(alone(values, after=60))["a"].verdict is Verdict.KEEP


def test_what_is_usual_is_told_by_the_same_time_of_earlier_days() -> None:
    """Jobs at night jump all the time; the change is at noon."""
    values = daily(4_320, 60, np.random.default_rng(7))
    minute = np.arange(len(values)) % 1_440
    values[(minute > 480) & (minute < 960) & (minute % 20 < 6)] += 50
    values[4_325:] += 20
    assert verdicts(alone(values, after=60))["a"].verdict is Verdict.ROLLBACK


def test_a_fall_of_errors_is_no_harm() -> None:
    rng = np.random.default_rng(5)
    values = np.clip(0.2 + rng.normal(0, 0.01, 4_380), 0, 1)
    values[4_320:] = 0.02
    assert verdicts(alone(values, after=60, kpi="error_rate"))["a"].verdict is Verdict.KEEP
    assert verdicts(alone(1 - values, after=60, kpi="error_rate"))["a"].verdict is Verdict.ROLLBACK


def test_too_short_a_history_is_held_and_says_what_is_missing() -> None:
    rng = np.random.default_rng(6)
    found = verdicts(alone(daily(60, 60, rng), after=60))["a"]
    assert found.verdict is Verdict.HOLD
    assert "more ticks would do" in found.reason
    assert verdicts(alone(daily(60 + PLACEBOS_MIN, 60, rng), after=60))["a"].verdict is Verdict.KEEP


def test_nothing_is_known_of_a_release_without_series() -> None:
    empty = Release(rollout="a", service="a", started_unix_s=1e9, interval_s=60.0, series=())
    assert verdicts(empty)["a"].verdict is Verdict.HOLD
    assert judge([], now_unix_s=NOW) == ()


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("cart>stock@cart cart-1", Source(Edge("cart", "stock"), "cart", "cart-1")),
        ("cart>stock", Source(Edge("cart", "stock"), "", "")),
        ("@cart cart-1", Source(None, "cart", "cart-1")),
        ("cart-1", Source(None, "", "cart-1")),
        ("", Source(None, "", "")),
        ("a > b", Source(None, "", "a > b")),
    ],
)
def test_sources_are_read_as_documented(text: str, source: Source) -> None:
    assert Source.parse(text) == source


def test_an_edge_that_only_the_canary_does_not_serve_is_silence() -> None:
    found = verdicts(release("stock", canary={TO_STOCK: silent}))["stock"]
    assert (found.verdict, found.findings[0].ground) == (Verdict.ROLLBACK, Ground.SILENCE)
    assert "cart>stock" in found.reason


def test_a_release_whose_old_version_fails_as_well_is_hardly_blamed() -> None:
    """Both began just before cart failed; a canary of cart could not have broken cart's old pods."""
    ill = {TO_CART: broken(0.4, since=2.0)}
    found = verdicts(release("cart", canary=ill, old=ill), release("stock", old=ill, seed=2))
    assert found["stock"].verdict is Verdict.ROLLBACK
    assert found["cart"].blame < 0.2


def test_what_was_there_before_is_taken_off() -> None:
    """The canary's instance was slower before the release too."""
    slow = release("cart", latency_times=4.0)
    minute = np.arange(-15, 1) * 60.0
    rng = np.random.default_rng(9)
    before = [
        Series(kpi="latency_ms", arm=CANARY, at_s=np.concatenate([minute, each.at_s]), source=each.source,
               value=np.concatenate([80 * rng.lognormal(0, 0.1, 16), each.value]))
        if each.arm == CANARY and each.kpi == "latency_ms" else each
        for each in slow.series
    ]  # fmt: skip
    long_slow = Release(
        rollout="cart", service="cart", started_unix_s=1e9, interval_s=60.0, series=tuple(before)
    )  # fmt: skip
    assert verdicts(slow)["cart"].verdict is Verdict.ROLLBACK
    assert verdicts(long_slow)["cart"].verdict is Verdict.KEEP


def test_processors_four_times_as_busy_are_harm_and_memory_is_told_of() -> None:
    def also(kpi: str) -> Release:
        plain = release("cart")
        rng = np.random.default_rng(8)
        more = [
            Series(kpi=kpi, arm=each.arm, at_s=each.at_s, source=each.source,
                   value=(60 if each.arm == CANARY else 7) * rng.lognormal(0, 0.1, len(each.at_s)))
            for each in plain.series if each.kpi == "latency_ms"
        ]  # fmt: skip
        return Release(
            rollout="cart", service="cart", started_unix_s=1e9, interval_s=60.0, series=(*plain.series, *more)
        )

    assert verdicts(also("cpu_percent"))["cart"].verdict is Verdict.ROLLBACK
    kept = verdicts(also("memory_percent"))["cart"]
    assert (kept.verdict, kept.findings[0].ground) == (Verdict.KEEP, Ground.RESOURCES)
    assert "memory_percent" in kept.reason
