"""Access logs of one of two Envoys that do not arrive for a while: the rollout holds, and goes on by itself."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.envoy.relay import relay

log = logging.getLogger(__name__)


@pytest.mark.shows("matrix", 16)
def test_logs_that_are_held_back_hold_the_rollout_until_they_are_here(rig, place):
    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            edge = place.free_port()
            gateways = {"edge": {"listen": f"127.0.0.1:{edge}", "services": ["shop"]}}
            _, port = place.write_mesh(shop, min_dwell="0s", gateways=gateways)
            async with (
                place.serinus() as serinus,
                relay(serinus.grpc) as between,
                rig.envoy(place.mesh(), "side-1", between.port),
                rig.envoy(place.mesh(), "edge", serinus.grpc),
                place.crowd(edge, prefix="e"),
                place.crowd(port, prefix="s") as crowd,
            ):
                await serinus.begin()

                async def logs() -> dict:
                    return (await serinus.shop())["log_check"]

                async def are_compared() -> bool:
                    check = await logs()
                    return check["nodes"] == check["carriers"] == 2 and check["total"]["requests"] >= 1_000

                await rig.eventually(are_compared, "both report their load", 20)
                total = (await logs())["total"]
                assert (total["needed"], total["lower"]) == (0, 0)
                assert total["upper"] < 0.2
                assert await serinus.metrics("serinus_lrs_nodes") == {(): 2}
                assert (await serinus.metrics("serinus_access_log_loss_ratio"))["shop", "v1"] < 0.05

                between.flowing.clear()

                async def are_missing() -> bool:
                    return (await logs())["total"]["lower"] > 0.05

                await rig.eventually(are_missing, "the logs are missed", 20)
                await serinus.set(500)  # out of the warm-up: from here on the engine would go on by itself
                await rig.eventually(serinus.in_force, "5 %")
                await asyncio.sleep(2.0)
                status = await serinus.shop()
                assert {each["split"] for each in status["segments"]} == {0.05}
                for segment in status["segments"]:
                    assert segment["verdict"] == "hold"
                    assert segment["reason"].startswith("the access logs lack at least ")
                    assert segment["reason"].endswith(" of them of side-1")
                assert status["log_check"]["total"]["node"] == "side-1"
                held = [row for row in await serinus.history() if '"log_loss"' in row["detail_json"]]
                assert {row["verdict"] for row in held} == {"hold"}
                assert "side-1 lacks most" in (await serinus.say("explain", "shop")).out
                assert "logs lack " in (await serinus.say("status")).out

                between.flowing.set()

                async def goes_on() -> bool:
                    return max(each["split"] for each in (await serinus.shop())["segments"]) > 0.05

                await rig.eventually(goes_on, "late is not lost: the rollout goes on", 20)
                assert (await logs())["total"]["lower"] < 0.02
                assert crowd.failed_n == 0

    asyncio.run(scenario())
