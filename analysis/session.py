"""Requests become sessions, and every session is judged at fixed ages after its first request.

A judgement at age a looks only at what happened up to `start + a`, however late it is computed: counting bad sessions
at once and good ones when they close would reject in every A/A run, since abandoned visits are shorter (design 3.2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from analysis.sample import UNKNOWN, SampleKind
from analysis.spec import KpiKind, KpiSpec, Outcome, ServiceSpec

NS = 1_000_000_000
MAX_PATH = 64  # steps of a click path that are kept; later ones only count
MAX_OPEN = 1_000_000  # sessions tracked at once; beyond it the oldest are judged no more (`evicted_n`)
MAX_PENDING = 20_000  # events that arrived before the access log entry of their request
PENDING_NS = 10 * NS


NEVER = 0xFFFF_FFFF
"""Offset of what has not happened."""

PATH_STEPS = 48
"""Steps of a click path that are kept; later ones only count."""

SESSION_DTYPE = np.dtype(
    [
        ("user", np.uint64),  # keyed hash of the person's sticky key
        ("start_unix_ns", np.int64),
        ("last_unix_ns", np.int64),
        ("segment", np.uint16),
        ("version", np.uint16),
        ("bucket", np.uint16),  # or NO_BUCKET
        ("n_requests", np.uint16),  # counts stop at 65,535
        ("n_pages", np.uint16),
        ("n_calls", np.uint16),
        ("n_clicks", np.uint16),
        ("n_errors", np.uint16),
        ("n_slow", np.uint16),
        ("first_error_ms", np.uint32),  # offset from the start, or NEVER
        ("first_slow_ms", np.uint32),
        ("goal_ms", np.uint32),
        ("slowest_ms", np.float32),
        ("features", np.uint64),  # bit i: guarded feature i, in the order of ServiceSpec.kpis, within its age
        ("bot", np.bool_),
        ("counts", np.bool_),  # the person's first session since the exposure: the one that evidence counts
        ("n_path", np.uint8),  # steps kept, at most PATH_STEPS
        ("path", np.uint16, (PATH_STEPS,)),  # labels of the service's Vocabulary, in order of time
        ("path_ds", np.uint16, (PATH_STEPS,)),  # when, in tenths of a second from the start; stops at 65,535
    ]
)
"""One visit of one person, as far as it has been seen."""


@dataclass(slots=True, kw_only=True)
class Session:
    """One visit of one person. Times in Unix ns, 0 where a thing has not happened."""

    user: int
    start_ns: int
    last_ns: int
    segment: int
    version: int
    bucket: int
    counts: bool = False  # the person's first session since the exposure: the one that evidence counts
    n_requests: int = 0
    slowest_ms: float = 0.0
    first_error_ns: int = 0
    first_slow_ns: int = 0
    goal_ns: int = 0
    features: dict[int, int] = field(default_factory=dict)  # label to first use
    path: list[tuple[int, int]] = field(default_factory=list)  # (time, label) of each request, at most MAX_PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A session that has reached the age at which `kpi` (index into ServiceSpec.kpis; -1: harm) is judged."""

    session: Session
    kpi: int
    bad: bool


HARM = -1
"""Index of the composite judgement 'was this a bad session', by `harm.bad`, at the oldest age."""


