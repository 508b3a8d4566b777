"""People stay in the segment in which their session began: by a cookie that nobody can make, and that says no name."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from analysis.spec import SegmentSpec, SessionSpec
from xds_server.mesh import (
    CookieIdentity,
    Gateway,
    HeaderIdentity,
    Identity,
    Mesh,
    SegmentMatch,
    SegmentSplit,
    Service,
    ServiceSplits,
    Sidecar,
    ValueMatch,
    with_hold_secret,
)
from xds_server.resources.hold import hold_context
from xds_server.stamp import TAG, read_stamp

SECRET = b"s" * 32
HEADER: tuple[Identity, ...] = (HeaderIdentity(header="x-user-id"),)
BOTH: tuple[Identity, ...] = (*HEADER, CookieIdentity(cookie="sid", ttl_s=3_600))
HOLD = re.compile(r"(?:sid_segment_|serinus-hold-)shop=([\w.]+); Path=/; Max-Age=(\d+); HttpOnly; SameSite=Lax")


def asks(name: str) -> SegmentMatch:
    return SegmentMatch(headers=(ValueMatch(name="x-plan", kind="exact", value=name),))


SEGMENTS = (
    (SegmentSpec(name="vip", pin="v3"), asks("vip")),
    (SegmentSpec(name="api"), SegmentMatch(path_prefix="/api/")),
    (SegmentSpec(name="power"), asks("power")),
    (SegmentSpec(name="basic"), asks("basic")),
)
VERSIONS = {"api": "v4", "power": "v2", "basic": "v5", "default": "v1"}
"""Each segment has a version of its own, so that the version tells the segment."""


@dataclass(slots=True)
class Shop:
    """`ask` returns the version and the hold that was set, if any."""

    rig: Any
    client: aiohttp.ClientSession
    port: int
    service: Service
    plane: Any
    envoys: tuple[Any, ...]

    async def lua_errors(self) -> int:
        counts = [n for envoy in self.envoys for n in (await envoy.stats("lua.*errors$")).values()]
        assert counts
        return sum(counts)

    async def ask(self, plan: str = "", hold: str = "", path: str = "/", **headers: str) -> tuple[str, str]:
        answer = await self.answer(plan, hold, path, **headers)
        lines = [line for line in answer.set_cookies if line.startswith(f"{self.cookie}=")]
        assert len(lines) < 2
        return answer.version, HOLD.fullmatch(lines[0]).group(1) if lines else ""

    async def answer(self, plan: str = "", hold: str = "", path: str = "/", **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        jar = f"a=1; {self.cookie}={hold}" if hold else "a=1"
        given = {"x-user-id": "anna", "cookie": jar, **({"x-plan": plan} if plan else {}), **named}
        answer = await self.rig.ask(self.client, self.port, {k: v for k, v in given.items() if v}, path)
        assert answer.status == 200
        assert "x-serinus-held" not in answer.headers, "nobody upstream could pass it on"
        return answer

    @property
    def cookie(self) -> str:
        return str(self.context["cookie"])

    @property
    def context(self) -> Any:
        return hold_context(self.service)["hold"]

    def made(self, segment: str, *, key: str = "anna", began: int = 0, written: int = 0) -> str:
        """A hold as an Envoy makes it: began and written so many seconds ago."""
        now = int(time.time())
        said = f"{now - max(began, written)}.{now - written}.{self.context['tags'][segment]}"
        return f"{said}.{siphash(bytes.fromhex(self.context['secret']), f'{said}.{key}'.encode()):016x}"


def splits(segments: Iterable[str]) -> dict[str, ServiceSplits]:
    each = {name: SegmentSplit(baseline=VERSIONS[name]) for name in segments if name in VERSIONS}
    return {"shop": ServiceSplits(rollout="shop-1", generation=1, segments=each)}


@contextlib.asynccontextmanager
async def shop(
    rig, *, identity=HEADER, gap_s=60.0, segments=SEGMENTS, via="sidecar", holds=True, secret=SECRET
) -> AsyncIterator[Shop]:
    names = ("v1", "v2", "v3", "v4", "v5")
    async with contextlib.AsyncExitStack() as stack:
        backends = {name: await stack.enter_async_context(rig.backend(name)) for name in names}
        plane = await stack.enter_async_context(rig.control_plane())
        side, edge = rig.free_port(), rig.free_port()
        service = rig.service(backends, port=side, identity=identity, segments=segments)
        service = replace(service, holds=holds, spec=replace(service.spec, session=SessionSpec(gap_s=gap_s)))
        to = "inner" if via == "both" else None
        mesh = Mesh(
            path="mesh.yaml",
            services={"shop": service},
            gateways={"edge": Gateway(node="edge", listen=("127.0.0.1", edge), services=("shop",), to=to)},
            sidecars={"inner": Sidecar(node="inner", listen=("127.0.0.1", side))},
        )
        mesh = with_hold_secret(mesh, secret)
        plane.cache.publish(mesh, splits(dict(service.matches)))
        nodes = {"sidecar": ["inner"], "gateway": ["edge"], "both": ["inner", "edge"]}[via]
        envoys = tuple([await stack.enter_async_context(rig.envoy(mesh, node, plane.port)) for node in nodes])
        client = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
        yield Shop(rig, client, side if via == "sidecar" else edge, mesh.services["shop"], plane, envoys)


def siphash(key: bytes, text: bytes) -> int:
    """SipHash-2-4, by its paper."""
    full = 2**64 - 1

    def rol(x: int, n: int) -> int:
        return (x << n | x >> (64 - n)) & full

    low, high = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [low ^ 0x736F6D6570736575, high ^ 0x646F72616E646F6D, low ^ 0x6C7967656E657261, high ^ 0x7465646279746573]

    def rounds(n: int) -> None:
        for _ in range(n):
            v[0] = (v[0] + v[1]) & full
            v[1] = rol(v[1], 13) ^ v[0]
            v[0] = rol(v[0], 32)
            v[2] = (v[2] + v[3]) & full
            v[3] = rol(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & full
            v[3] = rol(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & full
            v[1] = rol(v[1], 17) ^ v[2]
            v[2] = rol(v[2], 32)

    padded = text + bytes(7 - len(text) % 8) + bytes([len(text) % 256])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_the_hash_is_siphash() -> None:
    """The test vector of the paper, appendix A."""
    assert siphash(bytes(range(16)), bytes(range(15))) == 0xA129CA6149BE45E5


def test_who_changes_in_mid_session_stays_where_the_session_began(rig):
    """Upgraded, downgraded, or no longer known as anything; in every way that a request can come."""

    async def scenario() -> None:
        for via in ("sidecar", "gateway", "both"):
            async with shop(rig, via=via) as it:
                for began in ("power", "basic", ""):
                    version, hold = await it.ask(began)
                    assert version == VERSIONS[began or "default"]
                    assert re.fullmatch(r"\d+\.\d+\.[0-9a-f]{12}\.[0-9a-f]{16}", hold)
                    for now in ("power", "basic", ""):
                        assert await it.ask(now, hold) == (version, ""), (via, began, now)
                assert await it.ask("power") != await it.ask("basic")

    asyncio.run(scenario())


def test_what_envoy_signs_is_what_the_hash_says(rig):
    """For keys of every length of a word, and of bytes that are no text."""

    async def scenario() -> None:
        async with shop(rig) as it:
            for key in [*("k" * n for n in range(1, 20)), "a|b.c d", "ü", "k" * 256]:
                _, hold = await it.ask("power", x_user_id=key)
                said, _, mac = hold.rpartition(".")
                assert mac == f"{siphash(bytes.fromhex(it.context['secret']), f'{said}.{key}'.encode()):016x}", key
                assert await it.ask("basic", hold, x_user_id=key) == ("v2", "")

    asyncio.run(scenario())


def test_nobody_chooses_a_segment_by_a_cookie(rig):
    """One's own with another tag, time or signature; another person's; another secret's; and the header itself."""

    async def scenario() -> None:
        async with shop(rig) as it:
            good, tags = it.made("default"), it.context["tags"]
            began, written, tag, mac = good.split(".")
            forged = {
                "another tag": f"{began}.{written}.{tags['basic']}.{mac}",
                "another beginning": f"{int(began) - 1}.{written}.{tag}.{mac}",
                "another time": f"{began}.{int(written) + 1}.{tag}.{mac}",
                "another signature": f"{began}.{written}.{tag}.{int(mac, 16) ^ 1:016x}",
                "half a signature": f"{began}.{written}.{tag}.{mac[:8]}",
                "no signature": f"{began}.{written}.{tag}.",
                "the segment's name": f"{began}.{written}.default.{mac}",
                "somebody else's": it.made("default", key="bert"),
                "a key that goes on": it.made("default", key="anna2"),
                "numbers that are too large": f"{'9' * 30}.{'9' * 30}.{tag}.{mac}",
                "garbage": "garbage",
                "nothing": "..",
            }
            assert (await it.ask("power", good))[0] == "v1"
            for what, hold in forged.items():
                version, fresh = await it.ask("power", hold)
                assert version == "v2", what
                assert fresh, f"{what}: a good one is set instead"
            for jar in (f"x{it.cookie}={good}", f"a={it.cookie}={good}"):
                assert (await it.ask("power", cookie=jar))[0] == "v2", jar
            for n in range(len(good) + 1):
                for hold in (good[:n], good[n:], f"{good[:n]}.{good[n:]}", f"{good[:n]}{good[n + 1 :]}"):
                    if hold not in (good, ""):
                        assert (await it.ask("power", hold))[0] == "v2", hold
            assert await it.lua_errors() == 0
            for via in ("sidecar", "gateway"):
                async with shop(rig, via=via) as other:
                    assert (await other.ask("power", x_serinus_segment="basic"))[0] == "v2"
                    assert (await other.ask("power", good, x_serinus_segment="basic"))[0] == "v1"
        async with shop(rig, secret=b"t" * 32) as it:
            assert (await it.ask("power", good))[0] == "v2"

    asyncio.run(scenario())


