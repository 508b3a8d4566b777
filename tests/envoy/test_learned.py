"""Learned segments on real Envoys: who is asked for, when, what is believed, and what happens without an answer."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import grpc
import pytest

from analysis.spec import SegmentSpec
from tests.envoy.conftest import ControlPlane
from xds_server.ads.cache import AdsCache
from xds_server.ads.servicer import SERVER_OPTIONS, add_ads
from xds_server.clock import SystemClock
from xds_server.flags.context import read_context
from xds_server.flags.evaluation import Flags
from xds_server.ingest.rows import user_hash
from xds_server.learnt.cookies import CookieSigner
from xds_server.learnt.memberships import Adopted, Memberships, Table
from xds_server.learnt.resolver import Resolver, Result, Served
from xds_server.learnt.servicer import SERVICE, method
from xds_server.mesh import (
    CookieIdentity,
    Gateway,
    HeaderIdentity,
    LearnedTable,
    Mesh,
    SegmentMatch,
    SegmentSplit,
    ServiceSplits,
    Sidecar,
    ValueMatch,
)
from xds_server.stamp import TAG, read_stamp

SIGNER = CookieSigner(b"s" * 32)
NEWCOMERS = (SegmentSpec(name="fresh"), SegmentMatch(learned="newcomers"))
BETA = (SegmentSpec(name="beta"), SegmentMatch(headers=(ValueMatch(name="x-beta", kind="exact", value="yes"),)))
HEADER_OR_COOKIE = (HeaderIdentity(header="x-user-id"), CookieIdentity(cookie="sid", ttl_s=3_600))


@dataclass(slots=True)
class Plane(ControlPlane):
    """An ADS server with a collector of access logs that also answers who is where, after `delay_s`."""

    delay_s: float = 0.0
    begun_n: int = 0
    resolver: Resolver = field(default_factory=lambda: Resolver(hash_user=hashed, signer=SIGNER, clock=SystemClock()))

    @property
    def asked_n(self) -> int:
        return self.resolver.counts.total()

    def tell(self, service: str, *newcomers: str, version: int = 1, gap_s: float = 60.0) -> None:
        """These are the newcomers of a service, by their keys."""
        adopted = Adopted(name="newcomers", description="", at_unix_ns=0, who="test")
        table = Table(version=version - 1).adopting(adopted, [hashed(key.encode()) for key in newcomers])
        served = Served(memberships=Memberships(current=table), learned={"fresh": "newcomers"}, gap_s=gap_s)
        self.resolver.services[service] = served

    def publish(self, mesh: Mesh, segment: str = "fresh", generation: int = 1) -> None:
        """Everybody who is in that segment goes to v2."""
        split = SegmentSplit(baseline="v1", canary="v2", canary_bp=10_000)
        splits = {}
        for name in mesh.services:
            served = self.resolver.services.get(name)
            table = (
                LearnedTable(version=served.memberships.current.version, public_key=SIGNER.public_key)
                if served
                else None
            )
            splits[name] = ServiceSplits(
                rollout=f"{name}-1", generation=generation, segments={segment: split}, learned=table
            )
        self.cache.publish(mesh, splits)


def hashed(key: bytes) -> int:
    return user_hash(b"h" * 32, key)


def slow(plane: Plane) -> Any:
    """The service's own method, which takes as long as the plane says."""

    async def check(raw: bytes, context: Any) -> Any:
        plane.begun_n += 1
        await asyncio.sleep(plane.delay_s)
        return await method(plane.resolver)(raw, context)

    return grpc.unary_unary_rpc_method_handler(check)


@contextlib.asynccontextmanager
async def learned_plane() -> AsyncIterator[Plane]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    plane = Plane(0, AdsCache())
    add_ads(server, plane.cache)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Check": slow(plane)}),))
    collect = {"StreamAccessLogs": grpc.stream_unary_rpc_method_handler(plane.collect)}
    logs = grpc.method_handlers_generic_handler("envoy.service.accesslog.v3.AccessLogService", collect)
    server.add_generic_rpc_handlers((logs,))
    plane.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield plane
    finally:
        await server.stop(None)


