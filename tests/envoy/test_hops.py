"""Two Envoys in a row: each request has exactly one access-log entry that counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import aiohttp

from xds_server.mesh import Gateway, Mesh, Sidecar, Version
from xds_server.node import kind_of
from xds_server.stamp import TAG, Stamp, read_stamp


def counted(mesh: Mesh, logs) -> Counter:
    """Entries per request ID that count: of a route that splits, sent by the hop that signed the request."""
    counts: Counter = Counter({entry.request.request_id: 0 for _, entry in logs})
    for node, entry in logs:
        stamp, hop, *_ = entry.common_properties.custom_tags[TAG].split("\n")
        if read_stamp(stamp).service and hop == kind_of(mesh, node, "").role:
            counts[entry.request.request_id] += 1
    return counts


def test_a_gateway_that_forwards_leaves_the_count_to_the_sidecar(rig):
    """The gateway knows who asks, the sidecar behind it splits by that, and only the sidecar's entry counts."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            edge, side = ("127.0.0.1", rig.free_port()), ("127.0.0.1", rig.free_port())
            mesh = Mesh(
                path="mesh.yaml",
                services={"shop": rig.service({"v1": v1, "v2": v2})},
                gateways={"edge": Gateway(node="edge-1", listen=edge, services=("shop",), to="inner")},
                sidecars={"inner": Sidecar(node="side-1", listen=side)},
            )
            plane.cache.publish(mesh, rig.split(5_000, generation=7))
            async with (
                rig.envoy(mesh, "side-1", plane.port),
                rig.envoy(mesh, "edge-1", plane.port),
                aiohttp.ClientSession() as client,
            ):
                for n in range(20):
                    answer = await rig.ask(client, edge[1], {"x-user-id": f"p{n}"})
                    assert answer.headers["x-serinus-key"] == f"p{n}"
                    assert answer.headers["x-serinus-hop"] == "sidecar"
                await check_logs([plane], mesh, rig, sender="side-1", hop="sidecar")

    asyncio.run(scenario())


def test_when_both_hops_split_the_first_one_counts(rig):
    """A version of the edge's service may itself be an Envoy that splits: the hop that signed first is the one."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            edge, port = ("127.0.0.1", rig.free_port()), rig.free_port()
            inner = rig.service({"v1": v1, "v2": v2}, port=port)
            behind = {v: Version(name=v, endpoints=(("127.0.0.1", port),)) for v in ("v1", "v2")}
            outer = replace(inner, versions=behind)
            gateway = {"edge": Gateway(node="edge-1", listen=edge, services=("shop",))}
            mesh = Mesh(path="mesh.yaml", services={"shop": outer}, gateways=gateway)
            async with rig.control_plane() as second:
                plane.cache.publish(mesh, rig.split(5_000, generation=7))
                second.cache.publish(Mesh(path="mesh.yaml", services={"shop": inner}), rig.split(5_000, generation=7))
                async with (
                    rig.envoy(mesh, "side-1", second.port),
                    rig.envoy(mesh, "edge-1", plane.port),
                    aiohttp.ClientSession() as client,
                ):
                    for n in range(20):
                        answer = await rig.ask(client, edge[1], {"x-user-id": f"p{n}"})
                        assert answer.headers["x-serinus-hop"] == "gateway"
                    await check_logs([plane, second], mesh, rig, sender="edge-1", hop="gateway")

    asyncio.run(scenario())


async def check_logs(planes, mesh, rig, *, sender, hop):
    """20 requests, two entries each, of which the sender's counts and says everything that is needed."""

    async def all_here() -> bool:
        return sum(len(plane.logs) for plane in planes) >= 40

    await rig.eventually(all_here, "20 requests logged by two Envoys each")
    logs = [line for plane in planes for line in plane.logs]
    counts = counted(mesh, logs)
    assert len(counts) == 20
    assert set(counts.values()) == {1}
    for entry in (entry for node, entry in logs if node == sender):
        stamp, signed, *_, key = entry.common_properties.custom_tags[TAG].split("\n")
        assert (read_stamp(stamp), signed) == (Stamp("shop", "default", "shop-1", 7), hop)
        assert key.startswith("p")
        assert entry.common_properties.upstream_cluster in ("shop|v1", "shop|v2")
        assert entry.common_properties.route_name == "shop|default|0"
