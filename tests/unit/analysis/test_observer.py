"""The observer: who belongs to which arm, and who is counted once."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import numpy as np
import pytest

from analysis.observer import LATENESS_S, Observer
from analysis.sample import NO_BUCKET
from analysis.session import NS
from analysis.window import BASELINE, CANARY, Window
from tests.unit.analysis.rows import ABANDONMENT, ERRORS, LATENCY, row, small_spec, table


def _observer(split_bp: int = 2_000, at_s: float = 10.0) -> Observer:
    observer = Observer(small_spec())
    observer.begin({"power": ("v1", "v2"), "default": ("v1", "v2")})
    observer.set_split("power", split_bp, round(at_s * NS))
    return observer


def _window(observer: Observer, at_s: float) -> Window:
    return observer.window(round((at_s + LATENESS_S) * NS))


def _both(observer: Observer, at_s: float) -> tuple[int, int]:
    window = _window(observer, at_s)
    return int(window.n[0, ERRORS, BASELINE]), int(window.n[0, ERRORS, CANARY])


CANARY_ROW: dict[str, Any] = {"version": 1, "bucket": 100}


def test_arms_are_told_by_bucket_and_version() -> None:
    observer = _observer()
    observer.observe(
        table(
            row(11, 1, **CANARY_ROW), row(11, 2, version=0, bucket=2_000), row(11, 3, version=0, bucket=1_999),
            row(11, 4, version=1, bucket=2_000), row(11, 5, version=0, bucket=NO_BUCKET),
        )
    )  # fmt: skip
    assert _both(observer, 30) == (1, 1)


@pytest.mark.parametrize("to_bp", [500, 5_000])
def test_people_who_were_moved_belong_to_neither_arm(to_bp: int) -> None:
    """Whichever way the split went while they were being watched, and whatever became of them."""
    observer = _observer()
    observer.observe(
        table(
            row(11, 1, version=1, bucket=1_000),
            row(11, 2, version=0, bucket=3_000, error=True),
            row(11, 3, **CANARY_ROW),
        )
    )
    observer.set_split("power", to_bp, 13 * NS)
    assert _both(observer, 30) == ((1, 1) if to_bp == 500 else (0, 2))


def test_move_after_the_judgement_s_age_changes_nothing() -> None:
    observer = _observer()
    observer.observe(table(row(11, 1, version=1, bucket=1_000), row(11, 2, version=0, bucket=3_000)))
    observer.set_split("power", 0, round(15.1 * NS))
    assert _both(observer, 30) == (1, 1)


def test_judgement_is_the_same_whatever_comes_later() -> None:
    """Two people, the same first four seconds; one goes on, errs later and reaches the goal."""
    observer = _observer()
    observer.observe(table(row(11, 1, **CANARY_ROW), row(11, 2, **CANARY_ROW)))
    observer.observe(table(row(16, 1, error=True, **CANARY_ROW), row(17, 1, goal=True, **CANARY_ROW)))
    window = _window(observer, 40)
    assert window.n[0, ERRORS, CANARY] == 2
    assert window.bad[0, ERRORS, CANARY] == 0
    assert window.bad[0, ABANDONMENT, CANARY] == 1


def test_person_counts_once_for_evidence_and_every_time_for_harm() -> None:
    observer = _observer()
    for at_s in (11, 30, 50):
        observer.observe(table(row(at_s, 1, error=True, **CANARY_ROW)))
    window = _window(observer, 100)
    assert (window.n[0, ERRORS, CANARY], window.bad[0, ERRORS, CANARY]) == (1, 1)
    assert (window.harm_n[0, CANARY], window.harm_bad[0, CANARY], window.exposed[0]) == (3, 3, 3)


def test_sessions_from_before_the_exposure_never_count_as_evidence() -> None:
    observer = _observer(at_s=10.0)
    observer.observe(table(row(9.9, 1), row(9.9, 2, error=True), row(10.0, 3)))
    window = _window(observer, 60)
    assert window.n[0, ERRORS].tolist() == [1, 0]
    assert window.harm_n[0].tolist() == [1, 0]
    assert (window.unexposed_n[0, ERRORS], window.unexposed_bad[0, ERRORS]) == (2, 1)


def test_visit_that_began_before_the_exposure_does_not_use_up_the_person() -> None:
    observer = _observer(at_s=10.0)
    observer.observe(table(row(9.0, 1), row(30.0, 1)))
    assert _both(observer, 60) == (1, 0)


def test_segment_that_is_not_exposed_gives_only_base_rates() -> None:
    observer = _observer()
    observer.observe(table(row(20, 1, segment=1)))
    window = _window(observer, 60)
    assert window.n[1].sum() == 0
    assert window.unexposed_n[1, ERRORS] == 1


def test_person_whose_first_visit_was_moved_is_not_counted_by_a_later_one() -> None:
    """Otherwise who is judged would depend on when the split moved."""
    observer = _observer()
    observer.observe(table(row(11, 1, version=0, bucket=3_000)))
    observer.set_split("power", 5_000, 12 * NS)
    observer.observe(table(row(40, 1, version=1, bucket=3_000)))
    assert _both(observer, 100) == (0, 0)


def test_nothing_is_judged_before_late_entries_may_have_come() -> None:
    observer = _observer()
    observer.observe(table(row(11, 1, **CANARY_ROW)))
    assert observer.window(round(15.0 * NS)).n.sum() == 0
    observer.observe(table(row(12, 1, error=True, **CANARY_ROW)))  # came late, but in time
    assert observer.window(round((15.0 + LATENESS_S) * NS)).bad[0, ERRORS, CANARY] == 1


def test_recent_people_are_told_by_their_newest_request() -> None:
    observer = _observer()
    observer.observe(
        table(
            row(20, 1, error=True, **CANARY_ROW), row(21, 1, **CANARY_ROW), row(21, 2, error=True, **CANARY_ROW),
            row(21, 3), row(10, 4, error=True, **CANARY_ROW),
        )
    )  # fmt: skip
    window = observer.window(22 * NS)
    assert window.people[0].tolist() == [1, 2]
    assert window.failing[0].tolist() == [0, 1]
    assert observer.window(40 * NS).people.sum() == 0


def test_counts_of_a_tick_are_given_once() -> None:
    observer = _observer()
    observer.observe(table(row(11, 1, **CANARY_ROW)))
    assert (_window(observer, 60).entries, _window(observer, 60).entries) == (1, 0)
    assert _window(observer, 60).n.sum() == 0


def test_new_rollout_counts_everybody_anew() -> None:
    observer = _observer()
    observer.observe(table(row(11, 1, **CANARY_ROW)))
    observer.begin({"power": ("v1", "v2")})
    observer.set_split("power", 2_000, 30 * NS)
    observer.observe(table(row(40, 1, **CANARY_ROW)))
    assert _both(observer, 100) == (0, 1)


def test_slow_is_frozen_from_the_slowest_request_of_each_person() -> None:
    observer = Observer(small_spec())
    observer.begin({"power": ("v1", "v2"), "default": ("v1", "v2")})
    assert observer.freeze_thresholds() is False
    people = range(1, 101)
    observer.observe(
        table(*(row(1, user, duration_ms=10.0) for user in people), *(row(2, u, duration_ms=u) for u in people))
    )
    observer.observe(table(row(2, 900, duration_ms=np.nan), row(2, 901, duration_ms=5_000.0, version=1)))
    assert observer.freeze_thresholds() is True
    assert observer.tracker.slow_ms == pytest.approx([95.05 * 1.1] * 2, rel=0.01)  # too few in `default`: all people's


def test_slow_limit_of_the_specification_goes_first() -> None:
    spec = small_spec()
    kpis = tuple(kpi if i != LATENCY else type(kpi)(kind=kpi.kind, judge_after_s=4, tolerance=0.05, slow_ms=400.0)
                 for i, kpi in enumerate(spec.kpis))  # fmt: skip
    observer = Observer(small_spec(kpis=kpis))
    assert observer.freeze_thresholds() is True
    assert observer.tracker.slow_ms.tolist() == [400.0, 400.0]


def _settled(split_bp: int = 2_000, at_s: float = 10.0) -> Observer:
    observer = _observer(split_bp, at_s)
    observer.settle("power", round((at_s + 0.5) * NS))
    return observer


def test_new_people_are_counted_once_by_where_their_first_request_went() -> None:
    """A bot with one identity is one person, however much it asks and however often it comes back."""
    observer = _settled()
    bot = [row(12 + i / 100, 1, **CANARY_ROW) for i in range(500)]
    later = [row(40 + i, 1, version=0) for i in range(3)]
    observer.observe(table(*bot, *later, row(13, 2), row(13, 3, version=1, bucket=5_000), row(13, 4, version=77)))
    assert _window(observer, 99).newcomers == {(0, 2_000, CANARY): 2, (0, 2_000, BASELINE): 2}
    assert _window(observer, 199).newcomers == {}


def test_new_people_are_counted_at_the_age_of_the_first_judgement() -> None:
    """A request is logged when it ends: at once, a slow version's people would be missing."""
    observer = _settled()
    observer.observe(table(row(12, 1, **CANARY_ROW)))
    assert _window(observer, 15.9).newcomers == {}
    observer.observe(table(row(12, 2, duration_ms=3_800.0, **CANARY_ROW)))
    assert _window(observer, 16).newcomers == {(0, 2_000, CANARY): 2}