@dataclass(slots=True)
class Shop:
    """The service `shop` with a learned segment, behind one Envoy with two workers."""

    rig: Any
    plane: Plane
    port: int
    mesh: Mesh
    envoy: Any
    client: aiohttp.ClientSession

    async def ask(self, person: str = "", cookie: str = "", path: str = "/", headers: Any = None) -> Any:
        given = dict(headers or {})
        given |= {"x-user-id": person} if person else {}
        given |= {"cookie": cookie} if cookie else {}
        return await self.rig.ask(self.client, self.port, given, path)


@contextlib.asynccontextmanager
async def shop(
    rig: Any,
    *,
    segments: Any = (NEWCOMERS,),
    timeout_ms: int = 1_000,  # this machine may be busy
    edit: Callable[[dict[str, Any]], None] | None = None,
    **more: Any,
) -> AsyncIterator[Shop]:
    """Of which `anna` is a newcomer."""
    async with rig.backend("v1") as v1, rig.backend("v2") as v2, learned_plane() as plane:
        port = rig.free_port()
        service = rig.service({"v1": v1, "v2": v2}, port=port, segments=segments, **more)
        mesh = Mesh(path="mesh.yaml", services={"shop": replace(service, learned_timeout_ms=timeout_ms)})
        plane.tell("shop", "anna")
        plane.publish(mesh)
        async with (
            rig.envoy(mesh, "side-1", plane.port, edit=edit) as envoy,
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
        ):
            yield Shop(rig, plane, port, mesh, envoy, client)


def told(s: Shop, person: str) -> str:
    """The version that the flag says."""
    split = SegmentSplit(baseline="v1", canary="v2", canary_bp=10_000)
    splits = ServiceSplits(rollout="shop-1", generation=1, segments={"fresh": split})
    flags = Flags(told=lambda name: (s.mesh.services[name], splits), names=list, learned=s.plane.resolver.name)
    return flags.evaluate("shop", read_context({"targetingKey": person, "headers": {}})).version


def test_the_time_that_a_request_waits_is_the_services_own_and_after_it_few_wait(rig):
    """With an answer after 0.2 s: 1 s is enough, and 20 ms are not."""

    async def scenario() -> None:
        async with shop(rig) as s:
            s.plane.delay_s = 0.2
            assert (await s.ask("anna")).version == "v2"
        async with shop(rig, timeout_ms=20) as s:
            s.plane.delay_s = 0.2
            took = []
            for n in range(100):
                began = time.monotonic()
                assert (await s.ask(f"b{n}")).version == "v1"
                took.append(time.monotonic() - began)
            assert 3 <= s.plane.begun_n <= 2 * 8  # three a worker, and then ever fewer
            assert max(took) >= 0.02
            s.plane.delay_s = 0.0

            async def is_asked_again() -> bool:
                return bool((await s.ask("anna")).version == "v2")

            await rig.eventually(is_asked_again, "people are asked for again")
            stats = await s.envoy.stats("^http.*ext_authz.failure_mode_allowed")
            assert sum(stats.values()) == s.plane.begun_n - s.plane.asked_n, stats

    asyncio.run(scenario())


def cookie_of(answer: Any, service: str = "shop") -> str:
    """What a browser would send back of what the answer says of segments."""
    (line,) = [line for line in answer.set_cookies if line.startswith(f"serinus-segment-{service}=")]
    return str(line.partition(";")[0])


def state_of_the_world(config: dict[str, Any]) -> None:
    config["dynamic_resources"]["ads_config"]["api_type"] = "GRPC"


