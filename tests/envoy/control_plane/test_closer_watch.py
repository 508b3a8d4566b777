"""From a mild fault to a closer watch, with the evidence that people on a real Envoy give."""

from __future__ import annotations

import asyncio
import json
import logging

log = logging.getLogger(__name__)


def test_a_mild_fault_halves_the_split_and_has_its_segment_watched_before_it_is_proven(rig, place):
    """One in ten fails. The watch begins at half of the proof and ends with it; the other segment knows of nothing."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            _, port = place.write_mesh(shop)
            async with place.serinus() as serinus, rig.envoy(place.mesh(), "side-1", serinus.grpc):
                await serinus.begin()
                async with place.crowd(port):
                    await serinus.set(4_000)
                    await rig.eventually(serinus.in_force, "40 % is in force")
                    shop[1].fails_every = 25

                    async def is_back() -> bool:
                        return [each["phase"] for each in (await serinus.shop())["segments"]] == [
                            "ramping",
                            "rolled_back",
                        ]

                    await rig.eventually(is_back, "the fault is proven where it is", 30)
                rows = [row for row in await serinus.history() if not row["who"]]
                told = {"power": [], "default": []}
                for row in rows:
                    told[row["segment"]].append((row["verdict"], json.loads(row["detail_json"])["watched"]))
                log.info("told: %s", told)
                assert set(told["power"]) == {("hold", False)}
                assert told["default"][-1] == ("rollback", False)
                watched = [verdict for verdict, watched in told["default"] if watched]
                assert (watched.count("reduce"), set(watched)) == (1, {"hold", "reduce"})
                (reduced,) = (row for row in rows if row["verdict"] == "reduce")
                assert (reduced["split_before_bp"], reduced["split_after_bp"]) == (4_000, 2_000)
                assert not any(each["watched"] for each in (await serinus.shop())["segments"])
                assert await serinus.metrics("serinus_watched") == {("default", "shop"): 0, ("power", "shop"): 0}

    asyncio.run(scenario())
