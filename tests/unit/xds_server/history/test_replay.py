"""What was decided live is decided again from the tape, in every bit; what cannot be says why in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pytest

from analysis.decision import Action, Order, Phase, SegmentDecision
from analysis.engine import Rollout, ServiceEngine
from analysis.errors import ReplayError
from analysis.on_the_job import Learnt
from analysis.policy import BudgetPolicy, LearnedPolicy
from analysis.policy.learned import WHOLE
from analysis.replay import Replayed, _same_policy, replay
from analysis.session import NS
from analysis.simulation.scenario import Kpi
from analysis.spec import ServiceSpec
from analysis.tape import Event, Lost, Started, Tape, Ticked
from tests.sim.loop import LABELS, SEGMENTS, demo_spec, faulty
from tests.simulated import shop
from xds_server.errors import HistoryError
from xds_server.tape_form import decode, encode, kind_of

STARTS_S, ENDS_S = 5, 55
RESTART_S, ORDER_S, NOT_DONE_S = 30, 40, 45
GONE_NS = int(5.7 * NS)  # so long that Envoys' dead-man switch may have acted
WIDTHS: list[object] = [[2.5], [1.0]]  # of forecasts, as if a good rollout before had found their bands too narrow
ERRORS = faulty(Kpi.ERRORS, 1, plus=0.3)


@dataclass(slots=True, kw_only=True)
class Live:
    """A rollout as it was: what its tape took down, as bytes, and what was decided at each tick and order."""

    policy: str
    kinds: list[tuple[str, bytes]] = field(default_factory=list)
    decided: list[tuple[SegmentDecision, ...]] = field(default_factory=list)

    def take(self, engine: ServiceEngine) -> None:
        assert engine.tape is not None
        self.kinds += [(kind_of(event), encode(event, engine.spec)) for event in engine.tape.take()]

    def events(self) -> list[Event]:
        spec: ServiceSpec | None = None
        found: list[Event] = []
        for kind, data in self.kinds:
            found.append(decode(kind, data, spec))
            spec = found[-1].spec if isinstance(found[-1], Started) else spec
        return found


def begun(spec: ServiceSpec) -> ServiceEngine:
    """An engine; a policy that learns has learnt of earlier rollouts that small steps are worth more."""
    engine = ServiceEngine(spec, seed=5, tape=Tape())
    engine._widths = WIDTHS
    if engine.learnt is not None:
        shipped = engine.learnt.shipped
        moved = shipped.values.copy()
        moved[:, WHOLE] -= 0.01
        moved[:, 0] += 0.01
        engine.take_learnt(Learnt(values=replace(shipped, values=moved), shipped=shipped, updates=3).to_json())
    return engine


@cache
def live(policy: str) -> Live:
    """A rollout of the shop whose canary fails in one segment; a restart, an order and a decision that is not done.

    Beside `thompson` another policy watches.
    """
    spec = demo_spec()
    shadow = "learned" if policy == "thompson" else None
    spec = replace(spec, rollout=replace(spec.rollout, policy=policy, shadow=shadow))
    people, split = shop(spec, (ERRORS,), seed=11), dict[int, int]()
    engine, run, ramp = begun(spec), Live(policy=policy), None
    for at_s in np.arange(spec.rollout.interval_s, ENDS_S, spec.rollout.interval_s).tolist():
        now_ns = int((at_s + 0.3) * NS) + (GONE_NS if at_s >= RESTART_S else 0)
        rows = people.advance(at_s, split)
        rows["bucket"] = rows["user"] % 10_000
        if ramp is None and at_s >= STARTS_S:
            arms = {segment.name: ("v1", "v2") for segment in spec.segments}
            engine.start(Rollout(rollout="r1", canary="v2", started_ns=int(at_s * NS), arms=arms))
        if at_s == RESTART_S:
            stored = engine.to_bytes(now_ns - GONE_NS)
            run.take(engine)
            engine = begun(spec)
            engine.from_bytes(stored, now_ns)
            engine.adopt(SEGMENTS[0], split.get(0, 0), now_ns)
        engine.observe(rows, LABELS)
        before = engine.positions()
        decisions = engine.tick(now_ns)
        ramp = engine.ramp
        if ramp is None:
            continue
        run.decided.append(tuple(replace(each, differences=()) for each in decisions))  # those are the observer's
        if at_s == NOT_DONE_S:
            engine.put_back(before, now_ns)
        if at_s == ORDER_S:
            run.decided.append(
                engine.command(Order(action=Action.SET, who="ann", segment="default", split_bp=3_300), now_ns)
            )
        for i, name in enumerate(ramp.segments):
            if at_s % 3:
                engine.confirm(name, now_ns)
            split[i] = ramp.segments[name].split_bp
    run.take(engine)
    return run


@pytest.fixture(scope="module", params=["budget", "learned", "thompson"])
def played(request: pytest.FixtureRequest) -> Live:
    return live(request.param)


def test_a_live_rollout_is_decided_again_bit_for_bit(played: Live) -> None:
    again = replay(played.events())
    assert again.unknown == ()
    assert again.differences == ()
    assert {(event.learnt or {}).get("updates") for event in played.events() if isinstance(event, Started)} == {
        3 if played.policy == "learned" else None
    }
    assert list(again.decisions) == played.decided
    assert repr(again.decisions) == repr(tuple(played.decided))
    watched = any(each.shadow is not None for decisions in again.decisions for each in decisions)
    assert watched == (played.policy == "thompson")
    ended = {each.segment: each.phase for decisions in played.decided for each in decisions}
    assert Phase.ROLLED_BACK in ended.values(), ended
    kinds = {kind for kind, _ in played.kinds}
    assert kinds == {"started", "resumed", "adopted", "ticked", "ordered", "confirmed", "putback", "doubted"}


def test_the_policy_chooses_by_what_it_had_learnt_then() -> None:
    started = live("learned").events()[0]
    assert isinstance(started, Started)
    policy, engine = _same_policy(started), begun(started.spec)
    assert isinstance(policy, LearnedPolicy)
    assert engine.learnt is not None
    assert np.array_equal(policy._values.values, engine.learnt.values.values)
    assert not np.array_equal(policy._values.values, engine.learnt.shipped.values)


def changed(events: Sequence[Event], at: int) -> Replayed:
    """With one person's error more at the `at`-th tick."""
    ticks = [i for i, event in enumerate(events) if isinstance(event, Ticked)]
    event = events[ticks[at]]
    assert isinstance(event, Ticked)
    event.window.n[0, 0] += 1
    event.window.bad[0, 0] += 1
    return replay(events)


