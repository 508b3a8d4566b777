"""Requests become sessions, and every session is judged at fixed ages after its first request.

A judgement at age a looks only at what happened up to `start + a`, however late it is computed: counting bad sessions
at once and good ones when they close would reject in every A/A run, since abandoned visits are shorter (design 3.2).

Sessions are rows of columns: a batch of a thousand requests is a few dozen operations on arrays, whatever the number of
people.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from analysis.columns import NEVER, SESSION_DTYPE, Columns, Due, Slots
from analysis.sample import SAMPLE_DTYPE, UNKNOWN, SampleKind
from analysis.spec import OUTCOME_OF, KpiKind, KpiSpec, Outcome, ServiceSpec
from analysis.steps import Steps
from analysis.user_index import UserIndex

__all__ = ["HARM", "NEVER", "NS", "SESSION_DTYPE", "Judged", "SessionTracker"]

NS = 1_000_000_000
MS_NS = 1_000_000
MAX_OPEN = 1_000_000  # sessions tracked at once; beyond it the oldest are judged no more (`evicted_n`)
MAX_OVER = 20_000  # sessions that are over and wait for whom they may teach; the oldest go first
MAX_PENDING = 20_000  # events that arrived before the access log entry of their request
PENDING_NS = 10 * NS
LONG_AGO_NS = -(1 << 62)

HARM = -1
"""Index of the composite judgement 'was this a bad session', by `harm.bad`, at the oldest age."""

_EVENTS = (SampleKind.SPAN_ERROR, SampleKind.FEATURE, SampleKind.PAGE, SampleKind.CLICK)

Rows = npt.NDArray[np.void]
Times = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.signedinteger]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Sessions that have reached the age at which `kpi` (index into ServiceSpec.kpis; HARM) is judged.

    `slots` : (n,) where they are in `SessionTracker.columns`, until the tracker's next call
    `bad` : (n,) whether each showed the KPI's bad side; all False for the anomaly, which a profile judges
    """

    kpi: int
    slots: Slots
    bad: Flags


