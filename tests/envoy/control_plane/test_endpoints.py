"""Endpoints that the mesh file does not list: a file that is edited, instances that come, fall silent and come back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from xds_server.client import connected, plain
from xds_server.pb import control_pb2
from xds_server.pb import registry_pb2 as pb
from xds_server.pb.registry_pb2_grpc import RegistryStub

LEASE_S = 2.0

MESH = """
services:
  shop:
    domains: [shop]
    port: {port}
    identity: [{{header: x-user-id}}]
    session: {{gap: 2s, judge_after: {{error_rate: 1s, latency_p95: 1s, anomaly: 1s}}}}
    versions:
      v1: {{endpoints: {v1}}}
      v2: {{endpoints: {v2}}}
    baseline: v1
    rollout: {{interval: 500ms, warmup: 1h, min_dwell: 1h, harm: {{budget: 1000000}}}}
"""
REGISTERED = f"{{registered: {{lease: {LEASE_S:g}s}}}}"

OTHERS = (
    r"rds.*config_reload$|cluster_manager.cluster_(added|modified|removed)|listener_manager.listener_(added|modified)"
)
"""Of Envoy's statistics: what no change of endpoints may touch."""


def write(path: Path, text: str) -> None:
    """Put a file in another one's place, as editors and deployments do."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


def write_mesh(place, port: int, *, v1: str, v2: str = REGISTERED) -> None:
    write(place.directory / "mesh.yaml", MESH.format(port=port, v1=v1, v2=v2))


async def answering(place, port: int, people: int = 40) -> set[str]:
    """Who answers: the names of instances; the status where it is no 200."""
    async with aiohttp.ClientSession() as client:
        answers = await asyncio.gather(*(place.visit(client, port, f"p{n}") for n in range(people)))
    return {name if status == 200 else str(status) for status, name in answers}


async def answers(rig, place, port: int, *names: str) -> None:
    async def they_do() -> bool:
        return await answering(place, port) == set(names)

    await rig.eventually(they_do, f"{', '.join(names)} answer")


async def endpoints(serinus, version: str) -> dict[str, object]:
    """What `status` says of a version's endpoints."""
    status = await serinus.call("GetStatus", control_pb2.GetStatusRequest())
    return next(each for each in status["endpoints"] if each["version"] == version)


async def registry(serinus, method: str, request: object) -> dict:
    def ask() -> dict:
        with connected(f"127.0.0.1:{serinus.grpc}", RegistryStub) as client:
            return plain(client.call(method, request))

    return await asyncio.to_thread(ask)


async def register(serinus, instance, version: str = "v1") -> str:
    """Register as an instance does that speaks the API itself; the lease."""
    request = pb.RegisterRequest(service="shop", version=version, address=f"127.0.0.1:{instance.port}")
    return (await registry(serinus, "Register", request))["lease"]


@contextlib.asynccontextmanager
async def beside(place, serinus, instance, version: str = "v1") -> AsyncIterator[asyncio.subprocess.Process]:
    """`serinus endpoint register` beside an instance; it is killed in the end, if it still runs."""
    said = place.directory / f"beside-{instance.name}.log"
    with said.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(place.binary, "endpoint", "register", "shop", version, f"127.0.0.1:{instance.port}"),
            *("--server", f"127.0.0.1:{serinus.grpc}"),
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def pushes(serinus) -> dict[str, float]:
    """Responses sent so far, by type."""
    return {
        kind: n
        for (event, kind), n in (await serinus.metrics("serinus_xds_responses_total")).items()
        if event == "push"
    }


