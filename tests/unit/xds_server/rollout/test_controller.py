"""The loop when something in it fails: the service is held, and nothing else is touched. Real parts, no Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from analysis.decision import Action
from analysis.on_the_job import Learnt
from analysis.policy import PolicyView, load_values
from analysis.policy.protocol import Proposal
from analysis.ramp import Ramp
from analysis.spec import TOTAL_BP
from tests.controlling import controlling
from tests.waiting import until
from xds_server.ads.cache import Rejection
from xds_server.errors import RefusedError
from xds_server.rollout.controller import Controller
from xds_server.snapshot import InconsistentSnapshotError
from xds_server.store.journal import Journal
from xds_server.store.policies import PolicyStore

SERVICE = """
  {name}:
    domains: [{name}]
    port: {port}
    identity: [{{header: x-user-id}}]
    versions: {{v1: {{endpoints: ["127.0.0.1:1"]}}, v2: {{endpoints: ["127.0.0.1:2"]}}}}
    baseline: v1
    segments:
      power: {{match: {{headers: [{{name: x-plan, exact: pro}}]}}}}
    rollout: {{interval: 200ms, warmup: 1h, min_dwell: 1h, harm: {{budget: 1000000}}}}
"""
MESH = "services:" + "".join(
    SERVICE.format(name=name, port=port) for name, port in (("shop", 10_000), ("cart", 10_001))
)


class Broken:
    """A policy that fails for as long as it is told to."""

    def __init__(self, *, fails: bool = True) -> None:
        self.fails = fails
        self.asked_n = 0

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:
        del rng
        self.asked_n += 1
        if self.fails:
            raise ZeroDivisionError("no such luck")
        return Proposal(split=view.split, propensity=1.0)


class Slow(Broken):
    """A policy that takes its time; `began` says when it has been asked."""

    def __init__(self) -> None:
        super().__init__(fails=False)
        self.began = False

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:
        self.began = True
        time.sleep(0.3)
        return super().propose(view, rng=rng)


controller = partial(controlling, mesh=MESH)


async def begin(control: Controller, service: str, split_bp: int = 4_000) -> None:
    await control.start_rollout(service=service, canary="v2", who="test", reason="")
    await act(control, Action.SET, service, split_bp)


async def act(control: Controller, action: Action, service: str = "shop", split_bp: int = 0) -> None:
    await control.act(service=service, segment=None, action=action, split_bp=split_bp, who="test", reason="")


def reasons(control: Controller, service: str) -> set[str]:
    return {segment.reason for segment in control.status(service).services[0].segments}


def splits(control: Controller, service: str) -> set[float]:
    return {segment.split for segment in control.status(service).services[0].segments}


def ramp(control: Controller, service: str) -> Ramp:
    found = control._fleet.services[service].engine.ramp
    assert found is not None
    return found


def test_an_engine_that_fails_holds_its_service_visibly_and_no_other(tmp_path):
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await begin(control, "shop")
            await begin(control, "cart")
            policy = ramp(control, "shop")._policy = Broken()
            other = ramp(control, "cart")._policy = Broken(fails=False)
            await until(lambda: policy.asked_n > 2 and other.asked_n > 2)
            assert reasons(control, "shop") == {"held: the engine failed (ZeroDivisionError: no such luck)"}
            assert control.status("shop").services[0].state == "paused"
            assert control.status("cart").services[0].state == "running"
            assert splits(control, "shop") == {0.4}
            pauses = [
                row for row in await control.history(service="shop", rollout=None, limit=99) if row.who == "serinus"
            ]
            assert len(pauses) == 2, "once a segment, not once a tick"
            policy.fails = False
            asked_n = policy.asked_n
            await until(lambda: policy.asked_n > asked_n + 4)
            assert control.status("shop").services[0].state == "paused", "until a person resumes it"
            await act(control, Action.RESUME)
            assert control.status("shop").services[0].state == "running"
            await until(lambda: reasons(control, "shop") != {""} and "held" not in "".join(reasons(control, "shop")))

    asyncio.run(scenario())


def test_a_rejection_holds_but_does_not_thaw_what_a_person_froze(tmp_path):
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await begin(control, "shop")
            await begin(control, "cart")
            await act(control, Action.FREEZE)
            refusal = Rejection(
                node="edge", services=("shop", "cart", "?"), type="RDS", version="1", message="no\nway", at_unix_ns=1
            )
            control._acknowledgements.rejected(refusal)
            assert reasons(control, "cart") == {"held: edge rejected RDS: no way"}, "at once"
            await until(lambda: control.status("cart").services[0].state == "paused")
            assert control.status("shop").services[0].state == "frozen"
            stopped = ramp(control, "shop").segments.values()
            assert all(segment.frozen and not segment.paused for segment in stopped)

    asyncio.run(scenario())


def test_why_a_rollout_is_held_is_known_after_a_restart(tmp_path):
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await begin(control, "shop")
            control._acknowledgements.rejected(
                Rejection(node="edge", services=("shop",), type="RDS", version="1", message="no way", at_unix_ns=1)
            )
            await until(lambda: control.status("shop").services[0].state == "paused")
        async with controller(tmp_path) as control:
            assert reasons(control, "shop") == {"held: edge rejected RDS: no way"}
            assert splits(control, "shop") == {0.4}
            await act(control, Action.RESUME)
            await act(control, Action.PAUSE)
        async with controller(tmp_path) as control:
            assert control.status("shop").services[0].state == "paused"
            assert "held" not in "".join(reasons(control, "shop"))

    asyncio.run(scenario())


def test_what_the_engine_decides_while_serinus_ends_is_still_carried_out(tmp_path):
    """Else the engine would know of a rollback that no Envoy has heard of, and never speak of it again."""

    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await begin(control, "shop")
            slow = ramp(control, "shop")._policy = Slow()
            harm = ramp(control, "shop").reading.harm
            harm.caps = lambda *_, **__: np.array([[0.1, 0.1]])  # the budget takes back the rest at this tick
            await until(lambda: slow.began)
        async with controller(tmp_path) as control:
            assert splits(control, "shop") == {0.1}
            assert {segment.split_bp for segment in ramp(control, "shop").segments.values()} == {1_000}

    asyncio.run(scenario())


def test_a_rollout_whose_state_cannot_be_read_keeps_its_splits_and_waits_for_a_person(tmp_path):
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await begin(control, "shop")
        with contextlib.closing(Journal(tmp_path)) as journal:
            journal.save_state("shop-v2-1", b"{", 1)
        async with controller(tmp_path) as control:
            status = control.status("shop").services[0]
            assert (status.state, splits(control, "shop")) == ("frozen", {0.4})
            assert all(reason.startswith("held: ") for reason in reasons(control, "shop"))
            await asyncio.sleep(0.5)
            assert splits(control, "shop") == {0.4}
            await act(control, Action.ROLLBACK)
            assert (control.status("shop").services[0].state, splits(control, "shop")) == ("finished", {0.0})

    asyncio.run(scenario())


def test_a_finished_rollout_can_be_rolled_back_after_a_restart_and_nothing_else(tmp_path):
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await begin(control, "shop")
            await act(control, Action.PROMOTE)
            assert control.status("shop").services[0].state == "finished"
        async with controller(tmp_path) as control:
            await asyncio.sleep(0.5)
            history = await control.history(service="shop", rollout=None, limit=99)
            assert history[-1].verdict == "promote", "a finished rollout says nothing more"
            with pytest.raises(RefusedError, match="is finished"):
                await act(control, Action.SET, split_bp=1)
            await act(control, Action.ROLLBACK)
            assert splits(control, "shop") == {0.0}
            assert await control.start_rollout(service="shop", canary="v2", who="test", reason="") == "shop-v2-2"

    asyncio.run(scenario())


LEARNING = MESH.replace("interval: 200ms, warmup: 1h", "policy: learned, interval: 200ms, warmup: 1h")


def test_what_a_rollout_teaches_is_kept_for_the_next_one_and_not_under_other_shipped_values(tmp_path, caplog):
    shipped = load_values()
    values = shipped.values.copy()
    values[7, 3] -= 0.01
    taught = Learnt(values=replace(shipped, values=values), shipped=shipped, updates=41)

    async def rollout(updates: int) -> None:
        async with controlling(tmp_path, LEARNING) as control:
            engine = control._fleet.services["shop"].engine
            assert engine.learnt is not None
            assert engine.learnt.updates == updates
            assert control.status("shop").services[0].policy_learning.updates == updates
            await begin(control, "shop")
            if not updates:
                assert engine.ramp is not None
                assert engine.ramp.job is not None
                engine.ramp.job.learnt = taught
            await act(control, Action.ROLLBACK)
            assert control.status("shop").services[0].state == "finished"
            learning = control.status("shop").services[0].policy_learning
            assert (learning.updates, learning.moved) == (41, 1)
            assert learning.farthest == pytest.approx(0.01)

    asyncio.run(rollout(0))
    asyncio.run(rollout(41))
    with contextlib.closing(Journal(tmp_path)) as journal:
        other = replace(shipped, values=shipped.values + 0.001)
        text = Learnt(values=other, shipped=other, updates=3).to_json()
        PolicyStore(journal).save("shop", text, at_unix_ns=time.time_ns())
    for said in (1, 0):
        caplog.clear()
        asyncio.run(_only_started(tmp_path))
        lines = [record.getMessage() for record in caplog.records if "begins as shipped" in record.getMessage()]
        assert len(lines) == said, "once, since it is dropped"
        assert all("of shop" in line and "other shipped values" in line for line in lines)


async def _only_started(data):
    async with controlling(data, LEARNING) as control:
        learnt = control._fleet.services["shop"].engine.learnt
        assert learnt is not None
        assert learnt.updates == 0


def test_without_any_envoy_nothing_is_in_force(tmp_path):
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await begin(control, "shop")
            await asyncio.sleep(0.7)
            assert not control.status("shop").services[0].in_force
            assert reasons(control, "shop") != {""}

    asyncio.run(scenario())


def _refuses(*_args: object, **_options: object) -> None:
    raise InconsistentSnapshotError("RDS sidecar|10000: no such luck")


def positions(control: Controller, service: str) -> set[float]:
    return {segment.split_bp / TOTAL_BP for segment in ramp(control, service).segments.values()}


def test_an_order_that_cannot_be_published_is_refused_and_the_engine_stays_where_envoys_are(tmp_path):
    """Else it would go on from a split that nobody has, and call it a fall when the split rises."""

    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await begin(control, "shop", 1_000)
            prepare, control._publisher.prepare = control._publisher.prepare, _refuses
            with pytest.raises(RefusedError, match="set of shop cannot be published: RDS sidecar"):
                await act(control, Action.SET, split_bp=5_000)
            assert positions(control, "shop") == splits(control, "shop") == {0.1}
            control._publisher.prepare = prepare
            await act(control, Action.SET, split_bp=5_000)
            assert positions(control, "shop") == splits(control, "shop") == {0.5}

    asyncio.run(scenario())


def test_a_rollback_that_cannot_be_published_yet_goes_out_with_the_next_that_can(tmp_path):
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await begin(control, "shop", 1_000)
            publish, control._publisher.publish = control._publisher.publish, _refuses
            await control.act(
                service="shop", segment="power", action=Action.ROLLBACK, split_bp=0, who="test", reason=""
            )
            await until(lambda: "its splits are not published" in "".join(reasons(control, "shop")))
            assert positions(control, "shop") == splits(control, "shop") == {0.0, 0.1}
            control._publisher.publish = publish
            await begin(control, "cart", 1_000)
            published = control._cache._published
            assert published is not None
            assert published[1]["shop"].segments["power"].canary_bp == 0

    asyncio.run(scenario())


def test_an_engine_whose_state_cannot_be_written_holds_its_service_and_ends_nothing(tmp_path):
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await begin(control, "shop")
            await begin(control, "cart")
            reading = ramp(control, "shop").reading
            state, reading.state = reading.state, lambda: {"x": object()}
            ramp(control, "shop")._policy = Broken()
            other = ramp(control, "cart")._policy = Broken(fails=False)
            await until(lambda: control._fleet.services["shop"].held)
            asked_n = other.asked_n
            await until(lambda: other.asked_n > asked_n + 3)
            reading.state = state

    asyncio.run(scenario())