class SessionTracker:
    """Open sessions of one service, and the judgements that fall due. One owner; bounded memory.

    `slow_ms`: threshold above which a request is slow, per segment; NaN: not frozen yet, nothing is slow.
    `evicted_n`: sessions dropped because more than MAX_OPEN were open.
    """

    def __init__(self, spec: ServiceSpec) -> None:
        self._spec = spec
        self._gap_ns = int(spec.session.gap_s * NS)
        self.columns = Columns(MAX_OPEN)
        self._open = UserIndex()  # a person's newest session
        ages = {index: int(kpi.judge_after_s * NS) for index, kpi in enumerate(spec.kpis)}
        ages[HARM] = int(spec.harm_judged_s * NS)
        self._due = {age_ns: Due() for age_ns in sorted(set(ages.values()))}
        self._judged_at = {age_ns: [kpi for kpi, age in ages.items() if age == age_ns] for age_ns in self._due}
        self._keep_ns = max(ages.values())
        self._sweep = Due()
        self._steps = Steps(spec, self.columns)
        self._pending = np.empty(0, SAMPLE_DTYPE)
        self._over: deque[Rows] = deque()
        self._over_n = 0
        self.slow_ms = np.full(len(spec.segments), np.nan)
        self._raised = 1 + next((kpi.regression for kpi in spec.kpis if kpi.is_relative), 0.0)
        self.evicted_n = 0

    @property
    def open_n(self) -> int:
        return len(self._open)

    def segment_of(self, user: int) -> int | None:
        """Index of the segment in which a person's session began, while it is open."""
        slot = int(self._open.find(np.array([user], np.uint64))[0])
        if slot < 0:
            return None
        segment = int(self.columns["segment"][slot])
        # Who asks from another thread than the one that observes may come when the slot is somebody else's already.
        return segment if int(self.columns["user"][slot]) == user else None

    # --- in

    def observe(self, rows: Rows, labels: Sequence[str] = ()) -> Slots:
        """Take rows (SAMPLE_DTYPE, any order); returns the slots of the sessions that they started.

        `labels`: the service's vocabulary so far. Events are joined to the person's session; those that come before
        their request's log entry wait PENDING_NS.
        """
        self._steps.learn(labels)
        kinds = rows["kind"]
        visits = (kinds == SampleKind.REQUEST) | (kinds == SampleKind.ALIVE)
        known = (rows["user"] != 0) & (rows["segment"] != UNKNOWN)  # else judged by no one, and counted by ingest
        started = self._visit_all(rows[visits & known])
        events = rows[np.isin(kinds, _EVENTS) & (rows["user"] != 0)]
        if len(events) or len(self._pending):
            newest_ns = int(rows["start_unix_ns"].max()) if len(rows) else LONG_AGO_NS
            self._join(np.concatenate([self._pending, events]), newest_ns)
        return started

    def _visit_all(self, rows: Rows) -> Slots:
        most = max(MAX_OPEN // 2, 1)  # else sessions of this very batch would have to give way to others of it
        if len(rows) <= most:
            return self._visit(rows)
        begun = np.unique(np.concatenate([self._visit(rows[i : i + most]) for i in range(0, len(rows), most)]))
        alive: Slots = begun[self.columns.number[begun] != 0]
        return alive

    def _visit(self, rows: Rows) -> Slots:
        """Put requests into their people's sessions, and begin those that are new."""
        rows = rows[by_person(rows)]
        visits = self._visits(rows)
        if visits is None:
            return np.empty(0, np.int32)
        rows, first, slots, is_new = visits
        begun = self._begin(rows[first[is_new]], slots[~is_new])
        slots[is_new] = begun
        self._count(rows, first, slots)
        return begun

    def _visits(self, rows: Rows) -> tuple[Rows, Places, Slots, Flags] | None:
        """Sorted rows that belong to sessions; each session's first row, its slot (-1: to be begun), whether new."""
        users, at = rows["user"].copy(), rows["start_unix_ns"].copy()
        if not len(rows):
            return None
        changes = np.append(True, users[1:] != users[:-1])
        who = np.cumsum(changes) - 1
        current = self._open.find(users[changes])
        known = current >= 0
        start = np.where(known, self.columns["start_unix_ns"][current], LONG_AGO_NS)[who]
        last = np.where(known, self.columns["last_unix_ns"][current], LONG_AGO_NS)[who]
        late = at < start - self._gap_ns  # of an earlier visit, which has been judged
        if late.any():
            return self._visits(rows[~late])
        before = np.maximum(np.append(LONG_AGO_NS, np.where(changes[1:], LONG_AGO_NS, at[:-1])), last)
        begins = at - before > self._gap_ns
        first = np.flatnonzero(changes | begins)
        is_new = begins[first]
        slots = np.where(is_new, -1, current[who[first]]).astype(np.int32)
        return self._with_a_version(rows, first, slots, is_new)

    @staticmethod
    def _with_a_version(
        rows: Rows, first: Places, slots: Slots, is_new: Flags
    ) -> tuple[Rows, Places, Slots, Flags] | None:
        """A session begins with a request that a version was chosen for: what was refused before is neither arm's."""
        n = len(rows)
        known_at = np.minimum.reduceat(np.where(rows["version"] != UNKNOWN, np.arange(n), n), first)
        begins_at = np.where(is_new, known_at, first)
        visit = np.repeat(np.arange(len(first)), np.diff(np.append(first, n)))
        keep = np.arange(n) >= begins_at[visit]
        kept = begins_at < n
        kept &= begins_at < np.append(first[1:], n)
        keep &= kept[visit]
        if keep.all():
            return rows, first, slots, is_new
        if not keep.any():
            return None
        where = np.cumsum(keep) - 1
        return rows[keep], where[begins_at[kept]], slots[kept], is_new[kept]

    def _begin(self, rows: Rows, in_use: Slots) -> Slots:
        """Sessions that begin with these rows. Beyond MAX_OPEN the oldest give way, but none that is `in_use`."""
        columns = self.columns
        self._make_room(len(rows), in_use)
        slots, numbers = columns.take(len(rows))
        for name in ("user", "segment", "version", "bucket", "start_unix_ns"):
            columns[name][slots] = rows[name]
        columns["last_unix_ns"][slots] = rows["start_unix_ns"]
        self._open.put(rows["user"], slots)
        start_ns = rows["start_unix_ns"].copy()
        for age_ns, due in self._due.items():
            due.put(start_ns + age_ns, slots, numbers)
        self._sweep.put(start_ns + self._keep_ns, slots, numbers)
        return slots

    def _make_room(self, n: int, in_use: Slots) -> None:
        missing = n - (MAX_OPEN - self.columns.taken_n)
        if missing <= 0:
            return
        oldest = self.columns.oldest(missing, in_use)
        self.evicted_n += len(oldest)
        self._forget(oldest)

    def _count(self, rows: Rows, first: Places, slots: Slots) -> None:
        """Add sorted rows to their sessions; `first`: where each session's rows begin, `slots`: where it is."""
        c = self.columns
        slot_of = np.repeat(slots, np.diff(np.append(first, len(rows))))
        at, kinds = rows["start_unix_ns"].copy(), rows["kind"].copy()
        offset = offsets_ms(at, c["start_unix_ns"][slot_of])
        requests, duration_ms = kinds == SampleKind.REQUEST, rows["duration_ms"].copy()
        error = rows["error"] & requests
        slow_ms = self.slow_ms[c["segment"][slot_of]]
        slow, tail = (requests & (duration_ms > each) for each in (slow_ms, slow_ms / self._raised))  # False: NaN
        c["last_unix_ns"][slots] = np.maximum(c["last_unix_ns"][slots], np.maximum.reduceat(at, first))
        for name, flags in (("n_requests", requests), ("n_errors", error), ("n_slow", slow)):
            c.count(name, slots, np.add.reduceat(flags.astype(np.int64), first))
        for name, flags in (
            ("first_error_ms", error), ("first_slow_ms", slow), ("first_tail_ms", tail),
            ("goal_ms", rows["goal"] & requests),
        ):  # fmt: skip
            earliest = np.minimum.reduceat(np.where(flags, offset, NEVER), first)
            c[name][slots] = np.minimum(c[name][slots], earliest)
        self._see(rows, first, slots, requests)
        slowest_ms = np.fmax.reduceat(np.where(requests, duration_ms, 0.0).astype(np.float32), first)
        c["slowest_ms"][slots] = np.fmax(c["slowest_ms"][slots], slowest_ms)
        c["bot"][slots] |= np.logical_or.reduceat(rows["bot"], first)
        self._steps.add(slot_of, rows["label"].copy(), offset, requests)

    def _see(self, rows: Rows, first: Places, slots: Slots, requests: Flags) -> None:
        """What each person met last, and at which version."""
        c = self.columns
        last = np.maximum.reduceat(np.where(requests, np.arange(len(rows)), -1), first)
        slots, newest = slots[last >= 0], rows[last[last >= 0]]
        newer = newest["start_unix_ns"] >= c["newest_unix_ns"][slots]
        slots, newest = slots[newer], newest[newer]
        c["newest_unix_ns"][slots] = newest["start_unix_ns"]
        c["newest_version"][slots] = newest["version"]
        c["newest_failed"][slots] = newest["error"]

    def recent(self, since_ns: int) -> Slots:
        """Sessions with a request that started at `since_ns` or later."""
        c = self.columns
        found: Slots = np.flatnonzero((c["newest_unix_ns"] >= since_ns) & (c.number != 0)).astype(np.int32)
        return found

    def _join(self, events: Rows, newest_ns: int) -> None:
        """Join spans and events to their people's sessions; what comes before its request waits."""
        events = events[by_person(events)]
        slots = self._open.find(events["user"])
        at, c = events["start_unix_ns"].copy(), self.columns
        known = slots >= 0
        start, last = c["start_unix_ns"][slots], c["last_unix_ns"][slots]
        joins = known & (at >= start - NS) & (at <= last + self._gap_ns)
        waits = ~joins & (at > newest_ns - PENDING_NS)
        self._pending = _newest(events[waits], MAX_PENDING)
        events, slots, at = events[joins], slots[joins], at[joins]
        offset = offsets_ms(at, c["start_unix_ns"][slots])
        kinds = events["kind"]
        error = kinds == SampleKind.SPAN_ERROR
        np.minimum.at(c["first_error_ms"], slots[error], offset[error])
        np.maximum.at(c["last_unix_ns"], slots[~error], at[~error])
        first = np.flatnonzero(np.append(True, slots[1:] != slots[:-1])) if len(slots) else np.empty(0, np.int64)
        if len(first):
            c.count("n_errors", slots[first], np.add.reduceat(error.astype(np.int64), first))
        self._steps.add(slots, events["label"].copy(), offset, ~error, seen_again=kinds == SampleKind.PAGE)

    # --- out

    def judge(self, watermark_ns: int) -> Iterator[Judged]:
        """Yield every judgement that is due at `watermark_ns`: all events up to then are taken to have arrived."""
        for age_ns, due in self._due.items():
            slots, numbers = due.take(watermark_ns, partial(self._reaches_ns, age_ns))
            slots = slots[self.columns.number[slots] == numbers]
            if len(slots):
                for kpi in self._judged_at[age_ns]:
                    yield Judged(kpi=kpi, slots=slots, bad=self._bad(kpi, slots))
        self._forget_quiet(watermark_ns)

    def _reaches_ns(self, age_ns: int, slots: Slots) -> Times:
        """When each session reaches an age."""
        reached: Times = self.columns["start_unix_ns"][slots] + age_ns
        return reached

    def _bad(self, kpi: int, slots: Slots) -> Flags:
        if kpi == HARM:
            return self._harm(slots)
        spec = self._spec.kpis[kpi]
        if spec.kind is KpiKind.FEATURE:
            used: Flags = self.columns["features"][slots] & np.uint64(1 << self._steps.bit(kpi)) != 0
            return ~used
        outcome = OUTCOME_OF.get(spec.kind)
        return np.zeros(len(slots), np.bool_) if outcome is None else self._shows(outcome, spec, slots)

    def in_tail(self, kpi: int, slots: Slots) -> Flags:
        """Which sessions a relative KPI counts as bad on the baseline: slower than its usual ones, not raised."""
        return self.columns["first_tail_ms"][slots] <= self._spec.kpis[kpi].judge_after_s * 1e3

    def _shows(self, outcome: Outcome, kpi: KpiSpec, slots: Slots) -> Flags:
        age_ms = kpi.judge_after_s * 1e3
        if outcome is Outcome.ERROR:
            return self.columns["first_error_ms"][slots] <= age_ms
        if outcome is Outcome.SLOW:
            return self.columns["first_slow_ms"][slots] <= age_ms
        return self.columns["goal_ms"][slots] > age_ms

    def _harm(self, slots: Slots) -> Flags:
        bad = np.zeros(len(slots), np.bool_)
        for kpi in self._spec.kpis:
            outcome = OUTCOME_OF.get(kpi.kind)
            if outcome is not None and outcome in self._spec.rollout.harm.bad:
                bad |= self._shows(outcome, kpi, slots)
        return bad

    def _forget_quiet(self, watermark_ns: int) -> None:
        """Drop sessions that are judged for everything and have been quiet for the gap."""
        c = self.columns
        slots, numbers = self._sweep.take(watermark_ns)
        alive = c.number[slots] == numbers
        slots, numbers = slots[alive], numbers[alive]
        quiet_ns = c["last_unix_ns"][slots] + self._gap_ns
        over = (quiet_ns < watermark_ns) | (self._open.find(c["user"][slots]) != slots)
        self._end(slots[over])
        self._sweep.put(quiet_ns[~over] + 1, slots[~over], numbers[~over])  # still active

    def _end(self, slots: Slots) -> None:
        if not len(slots):
            return
        self._over.append(self.columns.rows(slots[-MAX_OVER:]))
        self._over_n += len(self._over[-1])
        while self._over_n > MAX_OVER:
            self._over_n -= len(self._over.popleft())
        self._forget(slots)

    def take_over(self) -> Rows:
        """Sessions (SESSION_DTYPE) that are over since the last call, judged for everything."""
        rows = np.concatenate([np.empty(0, SESSION_DTYPE), *self._over])
        self._over.clear()
        self._over_n = 0
        return rows

    def _forget(self, slots: Slots) -> None:
        users = self.columns["user"][slots]
        self._open.remove(users[self._open.find(users) == slots])
        self.columns.give_back(slots)


def _newest(events: Rows, n: int) -> Rows:
    """At most n events, those that happened last."""
    if len(events) <= n:
        return events
    return events[np.sort(np.argsort(events["start_unix_ns"], kind="stable")[-n:])]


def by_person(rows: Rows) -> Places:
    """The order in which each person's rows stand together, the earliest first."""
    in_time = np.argsort(rows["start_unix_ns"].copy())  # faster than `lexsort`, which is stable where nobody asks
    order: Places = in_time[np.argsort(rows["user"][in_time], kind="stable")]
    return order


def offsets_ms(at_ns: Times, start_ns: Times) -> Times:
    """Milliseconds from the start, rounded up: what came a moment after an age has come after it."""
    offset: Times = np.clip(-((start_ns - at_ns) // MS_NS), 0, NEVER - 1)
    return offset