def test_an_edited_file_moves_traffic_over_eds_alone_and_a_broken_one_moves_nothing(rig, place):
    """No request fails; what the file said last stays while it is wrong, and status and metrics say so."""

    async def scenario() -> None:
        port = rig.free_port()
        async with place.versions("a", "b", "c") as (a, b, c):
            file = place.directory / "v1.txt"
            write(file, f"127.0.0.1:{a.port}  # the first one\n")
            write_mesh(place, port, v1="{file: v1.txt}")
            async with (
                place.serinus() as serinus,
                rig.envoy(place.mesh(), "side-1", serinus.grpc) as envoy,
                place.crowd(port) as crowd,
            ):
                await answers(rig, place, port, "a")
                others, before = await envoy.stats(OTHERS), await pushes(serinus)
                write(file, f"- 127.0.0.1:{b.port}\n- 127.0.0.1:{c.port}\n")
                began = time.monotonic()
                await answers(rig, place, port, "b", "c")
                assert time.monotonic() - began < 5.0
                after = await pushes(serinus)
                assert after == {**before, "EDS": before["EDS"] + 1}
                for broken, why in (("127.0.0.1:x\n", "v1.txt:1"), ("", "no endpoints"), (None, "no such file")):
                    file.unlink() if broken is None else write(file, broken)

                    async def is_refused(why: str = why) -> bool:
                        return why in str((await endpoints(serinus, "v1"))["refused"])

                    await rig.eventually(is_refused, f"{broken!r} is refused")
                    assert await answering(place, port) == {"b", "c"}
                assert (await serinus.metrics("serinus_endpoint_events_total"))["refused", "file"] == 3
                assert (await serinus.metrics("serinus_endpoints"))["shop", "v1"] == 2
                assert "keeps its 2 endpoints" in (await serinus.say("status")).out
                write(file, f'["127.0.0.1:{a.port}", "127.0.0.1:{b.port}"]')
                await answers(rig, place, port, "a", "b")
                assert (await endpoints(serinus, "v1"))["refused"] == ""
                assert await envoy.stats(OTHERS) == others
                assert (await pushes(serinus)) == {**before, "EDS": before["EDS"] + 2}
            assert crowd.outcomes.total() > 200
            assert crowd.failed_n == 0, crowd.outcomes

    asyncio.run(scenario())


def test_traffic_comes_with_a_lease_and_goes_with_it_but_never_from_the_last_endpoint(rig, place):
    """Who falls silent is taken out, half of them at most; who says so leaves without a failed request."""

    async def scenario() -> None:
        port = rig.free_port()
        async with place.versions("a", "b") as (a, b):
            write_mesh(place, port, v1=REGISTERED)
            async with place.serinus() as serinus, rig.envoy(place.mesh(), "side-1", serinus.grpc) as envoy:
                assert await answering(place, port) == {"503"}
                others = await envoy.stats(OTHERS)
                async with beside(place, serinus, a) as one:
                    await answers(rig, place, port, "a")
                    async with place.crowd(port) as crowd:
                        async with beside(place, serinus, b) as other:
                            await answers(rig, place, port, "a", "b")
                            other.send_signal(signal.SIGTERM)
                            assert await asyncio.wait_for(other.wait(), 20) == 0
                            assert await answering(place, port) == {"a"}
                        await register(serinus, b)
                        await answers(rig, place, port, "a", "b")
                        began = time.monotonic()
                        await answers(rig, place, port, "a")
                        assert time.monotonic() - began < LEASE_S + 5.0
                        one.kill()

                        async def is_kept() -> bool:
                            return (await endpoints(serinus, "v1"))["stale"] == [f"127.0.0.1:{a.port}"]

                        await rig.eventually(is_kept, "the last one is kept")
                        assert await answering(place, port) == {"a"}
                        assert (await serinus.metrics("serinus_endpoints_stale"))["shop", "v1"] == 1
                        assert "not renewed, and kept" in (await serinus.say("status")).out
                    assert crowd.failed_n == 0, crowd.outcomes
                removed = await serinus.say("endpoint", "remove", "shop", "v1", "--stale", "--reason", "test")
                assert removed.code == 0, removed.err
                assert "not acknowledged" not in removed.out
                assert await answering(place, port) == {"503"}
                events = await serinus.metrics("serinus_endpoint_events_total")
                assert {event: n for (event, source), n in events.items() if source == "registered"} == {
                    "registered": 3, "deregistered": 1, "expired": 1, "kept": 1, "removed": 1,
                }  # fmt: skip
                assert await envoy.stats(OTHERS) == others

    asyncio.run(scenario())


