"""A recorded rollout decided again: the same ramp, fed from the tape, must say the same in every bit and word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from analysis.decision import SegmentDecision, verdict_name
from analysis.engine import artefacts_of, learned_policy, policy_named, shadow_named
from analysis.errors import AnalysisError, ReplayError
from analysis.on_the_job import Learnt, OnTheJob
from analysis.policy import Policy, load_values
from analysis.ramp import Ramp
from analysis.segment import SegmentState
from analysis.session import NS
from analysis.tape import (
    Adopted,
    Confirmed,
    Doubted,
    Event,
    Lost,
    Ordered,
    PutBack,
    Resumed,
    Started,
    Ticked,
    digest_of,
    rng_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where the replay said something else than was said then; `at_s` seconds after the beginning."""

    at_s: float
    then: str
    now: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """`ticks`, `orders`: decided again; `differences`: of those, in order; `decisions`: all of them, as said now.

    `unknown`: why parts of it could not be decided again, a line each.
    """

    ticks: int
    orders: int
    differences: tuple[Difference, ...]
    unknown: tuple[str, ...]
    decisions: tuple[tuple[SegmentDecision, ...], ...]


def replay(events: Iterable[Event], *, policy_of: Callable[[Started], Policy] | None = None) -> Replayed:
    """Decide a rollout again from all that it was given.

    `policy_of`: whose proposals, by default those of the policy that decided then.

    Raises ReplayError where the tape does not begin with a beginning, was decided with other artefacts than those that
    are here, or does not fit the specification in it.
    """
    player = _Player(policy_of or _same_policy)
    for event in events:
        try:
            player.play(event)
        except ReplayError:
            raise
        except (AnalysisError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ReplayError(f"{type(event).__name__} at {event.at_ns} ns does not fit: {error!r}") from error
    return player.result()


def _same_policy(started: Started) -> Policy:
    here = artefacts_of(started.spec.rollout)
    if here != dict(started.artefacts):
        then, now = (_listed(artefacts) for artefacts in (started.artefacts, here))
        raise ReplayError(f"decided with other artefacts: {then}; here are {now}")
    if started.learnt is None:
        return policy_named(started.spec.rollout.policy, started.spec.rollout.mode)
    job = OnTheJob(started.spec, Learnt.nothing(load_values()))
    job.restore(started.learnt)
    return learned_policy(job.learnt.chosen_by, started.spec.rollout.mode)


def _listed(artefacts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {digest}" for name, digest in sorted(artefacts.items())) or "none"


class _Player:
    """One ramp, and what it is given."""

    def __init__(self, policy_of: Callable[[Started], Policy]) -> None:
        self._policy_of = policy_of
        self._ramp: Ramp | None = None
        self._started: Started | None = None
        self._before: dict[str, SegmentState] = {}
        self._ticks = self._orders = 0
        self._differences: list[Difference] = []
        self._unknown: list[str] = []
        self._decisions: list[tuple[SegmentDecision, ...]] = []

    def result(self) -> Replayed:
        return Replayed(
            ticks=self._ticks, orders=self._orders, differences=tuple(self._differences),
            unknown=tuple(self._unknown), decisions=tuple(self._decisions),
        )  # fmt: skip

    def play(self, event: Event) -> None:
        if isinstance(event, Started):
            self._started = event
            self._ramp = Ramp(event.spec, self._policy_of(event), event.arms)
            self._ramp.watch_beside(shadow_named(event.spec.rollout.shadow))
            if event.width is not None:
                self._ramp.reading.trends.width.restore(event.width)
        elif isinstance(event, Lost):
            self._unknown.append(f"from {self._at_s(event):.0f} s on: {event.reason}")
            self._ramp = None
        elif self._started is None:
            raise ReplayError(f"the tape begins with {type(event).__name__}, not with the rollout's beginning")
        elif self._ramp is not None:
            self._give(self._ramp, event)

    def _at_s(self, event: Event) -> float:
        return 0.0 if self._started is None else (event.at_ns - self._started.started_ns) / NS

    def _give(self, ramp: Ramp, event: Event) -> None:
        match event:
            case Ticked():
                self._tick(ramp, event)
            case Ordered():
                self._before = _positions(ramp)
                decisions = ramp.command(event.order)
                self._orders += 1
                self._compare(event, decisions, then=f"{event.order.action} by {event.order.who}")
            case Resumed(state=state, gap_s=gap_s):
                ramp.restore(state, gap_s=gap_s)
            case Adopted(segment=segment, split_bp=split_bp):
                ramp.adopt(segment, split_bp)
            case Doubted(until_s=until_s):
                ramp.doubt(until_s=until_s)
            case Confirmed(segment=segment):
                ramp.confirm(segment)
            case PutBack(segments=segments):
                ramp.segments.update({name: replace(self._before[name]) for name in segments})

    def _tick(self, ramp: Ramp, event: Ticked) -> None:
        assert self._started is not None  # noqa: S101 -- `play` has looked
        self._before = _positions(ramp)
        ramp.risk, ramp.ahead = event.risk, event.ahead
        ramp.exhaustion, ramp.exhausted_ticks = event.exhaustion, event.exhausted_ticks
        rng = rng_of(self._started.seed, event.at_ns)
        decisions = ramp.step(event.window, now_s=self._at_s(event), rng=rng, logs=event.logs)
        self._ticks += 1
        then = "; ".join(
            _line(name, said.verdict, said.split_before_bp, said.split_after_bp)
            for name, said in zip(ramp.segments, event.said, strict=True)
        )
        self._compare(event, decisions, then=then)

    def _compare(self, event: Ticked | Ordered, decisions: tuple[SegmentDecision, ...], *, then: str) -> None:
        self._decisions.append(decisions)
        if digest_of(decisions) != event.digest:
            now = "; ".join(
                _line(each.segment, verdict_name(each.verdict), each.split_before_bp, each.split_after_bp)
                for each in decisions
            )
            self._differences.append(Difference(at_s=self._at_s(event), then=then, now=now))


def _positions(ramp: Ramp) -> dict[str, SegmentState]:
    return {name: replace(state) for name, state in ramp.segments.items()}


def _line(segment: str, verdict: str, before_bp: int, after_bp: int) -> str:
    return f"{segment} {verdict} {before_bp / 100:g} → {after_bp / 100:g} %"
