"""What goes wrong around a running rollout: a canary that crashes, an Envoy that refuses, one that stands still."""

from __future__ import annotations

import asyncio
import logging
import time

import aiohttp
import pytest

from xds_server.assign import bucket
from xds_server.pb import control_pb2 as pb

log = logging.getLogger(__name__)

CRASH_BOUND_S = 3.0  # what is promised
NOISE_S = 3.0  # what a busy test machine is granted on top


def test_a_canary_that_fails_every_request_is_out_of_traffic_in_seconds(rig, place):
    """From its first failed request to its last one; it has a quarter of the people, and no statistics to hide in."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            _, port = place.write_mesh(shop)
            shop[1].status = 503
            async with place.serinus() as serinus, rig.envoy(place.mesh(), "side-1", serinus.grpc):
                await serinus.begin()
                async with place.crowd(port, rate=100) as crowd:
                    await asyncio.sleep(1.0)
                    assert crowd.failed_n == 0
                    await serinus.set(2_500)

                    async def is_back() -> bool:
                        return {each["split"] for each in (await serinus.shop())["segments"]} == {0.0}

                    await rig.eventually(is_back, "everybody is rolled back")
                    await asyncio.sleep(2.0)
                    asked_n = len(shop[1].seen)
                    await asyncio.sleep(1.0)
                    assert len(shop[1].seen) == asked_n, "the canary is still asked"
                times = [at for at, _ in shop[1].seen]
                log.info("crash: %.2f s, %d failed requests", times[-1] - times[0], len(times))
                assert times[-1] - times[0] <= CRASH_BOUND_S + NOISE_S
                default = (await serinus.shop())["segments"][-1]
                assert (default["phase"], default["health"]) == ("rolled_back", "harmful")
                (tier,) = {row["tier"] for row in await serinus.history() if row["verdict"] == "rollback"}
                assert tier == "hard"

    asyncio.run(scenario())


def test_two_envoys_in_a_row_are_one_count(rig, place):
    """The gateway hands over to the sidecar, which splits: a request is one sample; the other entry has its reason."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            edge = place.free_port()
            gateways = {"edge": {"listen": f"127.0.0.1:{edge}", "services": ["shop"], "to": "inner"}}
            sidecars = {"inner": {"listen": f"127.0.0.1:{place.free_port()}"}}
            place.write_mesh(shop, gateways=gateways, sidecars=sidecars)
            async with (
                place.serinus() as serinus,
                rig.envoy(place.mesh(), "inner", serinus.grpc),
                rig.envoy(place.mesh(), "edge", serinus.grpc),
            ):
                await serinus.begin()
                await serinus.set(5_000)
                await rig.eventually(serinus.in_force, "both have the routes")
                async with aiohttp.ClientSession() as client:
                    for begin in range(0, 300, 20):
                        people = [f"p{n}" for n in range(begin, begin + 20)]
                        answers = await asyncio.gather(*(place.visit(client, edge, person) for person in people))
                        assert {status for status, _ in answers} == {200}

                async def all_here() -> bool:
                    return sum((await serinus.metrics("serinus_ingest_entries_total")).values()) >= 600

                await rig.eventually(all_here, "both have sent their logs")
                await asyncio.sleep(0.5)
                assert await serinus.metrics("serinus_samples_total") == {("shop",): 300}
                status = await serinus.shop()
                assert status["routed_by"] == {"inner": status["generation"]}  # the stamp came back in the logs
                entries = await serinus.metrics("serinus_ingest_entries_total")
                assert entries == {("accepted", "access_log"): 300, ("forwarding_hop", "access_log"): 300}
                assert len(shop[0].seen) + len(shop[1].seen) == 300
                assert min(len(shop[0].seen), len(shop[1].seen)) > 100

    asyncio.run(scenario())


