"""A configuration is checked by a real Envoy before any Envoy is sent it."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from xds_server.mesh import Mesh, SegmentSplit, ServiceSplits
from xds_server.node import NodeKind, kinds
from xds_server.resources import Resources, build
from xds_server.settings import load_mesh, parse_mesh
from xds_server.validation.dry_run import refusal

MESHES = sorted((Path(__file__).parents[2] / "envoy-configs" / "meshes").glob("*.yaml"))
SERVICE = """
  {name}:
    domains: [{name}, {name}.example]
    port: 10000
    identity: [{{header: x-user-id}}]
    versions:
      v1: {{endpoints: ["127.0.0.1:9001"], health: {{path: /healthz}}}}
      v2: {{endpoints: ["{name}-v2.example:9002"]}}
    baseline: v1
    segments: {{vip: {{match: {{headers: [{{name: x-plan, exact: enterprise}}]}}}}}}
"""


def make(*names: str) -> Resources:
    """Build the sidecars' resources for services of these names, each in the middle of a rollout."""
    mesh = parse_mesh("services:" + "".join(SERVICE.format(name=name) for name in names), "mesh.yaml")
    return build(mesh, decided(mesh), NodeKind("sidecar"))


def decided(mesh: Mesh) -> dict[str, ServiceSplits]:
    """Decide on a rollout in each segment of each service that has a second version."""
    splits = {}
    for service in mesh.services.values():
        canary = next((version for version in service.versions if version != service.spec.baseline), None)
        split = SegmentSplit(baseline=service.spec.baseline, canary=canary, canary_bp=500)
        segments = {segment.name: split for segment in service.spec.segments}
        splits[service.name] = ServiceSplits(rollout=f"{service.name}-1", generation=1, segments=segments)
    return splits


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place for temporary files; nothing may stay there."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.mark.parametrize("path", MESHES, ids=lambda path: path.stem)
def test_envoy_takes_what_is_built_for_the_example_meshes(path: Path, temporary: Path) -> None:
    mesh = load_mesh(path)
    for splits in ({}, decided(mesh)):
        for kind in kinds(mesh):
            assert asyncio.run(refusal(build(mesh, splits, kind))) is None
    assert not list(temporary.iterdir())


def no_weights(built: Resources) -> None:
    for part in built.routes[0].virtual_hosts[1].routes[2].route.weighted_clusters.clusters:
        part.weight.value = 0


def taken_domain(built: Resources) -> None:
    built.routes[0].virtual_hosts[1].domains.append("shop")


def unknown_cluster(built: Resources) -> None:
    built.routes[0].virtual_hosts[1].routes[3].route.cluster = "nowhere"


def large_regex(built: Resources) -> None:
    header = built.routes[0].virtual_hosts[0].routes[0].match.headers.add(name="x-a")
    header.string_match.safe_regex.regex = "[a-z]{1,100}"


def no_health_checker(built: Resources) -> None:
    built.clusters[2].health_checks[0].ClearField("health_checker")


def wrong_header(built: Resources) -> None:
    built.routes[0].request_headers_to_add.add().header.key = ":path"


def wrong_address(built: Resources) -> None:
    built.listeners[0].address.socket_address.address = "shop.example"


WRONG = [
    # (what is wrong, where, the beginning of Envoy's words)
    (no_weights, "RDS sidecar|10000, route blog|default|0", "Sum of weights in the weighted_cluster must be greater"),
    (taken_domain, "RDS sidecar|10000", "Only unique values for domains are permitted. Duplicate entry of domain shop"),
    (unknown_cluster, "RDS sidecar|10000, route blog|default|1", "route: unknown cluster 'nowhere'"),
    (large_regex, "RDS sidecar|10000, route shop|vip|0", "regex '[a-z]{1,100}' RE2 program size of 203 > max program"),
    (no_health_checker, "CDS blog|v1", "StaticResources.Clusters[2].HealthChecks[0].health_checker: is required"),
    (wrong_header, "RDS sidecar|10000", ":-prefixed or host headers may not be modified"),
    (wrong_address, "LDS sidecar|10000", "malformed IP address: shop.example"),
]


