"""The engine: what it keeps, what it takes back, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis.decision import Action, Order, Rollback
from analysis.engine import POLICIES, Rollout, ServiceEngine, policy_named
from analysis.errors import StateError
from analysis.policy import BudgetPolicy, PolicyView, Proposal
from analysis.profile.hours import HOUR_NS, WEEK_H
from analysis.profile.profile import train
from analysis.replay import replay
from analysis.session import NS
from analysis.simulation.people import LABELS
from analysis.spec import ResourceSpec
from analysis.tape import Tape, Ticked
from tests.simulated import shop
from tests.unit.analysis.rows import small_spec

ARMS = {"power": ("v1", "v2"), "default": ("v1", "v2")}


def _started(until_s: int = 25) -> tuple[ServiceEngine, int]:
    """An engine in mid-rollout, and the time."""
    engine = ServiceEngine(small_spec(), seed=1)
    people = shop(small_spec(), seed=1)
    now_ns = 0
    split: dict[int, int] = {}
    for at_s in range(1, until_s + 1):
        rows = people.advance(at_s, split)
        now_ns = int((at_s + 0.3) * NS)
        if at_s == 2:
            engine.start(Rollout(rollout="r1", canary="v2", started_ns=now_ns, arms=ARMS))
        engine.observe(rows, LABELS)
        for i, decision in enumerate(engine.tick(now_ns)):
            assert engine.ramp is not None
            engine.confirm(decision.segment, now_ns)
            split[i] = decision.split_after_bp
    return engine, now_ns


@pytest.fixture(scope="module")
def stored() -> tuple[bytes, int]:
    engine, now_ns = _started()
    return engine.to_bytes(now_ns), now_ns


def _again(data: bytes, now_ns: int) -> ServiceEngine:
    engine = ServiceEngine(small_spec(), seed=1)
    engine.from_bytes(data, now_ns)
    return engine


def test_state_goes_round(stored: tuple[bytes, int]) -> None:
    """Whatever was stored is stored again, but for the sessions that are lost from sight."""
    data, now_ns = stored
    engine = _again(data, now_ns)
    once, twice = json.loads(data), json.loads(engine.to_bytes(now_ns))
    for part in ("ramp", "behaviour", "slow_ms", "rollout"):
        if part != "ramp":
            assert once[part] == twice[part]
    assert once["ramp"]["segments"] == twice["ramp"]["segments"]
    assert engine.to_bytes(now_ns) == _again(engine.to_bytes(now_ns), now_ns).to_bytes(now_ns)
    assert engine.ramp is not None
    assert engine.ramp.segments["power"].split_bp > 0


def test_restored_engine_ticks_on(stored: tuple[bytes, int]) -> None:
    data, now_ns = stored
    engine = _again(data, now_ns + 60 * NS)
    decisions = engine.tick(now_ns + 61 * NS)
    assert all(decision.split_after_bp <= decision.split_before_bp for decision in decisions)


def test_widths_of_forecasts_outlive_a_restart() -> None:
    """What a good rollout has taught forecasts is there for the next one, whether or not it was restarted before."""
    engine, now_ns = _started()
    rollout = engine.rollout
    assert rollout is not None
    engine.command(Order(action=Action.PROMOTE, who="ann", reason=""), now_ns)
    engine.tick(now_ns + NS)
    learnt = engine._widths
    assert learnt is not None
    again = ServiceEngine(engine.spec, seed=1)
    again.from_bytes(engine.to_bytes(now_ns + NS), now_ns + 2 * NS)
    for each in (engine, again):
        each.start(replace(rollout, rollout="shop-v2-2", started_ns=now_ns + 3 * NS))
        assert each.ramp is not None
        assert each.ramp.reading.trends.width.state() == learnt
    running = engine.to_bytes(now_ns + 4 * NS)
    again.from_bytes(running, now_ns + 5 * NS)
    assert again._widths == learnt
    with pytest.raises(StateError):
        again.from_bytes(_with(running, ("widths",), [[1.0]]), now_ns + 5 * NS)
    again.start(rollout)


def test_nothing_is_stored_before_a_rollout_and_nothing_is_decided() -> None:
    engine = ServiceEngine(small_spec(), seed=1)
    assert engine.to_bytes(0) == b""
    assert engine.tick(NS) == ()
    assert not engine.is_running
    with pytest.raises(StateError, match="no rollout"):
        engine.command(Order(action=Action.PAUSE, who="ann"), 0)


def _with(data: bytes, path: tuple[str, ...], value: Any) -> bytes:
    body = json.loads(data)
    place = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 99),
        (("format",), None),
        (("at_ns",), "yesterday"),
        (("rollout",), None),
        (("rollout", "arms"), ["power"]),
        (("rollout", "arms"), {"nobody": ["v1", "v2"]}),
        (("rollout", "arms"), {"power": ["v1", "v9"]}),
        (("rollout", "started_ns"), 1e400),
        (("ramp",), {}),
        (("ramp", "segments"), {}),
        (("ramp", "segments", "power", "split_bp"), 20_000),
        (("ramp", "segments", "power", "split_bp"), -5),
        (("ramp", "segments", "power", "split_bp"), "much"),
        (("ramp", "segments", "power", "phase"), "flying"),
        (("ramp", "segments", "power", "confirmed"), "yes"),
        (("ramp", "segments", "power", "changed_s"), None),
        (("ramp", "now_s"), float("nan")),
        (("ramp", "reading", "recent"), [[[1], [2]]]),
        (("ramp", "reading", "recent"), None),
        (("ramp", "reading", "recent"), []),
        (("ramp", "reading", "reactive"), {}),
        (("ramp", "reading", "reactive", "counts"), [[0.0]]),
        (("ramp", "reading", "reactive", "fired_s"), ["late", None]),
        (("ramp", "reading", "evidence", "log_r"), [[1.0]]),
        (("ramp", "reading", "evidence", "spent"), float("nan")),
        (("ramp", "reading", "harm", "excess"), [0.0]),
        (("ramp", "reading", "harm", "rate"), None),
        (("ramp", "reading", "harm", "exclusion"), []),
        (("ramp", "reading", "sample_ratio"), None),
        (("ramp", "reading", "sample_ratio", "totals"), [[1.0]]),
        (("ramp", "reading", "sample_ratio", "spent"), 1e400),
        (("slow_ms",), [1.0]),
        (("slow_ms",), None),
        (("behaviour",), [[]]),
        (("behaviour",), [[["a"]], []]),
    ],
)
def test_damaged_state_is_refused_and_leaves_no_rollout(
    stored: tuple[bytes, int], path: tuple[str, ...], value: Any
) -> None:
    data, now_ns = stored
    engine = ServiceEngine(small_spec(), seed=1)
    with pytest.raises(StateError):
        engine.from_bytes(_with(data, path, value), now_ns)
    assert engine.ramp is None
    assert engine.tick(now_ns + NS) == ()


def test_new_people_are_counted_from_the_acknowledgement_on() -> None:
    engine, now_ns = _started()
    assert engine.ramp is not None
    ratio = engine.ramp.reading.sample_ratio
    counted = ratio.totals[0, -1, 0]
    assert counted > 0
    people = shop(small_spec(), seed=2)
    engine.command(Order(action=Action.SET, who="ann", split_bp=4_000), now_ns)
    for at_s in range(1, 30):
        later_ns = now_ns + int((at_s + 0.3) * NS)
        engine.observe(people.advance(at_s, {0: 4_000, 1: 4_000}, epoch_ns=now_ns), LABELS)
        engine.command(Order(action=Action.FREEZE, who="ann"), later_ns)
        engine.tick(later_ns)
        if at_s == 10:
            assert ratio.totals[0, -1, 0] < counted + 200, "only those of before the order"
            counted = ratio.totals[0, -1, 0]
            for name in ARMS:
                assert not engine.ramp.segments[name].confirmed
                engine.confirm(name, later_ns)
                assert engine.ramp.segments[name].confirmed
    assert ratio.totals[0, -1, 0] == pytest.approx(counted + 2 * 15 * (30 - 11.3 - 4 - 1.5), rel=0.2)
    with pytest.raises(StateError, match="no rollout"):
        ServiceEngine(small_spec(), seed=1).confirm("power", 0)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": 2}'])
def test_bytes_that_are_no_state_are_refused(data: bytes) -> None:
    with pytest.raises(StateError):
        _again(data, 0)


def test_cut_off_state_is_refused(stored: tuple[bytes, int]) -> None:
    data, now_ns = stored
    for share in (0.1, 0.5, 0.99):
        with pytest.raises(StateError):
            _again(data[: int(len(data) * share)], now_ns)


def test_every_policy_has_a_name_and_other_names_are_refused() -> None:
    assert [policy_named(name).name for name in POLICIES] == list(POLICIES)
    with pytest.raises(ValueError, match="budget, fixed, learned"):
        policy_named("luck")


@pytest.mark.parametrize("by_restart", [False, True])
@pytest.mark.parametrize(("away_s", "is_silent"), [(2, True), (30, False)])
def test_a_canary_that_is_not_seen_right_after_an_absence_is_no_silence(
    away_s: int, is_silent: bool, by_restart: bool
) -> None:
    """Nobody ticked, and Envoys' dead-man switch may have taken everybody off it; they are not held against the split.

    After a while it counts again.
    """
    engine, now_ns = _started()
    engine.command(Order(action=Action.SET, who="ann", split_bp=5_000), now_ns)
    for name in ARMS:
        engine.confirm(name, now_ns)
    people = shop(small_spec(), seed=2)
    for at_s in range(1, 12):
        engine.observe(people.advance(at_s, {0: 5_000, 1: 5_000}, epoch_ns=now_ns), LABELS)
        engine.command(Order(action=Action.FREEZE, who="ann"), now_ns + at_s * NS)
        engine.tick(now_ns + at_s * NS)
    assert engine.ramp is not None
    left_ns = now_ns + 11 * NS
    if by_restart:
        engine = _again(engine.to_bytes(left_ns), left_ns + away_s * NS)
        for name in ARMS:
            engine.confirm(name, left_ns + away_s * NS)
    assert engine.ramp is not None
    engine.command(Order(action=Action.PAUSE, who="ann"), left_ns + away_s * NS)  # no rise, but every way back
    verdicts = []
    for at_s in range(away_s, away_s + 12):
        engine.observe(people.advance(at_s + 11, {}, epoch_ns=now_ns), LABELS)  # everybody is on the baseline
        decided = engine.tick(left_ns + int((at_s + 0.3) * NS))
        verdicts.append(any(r.code == "silent" for d in decided for r in d.verdict.reasons))
    assert any(verdicts[:3]) is is_silent
    assert any(verdicts), "in the end it is silence"


# -- the next hour -----------------------------------------------------------------------------------------------------


class _Asked(BudgetPolicy):
    """Remembers what it was told of the next hour."""

    def __init__(self) -> None:
        self.ahead: list[float] = []

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:
        self.ahead.append(view.ahead)
        return super().propose(view, rng=rng)


def _profile(hours: np.ndarray) -> bytes:
    """A profile of some people, as if it had been learnt from such hours."""
    people, rows = shop(small_spec(), seed=1), []
    observer = ServiceEngine(small_spec(), seed=1).observer
    for at_s in range(1, 40):
        observer.observe(people.advance(at_s, {}), LABELS)
        observer.window(int((at_s + 0.3) * NS))
        sessions, _ = observer.take_over()
        rows.append(sessions)
    sessions = np.concatenate(rows)
    profile = train(sessions[:200], LABELS, age_s=12, rng=np.random.default_rng(1), hours=hours)
    return profile.to_bytes()


def test_the_policy_knows_the_next_hour_where_profiles_do() -> None:
    hours = np.full(WEEK_H, 100.0)
    hours[9:] = 300.0
    data, begun_ns = _profile(hours), 9 * HOUR_NS - 30 * NS  # a minute on either side of nine o'clock
    engine = ServiceEngine(small_spec(), seed=1, policy=(asked := _Asked()))
    engine.start(Rollout(rollout="r1", canary="v2", started_ns=begun_ns, arms=ARMS))
    assert engine.ramp is not None
    engine.tick(begun_ns)
    assert set(asked.ahead) == {1.0}, "nothing is known yet"
    engine.observer.behaviour.adopt(0, data)
    for at_s in range(60, 120, 20):
        engine.tick(begun_ns + at_s * NS)
    later = 300 / (100 * 59 / 60 + 300 / 60)
    assert sorted(set(asked.ahead)) == pytest.approx([1.0, later, 3.0]), "looked at once a minute"
    again = ServiceEngine(small_spec(), seed=1, policy=(then := _Asked()))
    again.from_bytes(engine.to_bytes(begun_ns + 120 * NS), begun_ns + 120 * NS)
    again.tick(begun_ns + 30 * 60 * NS + 30 * NS)
    assert set(then.ahead) == {300 / 200}, "half an hour later, after a restart"


def test_people_on_the_canary_count_in_their_hours_too() -> None:
    engine, _ = _started(60)
    assert engine.ramp is not None
    assert engine.ramp.segments["default"].split_bp > 0
    counted = [model.hours.open_n for model in engine.observer.behaviour._segments]
    judged = engine.observer.tracker.columns.begun_n
    assert sum(counted) > 0.5 * judged


def test_leak_of_the_canary_rolls_it_back_before_any_kpi_shows_it() -> None:
    """Memory is reported by version; a version that is neither of the two, and an unknown metric, say nothing."""
    spec = small_spec(resources=(ResourceSpec(name="memory", metric="process.memory", limit=1_000.0),))
    spec = replace(spec, rollout=replace(spec.rollout, horizon_s=7_200.0))
    engine, began_ns = ServiceEngine(spec, seed=1, tape=Tape()), 0
    arms = {segment.name: ("v1", "v2") for segment in spec.segments}
    engine.start(Rollout(rollout="r1", canary="v2", started_ns=began_ns, arms=arms))
    assert engine.ramp is not None
    for name in arms:
        engine.command(Order(action=Action.SET, who="ann", segment=name, split_bp=500), 1)
    rolled_back = None
    for minute in range(1, 240):
        for version, value in (("v1", 300.0), ("v2", 300.0 + 2.5 * minute), ("v3", 999.0)):
            engine.measure("process.memory", version, value + minute % 3)
            engine.measure("process.threads", version, 1e9)
        told = engine.tick(minute * 60 * NS)
        verdicts = [
            one.verdict for one in told if isinstance(one.verdict, Rollback) and one.verdict.tier == "predicted"
        ]
        if verdicts:
            rolled_back = minute
            assert {reason.code for verdict in verdicts for reason in verdict.reasons} == {"exhaustion"}
            break
    assert rolled_back is not None
    assert 300 + 2.5 * rolled_back < 1_000
    assert engine.tape is not None
    events = engine.tape.take()
    assert replay(events).differences == ()
    unseen = [
        replace(each, exhaustion=None, exhausted_ticks=0) if isinstance(each, Ticked) else each for each in events
    ]
    assert replay(unseen).differences