def test_a_version_that_nobody_has_registered_for_is_not_rolled_out(rig, place):
    async def scenario() -> None:
        port = rig.free_port()
        async with place.versions("a", "b") as (a, b):
            write_mesh(place, port, v1=f'["127.0.0.1:{a.port}"]')
            async with place.serinus() as serinus, rig.envoy(place.mesh(), "side-1", serinus.grpc):
                refused = await serinus.say("rollout", "start", "shop", "--canary", "v2")
                assert refused.code == 1
                assert "no endpoints of v2 are registered" in refused.err
                async with beside(place, serinus, b, "v2"):

                    async def has_come() -> bool:
                        return (await endpoints(serinus, "v2"))["endpoints"] == 1

                    await rig.eventually(has_come, "v2 has an endpoint")
                    await serinus.begin()
                    await serinus.set(5_000)
                    await rig.eventually(serinus.in_force, "50 % is in force")
                    assert await answering(place, port) == {"a", "b"}
                for version, what in (("v1", "version of shop"), ("v9", "version of shop"), ("", "version")):
                    said = await serinus.say("endpoint", "register", "shop", version, "127.0.0.1:9", "--no-look")
                    assert said.code != 0
                    assert what in said.err

    asyncio.run(scenario())


def test_a_restart_keeps_leased_endpoints_and_gives_each_a_whole_lease(rig, place):
    """However long it took. Who has gone meanwhile is taken out one lease later."""

    async def scenario() -> None:
        port = rig.free_port()
        async with place.versions("a", "b") as (a, b):
            write_mesh(place, port, v1=REGISTERED)
            async with (
                place.serinus() as serinus,
                rig.envoy(place.mesh(), "side-1", serinus.grpc) as envoy,
                beside(place, serinus, a),
                beside(place, serinus, b) as gone,
            ):
                await answers(rig, place, port, "a", "b")
                changes = await envoy.stats(r"cluster\.shop.v1\.membership_change")
                assert changes
                async with place.crowd(port) as crowd:
                    await serinus.end(signal.SIGKILL)
                    await asyncio.sleep(LEASE_S + 1.0)
                    gone.kill()
                    await serinus.start()
                    assert (await endpoints(serinus, "v1"))["endpoints"] == 2

                    async def is_back() -> bool:
                        return any(node["connected"] for node in (await serinus.shop())["nodes"].values())

                    await rig.eventually(is_back, "the Envoy is back", 30.0)
                    await answers(rig, place, port, "a")
                    await asyncio.sleep(LEASE_S)
                    here = await endpoints(serinus, "v1")
                    assert (here["endpoints"], here["stale"]) == (1, []), "the other one renews its lease"
                assert crowd.failed_n == 0, crowd.outcomes
                now = await envoy.stats(r"cluster\.shop.v1\.membership_change")
                assert {name: n - changes[name] for name, n in now.items()} == dict.fromkeys(changes, 1)

    asyncio.run(scenario())


def test_the_mesh_file_may_change_where_endpoints_come_from(rig, place):
    """From DNS to a file, to registration and back, while people ask; with a wrong file the mesh file is refused."""

    async def scenario() -> None:
        port = rig.free_port()
        async with place.versions("a", "b", "c") as (a, b, c):
            write_mesh(place, port, v1=f'["localhost:{a.port}"]')
            async with (
                place.serinus() as serinus,
                rig.envoy(place.mesh(), "side-1", serinus.grpc),
                place.crowd(port) as crowd,
            ):
                await answers(rig, place, port, "a")
                write_mesh(place, port, v1="{file: v1.txt}")

                async def is_refused() -> bool:
                    status = await serinus.call("GetStatus", control_pb2.GetStatusRequest())
                    return "no such file" in status["mesh"]["refused"]

                await rig.eventually(is_refused, "a mesh whose file is not there is refused")
                assert await answering(place, port) == {"a"}
                write(place.directory / "v1.txt", f"127.0.0.1:{b.port}")
                serinus.process.send_signal(signal.SIGHUP)
                await answers(rig, place, port, "b")
                write(place.directory / "v1.txt", f"127.0.0.1:{c.port}")
                await answers(rig, place, port, "c")
                write_mesh(place, port, v1="{registered: {lease: 5s}}")

                async def is_registered() -> bool:
                    each = await registry(serinus, "List", pb.ListRequest(service="shop"))
                    return each["versions"][0]["source"] == "registered"

                await rig.eventually(is_registered, "v1 is registered")
                assert await answering(place, port) == {"c"}
                async with beside(place, serinus, a):
                    await answers(rig, place, port, "a", "c")
                    await answers(rig, place, port, "a")
                write_mesh(place, port, v1=f'["localhost:{b.port}"]')
                await answers(rig, place, port, "b")
            assert crowd.failed_n == 0, crowd.outcomes

    asyncio.run(scenario())
