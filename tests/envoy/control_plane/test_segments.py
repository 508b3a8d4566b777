"""Segments of a running `serinus`: who has been seen in each, and people who stay in theirs over a restart."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import aiohttp


async def ask(client: aiohttp.ClientSession, port: int, plan: str, jar: str = "a=1") -> tuple[str, str]:
    """The version, and the cookie that was set."""
    headers = {"host": "shop", "x-user-id": "anna", "x-plan": plan, "cookie": jar}
    async with client.get(f"http://127.0.0.1:{port}/", headers=headers) as response:
        await response.read()
        return response.headers.get("x-version", ""), response.headers.get("set-cookie", "").partition(";")[0]


def test_a_session_is_held_by_cookies_that_a_restart_does_not_make_void(rig, place):
    """Everybody in `power` gets the canary: who began in `default` is not in it before the session is over."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            _, port = place.write_mesh(shop)
            async with (
                place.serinus() as serinus,
                rig.envoy(place.mesh(), "side-1", serinus.grpc),
                aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
            ):
                await serinus.begin()
                await serinus.set(10_000, "power")
                await rig.eventually(serinus.in_force, "power is on the canary")
                assert (await ask(client, port, "pro"))[0] == "v2"
                version, hold = await ask(client, port, "free")
                assert version == "v1"
                assert hold.startswith("serinus-hold-shop=")
                assert (await ask(client, port, "pro", hold))[0] == "v1"
                await serinus.end(signal.SIGTERM)
                await serinus.start()
                await rig.eventually(serinus.in_force, "after the restart", 45.0)
                _, hold = await ask(client, port, "free")
                assert (await ask(client, port, "pro", hold)) == ("v1", "")

    asyncio.run(scenario())


def test_status_shows_who_was_seen_in_each_segment(rig, place):
    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            _, port = place.write_mesh(shop, segments="beta: {match: {cookies: [{name: beta, present: true}]}}")
            async with (
                place.serinus() as serinus,
                rig.envoy(place.mesh(), "side-1", serinus.grpc),
                aiohttp.ClientSession() as client,
            ):
                for person in range(10):
                    for _ in range(2):
                        await place.visit(client, port, f"p{person}", "pro" if person < 3 else "free")

                async def seen() -> dict[str, tuple[int, int]]:
                    segments: list[dict[str, Any]] = (await serinus.shop())["segments"]
                    return {s["segment"]: (int(s["seen_requests"]), int(s["seen_people"])) for s in segments}

                async def is_shown() -> bool:
                    return await seen() == {"power": (6, 3), "beta": (0, 0), "default": (14, 7)}

                await rig.eventually(is_shown, "all who came are seen", 30.0)
                said = await serinus.say("status")
                assert "30.0% 3" in said.out
                assert "70.0% 7" in said.out

    asyncio.run(scenario())