def test_a_pin_and_a_path_count_at_once_and_hold_nobody(rig):
    async def scenario() -> None:
        async with shop(rig) as it:
            power = it.made("power")
            assert await it.ask("vip", power) == ("v3", ""), "what is promised is kept"
            assert await it.ask("vip") == ("v3", "")
            assert await it.ask("basic", power, "/api/x") == ("v4", "")
            assert await it.ask("basic", "", "/api/x") == ("v4", "")
            assert await it.ask("basic", power) == ("v2", "")
            version, hold = await it.ask("basic", it.made("power", written=35), "/api/x")
            assert (version, hold.split(".")[2]) == ("v4", power.split(".")[2]), "renewed, and still what it was"

    asyncio.run(scenario())


def test_a_hold_lasts_a_session_and_no_longer_than_a_day(rig):
    """Gap 60 s: renewed when older than 30 s, too old after 91 s; a clock that is ahead is forgiven a minute."""

    async def scenario() -> None:
        async with shop(rig) as it:
            for written, expected in {
                0: "held",
                25: "held",
                35: "renewed",
                86: "renewed",
                -55: "held",
                96: "over",
            }.items():
                version, fresh = await it.ask("power", it.made("default", began=500, written=written))
                assert (version, bool(fresh)) == {
                    "held": ("v1", False), "renewed": ("v1", True), "over": ("v2", True),
                }[expected], written  # fmt: skip
                if expected == "renewed":
                    began, again, tag, _ = fresh.split(".")
                    assert abs(time.time() - 500 - int(began)) < 3
                    assert abs(time.time() - int(again)) < 3
                    assert tag == it.context["tags"]["default"]
            assert (await it.ask("power", it.made("default", written=-70)))[0] == "v2"
            assert (await it.ask("power", it.made("default", began=86_300)))[0] == "v1"
            assert (await it.ask("power", it.made("default", began=86_500)))[0] == "v2"
            assert (await it.ask("", it.made("default", written=35)))[1], "renewed without a change as well"

    asyncio.run(scenario())


