"""Two Envoys in a row: each request has exactly one access-log entry that counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import aiohttp

from xds_server.mesh import Gateway, Mesh, Sidecar, Version
from xds_server.node import kind_of


def counted(mesh: Mesh, logs) -> Counter:
    """Entries per request ID that count: of a route that splits, sent by the hop that signed the request."""
    counts: Counter = Counter({entry.request.request_id: 0 for _, entry in logs})
    for node, entry in logs:
        tags = entry.common_properties.custom_tags
        if tags.get("service") and tags.get("hop") == kind_of(mesh, node, "").role:
            counts[entry.request.request_id] += 1
    return counts


def test_a_gateway_that_forwards_leaves_the_count_to_the_sidecar(
    run_envoy, control_plane, backend, ask, make_service, split, free_port, eventually
):
    """The gateway knows who asks, the sidecar behind it splits by that, and only the sidecar's entry counts."""

    async def scenario() -> None:
        async with backend("v1") as v1, backend("v2") as v2, control_plane() as plane:
            edge, side = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
            mesh = Mesh(
                path="mesh.yaml",
                services={"shop": make_service({"v1": v1, "v2": v2})},
                gateways={"edge": Gateway(node="edge-1", listen=edge, services=("shop",), to="inner")},
                sidecars={"inner": Sidecar(node="side-1", listen=side)},
            )
            plane.cache.publish(mesh, split(5_000, generation=7))
            async with (
                run_envoy(mesh, "side-1", plane.port),
                run_envoy(mesh, "edge-1", plane.port),
                aiohttp.ClientSession() as client,
            ):
                for n in range(20):
                    answer = await ask(client, edge[1], {"x-user-id": f"p{n}"})
                    assert answer.headers["x-serinus-key"] == f"p{n}"
                    assert answer.headers["x-serinus-hop"] == "sidecar"
                await check_logs([plane], mesh, eventually, sender="side-1", hop="sidecar")

    asyncio.run(scenario())


def test_when_both_hops_split_the_first_one_counts(
    run_envoy, control_plane, backend, ask, make_service, split, free_port, eventually
):
    """A version of the edge's service may itself be an Envoy that splits: the hop that signed first is the one."""

    async def scenario() -> None:
        async with backend("v1") as v1, backend("v2") as v2, control_plane() as plane:
            edge, port = ("127.0.0.1", free_port()), free_port()
            inner = make_service({"v1": v1, "v2": v2}, port=port)
            behind = {v: Version(name=v, endpoints=(("127.0.0.1", port),)) for v in ("v1", "v2")}
            outer = replace(inner, versions=behind)
            gateway = {"edge": Gateway(node="edge-1", listen=edge, services=("shop",))}
            mesh = Mesh(path="mesh.yaml", services={"shop": outer}, gateways=gateway)
            async with control_plane() as second:
                plane.cache.publish(mesh, split(5_000, generation=7))
                second.cache.publish(Mesh(path="mesh.yaml", services={"shop": inner}), split(5_000, generation=7))
                async with (
                    run_envoy(mesh, "side-1", second.port),
                    run_envoy(mesh, "edge-1", plane.port),
                    aiohttp.ClientSession() as client,
                ):
                    for n in range(20):
                        answer = await ask(client, edge[1], {"x-user-id": f"p{n}"})
                        assert answer.headers["x-serinus-hop"] == "gateway"
                    await check_logs([plane, second], mesh, eventually, sender="edge-1", hop="gateway")

    asyncio.run(scenario())


async def check_logs(planes, mesh, eventually, *, sender, hop):
    """20 requests, two entries each, of which the sender's counts and says everything that is needed."""

    async def all_here() -> bool:
        return sum(len(plane.logs) for plane in planes) >= 40

    await eventually(all_here, "20 requests logged by two Envoys each")
    logs = [line for plane in planes for line in plane.logs]
    counts = counted(mesh, logs)
    assert len(counts) == 20
    assert set(counts.values()) == {1}
    for entry in (entry for node, entry in logs if node == sender):
        tags = dict(entry.common_properties.custom_tags)
        assert tags.pop("key").startswith("p")
        assert tags == {"service": "shop", "segment": "default", "rollout": "shop-1", "generation": "7", "hop": hop}
        assert entry.common_properties.upstream_cluster in ("shop|v1", "shop|v2")
        assert entry.common_properties.route_name == "shop|default|0"
