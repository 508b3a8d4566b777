"""Serinus dies or is ended, and comes back; traffic, people and Envoys do not notice."""

from __future__ import annotations

import asyncio
import logging
import signal
import time

import aiohttp
import pytest

from analysis.spec import TOTAL_BP
from xds_server.assign import bucket, version_for
from xds_server.mesh import SegmentSplit
from xds_server.store.journal import Journal

log = logging.getLogger(__name__)

CHANGES = "rds.*config_reload$|(cluster_manager.cluster|listener_manager.listener)_(added|modified|removed)"


@pytest.mark.shows("matrix", 8)
def test_a_killed_control_plane_loses_no_request_and_goes_on_where_it_was(rig, place):
    """`kill -9` right after a change of splits: nobody moves, no Envoy sees a change, and the rollout goes on."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            _, port = place.write_mesh(shop)
            async with (
                place.serinus() as serinus,
                rig.envoy(place.mesh(), "side-1", serinus.grpc) as envoy,
                place.crowd(port) as crowd,
            ):
                rollout = await serinus.begin()
                await serinus.set(2_500, "power")
                await serinus.set(4_000, "default")
                await rig.eventually(serinus.in_force, "40 % is in force")
                people = await _versions_of(place, port)
                assert people == {person: _predicted(rollout, 4_000, person) for person in people}
                before = await serinus.shop()
                generation = before["generation"]
                changes = await envoy.stats(CHANGES)
                assert serinus.process is not None
                serinus.process.kill()
                await serinus.process.wait()
                await asyncio.sleep(1.5)
                assert await _versions_of(place, port) == people, "while it is dead"
                began = time.monotonic()
                await serinus.start()
                ready_s = time.monotonic() - began
                await rig.eventually(serinus.in_force, "what it had is in force again", 45.0)
                log.info("ready after %.1f s, in force again after %.1f s", ready_s, time.monotonic() - began)
                after = await serinus.shop()
                assert await _versions_of(place, port) == people, "after the restart"
                assert _splits(after) == _splits(before) == {"power": 0.25, "default": 0.4}
                assert (after["state"], after["rollout"], after["generation"]) == ("running", rollout, generation)
                assert [node["connected"] for node in after["nodes"].values()] == [True]
                assert await envoy.stats(CHANGES) == changes
                await _goes_on(rig, serinus, after)
            assert crowd.outcomes.total() > 300
            assert crowd.failed_n == 0, crowd.outcomes

    asyncio.run(scenario())


async def _goes_on(rig, serinus, then) -> None:
    """Sessions are counted further, and new splits come into force."""

    async def counts() -> bool:
        now = await serinus.shop()
        default, old = now["segments"][-1], then["segments"][-1]
        return default["exposed_sessions"] > old["exposed_sessions"] and default["reason"].startswith("dwells")

    assert then["harm_upper"] >= 0
    await rig.eventually(counts, "the rollout goes on")
    await serinus.set(6_000, "default")
    await rig.eventually(serinus.in_force, "60 % is in force")
    assert _splits(await serinus.shop()) == {"power": 0.25, "default": 0.6}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_envoys_serve_on(rig, place, number):
    """Within five seconds, with Envoys connected and people asking; the journal is whole, and free for the next one."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            _, port = place.write_mesh(shop)
            async with place.serinus() as serinus, rig.envoy(place.mesh(), "side-1", serinus.grpc):
                await serinus.begin()
                await serinus.set(3_000)
                async with place.crowd(port) as crowd:
                    await rig.eventually(serinus.in_force, "30 % is in force")
                    watch = asyncio.create_task(serinus.say("status", "--watch", "--json"))
                    await asyncio.sleep(1.5)
                    code, seconds = await serinus.end(number)
                    log.info("%s: ended after %.1f s", number.name, seconds)
                    await asyncio.sleep(0.5)
                assert (code, crowd.failed_n) == (0, 0), serinus.log.read_text()
                assert seconds <= 5.0
                watched = await watch
                assert (watched.code, watched.err.count("\n")) == (1, 1), watched.err
                assert set().union(*crowd.versions.values()) == {"v1", "v2"}
                journal = Journal(serinus.data_dir)
                splits = journal.load_splits()["shop"].segments
                journal.close()
                assert {split.canary_bp for split in splits.values()} == {3_000}
                assert not list(serinus.data_dir.glob("*-wal"))

    asyncio.run(scenario())


async def _versions_of(place, port: int) -> dict[str, str]:
    async with aiohttp.ClientSession() as client:
        people = [f"p{n}" for n in range(500)]
        answers = []
        for begin in range(0, 500, 25):
            answers += await asyncio.gather(*(place.visit(client, port, p) for p in people[begin : begin + 25]))
        assert {status for status, _ in answers} == {200}
        return dict(zip(people, (version for _, version in answers), strict=True))


def _predicted(rollout: str, canary_bp: int, person: str) -> str:
    assert canary_bp <= TOTAL_BP
    return version_for(SegmentSplit(baseline="v1", canary="v2", canary_bp=canary_bp), bucket(rollout, person))


def _splits(status) -> dict[str, float]:
    return {each["segment"]: each["split"] for each in status["segments"]}
