"""Who logs in keeps the version until the session ends: the key in use is held by a cookie that holds no identity."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

import aiohttp
import grpc

from analysis.spec import SessionSpec
from tests.envoy.test_grpc import greeter
from xds_server.mesh import CookieIdentity, Gateway, HeaderIdentity, Mesh, Service, Sidecar

IDENTITY = (HeaderIdentity(header="x-user-id"), CookieIdentity(cookie="sid", ttl_s=3_600))
MINTED = re.compile(r"sid=([0-9a-f]{32}); Path=/; Max-Age=3600; HttpOnly; SameSite=Lax")
HOLD = re.compile(r"sid_hold=(\d+); Path=/; Max-Age=(\d+); HttpOnly; SameSite=Lax")


def with_gap(service: Service, gap_s: float) -> Service:
    return replace(service, spec=replace(service.spec, session=SessionSpec(gap_s=gap_s)))


@contextlib.asynccontextmanager
async def shop(rig, *, gap_s=60.0, identity=IDENTITY, canary_bp=5_000) -> AsyncIterator[tuple]:
    """A client, and the port of an Envoy that splits `shop`."""
    async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
        port = rig.free_port()
        service = with_gap(rig.service({"v1": v1, "v2": v2}, port=port, identity=identity), gap_s)
        mesh = Mesh(path="mesh.yaml", services={"shop": service})
        plane.cache.publish(mesh, rig.split(canary_bp))
        async with rig.envoy(mesh, "side-1", plane.port), aiohttp.ClientSession(cookie_jar=no_jar()) as client:
            yield client, port


def no_jar() -> aiohttp.DummyCookieJar:
    return aiohttp.DummyCookieJar()


def jar(lines: Iterable[str]) -> str:
    """The Cookie header of a browser that was sent these Set-Cookie lines."""
    return "; ".join(line.partition(";")[0] for line in lines)


def test_two_hundred_visitors_log_in_and_none_changes_the_version(rig):
    """Without the hold the header's own bucket decides, and about half of them change."""

    async def scenario() -> None:
        async with shop(rig) as (client, port):
            flipped = 0
            for n in range(200):
                first = await rig.ask(client, port)
                minted, hold = first.set_cookies
                key = MINTED.fullmatch(minted).group(1)
                assert key == first.headers["x-serinus-key"], "routed by what was minted on this very request"
                assert HOLD.fullmatch(hold).group(2) == "91"
                assert key not in hold
                known = {"x-user-id": f"person-{n}", "cookie": "theme=dark; " + jar(first.set_cookies)}
                login = await rig.ask(client, port, known, "/login")
                assert login.set_cookies == ("app=1",), "a hold that is young enough is not set again"
                later = await rig.ask(client, port, known)
                assert {first.version, login.version, later.version} == {first.version}
                assert later.headers["x-serinus-key"] == key
                without = await rig.ask(client, port, {"x-user-id": f"person-{n}", "cookie": f"sid={key}"})
                assert (without.headers["x-serinus-key"], without.set_cookies) == (f"person-{n}", ())
                flipped += without.version != first.version
            assert 60 < flipped < 140

    asyncio.run(scenario())


def test_hold_counts_for_a_gap_and_what_is_no_time_for_nothing(rig):
    """Gap 60 s: renewed when older than 30 s, too old after 91 s; a clock that is ahead is forgiven a minute."""
    ages = {
        0: "held",
        25: "held",
        35: "renewed",
        86: "renewed",
        -55: "held",
        96: "header",
        10_000: "header",
        -70: "header",
    }
    garbage = ("", "x", "-5", "1e9", "0x10", "9" * 30, "nan", "1 2", "%s ", "%sx", "-%s", "%s.5", '"%s"')

    async def scenario() -> None:
        async with shop(rig) as (client, port):
            now = int(time.time())
            for age, expected in ages.items():
                assert await outcome(rig, client, port, str(now - age)) == expected, age
            for text in garbage[:8] + tuple(text % now for text in garbage[9:]):
                assert await outcome(rig, client, port, text) == "header", text
            assert await outcome(rig, client, port, str(now), sid="") == "header", "a hold on nothing"
            assert await outcome(rig, client, port, str(now), sid="a" * 300) == "header", "a hold on no identity"

    asyncio.run(scenario())


async def outcome(rig, client, port, hold: str, sid: str = "abc") -> str:
    """What became of a request with header, cookie and this hold."""
    answer = await rig.ask(client, port, {"x-user-id": "anna", "cookie": f"sid={sid}; sid_hold={hold}"})
    if answer.headers["x-serinus-key"] == "anna":
        assert answer.set_cookies == ()
        return "header"
    assert answer.headers["x-serinus-key"] == sid
    if not answer.set_cookies:
        return "held"
    (line,) = answer.set_cookies
    assert abs(int(HOLD.fullmatch(line).group(1)) - time.time()) < 3
    return "renewed"


def test_hold_slides_while_the_session_lasts_and_ends_with_it(rig):
    """A browser that keeps its cookies as told, logged in all the while; a session ends after a second of silence."""

    async def scenario() -> None:
        async with (
            shop(rig, gap_s=1.0) as (_, port),
            aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser,
        ):
            key = (await rig.ask(browser, port)).headers["x-serinus-key"]
            renewed = 0
            for _ in range(7):
                await asyncio.sleep(0.9)
                answer = await rig.ask(browser, port, {"x-user-id": "anna"})
                assert answer.headers["x-serinus-key"] == key
                renewed += len(answer.set_cookies)
            assert renewed >= 3, "longer than any single hold lasts"
            await asyncio.sleep(3.2)
            answer = await rig.ask(browser, port, {"x-user-id": "anna"})
            assert (answer.headers["x-serinus-key"], answer.set_cookies) == ("anna", ())

    asyncio.run(scenario())


