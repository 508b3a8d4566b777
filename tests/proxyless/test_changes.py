"""What changes while a gRPC client calls: splits, services, clusters, the control plane itself."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

import pytest

from xds_server.mesh import Mesh, Version

log = logging.getLogger(__name__)


def test_a_raised_split_takes_effect_on_the_same_stream(rig):
    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2, rig.control_plane() as plane:
            mesh = rig.mesh(v1, v2)
            plane.cache.publish(mesh, rig.splits(1))
            async with rig.client(plane.port) as client:
                assert (await client.ask(n=20)).counts == {"v1": 20}
                for generation, split_bp in ((2, 10_000), (3, 0), (4, 10_000)):
                    plane.cache.publish(mesh, rig.splits(generation, default=split_bp))
                    assert await plane.cache.in_force("shop", generation, None, 5.0) == ()
                    await asyncio.sleep(0.05)
                    assert (await client.ask(n=20)).counts == {"v2" if split_bp else "v1": 20}
                assert plane.cache.counters.streams == 1
                assert plane.cache.counters.nacks == 0

    asyncio.run(scenario())


def test_a_rollback_takes_effect_within_a_second_and_loses_no_rpc(rig):
    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2, rig.control_plane() as plane:
            mesh = rig.mesh(v1, v2)
            plane.cache.publish(mesh, rig.splits(1, default=5_000))
            async with rig.client(plane.port) as client:
                await client.load()
                await asyncio.sleep(2.0)
                began = time.monotonic()
                plane.cache.publish(mesh, rig.splits(2), urgent=True)
                await asyncio.sleep(1.5)
                tally = await client.tally(stop=True)
                assert not tally.failed("v1", "v2"), tally
                assert min(tally.answers.values()) > 100
                assert tally.last["v1"] > began + 1
                took_s = tally.last["v2"] - began
                log.info("the last RPC to the canary began %.0f ms after the rollback", took_s * 1_000)
                assert took_s < 1.0

    asyncio.run(scenario())


def test_endpoints_that_the_mesh_file_does_not_list_come_and_go(rig):
    """With none, RPCs fail at once; the client takes that for what it is, and rejects nothing."""

    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("other") as other, rig.control_plane() as plane:
            mesh = rig.mesh(v1)

            def publish(*ports: int) -> None:
                here = {"shop|v1": tuple(("127.0.0.1", port) for port in ports)}
                plane.cache.publish(mesh, rig.splits(1), endpoints=here)

            publish()
            async with rig.client(plane.port) as client:
                said = await client.ask(n=3)
                assert said.counts == {"UNAVAILABLE": 3}
                assert said.seconds < 3.0
                for ports, answers in (((v1.port,), {"v1"}), ((v1.port, other.port), {"v1", "other"}), ((), None)):
                    publish(*ports)

                    async def they_answer(answers: set[str] | None = answers) -> bool:
                        return set((await client.ask(n=20)).counts) == (answers or {"UNAVAILABLE"})

                    await rig.eventually(they_answer, f"{answers} answer")
                assert plane.cache.counters.nacks == 0

    asyncio.run(scenario())


def test_nobody_waits_for_a_client_that_does_not_call_the_service(rig):
    """And who calls it is waited for, even where Envoys are known to carry its traffic."""

    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2, rig.control_plane() as plane:
            shop = rig.mesh(v1, v2).services["shop"]
            blog = replace(shop, name="blog", domains=("blog",), spec=replace(shop.spec, name="blog"))
            mesh = Mesh(path="mesh.yaml", services={"shop": shop, "blog": blog})
            plane.cache.publish(mesh, rig.splits(1))
            async with rig.client(plane.port) as caller, rig.client(plane.port, node="app-2") as other:
                assert (await caller.ask("shop")).answers == ["v1"]
                assert (await other.ask("blog")).answers == ["v1"]
                plane.cache.publish(mesh, rig.splits(2, default=5_000))
                assert await plane.cache.in_force("shop", 2, None, 5.0) == ()
                caller.process.send_signal(19)  # SIGSTOP
                plane.cache.publish(mesh, rig.splits(3, default=6_000))
                assert await plane.cache.in_force("shop", 3, ["app-2"], 0.5) == ("app-1", "app-2")
                assert await plane.cache.in_force("shop", 3, None, 0.5) == ("app-1",)
                caller.process.send_signal(18)  # SIGCONT
                assert await plane.cache.in_force("shop", 3, None, 5.0) == ()

    asyncio.run(scenario())


def test_a_service_that_goes_is_gone_and_comes_back(rig):
    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.control_plane() as plane:
            mesh = rig.mesh(v1)
            shop = mesh.services["shop"]
            blog = replace(shop, name="blog", domains=("blog",), spec=replace(shop.spec, name="blog"))
            plane.cache.publish(Mesh(path="mesh.yaml", services={"shop": shop, "blog": blog}), {})
            async with rig.client(plane.port, says_why=False) as client:
                assert (await client.ask("shop")).answers == ["v1"]
                assert (await client.ask("blog")).answers == ["v1"]
                plane.cache.publish(Mesh(path="mesh.yaml", services={"blog": blog}), {})

                async def is_gone() -> bool:
                    said = await client.ask("shop")
                    return said.answers == ["UNAVAILABLE"]

                await rig.eventually(is_gone, "the service is gone")
                assert (await client.ask("blog", n=10)).counts == {"v1": 10}
                plane.cache.publish(Mesh(path="mesh.yaml", services={"shop": shop, "blog": blog}), {})

                async def is_back() -> bool:
                    return (await client.ask("shop")).answers == ["v1"]

                await rig.eventually(is_back, "the service is back")
                assert plane.cache.counters.streams == 2  # gRPC has one for each target

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("features", "answer"), [(("xds_v3",), "v1"), (("xds_v3", "fail_on_data_errors"), "UNAVAILABLE")]
)
def test_with_its_new_handling_of_errors_grpc_keeps_what_is_removed_unless_told_not_to(rig, features, answer):
    """gRFC A88, which is experimental in gRPC 1.85."""

    def edit(config) -> None:
        config["xds_servers"][0]["server_features"] = list(features)

    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.control_plane() as plane:
            mesh = rig.mesh(v1)
            plane.cache.publish(mesh, {})
            async with rig.client(plane.port, edit=edit) as client:
                assert (await client.ask()).answers == ["v1"]
                before = plane.cache.counters.by_type["ack", "LDS"]
                plane.cache.publish(replace(mesh, services={}), {})

                async def is_told() -> bool:
                    return plane.cache.counters.by_type["ack", "LDS"] > before

                await rig.eventually(is_told, "the client knows")
                await asyncio.sleep(0.3)
                assert (await client.ask()).answers == [answer]

    asyncio.run(scenario())


def test_an_rpc_under_way_ends_where_it_began(rig):
    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2, rig.control_plane() as plane:
            mesh = rig.mesh(v1, v2)
            shop = mesh.services["shop"]
            plane.cache.publish(mesh, rig.splits(1, default=10_000))
            async with rig.client(plane.port) as client:
                assert (await client.ask()).answers == ["v2"]
                v2.pause_s = 4.0
                asking = asyncio.create_task(client.ask(timeout_s=10.0))
                await asyncio.sleep(0.3)
                without = replace(shop, versions={"v1": shop.versions["v1"]})
                plane.cache.publish(Mesh(path="mesh.yaml", services={"shop": without}), rig.splits(2), urgent=True)
                assert (await asking).answers == ["v2"]
                assert (await client.ask()).answers == ["v1"]

    asyncio.run(scenario())


def test_a_restart_of_the_control_plane_fails_no_rpc(rig):
    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2:
            mesh = rig.mesh(v1, v2)
            async with rig.control_plane() as first:
                first.cache.publish(mesh, rig.splits(1, default=5_000))
                client_of = rig.client(first.port)
                client = await client_of.__aenter__()
                try:
                    await client.load()
                    await asyncio.sleep(1.0)
                    port = first.port
                except BaseException:
                    await client_of.__aexit__(None, None, None)
                    raise
            try:
                await asyncio.sleep(1.0)
                async with rig.control_plane(port) as second:
                    second.cache.publish(mesh, rig.splits(1, default=5_000))

                    async def is_back() -> bool:
                        return any({"LDS", "RDS", "CDS", "EDS"} <= n.acked.keys() for n in second.cache.nodes())

                    await rig.eventually(is_back, "the client is back")
                    second.cache.publish(mesh, rig.splits(2, default=10_000))
                    assert await second.cache.in_force("shop", 2, None, 5.0) == ()
                    await asyncio.sleep(0.5)
                    after = time.monotonic()
                    await asyncio.sleep(0.5)
                    tally = await client.tally(stop=True)
                    assert not tally.failed("v1", "v2"), tally
                    assert tally.last["v1"] < after < tally.last["v2"]
                    assert not second.rejections
            finally:
                await client_of.__aexit__(None, None, None)

    asyncio.run(scenario())


def test_forty_swaps_of_clusters_under_load_fail_no_rpc(rig):
    """Each gives the canary a cluster of another name and takes the one before away: make before break."""

    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2, rig.control_plane() as plane:
            shop = rig.mesh(v1, v2).services["shop"]

            def publish(n: int) -> None:
                name = f"c{n}"
                canary = Version(name=name, endpoints=shop.versions["v2"].endpoints)
                service = replace(shop, versions={"v1": shop.versions["v1"], name: canary})
                splits = rig.splits(n, canary=name, default=5_000)
                plane.cache.publish(Mesh(path="mesh.yaml", services={"shop": service}), splits)

            publish(1)
            async with rig.client(plane.port) as client:
                await client.load()
                for n in range(2, 42):
                    publish(n)
                    assert await plane.cache.in_force("shop", n, None, 5.0) == ()
                    await asyncio.sleep(0.1)
                tally = await client.tally(stop=True)
                log.info("40 swaps: %s", tally)
                assert not tally.failed("v1", "v2"), tally
                assert min(tally.answers.values()) > 500
                assert plane.cache.counters.nacks == 0

    asyncio.run(scenario())
