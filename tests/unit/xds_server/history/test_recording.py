"""A running controller takes down what its rollouts are given; a restart goes on; all of it is decided again."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from analysis.decision import Action
from analysis.replay import replay
from analysis.sample import SAMPLE_DTYPE
from analysis.tape import Ticked
from tests.controlling import controlling
from xds_server.errors import BadRequestError
from xds_server.rollout.controller import Controller
from xds_server.store.assembling import Deployments, decoded
from xds_server.store.history import HistoryStore
from xds_server.store.journal import Journal

MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:1"]}, v2: {endpoints: ["127.0.0.1:2"]}}
    baseline: v1
    segments:
      power: {match: {headers: [{name: x-plan, exact: pro}]}}
    session: {judge_after: {error_rate: 1s, latency_p95: 1s, anomaly: 2s}}
    rollout: {interval: 200ms, warmup: 0s, min_dwell: 0s, policy: thompson, harm: {budget: 1000000}}
"""
SPLIT_BP = 4_000


def people(now_ns: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Requests of new people, one each; one in five fails on the canary, one in fifty on the baseline."""
    rows = np.zeros(n, SAMPLE_DTYPE)
    rows["start_unix_ns"] = now_ns - rng.integers(0, 100_000_000, n)
    rows["duration_ms"], rows["first_byte_ms"] = rng.lognormal(3, 0.3, n), 5.0
    rows["user"] = rng.integers(1, 2**62, n)
    rows["bucket"] = rng.integers(0, 10_000, n)
    rows["segment"] = rng.integers(0, 2, n)
    rows["version"] = rows["bucket"] < SPLIT_BP
    rows["error"] = rng.random(n) < np.where(rows["version"] == 1, 0.2, 0.02)
    return rows


def test_attributes_of_a_release_are_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controlling(tmp_path, MESH) as control:
            for wrong in ({"two words": 1.0}, {"a": "x" * 201}, {f"a{i}": 1.0 for i in range(51)}):
                with pytest.raises(BadRequestError, match="attribute"):
                    await control.start_rollout(service="shop", canary="v2", who="ann", reason="", attributes=wrong)
            name = await control.start_rollout(
                service="shop", canary="v2", who="ann", reason="", attributes={"lines": 12.0, "team": "x"}
            )
            assert dict(control.status("shop").services[0].attributes) == {"lines": "12", "team": "x"}
            assert (await control.past.service_of(name)) == "shop"

    asyncio.run(scenario())


async def come(control: Controller, seconds: float, rng: np.random.Generator) -> None:
    for _ in range(round(seconds / 0.1)):
        control._fleet.services["shop"].put_rows(people(time.time_ns(), 8, rng))
        await asyncio.sleep(0.1)


def test_a_rollout_with_a_crash_in_it_is_recorded_and_decided_again_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    first, second = tmp_path / "first", tmp_path / "second"

    async def scenario() -> None:
        async with controlling(first, MESH) as control:
            await control.start_rollout(service="shop", canary="v2", who="ann", reason="", attributes={"lines": 12.0})
            await control.act(
                service="shop", segment=None, action=Action.SET, split_bp=SPLIT_BP, who="ann", reason="half"
            )
            await come(control, 5.0, rng)
            shutil.copytree(first, second)  # as a crash would leave it: without what came since the last save
        async with controlling(second, MESH) as control:
            await come(control, 3.5, rng)
            await control.act(service="shop", segment=None, action=Action.ROLLBACK, split_bp=0, who="ann", reason="")
            assert not control._fleet.services["shop"].is_running
            await come(control, 0.5, rng)  # ticks of a rollout that is over are of no rollout

    asyncio.run(scenario())
    with contextlib.closing(Journal(second)) as journal:
        store = HistoryStore(journal)
        (row,) = journal.rollouts()
        events = list(decoded(store.tape(row.rollout)))
        again = replay(events)
        assert again.unknown == ()
        assert again.differences == ()
        assert again.ticks >= 20
        assert again.orders == 2
        assert row.finished_unix_ns is not None
        assert max(event.at_ns for event in events) <= row.finished_unix_ns
        told = {
            (each.at_unix_ns, each.segment): (each.verdict, each.split_after_bp)
            for each in journal.history(rollout=row.rollout)
            if not each.who
        }
        said = {
            (event.at_ns, name): (said.verdict, said.split_after_bp)
            for event in events
            if isinstance(event, Ticked)
            for name, said in zip(("power", "default"), event.said, strict=True)
        }
        assert told, "the engine journalled nothing"
        assert told.items() <= said.items()

        record = Deployments(journal, store).record(row.rollout)
        assert record.attributes == {"lines": 12.0}
        assert record.segments == ("power", "default")
        assert record.exposed.sum() > 20
        assert 0 < record.n.sum() == sum(event.window.n.sum() for event in events if isinstance(event, Ticked))
        assert np.nanmax(record.split_bp) >= SPLIT_BP
        assert record.outcome == {"power": "rolled_back", "default": "rolled_back"}
        assert [each.who for each in record.decisions if each.verdict == "rollback"] == ["ann", "ann"]
