"""What the engine is made to forget."""

from __future__ import annotations

from analysis.decision import Action, Order
from analysis.engine import Rollout, ServiceEngine
from analysis.session import NS
from xds_server.rollout.steered import SteeredService, resting_splits
from xds_server.settings import parse_mesh

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
    history = engine.observer._arms[0].history

    before = steered.positions()
    engine.command(Order(action=Action.SET, who="ann", split_bp=3_000), 20 * NS)
    steered.put_back(before, 20 * NS)
    assert history.asked(30 * NS) is None, "what came before has not been acknowledged yet"

    engine.confirm("default", 40 * NS)
    before = steered.positions()
    engine.command(Order(action=Action.SET, who="ann", split_bp=3_000), 50 * NS)
    assert history.asked(60 * NS) is None
    steered.put_back(before, 50 * NS)
    assert (history.asked(45 * NS), history.asked(50 * NS), history.asked(52 * NS)) == (2_000, None, 2_000)
