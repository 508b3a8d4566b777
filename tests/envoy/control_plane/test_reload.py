"""The mesh file is edited while Serinus runs and people keep coming; and an Envoy that is stuck is left out."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import time
from pathlib import Path

import aiohttp

from xds_server.pb import control_pb2 as pb

log = logging.getLogger(__name__)

EDITS_N = 12
CHANGES = "listener_manager.listener_(added|modified|removed)"


def test_an_edited_mesh_is_taken_up_and_no_request_fails(rig, place):
    """The baseline moves to and fro between two places, a service comes and goes; SIGHUP does not wait for the look."""

    async def scenario() -> None:
        async with place.versions("v1", "v2", "elsewhere") as (v1, v2, elsewhere):
            path, port = place.write_mesh([v1, v2])
            async with (
                place.serinus() as serinus,
                rig.envoy(place.mesh(), "side-1", serinus.grpc),
                place.crowd(port, rate=150) as crowd,
            ):
                await asyncio.sleep(0.5)
                text, other = path.read_text(), place.free_port()
                extra = f"""
  cart:
    domains: [cart]
    port: {other}
    identity: [{{header: x-user-id}}]
    versions: {{v1: {{endpoints: ["127.0.0.1:{v2.port}"]}}}}
    baseline: v1
"""
                moved = text.replace(str(v1.port), str(elsewhere.port)).replace("services:\n", f"services:{extra}", 1)

                async def takes_up(content: str, now: bool) -> None:
                    before = int((await serinus.mesh())["read_unix_ns"])
                    path.write_text(content)
                    if now:
                        serinus.process.send_signal(signal.SIGHUP)
                    began = time.monotonic()

                    async def is_taken() -> bool:
                        return int((await serinus.mesh())["read_unix_ns"]) > before

                    await rig.eventually(is_taken, "the file is taken up")
                    log.info("taken up after %.2f s", time.monotonic() - began)

                for n in range(EDITS_N):
                    new, old = (elsewhere, v1) if n % 2 == 0 else (v1, elsewhere)
                    await takes_up(moved if n % 2 == 0 else text, now=n % 3 == 0)
                    asked_n = len(new.seen)

                    async def is_moved(new=new, asked_n=asked_n) -> bool:
                        return len(new.seen) > asked_n + 20

                    await rig.eventually(is_moved, "people are at the new place")
                    seen_n = len(old.seen)
                    await asyncio.sleep(0.2)
                    assert len(old.seen) == seen_n, "nobody is at the old place"
                    if n == 0:
                        async with aiohttp.ClientSession() as client:

                            async def is_there(client=client) -> bool:
                                url = f"http://127.0.0.1:{other}/"
                                try:
                                    async with client.get(url, headers={"host": "cart"}) as response:
                                        return response.status == 200
                                except aiohttp.ClientError:
                                    return False

                            await rig.eventually(is_there, "the new service answers")
            log.info("%d requests, %d failed", crowd.outcomes.total(), crowd.failed_n)
            assert crowd.outcomes.total() > 500
            assert crowd.failed_n == 0, crowd.outcomes

    asyncio.run(scenario())


def test_a_file_that_is_wrong_changes_nothing_and_is_told(rig, place):
    """A slip of the pen, a name that is not there, no file at all; then one that is right again."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            path, port = place.write_mesh(shop)
            async with (
                place.serinus() as serinus,
                rig.envoy(place.mesh(), "side-1", serinus.grpc) as envoy,
                place.crowd(port) as crowd,
            ):
                good = path.read_text()
                pushes = await serinus.metrics("serinus_xds_responses_total")
                changes = await envoy.stats(CHANGES)
                for content, why in (
                    (good.replace("baseline: v1", "baseline: v9"), "v9"),
                    (good.replace("services:", "services: [", 1), "not YAML"),
                    (good.replace("    baseline: v1", "    basline: v1"), "basline"),
                ):
                    path.write_text(content)

                    async def is_refused(why=why) -> bool:
                        return why in (await serinus.mesh()).get("refused", "")

                    await rig.eventually(is_refused, f"{why} is refused")
                    told = await serinus.say("status")
                    assert why in told.out
                assert await serinus.metrics("serinus_xds_responses_total") == pushes
                assert await envoy.stats(CHANGES) == changes
                path.unlink()
                serinus.process.send_signal(signal.SIGHUP)

                async def is_missed() -> bool:
                    return "no such file" in (await serinus.mesh())["refused"]

                await rig.eventually(is_missed, "that it is gone is told")
                path.write_text(good)

                async def is_well() -> bool:
                    return not (await serinus.mesh()).get("refused")

                await rig.eventually(is_well, "the right file is served")
                reads = await serinus.metrics("serinus_mesh_reads_total")
                assert reads["refused",] == 4
            assert crowd.failed_n == 0

    asyncio.run(scenario())