class SessionTracker:
    """Open sessions of one service, and the judgements that fall due. One owner; O(1) a row; bounded memory.

    `slow_ms`: threshold above which a request is slow, per segment; NaN: not frozen yet, nothing is slow.
    `evicted_n`: sessions dropped because more than MAX_OPEN were open.
    """

    def __init__(self, spec: ServiceSpec) -> None:
        self._spec = spec
        self._gap_ns = int(spec.session.gap_s * NS)
        self._open: dict[int, Session] = {}
        self._started: list[Session] = []
        ages = [(i, int(kpi.judge_after_s * NS)) for i, kpi in enumerate(spec.kpis)]
        self._ages = [*ages, (HARM, int(spec.oldest_judged_s * NS))]
        self._keep_ns = max(age for _, age in self._ages)
        self._due: list[list[tuple[int, int, Session]]] = [[] for _ in self._ages]  # heaps by start: one row with a
        # clock that runs ahead must not keep the others waiting
        self._begun_n = 0
        self._pending: deque[tuple[int, ...]] = deque(maxlen=MAX_PENDING)
        self._sweep: list[tuple[int, int, Session]] = []  # heap by when to look
        self.slow_ms = np.full(len(spec.segments), np.nan)
        self.evicted_n = 0

    @property
    def open_n(self) -> int:
        return len(self._open)

    def observe(self, rows: npt.NDArray[np.void]) -> list[Session]:
        """Take rows (SAMPLE_DTYPE, any order); returns the sessions that they started.

        Events are joined to the person's session; those that come before their request's log entry wait PENDING_NS.
        """
        self._started = []
        requests = rows[rows["kind"] == SampleKind.REQUEST]
        for row in requests.tolist():
            self._request(row)
        events = list(self._pending)
        self._pending.clear()
        for row in [*events, *rows[rows["kind"] != SampleKind.REQUEST].tolist()]:
            self._event(row, newest_ns=int(rows["start_unix_ns"].max()) if len(rows) else row[0])
        return self._started

    def _request(self, row: tuple[int, float, float, int, int, int, int, int, int, bool, bool, bool]) -> None:
        start, duration_ms, _, user, bucket, segment, version, label, _, error, goal, _ = row
        if user == 0 or segment == UNKNOWN:
            return  # nobody to attribute it to: counted by ingest, judged by no one
        session = self._open.get(user)
        if session is None or start - session.last_ns > self._gap_ns:
            if version == UNKNOWN:
                return  # refused before a version was chosen: belongs to neither arm
            session = self._begin(start, user, bucket, segment, version)
        elif start < session.start_ns - self._gap_ns:
            return  # too late: of an earlier visit, which has been judged
        session.last_ns = max(session.last_ns, start)
        session.n_requests += 1
        session.slowest_ms = max(session.slowest_ms, duration_ms)
        if len(session.path) < MAX_PATH:
            session.path.append((start, label))
        if error:
            session.first_error_ns = _earliest(session.first_error_ns, start)
        if duration_ms > self.slow_ms[session.segment]:  # False while the threshold is NaN
            session.first_slow_ns = _earliest(session.first_slow_ns, start)
        if goal:
            session.goal_ns = _earliest(session.goal_ns, start)

    def _begin(self, start: int, user: int, bucket: int, segment: int, version: int) -> Session:
        session = Session(user=user, start_ns=start, last_ns=start, segment=segment, version=version, bucket=bucket)
        if len(self._open) >= MAX_OPEN:
            del self._open[next(iter(self._open))]
            self.evicted_n += 1
        self._open[user] = session
        self._started.append(session)
        self._begun_n += 1
        for heap in self._due:
            heappush(heap, (start, self._begun_n, session))
        heappush(self._sweep, (start + self._keep_ns, self._begun_n, session))
        return session

    def _event(self, row: tuple[int, ...], *, newest_ns: int) -> None:
        at, user, label, kind = row[0], row[3], row[7], row[8]
        session = self._open.get(user)
        if session is None or at < session.start_ns - NS:
            if newest_ns - at < PENDING_NS:
                self._pending.append(row)
            return
        at = max(at, session.start_ns)
        if kind == SampleKind.SPAN_ERROR:
            session.first_error_ns = _earliest(session.first_error_ns, at)
        elif kind == SampleKind.FEATURE:
            session.features[label] = _earliest(session.features.get(label, 0), at)

    def judge(self, watermark_ns: int, feature_labels: dict[str, int]) -> Iterator[Judgement]:
        """Yield every judgement that is due at `watermark_ns`: all events up to then are taken to have arrived.

        `feature_labels`: index of each guarded feature in the service's vocabulary.
        """
        for (kpi, age_ns), heap in zip(self._ages, self._due, strict=True):
            while heap and heap[0][0] + age_ns <= watermark_ns:
                _, _, session = heappop(heap)
                bad = self._is_harm(session) if kpi == HARM else self._is_bad(session, kpi, feature_labels)
                yield Judgement(session=session, kpi=kpi, bad=bad)
        self._forget(watermark_ns)

    def _is_bad(self, session: Session, index: int, feature_labels: dict[str, int]) -> bool:
        kpi = self._spec.kpis[index]
        if kpi.kind is KpiKind.FEATURE and kpi.feature is not None:
            label = feature_labels.get(kpi.feature, -1)
            return not _happened(session.features.get(label, 0), session, kpi)
        outcome = _OUTCOME_OF.get(kpi.kind)
        return outcome is not None and self._shows(session, outcome, kpi)

    @staticmethod
    def _shows(session: Session, outcome: Outcome, kpi: KpiSpec) -> bool:
        if outcome is Outcome.ERROR:
            return _happened(session.first_error_ns, session, kpi)
        if outcome is Outcome.SLOW:
            return _happened(session.first_slow_ns, session, kpi)
        return not _happened(session.goal_ns, session, kpi)

    def _is_harm(self, session: Session) -> bool:
        return any(
            self._shows(session, _OUTCOME_OF[kpi.kind], kpi)
            for kpi in self._spec.kpis
            if kpi.kind in _OUTCOME_OF and _OUTCOME_OF[kpi.kind] in self._spec.rollout.harm.bad
        )

    def _forget(self, watermark_ns: int) -> None:
        """Drop sessions that are judged for everything and have been quiet for the gap."""
        while self._sweep and self._sweep[0][0] <= watermark_ns:
            _, number, session = heappop(self._sweep)
            if self._open.get(session.user) is not session:
                continue
            quiet_ns = session.last_ns + self._gap_ns
            if quiet_ns < watermark_ns:
                del self._open[session.user]
            else:
                heappush(self._sweep, (quiet_ns + 1, number, session))  # still active


_OUTCOME_OF = {
    KpiKind.ERROR_RATE: Outcome.ERROR,
    KpiKind.LATENCY: Outcome.SLOW,
    KpiKind.ABANDONMENT: Outcome.ABANDONED,
}


def _earliest(known_ns: int, at_ns: int) -> int:
    return at_ns if known_ns == 0 else min(known_ns, at_ns)


def _happened(at_ns: int, session: Session, kpi: KpiSpec) -> bool:
    return 0 < at_ns <= session.start_ns + int(kpi.judge_after_s * NS)