def test_a_segment_that_is_gone_holds_nobody(rig):
    """Nor one that has been pinned since."""

    async def scenario() -> None:
        async with shop(rig) as it:
            power = it.made("power")
            assert (await it.ask("basic", power))[0] == "v2"
        pinned = (replace(SEGMENTS[2][0], pin="v3"), SEGMENTS[2][1])
        for segments in (SEGMENTS[3:], (pinned, SEGMENTS[3])):
            async with shop(rig, segments=segments) as it:
                assert (await it.ask("basic", power))[0] == "v5"
                assert (await it.ask("", power))[0] == "v1"

    asyncio.run(scenario())


def test_cookies_are_set_for_those_who_keep_them_where_there_is_something_to_hold(rig):
    """Not for clients without cookies, nor for nobody, nor in services whose people are all in one segment."""

    async def scenario() -> None:
        async with shop(rig) as it:
            assert await it.ask("power", cookie="") == ("v2", "")
            assert await it.ask("power", x_user_id="") == ("v2", "")
            assert it.cookie == "serinus-hold-shop"
            assert await it.ask("power", x_serinus_hop="gateway") == ("v2", ""), "it would not get to the person"
        for arguments in ({"segments": ()}, {"segments": SEGMENTS[:2]}, {"holds": False}, {"secret": b""}):
            async with shop(rig, **arguments) as it:
                assert (await it.ask("power"))[1] == "", arguments
        async with shop(rig, identity=BOTH) as it:
            assert it.cookie == "sid_segment_shop"
            first = await it.answer("power", cookie="", x_user_id="")
            assert [line.partition("=")[0] for line in first.set_cookies] == ["sid_segment_shop", "sid", "sid_hold"]
            jar = "; ".join(line.partition(";")[0] for line in first.set_cookies)
            assert await it.ask("basic", cookie=jar, x_user_id="") == ("v2", "")
            assert await it.ask("basic", cookie=jar) == ("v2", ""), "logged in: held by key, and so in the segment"

    asyncio.run(scenario())