def test_people_who_do_not_come_as_the_split_asked_for_hold_the_rollout_until_a_person_resumes_it(rig, place):
    """First a crowd whom chance spreads, then people who all happen to be in the canary's half."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            _, port = place.write_mesh(shop)
            async with (
                place.serinus() as serinus,
                rig.envoy(place.mesh(), "side-1", serinus.grpc),
                aiohttp.ClientSession() as client,
            ):
                rollout = await serinus.begin()
                await serinus.set(5_000)
                await rig.eventually(serinus.in_force, "50 %")
                await asyncio.sleep(2.0)  # what comes so soon after a change is not counted
                async with place.crowd(port, rate=100) as crowd:
                    await asyncio.sleep(3.0)

                async def reasons() -> set[str]:
                    return {each["reason"] for each in (await serinus.shop())["segments"]}

                async def are_counted() -> bool:
                    return int((await serinus.shop())["sample_ratio"]["people"]) == len(crowd.versions)

                await rig.eventually(are_counted, "everybody of the crowd is counted")
                assert not any("asked for" in reason for reason in await reasons())
                ratio = (await serinus.shop())["sample_ratio"]
                assert ratio["asked"] == 0.5 * int(ratio["people"])
                assert ratio["evidence"] < ratio["evidence_needed"]
                chosen = [f"q{n}" for n in range(400) if bucket(rollout, f"q{n}") < 5_000]
                for person in chosen:
                    await place.visit(client, port, person)
                    await place.visit(client, port, person)

                async def is_held() -> bool:
                    return any("new people in all segments together" in reason for reason in await reasons())

                await rig.eventually(is_held, "the mismatch is found")
                status = await serinus.shop()
                assert {each["split"] for each in status["segments"]} == {0.5}
                assert int(status["sample_ratio"]["people"]) <= len(crowd.versions) + len(chosen)
                assert (await serinus.metrics("serinus_sample_ratio_evidence"))[("shop",)] > 6.9
                held = [row for row in await serinus.history() if "sample_ratio" in row["detail_json"]]
                assert {row["verdict"] for row in held} == {"hold"}
                assert "then `serinus rollout resume shop" in (await serinus.say("explain", "shop")).out
                await serinus.act(pb.ACTION_RESUME)
                await asyncio.sleep(1.2)
                assert not any("asked for" in reason for reason in await reasons())

    asyncio.run(scenario())


@pytest.mark.shows("matrix", 3)
def test_a_rejected_configuration_holds_the_rollout_and_all_go_back_to_what_everybody_had(rig, place):
    """One Envoy's own limit on regular expressions is lowered while it runs, so that it refuses the next routes.

    The other one takes them, and would go on sending 60 % to where the first sends 10 %: it is taken back to that.
    """

    def with_limit(config) -> None:
        config["layered_runtime"] = {"layers": [{"name": "admin", "admin_layer": {}}]}

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            edge = place.free_port()
            gateways = {"edge": {"listen": f"127.0.0.1:{edge}", "services": ["shop"]}}
            _, port = place.write_mesh(shop, gateways=gateways)
            async with (
                place.serinus() as serinus,
                rig.envoy(place.mesh(), "side-1", serinus.grpc, edit=with_limit) as envoy,
                rig.envoy(place.mesh(), "edge", serinus.grpc),
                aiohttp.ClientSession() as client,
            ):
                people = [f"p{n}" for n in range(200)]

                async def seen(at: int) -> list[tuple[int, str]]:
                    return [await place.visit(client, at, person) for person in people]

                await serinus.begin()
                await serinus.set(1_000)
                await rig.eventually(serinus.in_force, "10 %")
                before = await seen(port)
                assert await seen(edge) == before
                await client.post(f"{envoy.admin}/runtime_modify?re2.max_program_size.error_level=1")
                await serinus.set(6_000)

                async def is_back() -> bool:
                    status = await serinus.shop()
                    return status["state"] == "paused" and len(status["nodes"]["side-1"]["rejections"]) == 2

                await rig.eventually(is_back, "the rollout is held and has gone back")
                await asyncio.sleep(1.5)
                assert await seen(port) == before, "its last good configuration serves on"
                assert await seen(edge) == before, "and everybody else's is like it again"
                status = await serinus.shop()
                for rejection in status["nodes"]["side-1"]["rejections"]:  # of the 60 %, and of the way back
                    assert rejection["type"] == "RDS"
                    assert "program size" in rejection["message"]
                    assert rejection["resources"] == [f"sidecar|{port}"]
                assert status["nodes"]["edge"]["rejections"] == []
                assert status["segments"][-1]["reason"].startswith("held: side-1 rejected RDS: ")
                assert (status["in_force"], status["waiting_for"]) == (False, ["side-1"])
                assert {each["split"] for each in status["segments"]} == {0.1}
                assert (await serinus.metrics("serinus_xds_responses_total"))["nack", "RDS"] == 2, "one a version"
                history = await serinus.history()
                pauses = [row for row in history if row["verdict"] == "pause"]
                assert {row["who"] for row in pauses} == {"serinus"}
                assert len(pauses) == 2, "once a segment"
                backs = [row for row in history if row["who"] == "serinus" and row["verdict"] == "set"]
                assert len(backs) == 2, "once a segment"
                told = await serinus.say("explain", "shop")
                assert "Serinus itself paused it" in told.out
                assert "rejected RDS" in told.out
                # The cause is mended; new content is taken, and after a person's word the rollout goes on.
                await client.post(f"{envoy.admin}/runtime_modify?re2.max_program_size.error_level=100000")
                await serinus.set(1_500)
                await rig.eventually(serinus.in_force, "15 %")
                assert (await serinus.shop())["state"] == "paused"
                await serinus.act(pb.ACTION_RESUME)
                status = await serinus.shop()
                assert status["state"] == "running"
                assert "held" not in status["segments"][-1]["reason"]

    asyncio.run(scenario())


def test_an_envoy_that_cannot_acknowledge_stops_every_rise_but_no_rollback(rig, place):
    """It carried traffic and now stands still: it is named, nothing rises, and the other is rolled back at once."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop, place.stopped_sidecar(rig, shop, min_dwell="0s") as stopped:
            serinus = stopped.serinus
            await serinus.set(500)  # out of the warm-up: from here on the engine would go on by itself

            async def is_named() -> bool:
                return (await serinus.shop())["waiting_for"] == ["side-1"]

            await rig.eventually(is_named, "the laggard is named")
            await asyncio.sleep(2.0)
            status = await serinus.shop()
            assert not status["in_force"]
            assert {each["split"] for each in status["segments"]} == {0.05}
            assert "acknowledge" in status["segments"][-1]["reason"]
            began = time.monotonic()
            await serinus.act(pb.ACTION_ROLLBACK)
            await asyncio.sleep(1.0)
            late = [at - began for at, _ in shop[1].seen if at > began + 1.0]
            assert late == [], "the other Envoy has not been rolled back at once"
            assert (await serinus.shop())["waiting_for"] in ([], ["side-1"])
            stopped.go_on()
            await rig.eventually(serinus.in_force, "it has caught up")
            assert stopped.people.failed_n == 0

    asyncio.run(scenario())