def test_who_comes_while_a_split_changes_is_not_counted_whichever_way_it_is_routed() -> None:
    observer = _settled()
    people = [row(at_s / 10, at_s, version=at_s % 2) for at_s in range(100, 400, 2)]
    observer.observe(table(*people[:100]))
    observer.set_split("power", 5_000, 20 * NS)
    observer.observe(table(*people[100:]))
    observer.set_split("power", 4_000, 22 * NS)  # before the one before is in force
    observer.settle("power", 25 * NS)
    counted = _window(observer, 99).newcomers
    assert counted == {(0, 2_000, BASELINE): 37, (0, 4_000, BASELINE): 69}  # 11.6 to 18.9 s, 26.1 to 39.9 s


def test_nobody_is_counted_while_a_split_is_not_in_force_everywhere() -> None:
    observer = _observer()
    observer.observe(table(*(row(12 + i, i + 1) for i in range(20))))
    assert _window(observer, 99).newcomers == {}


def test_who_is_counted_hangs_on_when_they_came_and_not_on_when_it_was_heard_of() -> None:
    """Else a version that answers slowly would lose people, and fire."""
    counted = []
    for delay_s in (0.0, 0.7, 2.4):
        observer, window = _settled(), Counter[tuple[int, int, int]]()
        for tick in range(100, 400):
            heard = tick / 10 - delay_s
            observer.observe(table(*(row(heard, tick * 10 + v, version=v) for v in (0, 1))))
            if tick in (200, 201, 300):
                observer.set_split("power", tick * 10, tick * NS // 10)
            if tick in (210, 305):
                observer.settle("power", tick * NS // 10)
            window += observer.window(tick * NS // 10).newcomers
        counted.append({key: n for key, n in window.items() if key[1] != 2_000})
    assert counted[0]
    assert counted == [counted[0]] * 3


def test_sessions_from_before_the_exposure_or_of_the_last_rollout_are_no_new_people() -> None:
    observer = _settled()
    observer.observe(table(row(8, 1), row(12, 2)))
    observer.begin({"power": ("v1", "v2")})
    observer.set_split("power", 2_000, 20 * NS)
    observer.settle("power", 20 * NS)
    observer.observe(table(row(21.5, 3)))
    assert _window(observer, 99).newcomers == {(0, 2_000, BASELINE): 1}


def test_visit_that_began_before_the_exposure_makes_the_next_one_new() -> None:
    observer = _settled()
    observer.observe(table(row(9, 1), row(30, 1)))
    assert _window(observer, 99).newcomers == {(0, 2_000, BASELINE): 1}


def _usual(observer: Observer, at_s: float) -> list[int]:
    """Users of the sessions that are over at that time and show what is usual."""
    _window(observer, at_s)
    rows, usual = observer.take_over()
    return sorted(rows["user"][usual].tolist())


def test_sessions_that_are_over_show_what_is_usual_only_on_the_baseline_and_unexposed() -> None:
    observer = _observer(at_s=10.0)
    observer.observe(table(row(9, 1), row(9, 2, version=1), row(9, 3, bot=True), row(11, 4), row(11, 5, **CANARY_ROW)))
    observer.observe(table(row(11, 6, segment=1)))
    assert _usual(observer, 99) == [1, 6]
    assert _usual(observer, 199) == []


def test_after_a_rollout_what_its_end_leaves_people_on_is_usual_again() -> None:
    observer = _observer(at_s=10.0)
    observer.finish({"power": "v2"}, 100 * NS)
    observer.observe(table(row(99, 1, **CANARY_ROW), row(101, 2, **CANARY_ROW)))  # may carry over what was before
    observer.observe(table(row(120, 3, **CANARY_ROW), row(120, 4)))
    assert _usual(observer, 300) == [3]


def test_after_a_rollout_the_profile_s_sample_goes_on_with_what_people_are_on() -> None:
    observer = _observer(at_s=10.0)
    observer.observe(table(row(11, 1, **CANARY_ROW), row(11, 2)))
    _window(observer, 60)
    assert observer.behaviour.waiting_n(0) == 0, "of neither arm while they are compared"
    observer.finish({"power": "v2"}, 100 * NS)
    observer.observe(table(row(120, 3, **CANARY_ROW), row(120, 4)))
    _window(observer, 300)
    assert observer.behaviour.waiting_n(0) == 1


def test_a_finished_rollout_that_is_rolled_back_makes_the_baseline_usual() -> None:
    observer = _observer(at_s=10.0)
    observer.finish({"power": "v2"}, 100 * NS)
    observer.finish({"power": "v1"}, 200 * NS)
    observer.finish({"power": "v1"}, 250 * NS)
    observer.observe(table(row(220, 3, **CANARY_ROW), row(220, 4)))
    assert _usual(observer, 400) == [4]


@pytest.mark.parametrize("failing", ["observe", "judge"])
def test_what_fails_at_each_tick_keeps_no_requests(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(failing)

    observer = _observer()
    monkeypatch.setattr(observer.tracker, failing, fail)
    for tick in range(5):
        with contextlib.suppress(RuntimeError):
            observer.observe(table(row(11 + tick, 1)))
            _window(observer, 11 + tick)
    assert sum(map(len, observer._fresh)) == 0
