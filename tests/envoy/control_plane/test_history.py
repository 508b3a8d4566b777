"""From what people do to the segment that they are routed by: nothing is told to Serinus but by its Envoys."""

from __future__ import annotations

import asyncio
import json

import aiohttp

SEGMENTS = """newcomers: {learned: newcomers}
    learned: {timeout: 1s}"""
VISITORS, REGULARS, VISITS = 150, 60, 4


async def live(port: int) -> None:
    """Many come once and look at one page, a few come again and again and look at many."""

    async def visit(client: aiohttp.ClientSession, person: str, pages: int) -> None:
        for page in range(pages):
            headers = {"host": "shop", "x-user-id": person}
            async with client.get(f"http://127.0.0.1:{port}/page-{'abcdef'[page]}", headers=headers) as answer:
                assert answer.status == 200

    async with aiohttp.ClientSession() as client:
        await asyncio.gather(*(visit(client, f"visitor-{i}", 1) for i in range(VISITORS)))
        for _ in range(VISITS):
            await asyncio.gather(*(visit(client, f"regular-{i}", 6) for i in range(REGULARS)))
            await asyncio.sleep(2.6)  # the visit is over


def test_what_people_did_makes_the_segment_that_they_are_routed_by(place, rig):
    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            _, port = place.write_mesh(shop, segments=SEGMENTS)
            async with place.serinus() as serinus, rig.envoy(place.mesh(), "side-1", serinus.grpc):
                await live(port)

                async def are_remembered() -> bool:
                    people = await serinus.metrics("serinus_people")
                    return sum(people.values()) == VISITORS + REGULARS

                await rig.eventually(are_remembered, "everybody is remembered", 20)
                await asyncio.sleep(4)  # the last visits are over
                trained = await serinus.say("profile", "train", "shop")
                assert trained.code == 0, trained.err
                assert "default:" in trained.out, trained.out
                listed = json.loads((await serinus.say("segment", "list", "shop", "--json")).out)
                by_size = {each["people"]: each for each in listed["proposals"]}
                assert set(by_size) == {VISITORS, REGULARS}, listed
                cluster = by_size[VISITORS]["cluster"]
                adopted = await serinus.say("segment", "adopt", "shop", cluster, "newcomers")
                assert adopted.code == 0, adopted.err
                await serinus.begin()
                await serinus.set(10_000, "newcomers")
                await rig.eventually(serinus.in_force, "the split is in force")
                async with aiohttp.ClientSession() as client:
                    known = [(await place.visit(client, port, f"visitor-{i}"))[1] for i in range(30)]
                    others = [(await place.visit(client, port, f"regular-{i}"))[1] for i in range(30)]
                    strangers = [(await place.visit(client, port, f"stranger-{i}"))[1] for i in range(30)]
                assert (set(known), set(others), set(strangers)) == ({"v2"}, {"v1"}, {"v1"})
                shown = await serinus.say("profile", "show", "shop", "default")
                assert "done in a session: call /page-a 100 %" in shown.out, shown.out

    asyncio.run(scenario())
