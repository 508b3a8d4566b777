"""Who has been seen in which segment: exact while they are few, about when they are many, and only of late."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from analysis.sample import SAMPLE_DTYPE, UNKNOWN, SampleKind
from xds_server.rollout.coverage import KEPT, SLOT_S, WINDOW_S, Coverage, seen_in


def rows(*given: tuple[int, int], kind: SampleKind = SampleKind.REQUEST, bot: bool = False) -> npt.NDArray[np.void]:
    """Rows of (segment, user)."""
    result = np.zeros(len(given), SAMPLE_DTYPE)
    result["segment"] = [segment for segment, _ in given]
    result["user"] = np.array([user for _, user in given], np.uint64)
    result["kind"], result["bot"] = kind, bot
    return result


def test_requests_and_people_are_counted_by_segment() -> None:
    """Nobody in particular and bots make requests, and are no people; what is no request counts for nothing."""
    seen = seen_in(
        np.concatenate(
            [
                rows((0, 7), (0, 7), (0, 8), (1, 7), (1, 0), (UNKNOWN, 9)),
                rows((1, 9), bot=True),
                rows((0, 10), kind=SampleKind.PAGE),
            ]
        ),
        3,
    )
    assert seen.requests.tolist() == [3, 3, 0]
    assert [seen.people_n(segment) for segment in range(3)] == [2, 1, 0]


def test_people_count_once_however_often_they_come() -> None:
    coverage = Coverage()
    for minute in range(4):
        coverage.add(seen_in(rows((0, 7), (0, 8 + minute)), 1), minute * SLOT_S)
        coverage.add(seen_in(rows((0, 7)), 1), minute * SLOT_S + 1)
    seen = coverage.seen(4 * SLOT_S)
    assert seen is not None
    assert (seen.requests.tolist(), seen.people_n(0)) == ([12], 5)


def test_many_people_are_counted_to_within_a_fifth() -> None:
    """Three standard errors of 1/sqrt(KEPT); what is kept of them does not grow."""
    users = np.random.default_rng(1).integers(1, 2**64, 50_000, dtype=np.uint64)
    coverage = Coverage()
    for part in np.array_split(users, 7):
        coverage.add(seen_in(rows(*((0, int(user)) for user in np.tile(part, 2))), 1), 0.0)
    seen = coverage.seen(0.0)
    assert seen is not None
    assert seen.requests.tolist() == [100_000]
    assert len(seen.people[0]) == KEPT
    assert abs(seen.people_n(0) / 50_000 - 1) < 0.2


def test_what_is_older_than_the_window_is_forgotten() -> None:
    coverage = Coverage()
    assert coverage.seen(0.0) is None
    assert coverage.watched_s(5.0) == 0.0
    coverage.add(seen_in(rows((0, 7)), 1), 10.0)
    assert coverage.watched_s(40.0) == 30.0
    coverage.add(seen_in(rows((0, 8)), 1), 10.0 + WINDOW_S)
    seen = coverage.seen(10.0 + WINDOW_S)
    assert seen is not None
    assert (seen.requests.tolist(), seen.people_n(0)) == ([1], 1)
    assert coverage.watched_s(9_999.0) == WINDOW_S
    assert coverage.seen(10.0 + 3 * WINDOW_S) is None


def test_other_segments_begin_anew() -> None:
    coverage = Coverage()
    coverage.add(seen_in(rows((0, 7)), 1), 10.0)
    coverage.add(seen_in(rows((1, 7)), 2), 20.0)
    seen = coverage.seen(20.0)
    assert seen is not None
    assert seen.requests.tolist() == [0, 1]
    assert coverage.watched_s(25.0) == 5.0