def test_over_https_the_cookie_is_for_https_alone(rig):
    async def scenario() -> None:
        async with shop(rig) as it:
            answer = await it.answer("power", x_forwarded_proto="https")
            (line,) = answer.set_cookies
            assert line.endswith("; Secure")

    asyncio.run(scenario())


def test_a_session_of_a_browser_is_held_to_its_end(rig):
    """It keeps its cookies as told; a session ends after a second of silence, and the next one begins as it is then."""

    async def scenario() -> None:
        async with (
            shop(rig, identity=BOTH, gap_s=1.0) as it,
            aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser,
        ):

            async def ask(plan: str) -> str:
                return str((await rig.ask(browser, it.port, {"x-plan": plan})).version)

            assert await ask("basic") == "v5"
            for _ in range(6):
                await asyncio.sleep(0.9)
                assert await ask("power") == "v5"
            await asyncio.sleep(3.2)
            assert await ask("power") == "v2"

    asyncio.run(scenario())


def test_access_logs_count_people_where_they_are_held(rig):
    async def scenario() -> None:
        async with shop(rig) as it:
            await it.ask("power", it.made("basic"))

            async def is_logged() -> bool:
                stamps = [entry.common_properties.custom_tags[TAG].split("\n")[0] for _, entry in it.plane.logs]
                return any(read_stamp(stamp).segment == "basic" for stamp in stamps)

            await rig.eventually(is_logged, "the entry names the segment")

    asyncio.run(scenario())


def test_services_of_one_host_name_hold_each_for_itself(rig):
    """On two ports, of which cookies know nothing; the person goes to and fro between them."""

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            backends = {name: await stack.enter_async_context(rig.backend(name)) for name in ("v1", "v2")}
            plane = await stack.enter_async_context(rig.control_plane())
            power = ((SegmentSpec(name="power"), asks("power")),)
            services = {
                name: replace(rig.service(backends, name=name, port=rig.free_port(), segments=power), domains=("shop",))
                for name in ("shop", "cart")
            }
            mesh = with_hold_secret(Mesh(path="mesh.yaml", services=services), SECRET)
            split = {"power": SegmentSplit(baseline="v2")}
            plane.cache.publish(mesh, {n: ServiceSplits(rollout="", generation=1, segments=split) for n in services})
            await stack.enter_async_context(rig.envoy(mesh, "side-1", plane.port))
            client = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
            jar = {"a": "1"}
            for plan, versions in (("power", {"v2"}), ("", {"v2"}), ("", {"v2"})):
                seen = set()
                for service in services.values():
                    cookie = "; ".join(f"{name}={value}" for name, value in jar.items())
                    given = {"x-user-id": "anna", "cookie": cookie, "x-plan": plan}
                    answer = await rig.ask(client, service.port, given)
                    jar |= dict(line.partition(";")[0].split("=", 1) for line in answer.set_cookies)
                    seen.add(answer.version)
                assert seen == versions, jar

    asyncio.run(scenario())