def test_what_no_envoy_would_take_is_refused_before_any_is_sent_it(rig, place):
    """Here Envoys have a lower limit on regular expressions than ours; the one that is asked beforehand has it too."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            path, port = place.write_mesh(shop)
            strict = place.directory / "bin"
            strict.mkdir()
            real = shutil.which("envoy") or Path(place.binary).with_name("envoy")
            limit = "{layered_runtime: {layers: [{name: l, static_layer: {re2.max_program_size.error_level: 30}}]}}"
            (strict / "envoy").write_text(f'#!/bin/sh\nexec "{real}" "$@" --config-yaml "{limit}"\n')
            (strict / "envoy").chmod(0o755)
            path_variable = f"{strict}:/usr/bin:/bin"
            async with (
                place.serinus(environment={"PATH": path_variable}) as serinus,
                rig.envoy(place.mesh(), "side-1", serinus.grpc),
                place.crowd(port) as crowd,
            ):
                good = path.read_text()
                pushes = await serinus.metrics("serinus_xds_responses_total")
                path.write_text(good.replace("exact: pro}", 'regex: "(a|b|c){20}"}'))

                async def is_refused() -> bool:
                    return "program size" in (await serinus.mesh()).get("refused", "")

                await rig.eventually(is_refused, "it is refused in Envoy's words", 20)
                refused = (await serinus.mesh())["refused"]
                assert refused.startswith(f"Envoy would reject it: RDS sidecar|{port}, route shop|power|"), refused
                assert await serinus.metrics("serinus_xds_responses_total") == pushes
            assert crowd.failed_n == 0

    asyncio.run(scenario())


def test_what_a_running_rollout_is_about_waits_until_it_has_ended(rig, place):
    """The endpoints move at once; the new segment waits, and is there once the rollout is rolled back."""

    async def scenario() -> None:
        async with place.versions("v1", "v2", "elsewhere") as (v1, v2, elsewhere):
            path, port = place.write_mesh([v1, v2])
            async with (
                place.serinus() as serinus,
                rig.envoy(place.mesh(), "side-1", serinus.grpc),
                aiohttp.ClientSession() as client,
            ):
                await serinus.begin()
                await serinus.set(4_000)
                await rig.eventually(serinus.in_force, "40 %")
                people = [f"p{n}" for n in range(100)]

                async def seen() -> list[tuple[int, str]]:
                    return [await place.visit(client, port, person) for person in people]

                before = await seen()
                more = "      new: {match: {headers: [{name: x-new, exact: yes}]}}\n    rollout:"
                edited = path.read_text().replace(str(v1.port), str(elsewhere.port)).replace("    rollout:", more, 1)
                path.write_text(edited)

                async def is_waiting() -> bool:
                    return (await serinus.mesh()).get("waiting") == ["shop"]

                await rig.eventually(is_waiting, "the new segment waits")
                assert "wait" in (await serinus.say("status")).out
                old_n = len(v1.seen)
                await asyncio.sleep(0.5)
                after = await seen()
                assert [(s, "elsewhere" if v == "v1" else v) for s, v in before] == after, "nobody changed versions"
                assert len(v1.seen) == old_n
                assert [each["segment"] for each in (await serinus.shop())["segments"]] == ["power", "default"]
                await serinus.act(pb.ACTION_ROLLBACK)

                async def is_there() -> bool:
                    names = [each["segment"] for each in (await serinus.shop())["segments"]]
                    return names == ["power", "new", "default"] and not (await serinus.mesh()).get("waiting")

                await rig.eventually(is_there, "the new segment is served", 20)
                assert {version for _, version in await seen()} == {"elsewhere"}

    asyncio.run(scenario())


def test_a_stuck_envoy_can_be_left_out_and_rises_go_on_without_it(rig, place):
    """Also after a restart of Serinus; until somebody takes it in again."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop, place.stopped_sidecar(rig, shop) as stopped:
            serinus = stopped.serinus
            await serinus.set(500)

            async def is_named() -> bool:
                return (await serinus.shop())["waiting_for"] == ["side-1"]

            await rig.eventually(is_named, "the laggard is named")
            said = await serinus.say("node", "exclude", "side-9", "--reason", "a slip of the pen")
            assert said.code != 0
            assert "side-1" in said.err
            said = await serinus.say("node", "exclude", "side-1", "--reason", "its machine hangs")
            assert said.code == 0, said.err
            await rig.eventually(serinus.in_force, "in force without it")
            await serinus.set(1_000)
            await rig.eventually(serinus.in_force, "the next rise is in force without it")
            assert (await serinus.shop())["nodes"]["side-1"]["excluded"].endswith(": its machine hangs")
            assert "its machine hangs" in (await serinus.say("status")).out
            await serinus.end()
            await serinus.start()
            await rig.eventually(serinus.in_force, "in force again after a restart", 20)
            assert "its machine hangs" in (await serinus.say("status")).out, "though it has not come back"
            await serinus.set(1_500)
            await rig.eventually(serinus.in_force, "still without it")
            said = await serinus.say("node", "include", "side-1")
            assert said.code == 0, said.err
            stopped.go_on()

            async def is_back() -> bool:
                node = (await serinus.shop())["nodes"].get("side-1", {})
                return bool(node.get("connected")) and not node["excluded"]

            await rig.eventually(is_back, "it is one of all again", 20)
            await rig.eventually(serinus.in_force, "it has caught up", 20)
            assert stopped.people.failed_n == 0

    asyncio.run(scenario())


