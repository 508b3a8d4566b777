"""People at the level of single requests.

Sessions that walk through a small shop, on whatever version the split gives them.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from analysis.sample import SAMPLE_DTYPE, SampleKind
from analysis.session import NS

PAGES = ("home", "search", "product", "cart", "checkout", "done")
GOAL = len(PAGES) - 1
FEATURE_LABEL = 10
LABELS = (*(f"page {page}" for page in PAGES), *("other",) * (FEATURE_LABEL - len(PAGES)), "feature wishlist")
"""The vocabulary of the rows."""

FEATURE_PAGE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is true of one version in one segment from `onset_s` on. Shares in [0, 1], latencies in ms."""

    request_errors: float = 0.0  # share of requests that fail, beside the chance errors of sessions
    dead_checkout: float = 0.0  # share of checkouts that lead nowhere
    slow: float = 0.0  # share of requests that take `slow_ms` longer
    slow_ms: float = 400.0
    feature_broken: float = 0.0  # share of uses of the feature that do nothing
    onset_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """The people of one segment on a healthy version."""

    sessions_per_s: float = 15.0
    abandoned: float = 0.10
    error: float = 0.005  # share of sessions that meet one error by chance
    think_s: float = 0.7
    latency_ms: float = 20.0
    uses_feature: float = 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """S segments' habits, and the truth of (segment index, version index) where it is not simply healthy."""

    habits: tuple[Habits, ...]
    truths: Mapping[tuple[int, int], Truth] = field(default_factory=dict)


@dataclass(order=True, slots=True)
class _Visit:
    at_s: float
    user: int
    segment: int = field(compare=False)
    step: int = field(compare=False)
    last_step: int = field(compare=False)
    unlucky_step: int = field(compare=False)
    feature: bool = field(compare=False)


class People:
    """Emits the rows of each stretch of time. Split and version are looked up at each request, as Envoy does."""

    def __init__(self, world: World, *, baseline: int, canary: int, rng: np.random.Generator) -> None:
        self._world = world
        self._baseline, self._canary = baseline, canary
        self._rng = rng
        self._visits: list[_Visit] = []
        self._now_s = 0.0
        self.harmed = 0  # sessions that met a fault, not chance
        self.sessions = np.zeros((len(world.habits), 2), np.int64)

    def advance(self, until_s: float, split_bp: Mapping[int, int], *, epoch_ns: int = 0) -> npt.NDArray[np.void]:
        """Rows of every request and event up to `until_s`; `split_bp`: the canary's share of each segment meanwhile."""
        rows: list[tuple[object, ...]] = []
        self._arrive(until_s)
        while self._visits and self._visits[0].at_s <= until_s:
            self._request(heapq.heappop(self._visits), split_bp, rows, epoch_ns)
        self._now_s = until_s
        return np.array(rows, dtype=SAMPLE_DTYPE)

    def _arrive(self, until_s: float) -> None:
        for segment, habits in enumerate(self._world.habits):
            for at_s in self._rng.uniform(
                self._now_s, until_s, self._rng.poisson(habits.sessions_per_s * (until_s - self._now_s))
            ):
                leaves = self._rng.random() < habits.abandoned
                last = int(self._rng.integers(0, GOAL)) if leaves else GOAL
                unlucky = int(self._rng.integers(0, last + 1)) if self._rng.random() < habits.error else -1
                user = int(self._rng.integers(1, 2**63))
                feature = bool(self._rng.random() < habits.uses_feature)
                heapq.heappush(self._visits, _Visit(float(at_s), user, segment, 0, last, unlucky, feature))

    def _request(
        self, visit: _Visit, split_bp: Mapping[int, int], rows: list[tuple[object, ...]], epoch_ns: int
    ) -> None:
        rng, habits = self._rng, self._world.habits[visit.segment]
        bucket = visit.user % 10_000
        on_canary = bucket < split_bp.get(visit.segment, 0)
        version = self._canary if on_canary else self._baseline
        if visit.step == 0:
            self.sessions[visit.segment, int(on_canary)] += 1
        truth = self._world.truths.get((visit.segment, version), Truth())
        active = visit.at_s >= truth.onset_s
        fails = active and rng.random() < truth.request_errors
        error = fails or visit.step == visit.unlucky_step
        slow = active and rng.random() < truth.slow
        duration = float(rng.lognormal(np.log(habits.latency_ms), 0.4)) + (truth.slow_ms if slow else 0.0)
        start_ns = epoch_ns + int(visit.at_s * NS)
        common = (visit.user, bucket, visit.segment, version)
        goal = visit.step == GOAL and not error
        rows.append((start_ns, duration, duration, *common, visit.step, SampleKind.REQUEST, error, goal, False))
        if visit.step == FEATURE_PAGE and visit.feature and not (active and rng.random() < truth.feature_broken):
            rows.append((start_ns, 0.0, np.nan, *common, FEATURE_LABEL, SampleKind.FEATURE, False, False, False))
        dead_end = visit.step == GOAL - 1 and active and rng.random() < truth.dead_checkout
        self.harmed += int(fails or dead_end)
        if visit.step < visit.last_step and not dead_end:
            visit.step += 1
            visit.at_s += float(rng.exponential(habits.think_s * 0.7)) + habits.think_s * 0.3
            heapq.heappush(self._visits, visit)
