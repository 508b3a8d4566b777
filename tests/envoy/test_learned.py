"""Learned segments on real Envoys: who is asked for, when, what is believed, and what happens without an answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc

from analysis.spec import SegmentSpec
from xds_server.ads.cache import AdsCache
from xds_server.ads.servicer import SERVER_OPTIONS, add_ads
from xds_server.ingest.rows import user_hash
from xds_server.learnt.cookies import CookieSigner
from xds_server.learnt.memberships import Adopted, Memberships, Table
from xds_server.learnt.resolver import Resolver, Served
from xds_server.learnt.servicer import add_authorization
from xds_server.mesh import (
    CookieIdentity,
    HeaderIdentity,
    LearnedTable,
    Mesh,
    SegmentMatch,
    SegmentSplit,
    Service,
    ServiceSplits,
    ValueMatch,
)

HASH_KEY, SECRET = b"h" * 32, b"s" * 32
COOKIE = "serinus-segment-shop"
NEWCOMERS = (SegmentSpec(name="fresh"), SegmentMatch(learned="newcomers"))
BETA = (SegmentSpec(name="beta"), SegmentMatch(headers=(ValueMatch(name="x-beta", kind="exact", value="yes"),)))
HEADER_OR_COOKIE = (HeaderIdentity(header="x-user-id"), CookieIdentity(cookie="sid", ttl_s=3_600))


class Clock:
    """The system's, and how far it is put forward."""

    ahead_s = 0

    def now_unix_ns(self) -> int:
        return time.time_ns() + self.ahead_s * 10**9

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass(slots=True)
class Plane:
    """An ADS server that also answers who is where. `delay_s`: for how long it thinks about it."""

    port: int
    cache: AdsCache
    resolver: Resolver
    clock: Clock
    server: Any
    delay_s: float = 0.0

    @property
    def asked_n(self) -> int:
        return self.resolver.counts.total()

    def tell(self, service: str, *newcomers: str, version: int = 1) -> None:
        """These are the newcomers of a service, by their keys."""
        adopted = Adopted(name="newcomers", description="", at_unix_ns=0, who="test")
        people = [user_hash(HASH_KEY, key.encode()) for key in newcomers]
        table = Table(version=version - 1).adopting(adopted, people)
        served = Served(memberships=Memberships(current=table), learned={"fresh": "newcomers"}, gap_s=60.0)
        self.resolver.services[service] = served

    def splits(self, services: Mapping[str, Service], *, segment: str = "fresh", generation: int = 1) -> Any:
        """All of that segment's people go to v2, if their service has the segment."""
        result = {}
        for name in services:
            served = self.resolver.services.get(name)
            version = served.memberships.current.version if served is not None else 0
            table = LearnedTable(version=version, public_key=self.resolver.signer.public_key)
            split = SegmentSplit(baseline="v1", canary="v2", canary_bp=10_000)
            learned = table if served is not None else None
            result[name] = ServiceSplits(
                rollout=f"{name}-1", generation=generation, segments={segment: split}, learned=learned
            )
        return result


@contextlib.asynccontextmanager
async def learned_plane(port: int = 0) -> AsyncIterator[Plane]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    clock = Clock()
    resolver = Resolver(hash_user=lambda key: user_hash(HASH_KEY, key), signer=CookieSigner(SECRET), clock=clock)
    plane = Plane(port, AdsCache(), resolver, clock, server)
    add_ads(server, plane.cache)
    add_authorization(server, resolver)
    plane.port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield plane
    finally:
        await server.stop(None)


@dataclass(slots=True)
class Shop:
    """One service with a learned segment behind one Envoy."""

    rig: Any
    plane: Plane
    port: int
    mesh: Mesh
    envoy: Any
    client: aiohttp.ClientSession

    async def ask(self, person: str = "", cookie: str = "", path: str = "/", **headers: str) -> Any:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if person:
            given["x-user-id"] = person
        if cookie:
            given["cookie"] = cookie
        return await self.rig.ask(self.client, self.port, given, path)


@contextlib.asynccontextmanager
async def shop(
    rig: Any, *, segments: Any = (NEWCOMERS,), newcomers: tuple[str, ...] = ("anna",), **more: Any
) -> AsyncIterator[Shop]:
    async with rig.backend("v1") as v1, rig.backend("v2") as v2, learned_plane() as plane:
        port = rig.free_port()
        service = rig.service({"v1": v1, "v2": v2}, port=port, segments=segments, **more)
        mesh = Mesh(path="mesh.yaml", services={"shop": service})
        plane.tell("shop", *newcomers)
        plane.cache.publish(mesh, plane.splits(mesh.services))
        jar = aiohttp.DummyCookieJar()
        async with (
            rig.envoy(mesh, "side-1", plane.port) as envoy,
            aiohttp.ClientSession(cookie_jar=jar) as client,
        ):
            yield Shop(rig, plane, port, mesh, envoy, client)


def cookie_of(answer: Any) -> str:
    """What a browser would send back of what the answer says of segments."""
    (line,) = [line for line in answer.set_cookies if line.startswith(COOKIE)]
    return str(line.partition(";")[0])


def test_a_person_with_history_is_routed_by_the_learned_segments_split_and_asked_for_once(rig):
    async def scenario() -> None:
        async with shop(rig) as s:
            first = await s.ask("anna")
            assert (first.version, first.headers["x-serinus-segment"]) == ("v2", "newcomers")
            cookie = cookie_of(first)
            assert s.plane.asked_n == 1
            for _ in range(20):
                again = await s.ask("anna", cookie)
                assert (again.version, again.set_cookies) == ("v2", ())
            assert s.plane.asked_n == 1
            stranger = await s.ask("bob")
            assert (stranger.version, "x-serinus-segment" in stranger.headers) == ("v1", False)
            for _ in range(20):
                assert (await s.ask("bob", cookie_of(stranger))).version == "v1"
            assert s.plane.asked_n == 2
            assert (await s.ask()).version == "v1"  # nobody: no question
            assert s.plane.asked_n == 2

    asyncio.run(scenario())
