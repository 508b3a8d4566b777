"""Where gRPC's own client sends an RPC: segments by header, splits, buckets, paths."""

from __future__ import annotations

import asyncio
from math import sqrt

import pytest

from xds_server.assign import BUCKET_HEADER, bucket_header, version_for

PRO = "pro: {match: {headers: [{name: x-plan, exact: pro}]}}"


def test_segments_are_told_apart_by_header_and_targets_by_name(rig):
    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2, rig.control_plane() as plane:
            plane.cache.publish(rig.mesh(v1, v2, segments=PRO), rig.splits(pro=10_000))
            async with rig.client(plane.port) as client:
                for target in ("shop", "shop:10000", "shop.example", "shop.example:10000"):
                    assert (await client.ask(target, n=10)).counts == {"v1": 10}
                    assert (await client.ask(target, [("x-plan", "pro")], n=10)).counts == {"v2": 10}
                    assert (await client.ask(target, [("x-plan", "free")], n=10)).counts == {"v1": 10}
                (node,) = plane.cache.nodes()
                assert (node.node, node.role) == ("app-1", "grpc")
                assert not plane.rejections

    asyncio.run(scenario())


def test_each_segment_gets_its_own_split(rig):
    """Five standard deviations: one run in a million may be wrong."""

    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2, rig.control_plane() as plane:
            mesh = rig.mesh(v1, v2, segments=PRO)
            plane.cache.publish(mesh, {})
            async with rig.client(plane.port) as client:
                for generation, (pro, default) in enumerate(((0, 5_000), (10_000, 0), (500, 10_000)), 1):
                    plane.cache.publish(mesh, rig.splits(generation, pro=pro, default=default))
                    assert await plane.cache.in_force("shop", generation, None, 5.0) == ()
                    for metadata, split_bp in (((), default), ((("x-plan", "pro"),), pro)):
                        n, p = 2_000, split_bp / 10_000
                        found = (await client.ask(metadata=metadata, n=n)).counts
                        assert found["v1"] + found["v2"] == n
                        assert abs(found["v2"] - n * p) <= 5 * sqrt(n * p * (1 - p))

    asyncio.run(scenario())


MATCHES = [
    ("exact: ab", "ab", "abc"),
    ("prefix: ab", "abc", "cab"),
    ("suffix: ab", "cab", "abc"),
    ("contains: ab", "cabc", "ca"),
    ('regex: "a[0-9]+"', "a12", "a12b"),
    ("range: [5, 10]", "9", "10"),
    ("range: [5, 10]", "5", "x"),
    ("present: true", "anything", None),
    ("present: false", None, "anything"),
]


@pytest.mark.parametrize(("match", "inside", "outside"), MATCHES)
def test_a_header_matches_as_it_does_in_envoy(rig, match, inside, outside):
    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2, rig.control_plane() as plane:
            segments = f"one: {{match: {{headers: [{{name: X-It, {match}}}]}}, pin: v2}}"
            plane.cache.publish(rig.mesh(v1, v2, segments=segments), {})
            async with rig.client(plane.port) as client:
                for value, version in ((inside, "v2"), (outside, "v1")):
                    metadata = [] if value is None else [("x-it", value)]
                    assert (await client.ask(metadata=metadata)).answers == [version]

    asyncio.run(scenario())


def test_a_bucket_makes_a_person_stay_and_a_growing_split_only_adds_people(rig):
    """And what is no bucket is on the baseline, whatever the split."""

    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2, rig.control_plane() as plane:
            mesh = rig.mesh(v1, v2, segments=PRO)
            people = [bucket_header(f"p{n}") for n in range(300)]
            plane.cache.publish(mesh, {})
            async with rig.client(plane.port) as client:
                before: set[str] = set()
                for generation, split_bp in enumerate((0, 500, 2_000, 5_000, 9_500, 10_000), 1):
                    splits = rig.splits(generation, default=split_bp)
                    plane.cache.publish(mesh, splits)
                    assert await plane.cache.in_force("shop", generation, None, 5.0) == ()
                    answers = (await client.ask(each=[[person] for person in people])).answers
                    split = splits["shop"].segments["default"]
                    assert answers == [version_for(split, int(value)) for _, value in people]
                    now = {value for (_, value), answer in zip(people, answers, strict=True) if answer == "v2"}
                    assert before <= now
                    before = now
                    odd = [[(BUCKET_HEADER, value)] for value in ("", "-1", "10000", "4.5", "x")]
                    assert set((await client.ask(each=odd)).answers) == {"v1"}

    asyncio.run(scenario())


