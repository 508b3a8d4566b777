"""Rows in, windows out: one service's sessions, judged and sorted into segments and arms.

An arm is told from the person's hash bucket, which no treatment can change: *canary* are those whose bucket was below
the split all the while from their first request to the judgement, *baseline* those whose bucket was never below it. Who
was moved in between belongs to neither, whatever happened to them. Machines that say so are no people: they are
counted, and judged for nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from analysis.anomaly.behaviour import UNUSUAL, BehaviourModel
from analysis.anomaly.contrast import Difference, contrast
from analysis.columns import Slots, Times
from analysis.people import PeopleSeen
from analysis.sample import NO_BUCKET, SAMPLE_DTYPE, UNKNOWN, SampleKind
from analysis.session import HARM, NS, Judged, SessionTracker
from analysis.sketch import Sketch
from analysis.spec import KpiKind, ServiceSpec
from analysis.splits import IN_DOUBT, SKEW_S, SplitHistory
from analysis.window import BASELINE, CANARY, Traffic, Window, empty

__all__ = ["LATENESS_S", "SKEW_S", "Observer"]

LATENESS_S = 1.5  # how long after its event time a log entry, span or event may come and still be judged
RECENT_NS = 3 * NS  # span of the hard tier's look at people
SLOW_QUANTILE = 0.95
SLOW_MIN_N = 30  # sessions of a segment before its own slow threshold is frozen; below, all segments' sessions serve
DURATIONS_MAX = 20_000
CONTRASTED_MAX = 2_000  # judged sessions of each arm of a segment that are compared by name
PEOPLE_MAX = 2_000_000  # people remembered as already counted; beyond it nobody new is counted (`uncounted_n`)

Rows = npt.NDArray[np.void]
Flags = npt.NDArray[np.bool_]
NEITHER = -1
_TRAFFIC = ("segment", "version", "error", "duration_ms", "first_byte_ms")


@dataclass(slots=True, kw_only=True)
class _Arms:
    """Which version is which arm of a segment, and since when people are exposed (0: not yet)."""

    baseline: int
    canary: int
    since_ns: int
    history: SplitHistory
    over: tuple[int, int] | None = None  # when the rollout ended, and the version that the segment is on since


class Observer:
    """One service's eyes. Feed rows with `observe`, take a window per tick with `window`."""

    def __init__(self, spec: ServiceSpec) -> None:
        self._spec = spec
        self.tracker = SessionTracker(spec)
        self._arms: dict[int, _Arms] = {}
        self._people = PeopleSeen(PEOPLE_MAX)
        self._contrasted: dict[tuple[int, int], Rows] = {}  # newest judged sessions by segment and arm
        self._labels: Sequence[str] = ()
        self._fresh: list[Rows] = []  # requests of this tick
        self._durations: deque[Rows] = deque(maxlen=200)
        self._anomaly = next((i for i, kpi in enumerate(spec.kpis) if kpi.kind is KpiKind.ANOMALY), None)
        age_s = spec.oldest_judged_s if self._anomaly is None else spec.kpis[self._anomaly].judge_after_s
        self.behaviour = BehaviourModel(len(spec.segments), age_s=age_s)
        ages = [(kpi.judge_after_s, i) for i, kpi in enumerate(spec.kpis) if kpi.kind is not KpiKind.ANOMALY]
        self._first_judged = min(ages)[1] if ages else HARM
        self._exposed = np.zeros(len(spec.segments), np.int64)
        self._arrived = np.zeros(len(spec.segments), np.int64)
        self._entries = 0
        self.newest_ns = 0
        self.bots_n = 0  # sessions of machines, since the start

    @property
    def labels(self) -> Sequence[str]:
        """The service's vocabulary, as far as it has been seen."""
        return self._labels

    @property
    def uncounted_n(self) -> int:
        """People who were not counted since there were PEOPLE_MAX."""
        return self._people.refused_n

    def begin(self, arms: Mapping[str, tuple[str, str]]) -> None:
        """A rollout begins: (baseline, canary) of each segment that takes part. Nobody is exposed yet."""
        self._people.clear()
        self._contrasted.clear()
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

    def finish(self, serving: Mapping[str, str], at_ns: int) -> None:
        """The rollout has ended, each segment is on that version: what people do there is usual again, after a gap."""
        for name, version in serving.items():
            arms = self._arms.get(self._spec.segment_index[name])
            serving_now = self._spec.version_index[version]
            if arms is not None and (arms.over is None or arms.over[1] != serving_now):  # it may be rolled back later
                arms.over = at_ns + int(self._spec.session.gap_s * NS), serving_now

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

    def _baseline_requests(self) -> Rows:
        """The requests kept, without those of a version that is on trial and those of machines."""
        kept = [np.empty(0, SAMPLE_DTYPE)]
        for rows in self._durations:
            left_out = rows["bot"].copy()
            for segment, arms in self._arms.items():
                left_out |= (rows["segment"] == segment) & (rows["version"] != arms.baseline)
            kept.append(rows[~left_out])
        return np.concatenate(kept)

    def observe(self, rows: Rows, labels: Sequence[str] = ()) -> None:
        """Take rows of this service (SAMPLE_DTYPE), in any order. `labels`: all that its vocabulary holds by now."""
        self._labels = labels if len(labels) > len(self._labels) else self._labels
        if len(rows) == 0:
            return
        self.newest_ns = max(self.newest_ns, int(rows["start_unix_ns"].max()))
        requests = rows[rows["kind"] == SampleKind.REQUEST]
        self._entries += len(requests)
        self._remember_durations(requests)
        self._started(self.tracker.observe(rows, self._labels))
        self._fresh.append(requests)  # after what might fail, and does so at each tick

    def _remember_durations(self, requests: Rows) -> None:
        requests = requests[-DURATIONS_MAX:]
        self._durations.append(requests[(requests["segment"] != UNKNOWN) & np.isfinite(requests["duration_ms"])])
        while sum(map(len, self._durations)) > DURATIONS_MAX and len(self._durations) > 1:
            self._durations.popleft()

    def _started(self, slots: Slots) -> None:
        c = self.tracker.columns
        slots = slots[~c["bot"][slots]]
        segments, start, version = c["segment"][slots], c["start_unix_ns"][slots], c["version"][slots]
        self._arrived += self._per_segment(segments)
        after = np.zeros(len(slots), np.bool_)
        on_canary = np.zeros_like(after)
        for segment, arms in self._arms.items():
            if arms.since_ns:
                here = (segments == segment) & (start >= arms.since_ns)
                after |= here
                on_canary |= here & (version == arms.canary)
        self._exposed += self._per_segment(segments[on_canary])
        order = np.argsort(start[after], kind="stable")
        candidates = slots[after][order]
        c["counts"][candidates[self._people.add(c["user"][candidates])]] = True

    def _per_segment(self, segments: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
        n = len(self._spec.segments)
        return np.bincount(segments[segments < n], minlength=n)

    def window(self, now_ns: int) -> Window:
        """All that has fallen due by `now_ns`, less LATENESS_S for what is still under way."""
        window = replace(empty(len(self._spec.segments), len(self._spec.kpis)), traffic=self._traffic())
        watermark_ns = now_ns - int(LATENESS_S * NS)
        for judged in self.tracker.judge(watermark_ns):
            self._take_up(window, judged)
        people, failing = self._recent_people(now_ns)
        exposed, self._exposed = self._exposed, np.zeros_like(self._exposed)
        arrived, self._arrived = self._arrived, np.zeros_like(self._arrived)
        entries, self._entries = self._entries, 0
        return replace(
            window, exposed=exposed, arrived=arrived, people=people, failing=failing, entries=entries,
        )  # fmt: skip

    def take_over(self) -> tuple[Rows, Flags]:
        """Sessions (SESSION_DTYPE) that are over since the last call, and which of them show what is usual.

        Those of people, on the baseline, from before the exposure or long enough after the end of the last rollout.
        """
        rows = self.tracker.take_over()
        return rows, self._usual(rows["segment"], rows["start_unix_ns"], rows["version"]) & ~rows["bot"]

    def _usual(self, segments: npt.NDArray[np.uint16], start: Times, version: npt.NDArray[np.uint16]) -> Flags:
        """Which sessions show what is usual: nothing was on trial then, or nothing is any more."""
        usual = self._unexposed(segments, start, version)
        for segment, arms in self._arms.items():
            if arms.over is not None:
                since_ns, serving = arms.over
                usual |= (segments == segment) & (start >= since_ns) & (version == serving)
        return usual

    def _take_up(self, window: Window, judged: Judged) -> None:
        bots = self.tracker.columns["bot"][judged.slots]
        if bots.any():
            if judged.kpi == self._first_judged:
                window.bots[:] += self._per_segment(self.tracker.columns["segment"][judged.slots[bots]])
                self.bots_n += int(bots.sum())
            judged = Judged(kpi=judged.kpi, slots=judged.slots[~bots], bad=judged.bad[~bots])
        if judged.kpi == self._anomaly:
            self._judge_behaviour(window, judged.slots)
        else:
            self._count(window, judged)
        if judged.kpi == self._first_judged:
            self._count_newcomers(window, judged.slots)

    def _count(self, window: Window, judged: Judged) -> None:
        kpi, c = judged.kpi, self.tracker.columns
        segments, start = c["segment"][judged.slots], c["start_unix_ns"][judged.slots]
        age_s = self._spec.harm_judged_s if kpi == HARM else self._spec.kpis[kpi].judge_after_s
        unexposed = self._are_unexposed(judged.slots)
        arm = self._arm(judged.slots, segments, start, age_s)
        if kpi == HARM:
            arm[self._began_on_canary(judged.slots)] = CANARY  # wherever they were taken then
        if kpi != HARM and self._spec.kpis[kpi].kind is KpiKind.LATENCY:
            arm[self._is_settling(segments, start)] = NEITHER
        is_relative = kpi != HARM and self._spec.kpis[kpi].is_relative
        bad_on_baseline = self.tracker.in_tail(kpi, judged.slots) if is_relative else judged.bad
        for which, (n, bad) in self._tallies(window, kpi).items():
            mine = unexposed if which is None else (arm == which) & ~unexposed
            if which is not None and kpi != HARM:
                mine &= c["counts"][judged.slots]
            n[:] += self._per_segment(segments[mine])
            bad[:] += self._per_segment(segments[mine & (judged.bad if which == CANARY else bad_on_baseline)])

    def _began_on_canary(self, slots: Slots) -> Flags:
        """Which sessions `exposed` has counted."""
        c = self.tracker.columns
        result = np.zeros(len(slots), np.bool_)
        for segment, arms in self._arms.items():
            if arms.since_ns:
                here = (c["segment"][slots] == segment) & (c["start_unix_ns"][slots] >= arms.since_ns)
                result |= here & (c["version"][slots] == arms.canary)
        return result

    def _is_settling(self, segments: npt.NDArray[np.uint16], start: Times) -> Flags:
        """Which sessions began when the canary of their segment was still fresh."""
        settle_ns = int(self._spec.rollout.settle_s * NS)
        result = np.zeros(len(segments), np.bool_)
        for segment, arms in self._arms.items():
            if arms.since_ns:
                result |= (segments == segment) & (start < arms.since_ns + settle_ns)
        return result

    @staticmethod
    def _tallies(window: Window, kpi: int) -> Mapping[int | None, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Where a KPI's sessions and the bad ones among them are counted, by arm; None: from before the exposure."""
        if kpi == HARM:
            return {
                None: (window.unexposed_harm_n, window.unexposed_harm_bad),
                **{arm: (window.harm_n[:, arm], window.harm_bad[:, arm]) for arm in (BASELINE, CANARY)},
            }
        return {
            None: (window.unexposed_n[:, kpi], window.unexposed_bad[:, kpi]),
            **{arm: (window.n[:, kpi, arm], window.bad[:, kpi, arm]) for arm in (BASELINE, CANARY)},
        }

    def _count_newcomers(self, window: Window, slots: Slots) -> None:
        """Count a person once, by the first session, however many requests follow.

        At a fixed age, since a request is logged when it ends: a slow version's would be missing at first.
        """
        c = self.tracker.columns
        slots = slots[c["counts"][slots]]
        for segment, arms in self._arms.items():
            if arms.since_ns == 0:
                continue
            here = slots[(c["segment"][slots] == segment) & (c["start_unix_ns"][slots] >= arms.since_ns)]
            asked = arms.history.asked(c["start_unix_ns"][here])
            on = np.where(c["version"][here] == arms.canary, CANARY, BASELINE)
            known = asked != IN_DOUBT
            for (asked_bp, arm), n in Counter(zip(asked[known].tolist(), on[known].tolist(), strict=True)).items():
                window.newcomers[segment, asked_bp, arm] += n

    def _are_unexposed(self, slots: Slots) -> Flags:
        c = self.tracker.columns
        return self._unexposed(c["segment"][slots], c["start_unix_ns"][slots], c["version"][slots])

    def _unexposed(self, segments: npt.NDArray[np.uint16], start: Times, version: npt.NDArray[np.uint16]) -> Flags:
        """Which are baseline sessions that began before anybody of their segment was exposed."""
        result = np.ones(len(segments), np.bool_)
        for segment, arms in self._arms.items():
            here = segments == segment
            before = np.ones(len(segments), np.bool_) if arms.since_ns == 0 else start < arms.since_ns
            result[here] = (before & (version == arms.baseline))[here]
        return result

    def _arm(self, slots: Slots, segments: npt.NDArray[np.uint16], start: Times, age_s: float) -> npt.NDArray[np.int8]:
        """The arm of each session, (n,): whoever a split has moved while they were watched belongs to NEITHER."""
        c = self.tracker.columns
        buckets, versions = c["bucket"][slots], c["version"][slots]
        result = np.full(len(slots), NEITHER, np.int8)
        for segment, arms in self._arms.items():
            here = np.flatnonzero((segments == segment) & (start >= arms.since_ns) & (buckets != NO_BUCKET))
            if arms.since_ns == 0 or not len(here):
                continue
            low, high = arms.history.extremes(start[here], int(age_s * NS))
            bucket, version = buckets[here], versions[here]
            result[here[(version == arms.canary) & (bucket < low)]] = CANARY
            result[here[(version == arms.baseline) & (bucket >= high)]] = BASELINE
        return result

    def _judge_behaviour(self, window: Window, slots: Slots) -> None:
        assert self._anomaly is not None  # noqa: S101 -- the caller compared it with a KPI
        unexposed = self._are_unexposed(slots)
        segments, start = self.tracker.columns["segment"][slots], self.tracker.columns["start_unix_ns"][slots]
        usual = self._usual(segments, start, self.tracker.columns["version"][slots])
        arms = self._arm(slots, segments, start, self._spec.kpis[self._anomaly].judge_after_s)
        for segment in np.unique(segments).tolist():
            here = np.flatnonzero(segments == segment)
            sessions = self.tracker.columns.rows(slots[here])
            self.behaviour.count(segment, sessions)
            self.behaviour.learn(segment, sessions[usual[here]], self._labels)
            p = self.behaviour.p_values(segment, sessions, self._labels)
            for arm in (BASELINE, CANARY):
                self._remember(segment, arm, sessions[(arms[here] == arm) & ~unexposed[here]])
            known = ~np.isnan(p)
            self._count(window, Judged(kpi=self._anomaly, slots=slots[here][known], bad=p[known] < UNUSUAL))

    def _remember(self, segment: int, arm: int, sessions: Rows) -> None:
        if len(sessions):
            before = self._contrasted.get((segment, arm), sessions[:0])
            self._contrasted[segment, arm] = np.concatenate([before, sessions])[-CONTRASTED_MAX:]

    def differences(self, segment: str) -> tuple[Difference, ...]:
        """In what the canary's sessions of late differ from the baseline's, by name; for people to read."""
        index = self._spec.segment_index[segment]
        sides = [self._contrasted.get((index, arm)) for arm in (BASELINE, CANARY)]
        if self._anomaly is None or sides[0] is None or sides[1] is None:
            return ()
        age_s = self._spec.kpis[self._anomaly].judge_after_s
        return contrast(sides[0], sides[1], self._labels, age_s=age_s)

    def _traffic(self) -> dict[tuple[int, int], Traffic]:
        """The requests of this tick by segment and version."""
        batches, self._fresh = self._fresh, []
        if not any(map(len, batches)):
            return {}
        c = {name: np.concatenate([rows[name] for rows in batches]) for name in _TRAFFIC}
        n_segments, width = len(self._spec.segments), len(self._spec.versions) + 1
        segments, versions = np.minimum(c["segment"], n_segments), np.minimum(c["version"], width - 1)
        place = segments.astype(np.int64) * width + versions
        seen = np.flatnonzero(np.bincount(place, minlength=(n_segments + 1) * width))
        which = np.searchsorted(seen, place)
        slow_ms = np.append(self.tracker.slow_ms, np.nan)[segments]
        n, errors, slow = (
            np.bincount(which[mine], minlength=len(seen)).tolist()
            for mine in (np.ones(len(which), np.bool_), c["error"], c["duration_ms"] > slow_ms)
        )
        duration, first_byte = (
            Sketch.of_groups(c[name], which, len(seen)) for name in ("duration_ms", "first_byte_ms")
        )
        found = {}
        for i, (segment, version) in enumerate(divmod(key, width) for key in seen.tolist()):
            known = segment if segment < n_segments else UNKNOWN, version if version < width - 1 else UNKNOWN
            found[known] = Traffic(
                requests=n[i], errors=errors[i], slow=slow[i], duration=duration[i], first_byte=first_byte[i]
            )
        return found

    def _recent_people(self, now_ns: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """People of the last RECENT_NS by segment and arm, and those whose newest request failed: (S, 2) each."""
        c = self.tracker.columns
        slots = self.tracker.recent(now_ns - RECENT_NS)
        segments, versions, failed = (c[name][slots] for name in ("segment", "newest_version", "newest_failed"))
        people = np.zeros((len(self._spec.segments), 2), np.int64)
        failing = np.zeros_like(people)
        for segment, arms in self._arms.items():
            here = segments == segment
            for arm, version in ((BASELINE, arms.baseline), (CANARY, arms.canary)):
                mine = here & (versions == version)
                people[segment, arm] = int(mine.sum())
                failing[segment, arm] = int((mine & failed).sum())
        return people, failing
