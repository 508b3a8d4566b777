"""People at the level of single requests: a scenario's sessions, on whatever version the split gives them.

Everything is looked up at each request, as Envoy does it: the split, and what is true of the version that serves it.
A session may change version in the middle. What happens in a stretch of time is a few dozen operations on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import IntFlag

import numpy as np
import numpy.typing as npt

from analysis.sample import SAMPLE_DTYPE, SampleKind
from analysis.session import NS
from analysis.simulation.rates import Rates
from analysis.simulation.returning import BEEN_ON_CANARY, NEW_USER, WAS_HIT, Comers, Returning
from analysis.simulation.scenario import QUIET_S, RETRY_S, Kpi, Scenario
from analysis.simulation.truth import Moment, Truth
from analysis.simulation.visits import (
    FEATURE_LABEL,
    LABELS,
    NEVER,
    PLAN_DTYPE,
    Begun,
    Forced,
    Kind,
    Mark,
    plan,
    retries,
)
from analysis.spec import TOTAL_BP, Outcome, ServiceSpec

__all__ = ["BASELINE_VERSION", "CANARY_VERSION", "LABELS", "Fault", "People"]

BASELINE_VERSION, CANARY_VERSION = 0, 1

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.void]


class Fault(IntFlag):
    """What the canary did to a session beyond chance; shifted by CHANCE: what would have happened anyway."""

    ERROR = 1
    SLOW = 2
    ABANDONED = 4
    FEATURE = 8


CHANCE = 4  # bits
_FAULTS = {Outcome.ERROR: Fault.ERROR, Outcome.SLOW: Fault.SLOW, Outcome.ABANDONED: Fault.ABANDONED}

_SESSION_DTYPE = np.dtype(
    [
        ("user", np.uint64),
        ("segment", np.int64),
        ("leaves", np.float64),  # uniform: see visits.Begun
        ("uses", np.float64),  # uniform: uses the feature if below its share
        ("logged", np.float64),  # uniform: is logged if below the share of sessions that are
        ("gone_s", np.float64),  # of the last request before its person left
        ("end_s", np.float64),  # of the last request that is planned, left or not
        ("kind", np.uint8),
        ("marks", np.uint8),  # of the person, when it began
        ("faults", np.uint8),  # Fault, and shifted by CHANCE
        ("on_canary", np.bool_),  # the canary has served a request of it
        ("taken", np.bool_),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crowd:
    """Those of one segment and kind."""

    segment: int
    kind: Kind
    rate_per_s: float
    returning: Returning | None  # machines come once


class People:
    """Emits the rows of each stretch of time.

    `sessions`: (S, 2) sessions that began, by the version that served their first request. The same generator state and
    splits give the same rows.
    """

    def __init__(self, scenario: Scenario, spec: ServiceSpec, *, load: float, rng: np.random.Generator) -> None:
        self._scenario = scenario
        self._habits = [group.habits for group in scenario.groups]
        self._truth = Truth(scenario)
        self._slow_ms = Rates(spec, scenario).slow_ms
        self._comes, self._does, self._stalls_rng = rng.spawn(3)
        self._crowds = self._gather(spec.session.gap_s + QUIET_S, load)
        self._table = np.zeros(1_024, _SESSION_DTYPE)
        self._planned = np.empty(0, PLAN_DTYPE)
        self._stalls = np.empty((0, 2))
        self._exposed_since = np.full(len(self._habits), math.inf)
        self._split = np.zeros(len(self._habits))
        self._fault_n = np.zeros((len(self._habits), 1 << 2 * CHANCE), np.int64)
        self.sessions = np.zeros((len(self._habits), 2), np.int64)
        self.now_s = 0.0

    def harmed(self, outcomes: Collection[Outcome] = tuple(Outcome)) -> npt.NDArray[np.int64]:
        """(S,) sessions so far that the canary made bad by any of `outcomes`, and that would not have been anyway."""
        faults = sum(_FAULTS[outcome] for outcome in outcomes)
        return self._sessions_with(lambda mask: mask & faults and not mask >> CHANCE & faults)

    def hit(self, fault: Fault) -> npt.NDArray[np.int64]:
        """(S,) sessions so far that met a fault of the canary."""
        return self._sessions_with(lambda mask: mask & fault)

    def _sessions_with(self, wanted: Callable[[int], object]) -> npt.NDArray[np.int64]:
        which = [mask for mask in range(self._fault_n.shape[1]) if wanted(mask)]
        found: npt.NDArray[np.int64] = self._fault_n[:, which].sum(axis=1)
        return found

    def advance(self, until_s: float, split_bp: Mapping[int, int], *, epoch_ns: int = 0) -> Rows:
        """Rows of every request and event up to `until_s`; `split_bp`: the canary's share of each segment meanwhile."""
        self._split = np.array([split_bp.get(i, 0) for i in range(len(self._habits))]) / TOTAL_BP
        first = (self._split > 0) & np.isinf(self._exposed_since)
        self._exposed_since[first] = self.now_s
        self._stall(until_s)
        due = self._due(until_s, self._arrive(until_s))
        rows = [np.empty(0, SAMPLE_DTYPE)]
        while len(due):
            served, again = self._serve(due, epoch_ns)
            rows.append(served)
            due = self._due(until_s, again)
        self._end(until_s)
        self.now_s = until_s
        emitted = np.concatenate(rows)
        return emitted[np.argsort(emitted["start_unix_ns"], kind="stable")]

    # -- who comes ----------------------------------------------------------------------------------------------------

    def _gather(self, pause_s: float, load: float) -> list[_Crowd]:
        traffic, crowds = self._scenario.traffic, []
        for i, group in enumerate(self._scenario.groups):
            habits, rate = group.habits, load * group.share
            unlucky = traffic.unlucky * traffic.unlucky_visits
            unlucky_share = unlucky / (unlucky + (1 - traffic.unlucky) * habits.visits)
            people = rate * (1 - traffic.bots)
            for kind, per_s, visits in (
                (Kind.PERSON, people * (1 - unlucky_share), habits.visits),
                (Kind.UNLUCKY, people * unlucky_share, traffic.unlucky_visits),
            ):
                back = Returning(
                    share=1 - 1 / visits, rate_per_s=per_s, pause_s=pause_s, again_s=habits.again_s, rng=self._comes
                )
                crowds.append(_Crowd(segment=i, kind=kind, rate_per_s=per_s, returning=back))
            crowds.append(_Crowd(segment=i, kind=Kind.BOT, rate_per_s=rate * traffic.bots, returning=None))
        return [crowd for crowd in crowds if crowd.rate_per_s > 0]

    def _arrive(self, until_s: float) -> Rows:
        """The plans of the sessions that begin up to `until_s`."""
        times = [self._times(crowd.rate_per_s, until_s) for crowd in self._crowds]
        n = np.array([len(t) for t in times])
        if not n.sum():
            return np.empty(0, PLAN_DTYPE)
        comers = [self._comers(crowd, len(t)) for crowd, t in zip(self._crowds, times, strict=True)]
        slots = self._take(int(n.sum()))
        c = self._table
        c["user"][slots] = np.concatenate([each.users for each in comers])
        c["marks"][slots] = marks = np.concatenate([each.marks for each in comers])
        c["segment"][slots] = np.repeat([crowd.segment for crowd in self._crowds], n)
        c["kind"][slots] = kind = np.repeat([crowd.kind for crowd in self._crowds], n)
        is_bot = kind == Kind.BOT
        for name in ("leaves", "uses", "logged"):
            c[name][slots] = self._comes.random(len(slots))
        c["leaves"][slots[is_bot]] = c["uses"][slots[is_bot]] = NEVER
        self._blame(slots[is_bot], Fault.ABANDONED << CHANCE)
        hit = (marks & WAS_HIT != 0) & (self._comes.random(len(slots)) < self._scenario.traffic.carry_over)
        breaks = np.select([kind == Kind.UNLUCKY, hit], [Forced.CHANCE, Forced.CARRIED], Forced.NOT)
        rows = plan(
            Begun(
                slots=slots, at_s=np.concatenate(times), segment=c["segment"][slots], kind=kind.astype(np.uint8),
                leaves=c["leaves"][slots], breaks=breaks.astype(np.uint8),
            ),
            self._habits, self._comes,
        )  # fmt: skip
        np.maximum.at(c["end_s"], rows["slot"], rows["at_s"])
        return rows

    def _times(self, rate_per_s: float, until_s: float) -> Floats:
        """When sessions begin: those of a Poisson process at the highest rate, thinned (Lewis and Shedler 1979)."""
        traffic = self._scenario.traffic
        most = (1 + traffic.daily) * max(traffic.spike_times, 1.0)
        n = self._comes.poisson(rate_per_s * most * (until_s - self.now_s))
        at_s = self._comes.uniform(self.now_s, until_s, n)
        return at_s if most == 1 else at_s[self._comes.random(n) * most < traffic.rate_times(at_s)]

    def _comers(self, crowd: _Crowd, n: int) -> Comers:
        if crowd.returning is not None:
            return crowd.returning.come(n, self.now_s, self._comes)
        return Comers(users=self._comes.integers(1, NEW_USER, n, dtype=np.uint64), marks=np.zeros(n, np.uint8))

    def _take(self, n: int) -> npt.NDArray[np.int64]:
        free = np.flatnonzero(~self._table["taken"])
        if len(free) < n:
            more = np.zeros(max(len(self._table), n), _SESSION_DTYPE)
            self._table = np.concatenate([self._table, more])
            free = np.flatnonzero(~self._table["taken"])
        slots = free[:n]
        self._table[slots] = np.zeros(1, _SESSION_DTYPE)
        self._table["gone_s"][slots] = math.inf
        self._table["taken"][slots] = True
        return slots

    def _end(self, until_s: float) -> None:
        """Sessions that are over; their people may come again."""
        c = self._table
        over = np.flatnonzero(c["taken"] & (c["end_s"] <= until_s))
        if not len(over):
            return
        ended = c[over]
        marks = (ended["marks"] & BEEN_ON_CANARY) | ended["on_canary"] * BEEN_ON_CANARY
        marks |= (ended["faults"] & sum(Fault) != 0) * WAS_HIT
        for crowd in self._crowds:
            if crowd.returning is not None:
                mine = (ended["segment"] == crowd.segment) & (ended["kind"] == crowd.kind)
                people = Comers(users=ended["user"][mine], marks=marks[mine])
                crowd.returning.leave(people, until_s, self._comes)
        c["taken"][over] = False

    # -- what happens to requests -------------------------------------------------------------------------------------

    def _due(self, until_s: float, more: Rows) -> Rows:
        """Planned requests up to `until_s`, `more` among them; the others are kept."""
        planned = np.concatenate([self._planned, more]) if len(more) else self._planned
        is_due: Flags = planned["at_s"] <= until_s
        self._planned = planned[~is_due]
        return planned[is_due]

    def _serve(self, due: Rows, epoch_ns: int) -> tuple[Rows, Rows]:
        """Rows (SAMPLE_DTYPE) of requests that come, and the plans of those that follow failed ones."""
        due = self._there(due)
        due = self._leave(due, Mark.LEAVES)
        due = self._leave(due, Mark.DEAD_END)
        moment = self._moment(due)
        segment, slot = moment.segment, due["slot"]
        self._table["on_canary"][slot[moment.on_canary]] = True
        begins = due["mark"] & Mark.FIRST != 0
        np.add.at(self.sessions, (segment[begins], moment.on_canary[begins].astype(np.int64)), 1)
        failed, reason, stalled_s = self._fail(due, moment)
        rows = np.zeros(len(due), SAMPLE_DTYPE)
        rows["start_unix_ns"] = epoch_ns + (due["at_s"] * NS).astype(np.int64)
        rows["duration_ms"] = rows["first_byte_ms"] = self._duration_ms(due, moment) + 1e3 * stalled_s
        rows["user"], rows["bucket"] = moment.user, moment.user % np.uint64(TOTAL_BP)
        rows["segment"] = segment
        rows["version"] = np.where(moment.on_canary, CANARY_VERSION, BASELINE_VERSION)
        rows["label"], rows["error"] = due["label"], failed
        rows["goal"] = (due["mark"] & Mark.GOAL != 0) & ~failed
        again = failed & (due["mark"] & Mark.RETRY == 0) & (self._table["kind"][slot] != Kind.BOT)
        more = self._retry(due[again], reason[again], segment[again])
        used = self._use(due, moment, begins)
        events = rows[used].copy()
        events["kind"], events["label"] = SampleKind.FEATURE, FEATURE_LABEL
        events["duration_ms"], events["first_byte_ms"] = 0.0, np.nan
        events["error"] = events["goal"] = False
        logged = self._logged(due, moment)
        return np.concatenate([rows[logged], events[logged[used]]]), more

    def _moment(self, due: Rows) -> Moment:
        """By what is in force now, as Envoy looks it up."""
        c, slot = self._table, due["slot"]
        user, segment = c["user"][slot], c["segment"][slot]
        split, at_s = self._split[segment], due["at_s"].copy()
        asked = (user % np.uint64(TOTAL_BP)).astype(float) < split * TOTAL_BP - 1e-6
        moment = Moment(
            at_s=at_s, segment=segment, on_canary=asked, novel=c["marks"][slot] & BEEN_ON_CANARY == 0, user=user,
            split=split, exposed_s=at_s - self._exposed_since[segment],
        )  # fmt: skip
        if not self._truth.has(Kpi.ROUTING):
            return moment
        on_canary = asked & ~self._truth.misrouted(moment)
        return Moment(
            at_s=at_s, segment=segment, on_canary=on_canary, novel=moment.novel, user=user, split=split,
            exposed_s=moment.exposed_s,
        )  # fmt: skip

    def _base(self, name: str, moment: Moment) -> Floats:
        base: Floats = np.array([getattr(habits, name) for habits in self._habits])[moment.segment]
        return base

    def _leave(self, due: Rows, where: Mark) -> Rows:
        """Those who leave there do; returns the requests that still come."""
        here = np.flatnonzero(due["mark"] & where)
        moment = self._moment(due[here])
        world, served = self._truth.shares(Kpi.ABANDONMENT, self._base("abandoned", moment), moment)
        slot = due["slot"][here]
        luck = self._table["leaves"][slot]
        if where is Mark.LEAVES:
            leaves = luck < np.minimum(world, served)
            self._blame(slot[leaves], Fault.ABANDONED << CHANCE)
        else:
            leaves = (luck >= world) & (luck < served)
            self._blame(slot[leaves], Fault.ABANDONED)
        self._table["gone_s"][slot[leaves]] = due["at_s"][here][leaves]
        return self._there(due)

    def _there(self, due: Rows) -> Rows:
        """Without what people meant to do after they left; what has failed they try again all the same."""
        there: Flags = (due["at_s"] <= self._table["gone_s"][due["slot"]]) | (due["mark"] & Mark.RETRY != 0)
        return due[there]

    def _fail(self, due: Rows, moment: Moment) -> tuple[Flags, npt.NDArray[np.uint8], Floats]:
        """Which requests fail, why (Forced), and for how long each was stalled, in seconds.

        The chance of each request is such that a session of them all meets an error with the probability that is true.
        """
        world, served = self._truth.shares(Kpi.ERRORS, self._base("errors", moment), moment)
        by_chance, by_version = (1 - (1 - share) ** (1 / due["requests"]) for share in (world, served))
        stalled_s = self._stalled_s(moment.at_s)
        chance = (due["luck"] < np.minimum(by_chance, by_version)) | (due["forced"] == Forced.CHANCE) | (stalled_s > 0)
        fault = (due["luck"] < by_version) | ((due["forced"] == Forced.CANARY) & moment.on_canary)
        carried = due["forced"] == Forced.CARRIED
        reason = np.select([chance, carried, fault], [Forced.CHANCE, Forced.CARRIED, Forced.CANARY], Forced.NOT)
        self._blame(due["slot"][(fault | carried) & ~chance], Fault.ERROR)
        self._blame(due["slot"][chance], Fault.ERROR << CHANCE)
        return reason != Forced.NOT, reason.astype(np.uint8), stalled_s

    def _retry(self, failed: Rows, reason: npt.NDArray[np.uint8], segment: npt.NDArray[np.int64]) -> Rows:
        in_a_row = np.array([habits.errors_in_a_row for habits in self._habits])[segment]
        more = retries(failed, reason, in_a_row, RETRY_S, self._does)
        np.maximum.at(self._table["end_s"], more["slot"], more["at_s"])
        return more

    def _duration_ms(self, due: Rows, moment: Moment) -> Floats:
        z = self._does.standard_normal(len(due))
        usual = self._base("latency_ms", moment) * np.exp(self._base("latency_sigma", moment) * z)
        world, served = self._truth.slowness(z, moment)
        slow_ms = self._slow_ms[moment.segment]
        by_chance = usual * world > slow_ms
        self._blame(due["slot"][by_chance], Fault.SLOW << CHANCE)
        self._blame(due["slot"][(usual * served > slow_ms) & ~by_chance], Fault.SLOW)
        duration: Floats = usual * served
        return duration

    def _use(self, due: Rows, moment: Moment, begins: Flags) -> Flags:
        """Whose session begins with a use of the feature."""
        world, served = self._truth.shares(Kpi.FEATURE, self._base("feature", moment), moment)
        luck: Floats = self._table["uses"][due["slot"]]
        self._blame(due["slot"][begins & (luck >= served) & (luck < world)], Fault.FEATURE)
        return begins & (luck < served)

    def _logged(self, due: Rows, moment: Moment) -> Flags:
        if not self._truth.has(Kpi.LOGS):
            return np.ones(len(due), np.bool_)
        _, served = self._truth.shares(Kpi.LOGS, np.ones(len(due)), moment)
        logged: Flags = self._table["logged"][due["slot"]] < served
        return logged

    def _blame(self, slots: npt.NDArray[np.int64], fault: int) -> None:
        """Note that this happened to sessions, each once."""
        c, slots = self._table, np.unique(slots)
        before = c["faults"][slots].astype(np.int64)
        c["faults"][slots] = after = before | fault
        segment = c["segment"][slots]
        np.subtract.at(self._fault_n, (segment, before), 1)
        np.add.at(self._fault_n, (segment, after), 1)

    def _stall(self, until_s: float) -> None:
        """Draw the stalls that begin up to `until_s`; those that are over are forgotten."""
        traffic = self._scenario.traffic
        n = self._stalls_rng.poisson(traffic.bursts_per_h / 3_600 * (until_s - self.now_s))
        begin = self._stalls_rng.uniform(self.now_s, until_s, n)
        going_on = self._stalls[self._stalls[:, 1] > self.now_s]
        self._stalls = np.concatenate([going_on, np.stack([begin, begin + traffic.burst_s], axis=-1)])

    def _stalled_s(self, at_s: Floats) -> Floats:
        """(n,) how long each request waits for a stall to end; 0: there is none."""
        waits = np.zeros(len(at_s))
        for begin, end in self._stalls.tolist():
            waits = np.where((at_s >= begin) & (at_s < end), np.maximum(waits, end - at_s), waits)
        return waits