def test_paths_pins_and_promoted_segments(rig):
    segments = """
      pinned: {match: {headers: [{name: x-plan, exact: enterprise}]}, pin: v1},
      part: {match: {path: /test.Greeter/Part}},
      half: {match: {headers: [{name: x-plan, exact: half}]}, max_split: 50%},
      asked: {match: {query: [{name: beta, exact: "1"}]}, pin: v2},
      named: {match: {headers: [{name: ":authority", present: false}]}, pin: v2}
"""

    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2, rig.control_plane() as plane:
            mesh = rig.mesh(v1, v2, segments=segments)
            splits = rig.splits(pinned=10_000, part=10_000, half=5_000)  # what the guard lets through
            plane.cache.publish(mesh, splits)
            async with rig.client(plane.port) as client:
                plan = [("x-plan", "enterprise")]
                assert (await client.ask(metadata=plan, n=5)).counts == {"v1": 5}
                assert (await client.ask(metadata=plan, n=5, method="/test.Greeter/Part")).counts == {"v1": 5}
                assert (await client.ask(n=5, method="/test.Greeter/Part")).counts == {"v2": 5}
                assert (await client.ask(n=5)).counts == {"v1": 5}  # no query, and no header that gRPC cannot see
                half = (await client.ask(metadata=[("x-plan", "half")], n=400)).counts
                assert 150 < half["v2"] < 250
                # Promoted: the canary is the baseline of its segment, buckets or not.
                service = splits["shop"]
                promoted = type(service.segments["part"])(baseline="v2")
                segments_now = {**service.segments, "default": promoted}
                again = type(service)(rollout="shop-1", generation=2, segments=segments_now)
                plane.cache.publish(mesh, {"shop": again})
                assert await plane.cache.in_force("shop", 2, None, 5.0) == ()
                assert (await client.ask(each=[[], [(BUCKET_HEADER, "9999")]])).counts == {"v2": 2}

    asyncio.run(scenario())


def test_a_timeout_is_never_cut_short_and_ends_soon_after(rig):
    """gRPC's core takes one to two seconds off a time that comes over xDS."""
    routes = "routes: [{prefix: /test.Greeter/Part, timeout: 500ms}, {prefix: /}]"

    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.control_plane() as plane:
            plane.cache.publish(rig.mesh(v1, more=routes), {})
            async with rig.client(plane.port) as client:
                assert (await client.ask()).answers == ["v1"]
                v1.pause_s = 0.45
                assert (await client.ask(n=3, method="/test.Greeter/Part")).counts == {"v1": 3}
                v1.pause_s = 20.0
                said = await client.ask(timeout_s=30.0, method="/test.Greeter/Part")
                assert said.answers == ["DEADLINE_EXCEEDED"]
                assert 0.4 < said.seconds < 2.0

    asyncio.run(scenario())


def test_retries_are_grpcs_own(rig):
    paths = "{prefix: /test.Greeter/Part, retries: 2}, {prefix: /test.Greeter/More, retries: 10}, {prefix: /}"

    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.control_plane() as plane:
            plane.cache.publish(rig.mesh(v1, more=f"routes: [{paths}]"), {})
            async with rig.client(plane.port) as client:
                for failures, method, answer, seen_n in (
                    (2, "Part", "v1", 3),
                    (3, "Part", "UNAVAILABLE", 3),
                    (20, "More", "UNAVAILABLE", 5),
                    (1, "Greet", "UNAVAILABLE", 1),
                ):
                    v1.failures, v1.seen_n = failures, 0
                    said = await client.ask(method=f"/test.Greeter/{method}")
                    assert (said.answers, v1.seen_n) == ([answer], seen_n)

    asyncio.run(scenario())


def test_a_version_with_one_name_is_resolved_by_grpc(rig):
    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2, rig.control_plane() as plane:
            plane.cache.publish(rig.mesh(v1, v2, host="localhost"), rig.splits(default=10_000))
            async with rig.client(plane.port) as client:
                assert (await client.ask(n=5)).counts == {"v2": 5}

    asyncio.run(scenario())
