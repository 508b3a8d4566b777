"""The ADS stream as a real Envoy sees it: rejections, restarts, keepalive, warming."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

import aiohttp
import pytest
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from xds_server import resources
from xds_server.mesh import HealthCheck, Mesh, Version
from xds_server.node import ANY_SIDECAR
from xds_server.snapshot import ResourceType, Snapshot, pack


@pytest.fixture(params=["DELTA_GRPC", "GRPC"])
def start(rig, request):
    """`async with start(mesh, node, xds_port)`: a live Envoy of either variant of xDS."""

    def run(mesh, node, xds_port, *, edit=lambda _: None):
        def choose(config) -> None:
            config["dynamic_resources"]["ads_config"]["api_type"] = request.param
            edit(config)

        return rig.envoy(mesh, node, xds_port, edit=choose)

    return run


def packed(built: resources.Resources, *, exposed: str = "") -> Snapshot:
    """Messages that may be wrong, as a snapshot. `exposed`: the segments of `shop` that are told to have a canary."""
    clusters = {c.name: pack.cluster(c) for c in built.clusters}
    routes = [
        pack.routes(RouteConfiguration(name=r.name), [pack.host(host, exposed.split()) for host in r.virtual_hosts])
        for r in built.routes
    ]
    return Snapshot(
        {
            ResourceType.CDS: clusters,
            ResourceType.EDS: {a.cluster_name: pack.assignment(a, clusters[a.cluster_name]) for a in built.assignments},
            ResourceType.LDS: {each.name: pack.listener(each, [each.name]) for each in built.listeners},
            ResourceType.RDS: {r.name: r for r in routes},
        }
    )


def tampered(mesh, splits) -> Snapshot:
    """A snapshot whose route configuration Envoy must reject: all weights of a route are 0."""
    built = resources.build(mesh, splits, ANY_SIDECAR)
    parts = built.routes[0].virtual_hosts[0].routes[0].route.weighted_clusters.clusters
    for part in parts:
        part.weight.value = 0
    return packed(built, exposed="default")


@pytest.mark.shows("matrix", 3)
def test_a_rejected_route_is_reported_once_never_sent_again_and_the_last_good_one_serves(rig, start):
    """Re-sending what was rejected would loop some 1,500 times a second."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            mesh = Mesh(path="mesh.yaml", services={"shop": rig.service({"v1": v1, "v2": v2}, port=port)})
            rejections = []
            plane.cache.on_rejection = rejections.append
            plane.cache.publish(mesh, rig.split(10_000, generation=1))
            async with start(mesh, "side-1", plane.port) as envoy, aiohttp.ClientSession() as client:
                assert await plane.cache.in_force("shop", 1, None, 5.0) == ()
                plane.cache.publish_snapshots(mesh, {ANY_SIDECAR: tampered(mesh, rig.split(0, generation=2))})
                # It was rejected, so there is nothing to wait for: the answer comes long before the time is up.
                async with asyncio.timeout(5):
                    assert await plane.cache.in_force("shop", 2, None, 60.0) == ("side-1",)
                # Of other types the rest of the snapshot may still be on its way.
                pushes = plane.cache.counters.by_type["push", ResourceType.RDS]
                await asyncio.sleep(5)
                assert plane.cache.counters.by_type["push", ResourceType.RDS] == pushes
                (rejection,) = rejections
                assert (rejection.node, rejection.services, rejection.type) == ("side-1", ("shop",), "RDS")
                assert "weight" in rejection.message
                (view,) = plane.cache.nodes()
                assert view.connected
                assert view.rejections == (rejection,)
                assert view.acked["RDS"] != view.sent["RDS"] == rejection.version
                assert list((await envoy.stats(r"rds\..*update_rejected")).values()) == [1]
                assert (await rig.ask(client, port, {"x-user-id": "anna"})).version == "v2"
                # The next good generation goes out as if nothing had happened.
                plane.cache.publish(mesh, rig.split(0, generation=3), urgent=True)
                assert await plane.cache.in_force("shop", 3, None, 5.0) == ()
                assert (await rig.ask(client, port, {"x-user-id": "anna"})).version == "v1"

    asyncio.run(scenario())


def test_a_rejected_rollback_gives_way_to_the_newest_routes_without_that_canary(rig, start):
    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            mesh = Mesh(path="mesh.yaml", services={"shop": rig.service({"v1": v1, "v2": v2}, port=port)})
            rejections = []
            plane.cache.on_rejection = rejections.append
            plane.cache.publish(mesh, rig.split(0, generation=1))
            async with start(mesh, "side-1", plane.port), aiohttp.ClientSession() as client:
                assert await plane.cache.in_force("shop", 1, None, 5.0) == ()
                for generation, canary_bp in ((2, 5_000), (3, 10_000)):
                    plane.cache.publish(mesh, rig.split(canary_bp, generation=generation))
                    assert await plane.cache.in_force("shop", generation, None, 5.0) == ()
                assert (await rig.ask(client, port, {"x-user-id": "anna"})).version == "v2"
                built = resources.build(mesh, rig.split(0, generation=4), ANY_SIDECAR)
                built.routes[0].virtual_hosts[0].routes[0].route.weighted_clusters.clusters[0].weight.value = 0
                plane.cache.publish_snapshots(mesh, {ANY_SIDECAR: packed(built)})

                async def is_taken_back() -> bool:
                    return (await rig.ask(client, port, {"x-user-id": "anna"})).version == "v1"

                await rig.eventually(is_taken_back, "the canary is taken back nevertheless")
                (rejection,) = rejections
                assert (rejection.rolled_back, rejection.fell_back) == (("shop",), True)
                assert await plane.cache.in_force("shop", 4, None, 5.0) == ("side-1",)

    asyncio.run(scenario())


