"""Rows in, windows out: one service's sessions, judged and sorted into segments and arms.

An arm is told from the person's hash bucket, which no treatment can change: *canary* are those whose bucket was below
the split all the while from their first request to the judgement, *baseline* those whose bucket was never below it. Who
was moved in between belongs to neither, whatever happened to them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from analysis.anomaly.behaviour import UNUSUAL, Behaviour, BehaviourModel
from analysis.sample import NO_BUCKET, SAMPLE_DTYPE, UNKNOWN, SampleKind
from analysis.session import HARM, NS, Judgement, Session, SessionTracker
from analysis.spec import KpiKind, ServiceSpec
from analysis.window import BASELINE, CANARY, Window, empty

SKEW_S = 1.0  # by which the clocks of Envoys and of Serinus differ at most
LATENESS_S = 1.5  # how long after its event time a log entry, span or event may come and still be judged
RECENT_NS = 3 * NS  # span of the hard tier's look at people
SLOW_QUANTILE = 0.95
SLOW_MIN_N = 30  # sessions of a segment before its own slow threshold is frozen; below, all segments' sessions serve
DURATIONS_MAX = 20_000
PEOPLE_MAX = 2_000_000  # people remembered as already counted; beyond it nobody new is counted (`uncounted_n`)


class SplitHistory:
    """The canary's share of one segment over the last `keep_s` seconds, in basis points.

    Before that, the oldest kept.
    """

    def __init__(self, *, keep_s: float) -> None:
        self._keep_ns = int(keep_s * NS)
        self._changes: deque[tuple[int, int]] = deque([(0, 0)])
        self._settled: deque[tuple[int, int]] = deque()  # when changes were decided, and when they were in force
        self._changing_ns: int | None = None  # since when a change is not in force everywhere

    def set(self, at_ns: int, split_bp: int) -> None:
        if self._changes[-1][1] != split_bp:
            self._changes.append((at_ns, split_bp))
            self._changing_ns = at_ns if self._changing_ns is None else self._changing_ns
        while len(self._changes) > 1 and self._changes[1][0] < at_ns - self._keep_ns:
            self._changes.popleft()
        while self._settled and self._settled[0][1] + SKEW_S * NS < self._changes[0][0]:
            self._settled.popleft()

    def settle(self, at_ns: int) -> None:
        """The newest share is in force, from now on, wherever the traffic is."""
        if self._changing_ns is not None:
            self._settled.append((self._changing_ns, at_ns))
            self._changing_ns = None

    def doubt(self, since_ns: int, until_ns: int) -> None:
        """Envoys may not have gone by what was asked for then."""
        self._settled.append((since_ns, until_ns))
        while self._settled[0][1] < until_ns - self._keep_ns:
            self._settled.popleft()

    def asked(self, at_ns: int) -> int | None:
        """The share that every request of that time was asked to be routed by.

        None while a change was under way or it is in doubt, within SKEW_S of that, and from before the history.
        """
        early_ns, late_ns = at_ns - int(SKEW_S * NS), at_ns + int(SKEW_S * NS)
        changing = self._changing_ns is not None and self._changing_ns <= late_ns
        if changing or at_ns < self._changes[0][0]:
            return None
        if any(decided_ns <= late_ns and early_ns <= in_force_ns for decided_ns, in_force_ns in self._settled):
            return None
        return self.extremes(at_ns, at_ns)[0]

    def extremes(self, since_ns: int, until_ns: int) -> tuple[int, int]:
        """Lowest and highest share that was in force at any time in [since, until]."""
        values = [self._changes[0][1]]
        for at_ns, split_bp in self._changes:
            if at_ns <= since_ns:
                values = [split_bp]
            elif at_ns <= until_ns:
                values.append(split_bp)
        return min(values), max(values)


@dataclass(slots=True, kw_only=True)
class _Arms:
    """Which version is which arm of a segment, and since when people are exposed (0: not yet)."""

    baseline: int
    canary: int
    since_ns: int
    history: SplitHistory


class Observer:
    """One service's eyes. Feed rows with `observe`, take a window per tick with `window`."""

    def __init__(self, spec: ServiceSpec) -> None:
        self._spec = spec
        self.tracker = SessionTracker(spec)
        self.behaviour = BehaviourModel(len(spec.segments))
        self._arms: dict[int, _Arms] = {}
        self._people: set[int] = set()
        self._recent: deque[npt.NDArray[np.void]] = deque()
        self._durations: deque[npt.NDArray[np.void]] = deque(maxlen=200)
        self._anomaly = next((i for i, kpi in enumerate(spec.kpis) if kpi.kind is KpiKind.ANOMALY), None)
        ages = [(kpi.judge_after_s, i) for i, kpi in enumerate(spec.kpis) if kpi.kind is not KpiKind.ANOMALY]
        self._first_judged = min(ages)[1] if ages else HARM
        self._exposed = np.zeros(len(spec.segments), np.int64)
        self._arrived = np.zeros(len(spec.segments), np.int64)
        self._entries = 0
        self.newest_ns = 0
        self.uncounted_n = 0

    def begin(self, arms: Mapping[str, tuple[str, str]]) -> None:
        """A rollout begins: (baseline, canary) of each segment that takes part. Nobody is exposed yet."""
        self._people.clear()
        index, versions = self._spec.segment_index, self._spec.version_index
        keep_s = 2 * self._spec.oldest_judged_s + 60
        self._arms = {
            index[name]: _Arms(
                baseline=versions[baseline], canary=versions[canary], since_ns=0, history=SplitHistory(keep_s=keep_s)
            )
            for name, (baseline, canary) in arms.items()
        }

    def set_split(self, segment: str, split_bp: int, at_ns: int) -> None:
        """The share that is in force from now on; the first one above 0 begins the exposure."""
        arms = self._arms.get(self._spec.segment_index[segment])
        if arms is None:
            return
        arms.history.set(at_ns, split_bp)
        if split_bp > 0 and arms.since_ns == 0:
            arms.since_ns = at_ns

    def settle(self, segment: str, at_ns: int) -> None:
        """The segment's newest share is in force, from now on, wherever the traffic is."""
        arms = self._arms.get(self._spec.segment_index[segment])
        if arms is not None:
            arms.history.settle(at_ns)

    def doubt(self, since_ns: int, until_ns: int) -> None:
        """Envoys may not have gone by the splits of that time: newcomers of then are not held against those."""
        for arms in self._arms.values():
            arms.history.doubt(since_ns, until_ns)

    def freeze_thresholds(self) -> bool:
        """Freeze what 'slow' means; a limit in the specification goes first.

        Else the 95th percentile of the slowest request of each baseline session so far, so that 5 % of healthy sessions
        are slow however many requests a session has. False while the baseline has not been seen: try again.
        """
        kpi = next((kpi for kpi in self._spec.kpis if kpi.kind is KpiKind.LATENCY), None)
        if kpi is None:
            return True
        if kpi.slow_ms is not None:
            self.tracker.slow_ms[:] = kpi.slow_ms
            return True
        rows = np.sort(self._baseline_requests(), order=["user", "duration_ms"])
        slowest = (
            rows[np.append(rows["user"][1:] != rows["user"][:-1], True)] if len(rows) else rows
        )  # one row a person
        for i in range(len(self._spec.segments)):
            own = slowest["duration_ms"][slowest["segment"] == i]
            sample = own if len(own) >= SLOW_MIN_N else slowest["duration_ms"]
            if len(sample):
                self.tracker.slow_ms[i] = float(np.quantile(sample, SLOW_QUANTILE)) * (1 + kpi.regression)
        return len(slowest) > 0

    def _baseline_requests(self) -> npt.NDArray[np.void]:
        """The requests kept, without those of a version that is on trial."""
        kept = [np.empty(0, SAMPLE_DTYPE)]
        for rows in self._durations:
            on_trial = np.zeros(len(rows), np.bool_)
            for segment, arms in self._arms.items():
                on_trial |= (rows["segment"] == segment) & (rows["version"] != arms.baseline)
            kept.append(rows[~on_trial])
        return np.concatenate(kept)

    def observe(self, rows: npt.NDArray[np.void]) -> None:
        """Take rows of this service (SAMPLE_DTYPE), in any order."""
        if len(rows) == 0:
            return
        self.newest_ns = max(self.newest_ns, int(rows["start_unix_ns"].max()))
        requests = rows[rows["kind"] == SampleKind.REQUEST]
        self._entries += len(requests)
        self._durations.append(requests[(requests["segment"] != UNKNOWN) & np.isfinite(requests["duration_ms"])])
        while sum(map(len, self._durations)) > DURATIONS_MAX and len(self._durations) > 1:
            self._durations.popleft()
        self._recent.append(requests[(requests["user"] != 0) & (requests["segment"] != UNKNOWN)])
        for session in self.tracker.observe(rows):
            self._started(session)

    def _started(self, session: Session) -> None:
        self._arrived[session.segment] += 1
        arms = self._arms.get(session.segment)
        if arms is None or arms.since_ns == 0 or session.start_ns < arms.since_ns:
            return
        if session.version == arms.canary:
            self._exposed[session.segment] += 1
        if session.user in self._people:
            return
        if len(self._people) >= PEOPLE_MAX:
            self.uncounted_n += 1
            return
        self._people.add(session.user)
        session.counts = True

    def window(self, now_ns: int, feature_labels: Mapping[str, int]) -> Window:
        """All that has fallen due by `now_ns`, less LATENESS_S for what is still under way."""
        window = empty(len(self._spec.segments), len(self._spec.kpis))
        watermark_ns = now_ns - int(LATENESS_S * NS)
        odd: dict[int, list[Session]] = {}
        for judgement in self.tracker.judge(watermark_ns, dict(feature_labels)):
            if judgement.kpi == self._anomaly:
                odd.setdefault(judgement.session.segment, []).append(judgement.session)
            else:
                self._count(window, judgement)
            if judgement.kpi == self._first_judged:
                self._count_newcomer(window, judgement.session)
        self._judge_behaviour(window, odd)
        people, failing = self._recent_people(now_ns)
        exposed, self._exposed = self._exposed, np.zeros_like(self._exposed)
        arrived, self._arrived = self._arrived, np.zeros_like(self._arrived)
        entries, self._entries = self._entries, 0
        return replace(window, exposed=exposed, arrived=arrived, people=people, failing=failing, entries=entries)

    def _count(self, window: Window, judgement: Judgement) -> None:
        session, kpi = judgement.session, judgement.kpi
        age_s = self._spec.oldest_judged_s if kpi == HARM else self._spec.kpis[kpi].judge_after_s
        arm = self._arm(session, age_s)
        if self._is_unexposed(session) and kpi == HARM:
            window.unexposed_harm_n[session.segment] += 1
            window.unexposed_harm_bad[session.segment] += judgement.bad
        elif self._is_unexposed(session):
            window.unexposed_n[session.segment, kpi] += 1
            window.unexposed_bad[session.segment, kpi] += judgement.bad
        elif arm is not None and kpi == HARM:
            window.harm_n[session.segment, arm] += 1
            window.harm_bad[session.segment, arm] += judgement.bad
        elif arm is not None and session.counts:
            window.n[session.segment, kpi, arm] += 1
            window.bad[session.segment, kpi, arm] += judgement.bad

    def _count_newcomer(self, window: Window, session: Session) -> None:
        """Count a person once, by the first session, however many requests follow.

        At a fixed age, since a request is logged when it ends: a slow version's would be missing at first.
        """
        arms = self._arms.get(session.segment)
        if arms is None or not session.counts or arms.since_ns == 0 or session.start_ns < arms.since_ns:
            return
        asked_bp = arms.history.asked(session.start_ns)
        if asked_bp is not None:
            arm = CANARY if session.version == arms.canary else BASELINE
            window.newcomers[session.segment, asked_bp, arm] += 1

    def _is_unexposed(self, session: Session) -> bool:
        """A baseline session that began before anybody of its segment was exposed."""
        arms = self._arms.get(session.segment)
        if arms is None:
            return True
        return (arms.since_ns == 0 or session.start_ns < arms.since_ns) and session.version == arms.baseline

    def _arm(self, session: Session, age_s: float) -> int | None:
        arms = self._arms.get(session.segment)
        if arms is None or arms.since_ns == 0 or session.start_ns < arms.since_ns or session.bucket == NO_BUCKET:
            return None
        low, high = arms.history.extremes(session.start_ns, session.start_ns + int(age_s * NS))
        if session.version == arms.canary and session.bucket < low:
            return CANARY
        if session.version == arms.baseline and session.bucket >= high:
            return BASELINE
        return None

    def _judge_behaviour(self, window: Window, sessions: Mapping[int, list[Session]]) -> None:
        if self._anomaly is None:
            return
        age_s = self._spec.kpis[self._anomaly].judge_after_s
        for segment, judged in sessions.items():
            behaviours = [Behaviour.of(session, age_s) for session in judged]
            for session, behaviour in zip(judged, behaviours, strict=True):
                if self._is_unexposed(session):
                    self.behaviour.learn(segment, behaviour)
            p_values = self.behaviour.p_values(segment, behaviours)
            for session, p in zip(judged, p_values, strict=True):
                if not np.isnan(p):
                    self._count(window, Judgement(session=session, kpi=self._anomaly, bad=bool(p < UNUSUAL)))

    def _recent_people(self, now_ns: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """People of the last RECENT_NS by segment and arm, and those whose newest request failed: (S, 2) each."""
        while self._recent and (
            len(self._recent[0]) == 0 or self._recent[0]["start_unix_ns"].max() < now_ns - RECENT_NS
        ):
            self._recent.popleft()
        people = np.zeros((len(self._spec.segments), 2), np.int64)
        failing = np.zeros_like(people)
        if not self._recent:
            return people, failing
        rows = np.concatenate(list(self._recent))
        rows = rows[np.argsort(rows["start_unix_ns"], kind="stable")[::-1]]
        rows = rows[rows["start_unix_ns"] >= now_ns - RECENT_NS]
        _, newest = np.unique(rows["user"], return_index=True)
        rows = rows[newest]
        for segment, arms in self._arms.items():
            here = rows["segment"] == segment
            for arm, version in ((BASELINE, arms.baseline), (CANARY, arms.canary)):
                mine = here & (rows["version"] == version)
                people[segment, arm] = int(mine.sum())
                failing[segment, arm] = int((mine & rows["error"]).sum())
        return people, failing
