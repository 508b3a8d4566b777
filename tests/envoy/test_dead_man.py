"""The dead-man switch on real Envoys: when the control plane is gone for longer than that, canaries end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import replace

import aiohttp
import pytest

from xds_server.mesh import Mesh

DEAD_MAN_S = 3.0
VARIANTS = ["DELTA_GRPC", "GRPC"]


def mesh_of(rig, versions, port, *, dead_man_s: float | None = DEAD_MAN_S) -> Mesh:
    service = replace(rig.service(versions, port=port), dead_man=dead_man_s is not None)
    return Mesh(path="mesh.yaml", services={"shop": service}, dead_man_s=dead_man_s)


def variant(api_type: str):
    def choose(config) -> None:
        config["dynamic_resources"]["ads_config"]["api_type"] = api_type

    return choose


class Asker:
    """One person of the canary, who asks all the time: what they got, and when it last changed."""

    def __init__(self, rig, client, port: int) -> None:
        self._ask = lambda: rig.ask(client, port, {"x-user-id": "carla"})
        self.statuses: Counter[int] = Counter()
        self.version = ""

    async def run(self) -> None:
        while True:
            answer = await self._ask()
            self.statuses[answer.status] += 1
            self.version = answer.version
            await asyncio.sleep(0.005)

    async def until(self, version: str, timeout_s: float) -> float:
        """Seconds until they get that version."""
        began = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while self.version != version:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return time.monotonic() - began


@contextlib.asynccontextmanager
async def asking(rig, port: int):
    async with aiohttp.ClientSession() as client:
        asker = Asker(rig, client, port)
        task = asyncio.create_task(asker.run())
        try:
            yield asker
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def beat(cache) -> None:
    while True:
        cache.beat()
        await asyncio.sleep(DEAD_MAN_S / 3)


@pytest.mark.parametrize("api_type", VARIANTS)
def test_canaries_end_when_the_control_plane_is_gone_and_come_back_with_it(rig, api_type):
    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, contextlib.AsyncExitStack() as until_the_end:
            port = rig.free_port()
            mesh = mesh_of(rig, {"v1": v1, "v2": v2}, port)
            splits = rig.split(9_999)  # carla is in it
            async with rig.control_plane() as first:
                first.cache.publish(mesh, splits)
                beating = asyncio.create_task(beat(first.cache))
                envoy = rig.envoy(mesh, "side-1", first.port, edit=variant(api_type))
                await until_the_end.enter_async_context(envoy)
                asker = await until_the_end.enter_async_context(asking(rig, port))
                await asker.until("v2", 3.0)
                ended = asyncio.create_task(asker.until("v1", 60.0))
                await asyncio.sleep(2 * DEAD_MAN_S)
                assert not ended.done(), "the switch went off while somebody was there"
                beating.cancel()
            left = time.monotonic()
            await ended
            assert DEAD_MAN_S / 2 < time.monotonic() - left < DEAD_MAN_S + 1.0
            async with rig.control_plane(first.port) as second:
                second.cache.publish(mesh, splits)
                beating = asyncio.create_task(beat(second.cache))
                await asker.until("v2", 5.0)
                beating.cancel()
                # Still connected, but nobody there who decides.
                await asker.until("v1", DEAD_MAN_S + 1.0)
                second.cache.beat()
                await asker.until("v2", 1.0)
            assert set(asker.statuses) == {200}
            assert asker.statuses[200] > 500

    asyncio.run(scenario())


@pytest.mark.parametrize("api_type", VARIANTS)
def test_a_canary_does_not_come_back_with_the_routes_of_old(rig, api_type):
    """They had been taken off it when it was gone for too long: after the return not one request slips through."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, contextlib.AsyncExitStack() as until_the_end:
            port = rig.free_port()
            mesh = mesh_of(rig, {"v1": v1, "v2": v2}, port)
            async with rig.control_plane() as first:
                first.cache.publish(mesh, rig.split(9_999))
                envoy = rig.envoy(mesh, "side-1", first.port, edit=variant(api_type))
                await until_the_end.enter_async_context(envoy)
                asker = await until_the_end.enter_async_context(asking(rig, port))
                await asker.until("v2", 3.0)
            await asker.until("v1", DEAD_MAN_S + 1.0)
            slipped = asyncio.create_task(asker.until("v2", 60.0))
            async with rig.control_plane(first.port) as second:
                second.cache.publish(mesh, rig.split(0, generation=2))
                assert await second.cache.in_force("shop", 2, {"side-1"}, 5.0) == ()
                await asyncio.sleep(0.5)
            assert not slipped.done()
            slipped.cancel()
            assert set(asker.statuses) == {200}

    asyncio.run(scenario())


@pytest.mark.parametrize("api_type", VARIANTS)
@pytest.mark.parametrize("canary_bp", [9_999, 10_000])
def test_without_the_switch_and_after_promotion_envoys_go_on(rig, api_type, canary_bp):
    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, contextlib.AsyncExitStack() as until_the_end:
            port = rig.free_port()
            mesh = mesh_of(rig, {"v1": v1, "v2": v2}, port, dead_man_s=1.0 if canary_bp == 10_000 else None)
            began = time.monotonic()
            async with rig.control_plane() as plane:
                plane.cache.publish(mesh, rig.split(canary_bp))
                envoy = rig.envoy(mesh, "side-1", plane.port, edit=variant(api_type))
                await until_the_end.enter_async_context(envoy)
                assert time.monotonic() - began < 5, "the start waited for the switch"
                asker = await until_the_end.enter_async_context(asking(rig, port))
                await asker.until("v2", 3.0)
            ended = asyncio.create_task(asker.until("v1", 60.0))
            await asyncio.sleep(2.5)
            assert not ended.done()
            ended.cancel()

    asyncio.run(scenario())


def test_a_second_runtime_layer_disarms_the_switch_rather_than_end_the_envoy(rig):
    """In state of the world Envoy 1.40 ends itself when one of two layers runs out."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            mesh = mesh_of(rig, {"v1": v1, "v2": v2}, port, dead_man_s=1.0)

            def two_layers(config) -> None:
                variant("GRPC")(config)
                (own, *others) = config["layered_runtime"]["layers"]
                source = own["rtds_layer"]["rtds_config"]
                other = {"name": "other", "rtds_layer": {"name": "other", "rtds_config": source}}
                config["layered_runtime"]["layers"] = [own, other, *others]

            plane.cache.publish(mesh, rig.split(9_999))
            async with rig.envoy(mesh, "side-1", plane.port, edit=two_layers) as envoy, asking(rig, port) as asker:
                await asker.until("v2", 5.0)
                await asyncio.sleep(3)
                assert envoy.process.returncode is None
                assert asker.version == "v2"

    asyncio.run(scenario())