@pytest.mark.parametrize("edit", [None, state_of_the_world], ids=["delta", "sotw"])
def test_a_person_with_history_is_routed_by_the_learned_segments_split_and_asked_for_once(rig, edit):
    async def scenario() -> None:
        async with shop(rig, edit=edit) as s:
            first = await s.ask("anna")
            assert (first.version, first.headers["x-serinus-segment"]) == ("v2", "newcomers")
            cookie = cookie_of(first)
            form = (
                r"serinus-segment-shop=1\.1\.\d+\.[0-9a-f]+\.newcomers; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax"
            )
            assert re.fullmatch(form, first.set_cookies[0]), first.set_cookies
            assert s.plane.asked_n == 1
            for _ in range(20):
                again = await s.ask("anna", cookie)
                assert (again.version, again.set_cookies) == ("v2", ())
            stranger = await s.ask("bob")
            assert (stranger.version, "x-serinus-segment" in stranger.headers) == ("v1", False)
            for _ in range(20):
                assert (await s.ask("bob", cookie_of(stranger))).version == "v1"
            assert s.plane.asked_n == 2
            assert (await s.ask()).version == "v1"  # nobody: no question
            assert s.plane.asked_n == 2

            async def is_logged() -> bool:
                return len(s.plane.logs) >= 43

            await rig.eventually(is_logged, "every request is in the access log")
            by_person = {}
            for _, entry in s.plane.logs:
                stamp, *_, key = entry.common_properties.custom_tags[TAG].split("\n")
                by_person.setdefault(key, set()).add(read_stamp(stamp).segment)
            assert by_person == {"anna": {"fresh"}, "bob": {"default"}, "": {"default"}}

    asyncio.run(scenario())


def made(key: str, signer: CookieSigner = SIGNER, **changed: Any) -> str:
    """A cookie that counts, for the person of that key, but for what is changed."""
    said = {"service": "shop", "table": 1, "expires_s": int(time.time()) + 3_600, "segment": "newcomers", **changed}
    return f"serinus-segment-shop={signer.value(key=key.encode(), **said)}"


def with_parts(cookie: str, **changed: Callable[[str], str]) -> str:
    """The cookie with some of its parts changed after it was signed."""
    name, _, value = cookie.partition("=")
    parts = dict(zip(("format", "table", "expires", "signature", "segment"), value.split("."), strict=True))
    return f"{name}=" + ".".join(changed.get(part, str)(text) for part, text in parts.items())