@pytest.mark.shows("matrix", 4)
def test_a_rejected_cluster_takes_nothing_with_it(rig, start):
    """Envoy names the culprit. What else was in the response is in force, and the culprit stays as it was."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            mesh = Mesh(path="mesh.yaml", services={"shop": rig.service({"v1": v1, "v2": v2}, port=port)})
            plane.cache.publish(mesh, rig.split(10_000))
            async with start(mesh, "side-1", plane.port) as envoy, aiohttp.ClientSession() as client:
                assert await plane.cache.in_force("shop", 1, None, 5.0) == ()
                built = resources.build(mesh, rig.split(10_000), ANY_SIDECAR)
                built.clusters[0].connect_timeout.FromSeconds(7)
                built.clusters[1].ClearField("eds_cluster_config")  # "cannot create an EDS cluster without …"
                wanted = packed(built, exposed="default")
                before = plane.cache.counters.by_type["ack", "CDS"]
                plane.cache.publish_snapshots(mesh, {ANY_SIDECAR: wanted}, urgent=True)

                async def is_settled() -> bool:
                    return plane.cache.counters.nacks == 1 and plane.cache.counters.by_type["ack", "CDS"] == before + 1

                await rig.eventually(is_settled, "the others are sent again")
                clusters = await envoy.get("/config_dump?resource=dynamic_active_clusters")
                assert '"7s"' in clusters
                assert plane.cache.counters.nacks == 1
                (rejection,) = plane.cache.nodes()[0].rejections
                assert (rejection.services, rejection.resources) == (("shop",), ("shop|v2",))
                assert "shop|v2" in rejection.message
                assert (await rig.ask(client, port, {"x-user-id": "anna"})).version == "v2"

    asyncio.run(scenario())


@pytest.mark.shows("matrix", 8)
def test_a_restarted_control_plane_with_the_same_content_changes_nothing_in_envoy(rig, start):
    """Versions are hashes and bytes are deterministic: Envoy reconnects and finds what it has."""

    watched = (
        r"config_reload$|cluster_manager.*(added|modified|updated)$|listener_manager.*(added|modified)$|membership_ch"
    )

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, contextlib.AsyncExitStack() as until_the_end:
            port = rig.free_port()
            mesh = Mesh(path="mesh.yaml", services={"shop": rig.service({"v1": v1, "v2": v2}, port=port)})
            client = await until_the_end.enter_async_context(aiohttp.ClientSession())
            async with rig.control_plane() as first:
                first.cache.publish(mesh, rig.split(10_000))
                envoy = await until_the_end.enter_async_context(start(mesh, "side-1", first.port))
                assert await first.cache.in_force("shop", 1, None, 5.0) == ()
            before = await envoy.stats(watched)
            assert sum(before.values()) >= 5  # route, listener, two clusters, two memberships
            # Nobody notices that the control plane is away.
            assert (await rig.ask(client, port, {"x-user-id": "anna"})).version == "v2"
            async with rig.control_plane(first.port) as second:
                second.cache.publish(mesh, rig.split(10_000))

                async def is_back() -> bool:
                    return any({"CDS", "EDS", "LDS", "RDS"} <= n.acked.keys() for n in second.cache.nodes())

                await rig.eventually(is_back, "Envoy has ACKed everything again")
                assert second.cache.nodes()[0].acked == first.cache.nodes()[0].acked
                assert await envoy.stats(watched) == before
                assert (await rig.ask(client, port, {"x-user-id": "anna"})).version == "v2"

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.shows("matrix", 6)
def test_keepalive_pings_do_not_cut_an_idle_stream(rig):
    """gRPC's defaults cut it every four seconds: its core takes Envoy's pings for an attack. Both variants at once."""

    def every_second(config) -> None:
        cluster = config["static_resources"]["clusters"][0]
        options = next(iter(cluster["typed_extension_protocol_options"].values()))
        http2 = options["explicit_http_config"]["http2_protocol_options"]
        http2["connection_keepalive"] = {"interval": "1s", "timeout": "1s"}

    def every_second_sotw(config) -> None:
        every_second(config)
        config["dynamic_resources"]["ads_config"]["api_type"] = "GRPC"

    async def scenario() -> None:
        started = []
        async with rig.control_plane() as plane, contextlib.AsyncExitStack() as envoys:
            for node, edit in (("side-1", every_second), ("side-2", every_second_sotw)):
                mesh = Mesh(path="mesh.yaml", services={"shop": rig.service({"v1": 1}, port=rig.free_port())})
                plane.cache.publish(mesh, {})
                started.append(await envoys.enter_async_context(rig.envoy(mesh, node, plane.port, edit=edit)))
            await asyncio.sleep(30)
            assert plane.cache.counters.streams == 2
            for envoy in started:
                assert not any((await envoy.stats("cluster.serinus.http2.keepalive_timeout")).values())

    asyncio.run(scenario())


@pytest.mark.shows("matrix", 2)
def test_a_changed_cluster_whose_endpoints_are_the_same_is_warm_within_milliseconds(rig, start):
    """Envoy ACKs clusters when they are warm. Without their endpoints right behind, that would be after 15 s."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.control_plane() as plane:
            mesh = Mesh(path="mesh.yaml", services={"shop": rig.service({"v1": v1}, port=rig.free_port())})
            plane.cache.publish(mesh, {})
            async with start(mesh, "side-1", plane.port) as envoy:
                acks, took = plane.cache.counters.by_type, []
                for seconds in range(2, 8):
                    built = resources.build(mesh, {}, ANY_SIDECAR)
                    built.clusters[0].connect_timeout.FromSeconds(seconds)
                    await rig.eventually(lambda: _equal(acks["ack", "CDS"], acks["push", "CDS"]), "all is ACKed")
                    before, began = acks["ack", "CDS"], time.perf_counter()
                    plane.cache.publish_snapshots(mesh, {ANY_SIDECAR: packed(built)}, urgent=True)
                    while acks["ack", "CDS"] == before:
                        await asyncio.sleep(0.001)
                        assert time.perf_counter() - began < 5
                    took.append(time.perf_counter() - began)
                    warming = await envoy.stats("cluster_manager.warming_clusters")
                    assert warming == {"cluster_manager.warming_clusters": 0}
                assert min(took) < 0.05, took
                assert max(took) < 2, took
                assert '"7s"' in await envoy.get("/config_dump?resource=dynamic_active_clusters")

    async def _equal(one: int, other: int) -> bool:
        return one == other

    asyncio.run(scenario())


