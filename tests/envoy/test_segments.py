"""Who is in which segment, as Envoy sees it."""

from __future__ import annotations

import asyncio

import aiohttp

from analysis.spec import SegmentSpec
from xds_server.mesh import Mesh, Route, SegmentMatch, SegmentSplit, ServiceSplits, ValueMatch

SEGMENTS = (
    (SegmentSpec(name="pinned", pin="v1"), SegmentMatch(headers=(ValueMatch(name="x-a", kind="exact", value="pin"),))),
    (SegmentSpec(name="exact"), SegmentMatch(headers=(ValueMatch(name="x-a", kind="exact", value="one"),))),
    (SegmentSpec(name="prefix"), SegmentMatch(headers=(ValueMatch(name="x-a", kind="prefix", value="pre-"),))),
    (SegmentSpec(name="suffix"), SegmentMatch(headers=(ValueMatch(name="x-a", kind="suffix", value="-suf"),))),
    (SegmentSpec(name="contains"), SegmentMatch(headers=(ValueMatch(name="x-a", kind="contains", value="mid"),))),
    (SegmentSpec(name="regex"), SegmentMatch(headers=(ValueMatch(name="x-a", kind="regex", value="[0-9]+"),))),
    (SegmentSpec(name="range"), SegmentMatch(headers=(ValueMatch(name="x-n", kind="range", value=(10, 20)),))),
    (SegmentSpec(name="present"), SegmentMatch(headers=(ValueMatch(name="x-p", kind="present", value=True),))),
    (SegmentSpec(name="query"), SegmentMatch(query=(ValueMatch(name="q", kind="exact", value="1"),))),
    (SegmentSpec(name="asked"), SegmentMatch(query=(ValueMatch(name="r", kind="present", value=True),))),
    (SegmentSpec(name="path"), SegmentMatch(path_prefix="/api/v2")),
    (SegmentSpec(name="absent"), SegmentMatch(headers=(ValueMatch(name="x-z", kind="present", value=False),))),
    (SegmentSpec(name="unasked"), SegmentMatch(query=(ValueMatch(name="q", kind="present", value=False),))),
)
ASKED = {
    "pinned": ({"x-a": "pin"}, "/"),
    "exact": ({"x-a": "one"}, "/"),
    "prefix": ({"x-a": "pre-x"}, "/"),
    "suffix": ({"x-a": "x-suf"}, "/"),
    "contains": ({"x-a": "amidst"}, "/api/"),
    "regex": ({"x-a": "123"}, "/"),
    "range": ({"x-n": "19"}, "/"),
    "present": ({"x-p": ""}, "/"),
    "query": ({}, "/api/?q=1"),
    "asked": ({}, "/?r"),
    "path": ({}, "/api/v2/x"),
    "absent": ({}, "/api/v1"),
    "unasked": ({"x-z": "1"}, "/?p=2"),
    "default": ({"x-a": "123x", "x-n": "20", "x-z": "1"}, "/?q=2"),
}


def test_each_segment_has_its_own_route_and_its_own_split(rig):
    """One segment after the other gets the canary, and nobody but its own people goes there."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            routes = (Route(prefix="/api/", timeout_ms=2_000, retries=1), Route())
            service = rig.service({"v1": v1, "v2": v2}, port=port, routes=routes, segments=SEGMENTS)
            mesh = Mesh(path="mesh.yaml", services={"shop": service})
            plane.cache.publish(mesh, {})
            async with rig.envoy(mesh, "side-1", plane.port), aiohttp.ClientSession() as client:
                for generation, chosen in enumerate(ASKED, start=1):
                    splits = rig.split(10_000, generation=generation, segments=[chosen])
                    plane.cache.publish(mesh, splits)
                    assert await plane.cache.in_force("shop", generation, None, 5.0) == ()
                    for segment, (headers, path) in ASKED.items():
                        answer = await rig.ask(client, port, {"x-user-id": "anna", **headers}, path)
                        is_canary = segment == chosen and segment != "pinned"
                        assert answer.version == ("v2" if is_canary else "v1"), (chosen, segment)

    asyncio.run(scenario())


def test_a_segment_has_its_own_baseline_for_people_without_identity_too(rig):
    """Where the canary was promoted it is the baseline, also for those who cannot take part in a rollout."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            service = rig.service({"v1": v1, "v2": v2}, port=port, segments=SEGMENTS[1:2])
            mesh = Mesh(path="mesh.yaml", services={"shop": service})
            segments = {
                "exact": SegmentSplit(baseline="v2"),
                "default": SegmentSplit(baseline="v1", canary="v2", canary_bp=10_000),
            }
            splits = {"shop": ServiceSplits(rollout="shop-1", generation=1, segments=segments)}
            plane.cache.publish(mesh, splits)
            async with rig.envoy(mesh, "side-1", plane.port), aiohttp.ClientSession() as client:
                assert (await rig.ask(client, port, {"x-a": "one"})).version == "v2"
                assert (await rig.ask(client, port, {"x-a": "one", "x-user-id": "anna"})).version == "v2"
                assert (await rig.ask(client, port)).version == "v1"
                assert (await rig.ask(client, port, {"x-user-id": "anna"})).version == "v2"

    asyncio.run(scenario())


def test_services_on_one_port_are_told_apart_by_domain_whatever_the_port_in_it(rig):
    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            services = {
                "shop": rig.service({"v1": v1}, port=port),
                "blog": rig.service({"v2": v2}, name="blog", port=port),
            }
            mesh = Mesh(path="mesh.yaml", services=services)
            plane.cache.publish(mesh, {})
            async with rig.envoy(mesh, "side-1", plane.port), aiohttp.ClientSession() as client:
                for host, version in (("shop", "v1"), ("SHOP:8080", "v1"), ("blog", "v2"), (f"blog:{port}", "v2")):
                    assert (await rig.ask(client, port, {"host": host})).version == version
                assert (await rig.ask(client, port, {"host": "elsewhere"})).status == 404

    asyncio.run(scenario())
