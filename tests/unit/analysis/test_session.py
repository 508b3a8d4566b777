"""Sessions: how requests and events become visits, and what is judged at which age."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from analysis.columns import NEVER, Columns, Due
from analysis.sample import UNKNOWN, SampleKind
from analysis.session import HARM, NS, PENDING_NS, SessionTracker
from analysis.spec import HarmSpec, Outcome, RolloutSpec
from analysis.user_index import UserIndex
from tests.unit.analysis.rows import (
    ABANDONMENT,
    ERRORS,
    FEATURE,
    FEATURE_LABEL,
    LABELS,
    LATENCY,
    row,
    small_spec,
    table,
)


def _judged(tracker: SessionTracker, at_s: float) -> dict[tuple[int, int], bool]:
    """(user, kpi) to bad, of all that is due at `at_s`."""
    return {
        (user, judged.kpi): bad
        for judged in tracker.judge(round(at_s * NS))
        for user, bad in zip(tracker.columns["user"][judged.slots].tolist(), judged.bad.tolist(), strict=True)
    }


def _tracker(*rows: tuple[object, ...]) -> SessionTracker:
    tracker = SessionTracker(small_spec())
    tracker.slow_ms[:] = 100.0
    tracker.observe(table(*rows), LABELS)
    return tracker


def test_session_is_judged_at_its_age_and_not_before() -> None:
    tracker = _tracker(row(1, 7))
    assert _judged(tracker, 4.9) == {}
    assert set(_judged(tracker, 5.0)) == {(7, ERRORS), (7, LATENCY), (7, HARM)}, "errors and slowness are the harm"
    assert set(_judged(tracker, 11.0)) == {(7, ABANDONMENT), (7, FEATURE)}
    assert set(_judged(tracker, 13.0)) == {(7, 4)}
    assert _judged(tracker, 100.0) == {}


def test_harm_is_judged_at_the_oldest_age_of_what_it_counts() -> None:
    tracker = SessionTracker(small_spec(rollout=RolloutSpec(harm=HarmSpec(bad=frozenset(Outcome)))))
    tracker.observe(table(row(1, 7)), LABELS)
    assert set(_judged(tracker, 10.9)) == {(7, ERRORS), (7, LATENCY)}
    assert _judged(tracker, 11.0) == {(7, ABANDONMENT): True, (7, FEATURE): True, (7, HARM): True}


@pytest.mark.parametrize(("error_at_s", "bad"), [(5.0, True), (5.001, False), (1.0, True)])
def test_error_counts_up_to_the_age_however_late_the_judgement(error_at_s: float, bad: bool) -> None:
    tracker = _tracker(row(1, 7), row(error_at_s, 7, error=True))
    assert _judged(tracker, 60.0)[7, ERRORS] is bad


@pytest.mark.parametrize(("goal_at_s", "abandoned"), [(11.0, False), (11.5, True)])
def test_goal_reached_after_the_age_is_too_late(goal_at_s: float, abandoned: bool) -> None:
    steps = [row(at, 7) for at in (1, 6)]
    tracker = _tracker(*steps, row(goal_at_s, 7, goal=True))
    assert _judged(tracker, 60.0)[7, ABANDONMENT] is abandoned


def test_slow_request_and_span_error_and_feature_are_told_apart() -> None:
    tracker = _tracker(
        row(1, 1, duration_ms=101.0),
        row(1, 2), row(2, 2, kind=SampleKind.SPAN_ERROR),
        row(1, 3), row(2, 3, kind=SampleKind.FEATURE, label=FEATURE_LABEL),
        row(1, 4), row(2, 4, kind=SampleKind.FEATURE, label=FEATURE_LABEL + 1),
    )  # fmt: skip
    judged = _judged(tracker, 60.0)
    assert {user for user in (1, 2, 3, 4) if judged[user, LATENCY]} == {1}
    assert {user for user in (1, 2, 3, 4) if judged[user, ERRORS]} == {2}
    assert {user for user in (1, 2, 3, 4) if not judged[user, FEATURE]} == {3}


def test_nothing_is_slow_while_no_threshold_is_frozen() -> None:
    tracker = SessionTracker(small_spec())
    tracker.observe(table(row(1, 7, duration_ms=1e9)))
    assert _judged(tracker, 60.0)[7, LATENCY] is False


@pytest.mark.parametrize(
    ("bad", "harmed"), [({Outcome.ERROR}, False), ({Outcome.SLOW}, True), ({Outcome.ABANDONED}, True), (set(), False)]
)
def test_harm_counts_what_the_budget_names(bad: set[Outcome], harmed: bool) -> None:
    spec = small_spec(rollout=RolloutSpec(harm=HarmSpec(bad=frozenset(bad))))
    tracker = SessionTracker(spec)
    tracker.slow_ms[:] = 100.0
    tracker.observe(table(row(1, 7, duration_ms=500.0)))
    assert _judged(tracker, 60.0)[7, HARM] is harmed


def test_pause_longer_than_the_gap_begins_another_visit() -> None:
    tracker = _tracker(row(1, 7), row(8.9, 7), row(17.0, 7))
    assert tracker.open_n == 1
    assert sum(len(judged.slots) for judged in tracker.judge(100 * NS) if judged.kpi == ERRORS) == 2


def test_row_of_a_visit_that_is_over_does_not_spoil_the_next() -> None:
    tracker = _tracker(row(100, 7))
    tracker.observe(table(row(20, 7, error=True)))
    assert _judged(tracker, 200.0)[7, ERRORS] is False


def test_rows_out_of_order_join_one_session() -> None:
    tracker = _tracker(row(3, 7), row(1, 7, error=True), row(2, 7))
    assert tracker.open_n == 1
    assert _judged(tracker, 60.0)[7, ERRORS] is True


@pytest.mark.parametrize("kind", [SampleKind.SPAN_ERROR, SampleKind.FEATURE])
def test_event_before_its_requests_log_entry_waits_for_it(kind: SampleKind) -> None:
    tracker = SessionTracker(small_spec())
    tracker.observe(table(row(1.2, 7, kind=kind, label=FEATURE_LABEL)), LABELS)
    tracker.observe(table(row(1.0, 7)))
    tracker.observe(table(row(2.0, 8)))
    judged = _judged(tracker, 60.0)
    assert judged[7, ERRORS] is (kind is SampleKind.SPAN_ERROR)
    assert judged[7, FEATURE] is (kind is not SampleKind.FEATURE)


def test_event_without_a_session_is_forgotten_in_the_end() -> None:
    tracker = SessionTracker(small_spec())
    tracker.observe(table(row(1.2, 7, kind=SampleKind.SPAN_ERROR)))
    tracker.observe(table(row(1.2 + PENDING_NS / NS, 8)))
    assert not len(tracker._pending)


def test_clock_that_runs_ahead_keeps_nobody_waiting() -> None:
    tracker = _tracker(row(50_000, 1), row(1, 2))
    assert (2, ERRORS) in _judged(tracker, 10.0)
    assert (1, ERRORS) in _judged(tracker, 50_100.0)


def test_unknown_people_segments_and_versions_are_nobody_s() -> None:
    tracker = _tracker(row(1, 0), row(1, 7, segment=UNKNOWN), row(1, 8, version=UNKNOWN))
    assert tracker.open_n == 0
    assert _judged(tracker, 60.0) == {}


def test_memory_is_given_back_after_the_gap() -> None:
    tracker = _tracker(*(row(1, user) for user in range(1, 101)), row(20, 500), row(1, 600), row(7, 600), row(14, 600))
    _judged(tracker, 20.0)
    assert tracker.open_n == 2  # 500 is young, 600 is still active
    _judged(tracker, 60.0)
    assert tracker.open_n == 0
    assert not len(tracker._sweep)
    assert tracker.columns.taken_n == 0


def test_more_sessions_than_the_bound_are_counted_as_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.session.MAX_OPEN", 3)
    tracker = _tracker(*(row(1, user) for user in range(1, 6)))
    assert (tracker.open_n, tracker.evicted_n) == (3, 2)


def test_nan_duration_is_not_slow() -> None:
    tracker = _tracker(row(1, 7, duration_ms=np.nan))
    assert _judged(tracker, 60.0)[7, LATENCY] is False


def test_of_too_many_events_without_a_session_the_newest_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.session.MAX_PENDING", 2)
    tracker = _tracker(*(row(at_s, user, kind=SampleKind.SPAN_ERROR) for user, at_s in ((1, 3), (2, 2), (9, 1))))
    tracker.observe(table(*(row(at_s - 0.1, user) for user, at_s in ((1, 3), (2, 2), (9, 1)))))
    errors = tracker.columns["first_error_ms"] < NEVER
    assert sorted(tracker.columns["user"][errors & (tracker.columns.number != 0)].tolist()) == [1, 2]


def test_the_oldest_are_told_when_numbers_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.columns._NUMBERS", 10)
    columns = Columns(100)
    slots = [int(columns.take(1)[0][0]) for _ in range(13)]
    columns.give_back(np.array(slots[:6], np.int32))
    assert sorted(columns.oldest(2, np.empty(0, np.int32)).tolist()) == sorted(slots[6:8])


def test_who_looks_while_others_leave_finds_whoever_is_there() -> None:
    """Two people in one place of the table: the second is found at any moment of the first's removal."""
    index = UserIndex()
    first, second = np.array([1], np.uint64), np.array([1 + index.capacity], np.uint64)
    index.put(np.append(first, second), np.array([5, 6], np.int32))
    seen = []

    class Watched(np.ndarray[Any, Any]):
        def __setitem__(self, key: Any, value: Any) -> None:
            super().__setitem__(key, value)
            seen.append(int(index.find(second)[0]))

    table = index._table
    table.users, table._slots = table.users.view(Watched), table._slots.view(Watched)
    index.remove(first)
    assert seen == [6, 6]
    assert int(index.find(first)[0]) < 0