BAD_COOKIES: dict[str, Callable[[str], str]] = {
    "of somebody else": lambda _: made("anna"),
    "of another service": lambda person: made(person, service="blog"),
    "under another name": lambda person: made(person).replace("segment-shop", "segment-blog"),
    "expired": lambda person: made(person, expires_s=int(time.time()) - 1),
    "of an older table": lambda person: made(person, table=0),
    "signed by somebody else": lambda person: made(person, CookieSigner(b"x" * 32)),
    "with another segment": lambda person: with_parts(made(person, segment=""), segment=lambda _: "newcomers"),
    "with another time": lambda person: with_parts(made(person), expires=lambda t: str(int(t) + 1)),
    "with an absurd time": lambda person: with_parts(made(person), expires=lambda t: t + "0" * 300),
    "with another table": lambda person: with_parts(made(person), table=lambda _: "2"),
    "without a signature": lambda person: with_parts(made(person), signature=lambda _: ""),
    "with half a signature": lambda person: with_parts(made(person), signature=lambda text: text[: len(text) // 2]),
    "with a nibble too few": lambda person: with_parts(made(person), signature=lambda text: text[:-1]),
    "with too long a signature": lambda person: with_parts(made(person), signature=lambda text: text * 9),
    "of another format": lambda person: with_parts(made(person), format=lambda _: "2"),
    "not ours": lambda _: "serinus-segment-shop=newcomers",
    "empty": lambda _: "serinus-segment-shop=",
}


def test_only_a_cookie_that_serinus_has_signed_for_this_person_counts_and_any_other_is_mended(rig):
    async def scenario() -> None:
        async with shop(rig) as s:
            for n, (what, cookie) in enumerate(BAD_COOKIES.items(), start=1):
                answer = await s.ask(f"bob-{n}", cookie(f"bob-{n}"))
                assert (answer.version, s.plane.asked_n) == ("v1", n), what
                assert cookie_of(answer).endswith("."), what  # in no learned segment
            answer = await s.ask("carol", f"a=b; {made('carol')}; c=d")
            assert (answer.version, answer.set_cookies, s.plane.asked_n) == ("v2", (), n)

    asyncio.run(scenario())


def test_a_client_without_cookies_costs_one_question_a_worker(rig):
    async def scenario() -> None:
        async with shop(rig) as s:
            connections = aiohttp.TCPConnector(force_close=True)  # so that both workers get some
            async with aiohttp.ClientSession(connector=connections) as client:
                for _ in range(60):
                    assert (await rig.ask(client, s.port, {"x-user-id": "anna"})).version == "v2"
            assert 1 <= s.plane.asked_n <= 2

    asyncio.run(scenario())


def test_a_visitor_whose_cookie_is_minted_now_is_not_asked_for_and_counts_as_unknown(rig):
    async def scenario() -> None:
        async with shop(rig, identity=HEADER_OR_COOKIE) as s:
            for _ in range(20):  # bots that keep no cookies
                first = await s.ask()
                assert first.version == "v1"
            assert s.plane.asked_n == 0
            jar = "; ".join(line.partition(";")[0] for line in first.set_cookies)
            second = await s.ask(cookie=jar)
            assert (second.version, s.plane.asked_n) == ("v1", 1)
            assert (await s.ask(cookie=f"{jar}; {cookie_of(second)}")).set_cookies == ()
            assert (await s.ask("anna")).version == "v2"

    asyncio.run(scenario())


@pytest.mark.parametrize("is_learned_first", [True, False])
def test_the_first_segment_that_matches_decides_be_it_declared_or_learned(rig, is_learned_first):
    async def scenario() -> None:
        segments = (NEWCOMERS, BETA) if is_learned_first else (BETA, NEWCOMERS)
        async with shop(rig, segments=segments) as s:
            beta = {"x-beta": "yes"}
            assert (await s.ask("anna", headers=beta)).version == ("v2" if is_learned_first else "v1")
            assert (await s.ask("anna")).version == "v2"
            assert (await s.ask("bob", headers=beta)).version == "v1"
            s.plane.publish(s.mesh, "beta", generation=2)
            assert await s.plane.cache.in_force("shop", 2, None, 5.0) == ()
            assert (await s.ask("anna", headers=beta)).version == ("v1" if is_learned_first else "v2")
            assert (await s.ask("anna")).version == "v1"
            assert (await s.ask("bob", headers=beta)).version == "v2"

    asyncio.run(scenario())


def test_a_new_table_is_asked_for_anew(rig):
    async def scenario() -> None:
        async with shop(rig) as s:
            anna, bob = cookie_of(await s.ask("anna")), cookie_of(await s.ask("bob"))
            s.plane.tell("shop", "bob", version=2)
            s.plane.publish(s.mesh, generation=2)
            assert await s.plane.cache.in_force("shop", 2, None, 5.0) == ()
            for cookies in ((anna, bob), ("", "")):
                assert (await s.ask("anna", cookies[0])).version == "v1"
                assert (await s.ask("bob", cookies[1])).version == "v2"
            assert [told(s, person) for person in ("anna", "bob")] == ["v1", "v2"]
            assert s.plane.asked_n == 4

    asyncio.run(scenario())


def test_who_has_a_session_open_elsewhere_stays_there_until_it_is_over(rig):
    """As when nobody answered at the first request: the whole session is in `default`."""

    async def scenario() -> None:
        async with shop(rig) as s:
            s.plane.tell("shop", "anna", gap_s=1.0)
            open_in = {("shop", hashed(b"anna")): "default", ("shop", hashed(b"bob")): "fresh"}
            s.plane.resolver.held = lambda service, user: open_in.get((service, user))
            first = {person: await s.ask(person) for person in ("anna", "bob")}
            assert [first[person].version for person in ("anna", "bob")] == ["v1", "v2"]
            assert [told(s, person) for person in ("anna", "bob")] == ["v1", "v2"]
            assert all("Max-Age=1;" in answer.set_cookies[0] for answer in first.values())
            open_in.clear()  # the sessions are over; what was said of them counts no more
            assert [told(s, person) for person in ("anna", "bob")] == ["v2", "v1"]
            await asyncio.sleep(2.1)
            assert (await s.ask("anna", cookie_of(first["anna"]))).version == "v2"
            assert (await s.ask("bob", cookie_of(first["bob"]))).version == "v1"

    asyncio.run(scenario())


def test_a_segment_that_the_client_claims_is_ignored_at_gateway_and_sidecar_and_for_every_service(rig):
    """Gateways with exact domains and without; services with learned segments and services that have none."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, learned_plane() as plane:
            port, edge, wild = (rig.free_port() for _ in range(3))
            versions = {"v1": v1, "v2": v2}
            claimed = SegmentMatch(headers=(ValueMatch(name="x-plan", kind="exact", value="pro"),))
            shop = rig.service(versions, port=port, segments=(NEWCOMERS,))
            blog = rig.service(versions, port=port, name="blog", segments=((SegmentSpec(name="fresh"), claimed),))
            services = {"shop": replace(shop, learned_timeout_ms=1_000), "blog": blog}
            gateways = {
                "edge": Gateway(node="edge", listen=("127.0.0.1", edge), services=("shop", "blog")),
                "wild": Gateway(node="wild", listen=("127.0.0.1", wild), services=("shop", "blog", "all")),
            }
            everything = replace(blog, name="all", domains=("*.example",), spec=replace(blog.spec, name="all"))
            mesh = Mesh(path="mesh.yaml", services={**services, "all": everything}, gateways=gateways)
            plane.tell("shop", "anna")
            plane.publish(mesh)
            async with (
                rig.envoy(mesh, "edge", plane.port),
                rig.envoy(mesh, "wild", plane.port),
                rig.envoy(mesh, "side-1", plane.port),
                aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
            ):
                lie = {"x-serinus-segment": "newcomers"}
                for at in (edge, wild, port):
                    for host in ("shop", "SHOP"):
                        for person, version in (("anna", "v2"), ("bob", "v1")):
                            answer = await rig.ask(client, at, {"host": host, "x-user-id": person, **lie})
                            assert answer.version == version, (at, host, person)
                    asked_n = plane.asked_n
                    for plan, version in (("pro", "v2"), ("free", "v1")):
                        given = {"host": "blog", "x-user-id": "anna", "x-plan": plan, **lie}
                        answer = await rig.ask(client, at, given)
                        assert (answer.version, "x-serinus-segment" in answer.headers) == (version, False)
                        assert not answer.set_cookies
                    assert (await rig.ask(client, at, {"host": "shop", **lie})).version == "v1"
                    assert plane.asked_n == asked_n

    asyncio.run(scenario())


def test_a_gateway_that_hands_over_lets_the_sidecar_ask_and_passes_the_cookie_on(rig):
    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, learned_plane() as plane:
            inner, edge = rig.free_port(), rig.free_port()
            service = rig.service({"v1": v1, "v2": v2}, segments=(NEWCOMERS,))
            mesh = Mesh(
                path="mesh.yaml",
                services={"shop": replace(service, learned_timeout_ms=1_000)},
                gateways={"edge": Gateway(node="edge", listen=("127.0.0.1", edge), services=("shop",), to="web")},
                sidecars={"web": Sidecar(node="web", listen=("127.0.0.1", inner))},
            )
            plane.tell("shop", "anna")
            plane.publish(mesh)
            async with (
                rig.envoy(mesh, "web", plane.port),
                rig.envoy(mesh, "edge", plane.port),
                aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
            ):
                lie = {"x-serinus-segment": "newcomers"}
                first = await rig.ask(client, edge, {"x-user-id": "anna"})
                assert (first.version, plane.asked_n) == ("v2", 1)
                again = await rig.ask(client, edge, {"x-user-id": "anna", "cookie": cookie_of(first)})
                assert (again.version, again.set_cookies, plane.asked_n) == ("v2", (), 1)
                assert (await rig.ask(client, edge, {"x-user-id": "bob", **lie})).version == "v1"

    asyncio.run(scenario())


def test_what_no_cookie_and_no_key_can_hold_harms_nobody(rig):
    """Keys that are not UTF-8 are hashed as they are; what is absurd is nobody, and asks nothing."""

    async def scenario() -> None:
        async with shop(rig) as s:
            reader, writer = await asyncio.open_connection("127.0.0.1", s.port)
            for key in (b"\xff\xfe", b"k" * 300, b"", b"a;b,c=d"):
                writer.write(b"GET / HTTP/1.1\r\nhost: shop\r\nx-user-id: %b\r\ncookie: \xff=\xfe;=;;,\r\n\r\n" % key)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
                length = re.search(rb"content-length: (\d+)", head)
                assert b" 200 " in head.splitlines()[0], key
                assert length is not None
                await reader.readexactly(int(length[1]))
            writer.close()
            assert s.plane.resolver.counts == {Result.NONE: 2}
            assert (await s.ask("anna")).version == "v2"

    asyncio.run(scenario())