def test_a_changed_cluster_is_warm_at_once_and_a_removed_one_outlives_its_routes(rig, start):
    """Without EDS right behind CDS, Envoy would warm the changed cluster for 15 s; not one request may fail."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            service = rig.service({"v1": v1, "v2": v2}, port=port)
            old = Mesh(path="mesh.yaml", services={"shop": service})
            plane.cache.publish(old, rig.split(10_000))
            # v1 gets health checks, v2 is renamed to v3: a cluster changes, one comes, one goes.
            v1_checked = replace(service.versions["v1"], health=HealthCheck(path="/"))
            v3 = Version(name="v3", endpoints=service.versions["v2"].endpoints)
            renamed = replace(service, versions={"v1": v1_checked, "v3": v3})
            moved = rig.split(10_000, generation=2)
            moved["shop"] = replace(
                moved["shop"], segments={"default": replace(moved["shop"].segments["default"], canary="v3")}
            )
            async with start(old, "side-1", plane.port) as envoy, aiohttp.ClientSession() as client:
                assert await plane.cache.in_force("shop", 1, None, 5.0) == ()
                statuses = []
                stop = asyncio.Event()

                async def keep_asking() -> None:
                    while not stop.is_set():
                        statuses.append((await rig.ask(client, port, {"x-user-id": "anna"})).status)

                asking = asyncio.create_task(keep_asking())
                began = asyncio.get_running_loop().time()
                plane.cache.publish(Mesh(path="mesh.yaml", services={"shop": renamed}), moved)
                assert await plane.cache.in_force("shop", 2, None, 10.0) == ()
                assert asyncio.get_running_loop().time() - began < 2

                async def is_removed() -> bool:
                    return "shop|v2::" not in await envoy.get("/clusters")

                assert not await is_removed()
                await rig.eventually(is_removed, "the old cluster is removed")
                stop.set()
                await asking
                assert len(statuses) > 100
                assert set(statuses) == {200}
                assert (await envoy.stats("cluster_manager.warming_clusters"))["cluster_manager.warming_clusters"] == 0

    asyncio.run(scenario())


def test_an_endpoint_with_a_name_is_resolved_by_envoy(rig, start):
    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.control_plane() as plane:
            port = rig.free_port()
            service = rig.service({"v1": v1}, port=port)
            service = replace(service, versions={"v1": Version(name="v1", endpoints=(("localhost", v1),))})
            mesh = Mesh(path="mesh.yaml", services={"shop": service})
            plane.cache.publish(mesh, {})
            async with start(mesh, "side-1", plane.port), aiohttp.ClientSession() as client:
                assert (await rig.ask(client, port)).version == "v1"

    asyncio.run(scenario())