def test_logging_out_changes_nothing_for_who_came_without_a_name(rig):
    """Anonymous, logged in, logged out: one key. Who came with a name and drops it is a new visitor."""

    async def scenario() -> None:
        async with shop(rig) as (client, port):
            first = await rig.ask(client, port)
            cookies = {"cookie": jar(first.set_cookies)}
            for headers in (cookies | {"x-user-id": "anna"}, cookies):
                answer = await rig.ask(client, port, headers)
                assert answer.headers["x-serinus-key"] == first.headers["x-serinus-key"]
                assert (answer.version, answer.set_cookies) == (first.version, ())
            named = await rig.ask(client, port, {"x-user-id": "bert"})
            assert (named.headers["x-serinus-key"], named.set_cookies) == ("bert", ())
            nameless = await rig.ask(client, port)
            assert [line.partition("=")[0] for line in nameless.set_cookies] == ["sid", "sid_hold"]

    asyncio.run(scenario())


def test_returning_visitor_is_held_from_the_first_request_of_the_session(rig):
    """The cookie is there from last time, the hold is not; over https both are for https alone."""

    async def scenario() -> None:
        async with shop(rig) as (client, port):
            back = await rig.ask(client, port, {"cookie": "sid=abc", "x-forwarded-proto": "https"})
            (hold,) = back.set_cookies
            assert HOLD.fullmatch(hold.removesuffix("; Secure")), hold
            assert hold.endswith("; Secure")
            known = await rig.ask(client, port, {"x-user-id": "anna", "cookie": f"sid=abc; {jar([hold])}"})
            assert known.headers["x-serinus-key"] == "abc"

    asyncio.run(scenario())


def test_no_hold_where_nothing_can_outrank_the_cookie(rig):
    """A cookie alone, or before the header: no second cookie, and a forged one says nothing."""

    async def scenario() -> None:
        for identity in (IDENTITY[1:], IDENTITY[::-1]):
            async with shop(rig, identity=identity) as (client, port):
                first = await rig.ask(client, port)
                assert [line.partition("=")[0] for line in first.set_cookies] == ["sid"]
                known = await rig.ask(client, port, {"x-user-id": "anna", "cookie": jar(first.set_cookies)})
                assert known.headers["x-serinus-key"] == first.headers["x-serinus-key"]
                forged = f"sid_hold={int(time.time())}"
                alone = await rig.ask(client, port, {"x-user-id": "anna", "cookie": forged})
                assert (alone.headers["x-serinus-key"] == "anna") == (len(identity) == 2)

    asyncio.run(scenario())


def test_only_the_gateway_sets_cookies_where_it_hands_over_to_a_sidecar(rig):
    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            edge, side = ("127.0.0.1", rig.free_port()), ("127.0.0.1", rig.free_port())
            mesh = Mesh(
                path="mesh.yaml",
                services={"shop": with_gap(rig.service({"v1": v1, "v2": v2}, identity=IDENTITY), 60.0)},
                gateways={"edge": Gateway(node="edge-1", listen=edge, services=("shop",), to="inner")},
                sidecars={"inner": Sidecar(node="side-1", listen=side)},
            )
            plane.cache.publish(mesh, rig.split(5_000))
            async with (
                rig.envoy(mesh, "side-1", plane.port),
                rig.envoy(mesh, "edge-1", plane.port),
                aiohttp.ClientSession(cookie_jar=no_jar()) as client,
            ):
                first = await rig.ask(client, edge[1])
                assert [line.partition("=")[0] for line in first.set_cookies] == ["sid", "sid_hold"]
                key = first.headers["x-serinus-key"]
                old = f"sid={key}; sid_hold={int(time.time()) - 50}"
                renewed = await rig.ask(client, edge[1], {"cookie": old, "x-user-id": "anna"})
                assert (renewed.headers["x-serinus-key"], renewed.version) == (key, first.version)
                assert [line.partition("=")[0] for line in renewed.set_cookies] == ["sid_hold"]

    asyncio.run(scenario())


def test_cookies_may_come_in_several_lines(rig):
    """HTTP/1 clients may send several Cookie headers, HTTP/2 clients usually do (RFC 9113, 8.2.3)."""

    async def scenario() -> None:
        now = int(time.time())
        async with shop(rig) as (client, port):
            several = [
                ("x-user-id", "anna"),
                ("cookie", "a=1"),
                ("cookie", f"sid_hold={now}"),
                ("cookie", "sid=abc;b=2"),
            ]
            for headers in (several, several[::-1]):
                assert (await rig.ask(client, port, headers)).headers["x-serinus-key"] == "abc"
        async with greeter("v1") as v1, greeter("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            mesh = Mesh(
                path="mesh.yaml",
                services={"shop": with_gap(rig.service({"v1": v1, "v2": v2}, port=port, identity=IDENTITY), 60.0)},
            )
            plane.cache.publish(mesh, rig.split(5_000))
            options = [("grpc.default_authority", "shop")]
            async with (
                rig.envoy(mesh, "side-1", plane.port),
                grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel,
            ):
                greet = channel.unary_unary("/test.Greeter/Greet")
                for n in range(12):
                    crumbs = (("cookie", "a=1"), ("cookie", f"sid=v{n}"), ("cookie", f"sid_hold={now}"))
                    before = await greet(b"", metadata=crumbs, wait_for_ready=True)
                    call = greet(b"", metadata=(("x-user-id", f"person-{n}"), *crumbs))
                    assert await call == before
                    assert "set-cookie" not in dict(await call.initial_metadata())

    asyncio.run(scenario())