def test_nobody_is_told_the_segment_of_whoever_has_the_slot_now() -> None:
    tracker = _tracker(row(1, 7, segment=1))
    assert (tracker.segment_of(7), tracker.segment_of(8)) == (1, None)
    slot = int(np.flatnonzero(tracker.columns.number)[0])
    tracker.columns["user"][slot] = 8  # as another thread may do in the midst of it
    assert tracker.segment_of(7) is None


def test_page_that_a_browser_tells_of_after_the_page_s_calls_is_the_same_view() -> None:
    labels = ("other", "page /a", "call /x", "page /b")
    tracker = SessionTracker(small_spec())
    tracker.observe(table(row(1, 7, label=1), row(1.2, 7, label=2), row(5, 7, label=3)), labels)
    told = [row(at_s, 7, label=label, kind=SampleKind.PAGE) for at_s, label in ((1.5, 1), (5.3, 3), (7.9, 1))]
    tracker.observe(table(*told[:2]), labels)
    tracker.observe(table(told[2]), labels)  # back on the first page
    (session,) = tracker.columns.rows(np.flatnonzero(tracker.columns.number).astype(np.int32))
    assert session["path"][: session["n_path"]].tolist() == [1, 2, 3, 1]
    assert session["n_pages"] == 3


def test_sessions_that_are_due_at_many_times_are_sorted_in_one_go() -> None:
    """A stream's log entry comes when it ends: what comes at once may have begun at any time of a day."""
    due, n = Due(), 100_000
    at_ns = np.random.default_rng(1).permutation(n) * NS
    began_s = time.process_time()
    due.put(at_ns, np.arange(n, dtype=np.int32), np.arange(1, n + 1, dtype=np.uint32))
    assert time.process_time() - began_s < 3
    slots, numbers = due.take(1_000 * NS)
    assert at_ns[slots].tolist() == [at_s * NS for at_s in range(1_000)]
    assert (numbers == slots + 1).all()
    assert len(due) == n - 1_000