@pytest.mark.parametrize(("spoil", "where", "words"), WRONG, ids=[spoil.__name__ for spoil, *_ in WRONG])
def test_what_is_refused_is_named_with_envoys_words(
    spoil: Callable[[Resources], None], where: str, words: str, temporary: Path
) -> None:
    built = make("shop", "blog", "news")
    spoil(built)
    line = asyncio.run(refusal(built))
    assert line is not None
    assert line.startswith(f"{where}: {words}")
    assert line.isprintable()
    assert not list(temporary.iterdir())


def test_what_is_refused_only_together_has_no_place() -> None:
    built = make("shop")
    twice = replace(built, clusters=(*built.clusters, built.clusters[0]))
    assert asyncio.run(refusal(twice)) == "cluster manager: duplicate cluster 'shop|v1'"


def test_nobody_is_connected_to(free_port: Callable[[], int]) -> None:
    """Neither do health checks start, nor is the listener's port taken."""

    async def check() -> int:
        connections = 0

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            writer.close()

        built = make("shop")
        async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            built.assignments[0].endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value = port
            built.listeners[0].address.socket_address.port_value = port
            assert await refusal(built) is None
            await asyncio.sleep(0.1)
        return connections

    assert asyncio.run(check()) == 0


def processes() -> set[str]:
    """The command lines of this process's children."""
    me = str(os.getpid())
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if status.read_text().rpartition(")")[2].split()[1] == me:
                found.add((status.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a shell script in Envoy's place, to misbehave as Envoy does not on demand."""

    def install(script: str) -> None:
        envoy = tmp_path / "bin" / "envoy"
        envoy.parent.mkdir()
        envoy.write_text(f"#!/bin/sh\n{script}\n")
        envoy.chmod(0o755)
        monkeypatch.setenv("PATH", f"{envoy.parent}:{os.environ['PATH']}")

    return install


# It says more than a pipe holds, and does not come to an end.
STUCK = "head -c 1000000 /dev/zero >&2; exec sleep 60"


def test_an_envoy_that_takes_too_long_is_killed(stand_in: Callable[[str], None], temporary: Path) -> None:
    stand_in(STUCK)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(refusal(make("shop"), timeout_s=0.5))
    assert time.monotonic() - started < 5
    assert not any("sleep 60" in command for command in processes())
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.3])
def test_a_check_can_be_cancelled(after_s: float, stand_in: Callable[[str], None], temporary: Path) -> None:
    stand_in(STUCK)

    async def check() -> None:
        task = asyncio.create_task(refusal(make("shop")))
        await asyncio.sleep(after_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(check())
    assert not any("sleep 60" in command for command in processes())
    assert not list(temporary.iterdir())


def test_a_place_that_is_not_found_in_time_is_left_out(stand_in: Callable[[str], None], tmp_path: Path) -> None:
    stand_in(f"[ -e {tmp_path}/asked ] && exec sleep 60; touch {tmp_path}/asked; echo no good >&2; exit 1")
    assert asyncio.run(refusal(make("shop"), timeout_s=1)) == "no good"


def test_an_envoy_that_crashes_is_a_refusal(stand_in: Callable[[str], None]) -> None:
    stand_in("kill -SEGV $$")
    line = asyncio.run(refusal(make("shop")))
    assert line is not None
    assert line.endswith("envoy ended with -11 and said nothing")


def test_without_an_envoy_there_is_nothing_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert asyncio.run(refusal(make("shop"))) is None


def test_the_event_loop_goes_on_meanwhile() -> None:
    async def check() -> float:
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.001)
                longest = max(longest, time.perf_counter() - before)

        ticking = asyncio.create_task(tick())
        assert await refusal(make(*(f"s{i}" for i in range(50)))) is None
        ticking.cancel()
        return longest

    assert asyncio.run(check()) < 0.5
