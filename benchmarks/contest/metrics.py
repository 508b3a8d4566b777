"""What a metrics system or a warehouse tells of one rollout: pooled over all segments, since peers know none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TICK_S = 10.0
"""Resolution: counters are read (scraped) this often."""

BASELINE, CANARY = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one tick added, in B runs and two arms: (B, 2) each, but `durations` (B, 2, L): requests by bucket.

    `duration_ms`: sum of the requests' durations. People count once, with their first session.
    """

    requests: Counts
    failed: Counts
    durations: Counts
    duration_ms: Floats
    users: Counts
    users_bad: Counts
    sessions: Counts
    abandoned: Counts


_COLUMNS = ("requests", "failed", "users", "users_bad", "sessions", "abandoned")
REQUESTS, FAILED, USERS, USERS_BAD, SESSIONS, ABANDONED = range(6)


class History:
    """The counters of B runs, as sums since the start. `edges_ms`: (L - 1,) rising upper bounds, or L with infinity.

    A bucket holds the durations above the bound before it, and up to its own.
    """

    def __init__(self, n_runs: int, edges_ms: Floats) -> None:
        self.bounds_ms = np.append(edges_ms[np.isfinite(edges_ms)], np.inf)
        self._sums = np.zeros((n_runs, 64, 2, len(_COLUMNS)), np.int64)
        self._durations = np.zeros((n_runs, 64, 2, len(self.bounds_ms)), np.int32)
        self._duration_ms = np.zeros((n_runs, 64, 2))
        self.ticks = 0

    def add(self, batch: Batch) -> None:
        if self.ticks + 1 == self._sums.shape[1]:
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)], axis=1)
            self._durations = np.concatenate([self._durations, np.zeros_like(self._durations)], axis=1)
            self._duration_ms = np.concatenate([self._duration_ms, np.zeros_like(self._duration_ms)], axis=1)
        now = self.ticks + 1
        self._sums[:, now] = self._sums[:, now - 1] + np.stack([getattr(batch, name) for name in _COLUMNS], axis=-1)
        self._durations[:, now] = self._durations[:, now - 1] + batch.durations
        self._duration_ms[:, now] = self._duration_ms[:, now - 1] + batch.duration_ms
        self.ticks = now

    def of(self, run: int) -> Metrics:
        return Metrics(self.bounds_ms, self._sums[run], self._durations[run], self._duration_ms[run], self.ticks)


@dataclass(frozen=True, slots=True)
class Metrics:
    """One run so far. Windows end now, and are cut off at the start. A rate of nothing is NaN, as 0/0 in Prometheus."""

    bounds_ms: Floats
    _sums: Counts
    _durations: npt.NDArray[np.int32]
    _duration_ms: Floats
    ticks: int

    def count(self, column: int, arm: int, window_s: float | None = None) -> int:
        """Sum of a column over a window; None: since the start."""
        return int(self._sums[self.ticks, arm, column] - self._sums[self._then(window_s), arm, column])

    def rate(self, bad: int, of: int, arm: int, window_s: float | None = None) -> float:
        n = self.count(of, arm, window_s)
        return self.count(bad, arm, window_s) / n if n else float("nan")

    def error_rate(self, arm: int, window_s: float | None = None) -> float:
        return self.rate(FAILED, REQUESTS, arm, window_s)

    def success_rate(self, arm: int, window_s: float | None = None) -> float:
        """As `sum(rate(ok)) / sum(rate(all))`."""
        return 1.0 - self.error_rate(arm, window_s)

    def instant_success_rate(self, arm: int) -> float:
        """As the same with `irate`, which looks at the last two samples only, however long its range is."""
        return self.success_rate(arm, TICK_S)

    def quantile_ms(self, q: float, arm: int, window_s: float | None = None) -> float:
        """Prometheus's `histogram_quantile`: linear within a bucket; the last finite bound for the open one."""
        return histogram_quantile(q, self.buckets(arm, window_s), self.bounds_ms)

    def buckets(self, arm: int, window_s: float | None = None) -> Counts:
        counts: Counts = self._durations[self.ticks, arm].astype(np.int64) - self._durations[self._then(window_s), arm]
        return counts

    def mean_ms(self, arm: int, window_s: float | None = None) -> float:
        """As `rate(duration_sum) / rate(duration_count)`."""
        n = self.count(REQUESTS, arm, window_s)
        total = self._duration_ms[self.ticks, arm] - self._duration_ms[self._then(window_s), arm]
        return float(total) / n if n else float("nan")

    def below_share(self, limit_ms: float, arm: int, window_s: float | None = None) -> tuple[float, int]:
        """Requests up to the highest bound that is no more than the limit, and all of them."""
        counts = self.buckets(arm, window_s)
        last = int(np.searchsorted(self.bounds_ms, limit_ms, side="right"))
        return float(counts[:last].sum()), int(counts.sum())

    def between(self, column: int, arm: int, since_s: float, until_s: float) -> int:
        """Sum of a column between two times."""
        since, until = (min(round(at_s / TICK_S), self.ticks) for at_s in (since_s, until_s))
        return int(self._sums[until, arm, column] - self._sums[since, arm, column])

    def buckets_between(self, arm: int, since_s: float, until_s: float) -> Counts:
        since, until = (min(round(at_s / TICK_S), self.ticks) for at_s in (since_s, until_s))
        counts: Counts = self._durations[until, arm].astype(np.int64) - self._durations[since, arm]
        return counts

    def _then(self, window_s: float | None) -> int:
        return 0 if window_s is None else max(self.ticks - round(window_s / TICK_S), 0)


def histogram_quantile(q: float, counts: Counts, bounds_ms: Floats) -> float:
    """`counts`: (L,) by bucket (not cumulative); `bounds_ms`: (L,), the last one infinite. NaN without any."""
    cumulative = np.cumsum(counts)
    total = int(cumulative[-1])
    if total == 0:
        return float("nan")
    rank = q * total
    bucket = int(np.searchsorted(cumulative, rank, side="left"))
    if bucket >= len(bounds_ms) - 1:
        return float(bounds_ms[-2])
    lower = float(bounds_ms[bucket - 1]) if bucket else 0.0
    before = int(cumulative[bucket - 1]) if bucket else 0
    inside = int(counts[bucket])
    share = (rank - before) / inside if inside else 0.0
    return lower + (float(bounds_ms[bucket]) - lower) * share