def test_canaries_end_when_serinus_stands_still(rig, place):
    """SIGSTOP: its connections stay open and nothing comes. After SIGCONT everybody is where they were."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            path, port = place.write_mesh(shop)
            path.write_text(path.read_text() + "dead_man: 10s\n")
            async with (
                place.serinus() as serinus,
                rig.envoy(place.mesh(), "side-1", serinus.grpc),
                aiohttp.ClientSession() as client,
            ):
                await serinus.begin()
                await serinus.set(5_000)
                await rig.eventually(serinus.in_force, "50 %")
                people = [f"p{n}" for n in range(60)]

                async def seen() -> list[tuple[int, str]]:
                    return [await place.visit(client, port, person) for person in people]

                before = await seen()
                assert {version for _, version in before} == {"v1", "v2"}
                serinus.process.send_signal(signal.SIGSTOP)
                began = time.monotonic()
                try:

                    async def is_baseline() -> bool:
                        return {version for _, version in await seen()} == {"v1"}

                    await asyncio.sleep(3.0)
                    assert await seen() == before, "not before its time"
                    await rig.eventually(is_baseline, "the canary has ended", 12)
                    log.info("canaries ended after %.1f s", time.monotonic() - began)
                finally:
                    serinus.process.send_signal(signal.SIGCONT)

                async def is_as_before() -> bool:
                    return await seen() == before

                await rig.eventually(is_as_before, "everybody is where they were", 20)

    asyncio.run(scenario())