def test_what_was_seen_otherwise_is_decided_otherwise(played: Live) -> None:
    again = changed(played.events(), 30)
    assert again.differences
    assert again.differences[0].at_s == pytest.approx(played_at_s(played, 30))
    assert "eu" in again.differences[0].then
    assert again.ticks == sum(kind == "ticked" for kind, _ in played.kinds)


def played_at_s(played: Live, at: int) -> float:
    events = played.events()
    started = next(event for event in events if isinstance(event, Started))
    return ([event for event in events if isinstance(event, Ticked)][at].at_ns - started.started_ns) / NS


def test_other_draws_would_show() -> None:
    run = live("thompson")
    events = run.events()
    again = replay([replace(event, seed=6) if isinstance(event, Started) else event for event in events])
    assert again.differences


def test_the_draws_of_a_tick_do_not_depend_on_what_was_drawn_before() -> None:
    events = live("thompson").events()
    resumed = max(i for i, event in enumerate(events) if isinstance(event, Started))
    again = replay(events[resumed:])  # nothing from before the restart
    assert again.differences == ()
    assert again.ticks > 15


def test_the_width_of_forecasts_that_a_rollout_began_with_counts() -> None:
    events = live("budget").events()
    assert {tuple(map(tuple, each.width or ())) for each in events if isinstance(each, Started)} == {((2.5,), (1.0,))}
    again = replay([replace(event, width=None) if isinstance(event, Started) else event for event in events])
    assert again.differences


def test_another_policy_may_be_asked(played: Live) -> None:
    again = replay(played.events(), policy_of=lambda _: BudgetPolicy())
    assert again.ticks > 40


def test_what_cannot_be_replayed_says_why(played: Live) -> None:
    events = played.events()
    started = events[0]
    assert isinstance(started, Started)
    with pytest.raises(ReplayError, match=r"decided with other artefacts: q_values 0a0a; here are (none|q_values )"):
        replay([replace(started, artefacts={"q_values": "0a0a"}), *events[1:]])
    with pytest.raises(ReplayError, match="begins with Ticked"):
        replay([event for event in events if isinstance(event, Ticked)])
    fewer = replace(started.spec, segments=started.spec.segments[-1:])
    with pytest.raises(ReplayError, match="does not fit") as caught:
        replay([replace(started, spec=fewer, arms={"default": ("v1", "v2")}), *events[1:]])
    assert "\n" not in str(caught.value)


def test_after_a_loss_nothing_is_guessed_until_the_next_beginning(played: Live) -> None:
    events = played.events()
    lost = Lost(at_ns=events[20].at_ns, reason="the disk was full")
    again = replay([*events[:20], lost, *events[25:]])
    assert again.unknown == (f"from {(lost.at_ns - events[0].at_ns) / NS:.0f} s on: the disk was full",)
    assert again.differences == ()
    assert 0 < again.ticks < sum(kind == "ticked" for kind, _ in played.kinds)


def test_events_that_nobody_takes_are_bounded_and_their_loss_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.tape.MOST_EVENTS", 3)
    tape = Tape()
    for at_ns in range(5):
        tape.note(Lost(at_ns=at_ns, reason=str(at_ns)))
    reasons = [event.reason for event in tape.take() if isinstance(event, Lost)]
    assert reasons == ["3 events were waiting to be stored, and given up", "3", "4"]
    assert tape.take() == []


def test_events_of_other_versions_say_so_in_one_line(played: Live) -> None:
    kind, data = played.kinds[0]
    for wrong, message in (
        ((kind, bytes([9]) + data[1:]), "event started has format 9; this version reads 2"),
        (("paused", data), "event 'paused' is none that this version knows"),
        ((kind, b""), "event started has format none"),
        ((kind, data[:-9]), "event started is damaged"),
        (("ticked", played.kinds[2][1]), "a tick before the rollout's beginning"),
        (("confirmed", data), "confirmed was recorded by another version of Serinus: "),
    ):
        with pytest.raises(HistoryError, match=message) as caught:
            decode(*wrong, None)
        assert "\n" not in str(caught.value)
