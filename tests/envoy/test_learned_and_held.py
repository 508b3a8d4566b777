"""Learned segments and sessions that are held, together, on real Envoys."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest

from analysis.spec import SegmentSpec
from tests.envoy.test_learned import BETA, HEADER_OR_COOKIE, NEWCOMERS, SIGNER, Plane, learned_plane
from xds_server.mesh import (
    Gateway,
    LearnedTable,
    Mesh,
    SegmentMatch,
    SegmentSplit,
    ServiceSplits,
    Sidecar,
    ValueMatch,
    with_hold_secret,
)
from xds_server.stamp import TAG, read_stamp

BASIC = (SegmentSpec(name="basic"), SegmentMatch(cookies=(ValueMatch(name="plan", kind="exact", value="basic"),)))
VERSIONS = {"beta": "v2", "fresh": "v3", "basic": "v4", "default": "v1"}
"""Each segment has a version of its own, so that the version tells the segment."""


@dataclass(slots=True)
class Browser:
    """Somebody who keeps cookies."""

    it: Shop
    person: str
    jar: dict[str, str]

    async def ask(self, beta: str = "", path: str = "/login", **headers: str) -> str:
        """Ask for a page that sets a cookie of its own; return the version that answered."""
        given = {"x-user-id": self.person} if self.person else {}
        given |= {"x-beta": beta} if beta else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        if self.jar:
            given["cookie"] = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        self.it.asked_n += 1
        answer = await self.it.rig.ask(self.it.client, self.it.port, given, path)
        assert answer.status == 200
        assert "x-serinus-held" not in answer.headers
        names = [line.partition("=")[0] for line in answer.set_cookies]
        assert len(set(names)) == len(names), names
        assert "app" in names or path != "/login", "the application's own cookies arrive"
        for line in answer.set_cookies:
            name, _, value = line.partition(";")[0].partition("=")
            self.jar[name] = value
        return str(answer.version)


@dataclass(slots=True)
class Shop:
    rig: Any
    plane: Plane
    port: int
    mesh: Mesh
    client: aiohttp.ClientSession
    envoys: tuple[Any, ...]
    asked_n: int = 0

    def browser(self, person: str = "anna") -> Browser:
        return Browser(self, person, {})

    def publish(self, generation: int) -> None:
        segments = {name: SegmentSplit(baseline=version) for name, version in VERSIONS.items()}
        memberships = self.plane.resolver.services["shop"].memberships
        table = LearnedTable(version=memberships.current.version, public_key=SIGNER.public_key)
        self.plane.cache.publish(
            self.mesh,
            {"shop": ServiceSplits(rollout="shop-1", generation=generation, segments=segments, learned=table)},
        )


@contextlib.asynccontextmanager
async def shop(rig: Any, via: str) -> AsyncIterator[Shop]:
    async with contextlib.AsyncExitStack() as stack:
        backends = {name: await stack.enter_async_context(rig.backend(name)) for name in ("v1", "v2", "v3", "v4")}
        plane = await stack.enter_async_context(learned_plane())
        side, edge = rig.free_port(), rig.free_port()
        service = rig.service(backends, port=side, identity=HEADER_OR_COOKIE, segments=(BETA, NEWCOMERS, BASIC))
        to = "inner" if via == "both" else None
        mesh = Mesh(
            path="mesh.yaml",
            services={"shop": replace(service, learned_timeout_ms=1_000)},
            gateways={"edge": Gateway(node="edge", listen=("127.0.0.1", edge), services=("shop",), to=to)},
            sidecars={"inner": Sidecar(node="inner", listen=("127.0.0.1", side))},
        )
        mesh = with_hold_secret(mesh, b"s" * 32)
        plane.tell("shop", "anna")
        nodes = {"sidecar": ["inner"], "gateway": ["edge"], "both": ["inner", "edge"]}[via]
        it = Shop(rig, plane, side if via == "sidecar" else edge, mesh, None, ())  # type: ignore[arg-type]
        it.publish(1)
        it.envoys = tuple([await stack.enter_async_context(rig.envoy(mesh, node, plane.port)) for node in nodes])
        it.client = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
        yield it


@pytest.mark.parametrize("via", ["sidecar", "gateway", "both"])
def test_who_is_learned_is_held_as_anybody_else(rig: Any, via: str) -> None:
    async def scenario() -> None:
        async with shop(rig, via) as it:
            anna = it.browser()
            assert await anna.ask() == "v3"
            assert await anna.ask() == "v3"
            assert {"serinus-segment-shop", "sid_segment_shop"} <= set(anna.jar)
            assert await anna.ask("yes") == "v3", "an earlier segment, in mid-session"
            assert await anna.ask("yes", x_serinus_held="beta", x_serinus_segment="") == "v3"
            assert await it.browser().ask("yes") == "v2", "a session of its own"
            bob = it.browser("bob")
            assert await bob.ask() == "v1"
            assert await bob.ask(x_serinus_segment="newcomers") == "v1"
            assert await bob.ask(x_serinus_held="fresh") == "v1"
            assert await bob.ask(x_serinus_held="fresh", x_serinus_segment="newcomers", path="/a") == "v1"
            it.plane.tell("shop", "anna", "bob", version=2)
            it.publish(2)

            async def is_learned() -> bool:
                return await it.browser("bob").ask() == "v3"

            await rig.eventually(is_learned, "bob is a newcomer")
            assert await bob.ask() == "v1", "learnt in mid-session"
            assert await bob.ask("yes") == "v1"
            del bob.jar["sid_segment_shop"]
            assert await bob.ask() == "v3", "a new session"
            asked_n = it.plane.asked_n
            for _ in range(5):
                assert (await anna.ask(), await bob.ask()) == ("v3", "v3")
            assert it.plane.asked_n - asked_n <= 4
            errors = [n for envoy in it.envoys for n in (await envoy.stats("lua.*errors$")).values()]
            assert errors
            assert not any(errors)

            async def is_logged() -> bool:
                return len(it.plane.logs) >= len(it.envoys) * it.asked_n

            await rig.eventually(is_logged, "every request is in the access log")
            logged: dict[str, set[str]] = {}
            for _, entry in it.plane.logs:
                stamp, *_, key = entry.common_properties.custom_tags[TAG].split("\n")
                if segment := read_stamp(stamp).segment:
                    assert entry.common_properties.upstream_cluster == f"shop|{VERSIONS[segment]}"
                    logged.setdefault(key, set()).add(segment)
            assert logged == {"anna": {"fresh", "beta"}, "bob": {"default", "fresh"}}

    asyncio.run(scenario())
