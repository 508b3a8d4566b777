"""What the engine is made to forget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.decision import Action, Hold, Order, Phase, Reason, SegmentDecision
from analysis.engine import Rollout, ServiceEngine
from analysis.session import NS
from analysis.splits import IN_DOUBT
from xds_server.mesh import SegmentSplit, ServiceSplits
from xds_server.rollout.steered import TOLD_ANYWAY_S, SteeredService, resting_splits
from xds_server.settings import parse_mesh
from xds_server.store.records import RolloutRow

MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:1"]}, v2: {endpoints: ["127.0.0.1:2"]}}
    baseline: v1
"""


def test_split_that_was_taken_back_before_any_envoy_heard_of_it_leaves_the_old_one_in_force() -> None:
    """No acknowledgement is waited for, since none was asked for: whoever comes is counted again a second later."""
    service = parse_mesh(MESH, "mesh.yaml").services["shop"]
    engine = ServiceEngine(service.spec, seed=1)
    steered = SteeredService(service=service, engine=engine, splits=resting_splits(service))
    engine.start(Rollout(rollout="shop-1", canary="v2", started_ns=NS, arms={"default": ("v1", "v2")}))
    engine.command(Order(action=Action.SET, who="ann", split_bp=2_000), 10 * NS)

    def asked(at_s: int) -> int:
        return int(engine.observer._arms[0].history.asked(np.array([at_s * NS]))[0])

    before = steered.positions()
    engine.command(Order(action=Action.SET, who="ann", split_bp=3_000), 20 * NS)
    steered.put_back(before, 20 * NS)
    assert asked(30) == IN_DOUBT, "what came before has not been acknowledged yet"

    engine.confirm("default", 40 * NS)
    before = steered.positions()
    engine.command(Order(action=Action.SET, who="ann", split_bp=3_000), 50 * NS)
    assert asked(60) == IN_DOUBT
    steered.put_back(before, 50 * NS)
    assert (asked(45), asked(50), asked(52)) == (2_000, IN_DOUBT, 2_000)


def _at(**splits_bp: int) -> ServiceSplits:
    segments = {name: SegmentSplit(baseline="v1", canary="v2", canary_bp=bp) for name, bp in splits_bp.items()}
    return ServiceSplits(rollout="shop-v2-1", generation=7, segments=segments)


def _steered(splits: ServiceSplits, good: ServiceSplits | None = None) -> SteeredService:
    service = parse_mesh(MESH, "mesh.yaml").services["shop"]
    engine = ServiceEngine(service.spec, seed=1)
    return SteeredService(service=service, engine=engine, splits=splits, good=good)


def test_what_has_risen_since_all_had_it_is_known_by_where_it_was() -> None:
    good = _at(a=100, b=200, c=300)
    assert _steered(_at(a=100, b=250, c=0), good).risen() == {"b": 200}
    assert _steered(_at(a=100, new=5), good).risen() == {"new": 0}
    assert _steered(_at(a=900), replace(good, rollout="another")).risen() == {}
    assert _steered(_at(a=900)).risen() == {}


def test_each_rollback_that_may_come_next_is_foreseen() -> None:
    """Of each segment alone and of all; what has no canary stays."""
    splits = _at(a=100, b=200, c=0)
    foreseen = [
        {name: split.canary_bp for name, split in each.segments.items()} for each in _steered(splits).rollbacks()
    ]
    assert foreseen == [{"a": 0, "b": 200, "c": 0}, {"a": 100, "b": 0, "c": 0}, {"a": 0, "b": 0, "c": 0}]
    assert {each.generation for each in _steered(splits).rollbacks()} == {8}


def _running(interval_s: float) -> SteeredService:
    service = parse_mesh(MESH, "mesh.yaml").services["shop"]
    spec = replace(service.spec, rollout=replace(service.spec.rollout, interval_s=interval_s))
    engine = ServiceEngine(spec, seed=1)
    engine.start(Rollout(rollout="shop-1", canary="v2", started_ns=NS, arms={"default": ("v1", "v2")}))
    row = RolloutRow(rollout="shop-1", service="shop", baseline="v1", canary="v2", state="running", started_unix_ns=NS)
    return SteeredService(service=replace(service, spec=spec), engine=engine, splits=resting_splits(service), row=row)


@pytest.mark.parametrize(("interval_s", "watched_s"), [(60, 15), (10, 2.5), (3, 1), (1, 1), (0.2, 0.2)])
def test_ticks_are_nearer_while_anything_is_watched_but_never_nearer_than_a_second(
    interval_s: float, watched_s: float
) -> None:
    steered = _running(interval_s)
    assert steered.tick_s == interval_s
    assert steered.engine.ramp is not None
    state = steered.engine.ramp.segments["default"]
    assert not steered.follow_watch()
    state.watched = True
    assert (steered.follow_watch(), steered.follow_watch()) == (True, False)
    assert (steered.watched, steered.tick_s) == ({"default"}, watched_s)
    state.watched = False
    assert steered.follow_watch()
    assert steered.tick_s == interval_s


def test_that_a_watch_begins_or_ends_is_worth_a_line_though_nothing_else_has_changed() -> None:
    steered = _running(1)
    assert steered.engine.ramp is not None
    held = SegmentDecision(
        segment="default",
        verdict=Hold(reasons=(Reason(code="budget", text=""),)),
        phase=Phase.RAMPING,
        split_before_bp=100,
        split_after_bp=100,
    )
    told = []
    for watched in (False, False, True, True, False):
        steered.watched = frozenset({"default"} if watched else ())
        told.append(bool(steered.news([held], observed_only=False)))
    assert told == [True, False, True, False, True]


def test_flags_are_told_what_is_in_force_until_the_new_is_or_is_overdue() -> None:
    before, after = _at(default=500), replace(_at(default=1_000), generation=8)
    steered = _steered(after, before)
    assert steered.told(100.0) is after, "in force"
    steered.in_force, steered.decided_s = False, 100.0
    assert steered.told(100.0 + TOLD_ANYWAY_S - 1) is before
    assert steered.told(100.0 + TOLD_ANYWAY_S) is after
    steered.good = None
    assert steered.told(100.0) is after, "nothing has been in force since the start"
    steered.good = replace(before, segments={"gone": before.segments["default"]})
    assert steered.told(100.0) is after, "those were another mesh's segments"
