"""Who is in a segment: what Serinus finds out by itself is what a real Envoy finds out."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import aiohttp

from analysis.spec import SegmentSpec
from tests.pipelined import answers, request
from tests.tokens import Issuer
from xds_server.flags.context import read_context
from xds_server.flags.evaluation import Flags
from xds_server.flags.siphash import siphash
from xds_server.matching import matches
from xds_server.mesh import (
    ClaimMatch,
    JwtProvider,
    Mesh,
    SegmentMatch,
    SegmentSplit,
    ServiceSplits,
    ValueMatch,
    with_hold_secret,
)
from xds_server.resources.hold import LONGEST_S, hold_cookie, hold_s_of, signing_secret

WORDS = ("pro", "PRO", "pro-1", "xpro", "", "a", "1", "12", "free", "müller", "p.ro", "pro,free", " 7")
NUMBERS = (
    "9",
    "10",
    "19",
    "20",
    "-5",
    "+12",
    "012",
    "1e1",
    "12.0",
    "99999999999999999999",
    "0x10",
    "9223372036854775807",
)
PATHS = ("/", "/shop", "/shop/cart", "/shopping", "/sho", "/SHOP", "/shop/a%20b")
QUERIES = ("plan=pro", "plan", "plan=", "plan=pro&plan=free", "plan=free&plan=pro", "x=plan", "plan=p%72o", "Plan=pro")
JARS = (
    *("plan=pro", "a=1; plan=pro", "a=1;plan=pro", 'plan="pro"', "plan=pro ", "plan=pro; plan=free", "plan", "plan="),
    *("plan=prox", "PLAN=pro", "a=plan=pro", 'a="b; plan"=pro', "a=1,plan=pro", "plan =pro", "plan= pro", '"plan"=pro'),
    *('plan="', 'plan=""', 'plan="pro', "plan=pro=1", "=pro", ";;plan=pro"),
)
ADDRESSES = ("10.1.2.3", "10.2.0.0", "192.0.2.7", "2001:db8::1", "2001:db9::1", "::ffff:10.1.2.3", "::10.1.2.3")
CLAIMS: tuple[Any, ...] = (
    *("pro", "pro-1", "xpro", "", "12", 12, 12.5, 10, 20, 9.99, -1, True, False, None, "true"),
    *(["pro"], ["free", "pro"], [], [12], [["pro"]], {"plan": "pro"}, {}),
)
WAYS: tuple[tuple[str, Any], ...] = (
    *(("exact", "pro"), ("exact", "12"), ("exact", "true"), ("exact", "7"), ("prefix", "pro"), ("suffix", "ro")),
    *(("contains", "r"), ("regex", "[a-z]+"), ("regex", "p.o|müller"), ("regex", "[0-9]*"), ("present", True)),
    *(("present", False), ("range", (10, 20)), ("range", (-10, 0))),
)


def cases() -> list[SegmentMatch]:
    """Each way to match, in each place where it may stand, and some that ask for several things."""
    values = [ValueMatch(name="x-plan", kind=kind, value=value) for kind, value in WAYS]
    few = [replace(value, name="plan") for value in values if value.kind != "range"]
    claims = [
        ClaimMatch(provider="people", path=path, kind=k, value=v) for k, v in WAYS for path in (("a",), ("b", "c"))
    ]
    prefix = "/shop"
    return [
        *(SegmentMatch(headers=(value,)) for value in values),
        *(SegmentMatch(cookies=(value,)) for value in few),
        *(SegmentMatch(query=(value,)) for value in few),
        *(SegmentMatch(claims=(claim,)) for claim in claims),
        SegmentMatch(path_prefix=prefix),
        SegmentMatch(headers=(ValueMatch(name=":path", kind="contains", value="shop?plan"),)),
        SegmentMatch(headers=(ValueMatch(name=":method", kind="exact", value="POST"),)),
        SegmentMatch(source=(ip_network("10.1.0.0/16"), ip_network("192.0.2.7/32"), ip_network("2001:db8::/32"))),
        SegmentMatch(headers=(values[0], values[7]), query=(few[-1],), path_prefix=prefix, cookies=(few[0],)),
        SegmentMatch(headers=(ValueMatch(name="X-Plan", kind="exact", value="pro"),), claims=(claims[0], claims[1])),
    ]


def asked(rng: random.Random, issuer: Issuer) -> tuple[list[tuple[str, str]], str, str, Mapping[str, Any]]:
    """Headers, path and method of some request, and its claims."""
    headers = [("x-plan", rng.choice(WORDS + NUMBERS)) for _ in range(rng.choice((0, 1, 1, 1, 2)))]
    headers += [("cookie", rng.choice(JARS)) for _ in range(rng.choice((0, 1, 1, 2)))]
    headers.append(("x-forwarded-for", rng.choice(ADDRESSES)))
    said = {"a": rng.choice(CLAIMS), "b": rng.choice((*CLAIMS, {"c": rng.choice(CLAIMS)}, {"c": rng.choice(CLAIMS)}))}
    claims = {name: value for name, value in said.items() if rng.random() < 0.9}
    has_token = rng.random() < 0.9
    if has_token:
        headers.append(("authorization", f"Bearer {issuer.token(**claims)}"))
    path = rng.choice(PATHS) + rng.choice(("", "", "?" + rng.choice(QUERIES)))
    return headers, path, rng.choice(("GET", "GET", "POST")), {"people": claims} if has_token else {}


def context_of(headers: list[tuple[str, str]], path: str, method: str, claims: Mapping[str, Any]) -> dict[str, Any]:
    """What an application would say of that request."""
    jar: dict[str, list[str]] = {}
    for name, value in [*headers, (":method", method)]:
        jar.setdefault(name, []).append(value.strip())
    source = next(value for name, value in headers if name == "x-forwarded-for")
    return {"headers": jar, "path": path, "source": source, "claims": claims}


def test_serinus_and_envoy_find_the_same_people_in_every_segment(rig):
    """Each way to match, each as a service of its own, and requests of which most nearly match."""
    issuer, rng, ways = Issuer(), random.Random(7), cases()
    requests = [asked(rng, issuer) for _ in range(45)]
    provider = JwtProvider(name="people", jwks=issuer.jwks, issuer=issuer.name)

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            port, versions = rig.free_port(), {"v1": v1, "v2": v2}
            services = {
                f"s{n}": rig.service(versions, name=f"s{n}", port=port, segments=[(SegmentSpec(name="few"), match)])
                for n, match in enumerate(ways)
            }
            mesh = Mesh(path="mesh.yaml", services=services, jwt={"people": provider})
            few = {"few": SegmentSplit(baseline="v2"), "default": SegmentSplit(baseline="v1")}
            plane.cache.publish(mesh, dict.fromkeys(services, ServiceSplits(rollout="", generation=1, segments=few)))
            async with rig.envoy(mesh, "side-1", plane.port):
                lines = [request(s, headers, path, how) for s in services for headers, path, how, _ in requests]
                said = await answers(port, lines)
        assert {status for status, _ in said} == {200}
        envoys = [body["version"] == "v2" for _, body in said]
        traits = [read_context(context_of(*each)).traits for each in requests]
        ours = [matches(match, each, lambda: "") for match in ways for each in traits]
        differ = [
            (ways[n // len(requests)], requests[n % len(requests)]) for n, ok in enumerate(envoys) if ok != ours[n]
        ]
        assert not differ, f"{len(differ)} of {len(ours)}, such as {differ[0]}"
        assert 0.15 < sum(ours) / len(ours) < 0.6  # or nothing has been compared

    asyncio.run(scenario())


def asks(name: str) -> SegmentMatch:
    return SegmentMatch(headers=(ValueMatch(name="x-plan", kind="exact", value=name),))


def test_serinus_and_envoy_hold_the_same_people_in_the_segment_of_their_session(rig):
    """By cookies that a real Envoy has set: whole, cut, forged, another person's, too old, in any segment's place."""
    segments = [
        (SegmentSpec(name="vip", pin="v3"), asks("vip")),
        (SegmentSpec(name="api"), SegmentMatch(path_prefix="/api/")),
        (SegmentSpec(name="power"), asks("power")),
        (SegmentSpec(name="basic"), asks("basic")),
    ]
    versions = {"api": "v4", "power": "v2", "basic": "v5", "default": "v1"}  # each segment has its own
    splits = ServiceSplits(
        rollout="", generation=1, segments={n: SegmentSplit(baseline=v) for n, v in versions.items()}
    )

    asyncio.run(_held(rig, segments, splits))


async def _held(rig: Any, segments: Any, splits: ServiceSplits) -> None:
    async with contextlib.AsyncExitStack() as stack:
        ports = {f"v{n}": await stack.enter_async_context(rig.backend(f"v{n}")) for n in range(1, 6)}
        plane, port = await stack.enter_async_context(rig.control_plane()), rig.free_port()
        mesh = Mesh(path="mesh.yaml", services={"shop": rig.service(ports, port=port, segments=segments)})
        mesh = with_hold_secret(mesh, b"s" * 32)
        plane.cache.publish(mesh, {"shop": splits})
        await stack.enter_async_context(rig.envoy(mesh, "side-1", plane.port))
        client = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
        shop = mesh.services["shop"]
        flags = Flags(told=lambda _: (shop, splits), names=lambda: ["shop"], learned=lambda *_: "")

        async def set_cookie(plan: str) -> str:
            answer = await rig.ask(client, port, {"x-user-id": "anna", "x-plan": plan, "cookie": "a=1"})
            return next(c.partition(";")[0] for c in answer.set_cookies if c.startswith(hold_cookie(shop)))

        whole = [await set_cookie(plan) for plan in ("power", "basic", "none")]
        tag = [each.split(".")[2] for each in whole]
        jars = ["a=1", *whole, whole[0][:-1], whole[0] + "0", whole[0].upper(), whole[0].replace(tag[0], tag[1])]
        jars += [
            whole[0] + "-x",
            whole[0].replace("=", '="') + '"',
            f"a=1;{whole[1]}",
            f"{whole[1]}; {whole[0]}",
        ]
        now, hold_s = int(time.time()), hold_s_of(shop.spec.session.gap_s)
        ages = (
            *((0, 0), (hold_s - 9, hold_s - 9), (hold_s + 2, hold_s + 2), (hold_s + 9, 5), (5, hold_s + 9), (-30, -50)),
            *((LONGEST_S - 9, 5), (LONGEST_S + 2, 5), (-80, -80), (5, -80), (5, 9)),
        )
        for began, written in ages:
            said = f"{now - began}.{now - written}.{tag[0]}"
            mac = siphash(bytes.fromhex(signing_secret(shop)), f"{said}.anna".encode())
            jars.append(f"{hold_cookie(shop)}={said}.{mac}")
        asked = [
            {"person": person, "plan": plan, "jar": jar, "path": path}
            for person in ("anna", "bert")
            for plan in ("power", "basic", "vip", "none")
            for jar in jars
            for path in ("/", "/api/x")
        ]
        for each in asked:
            headers = {"x-user-id": each["person"], "x-plan": each["plan"], "cookie": each["jar"]}
            envoys = (await rig.ask(client, port, headers, each["path"])).version
            context = read_context({"targetingKey": each["person"], "headers": headers, "path": each["path"]})
            assert flags.evaluate("shop", context).version == envoys, each
        context = read_context(
            {"targetingKey": "anna", "headers": {"x-plan": "basic", "cookie": whole[0]}, "path": "/"}
        )
        assert flags.evaluate("shop", context).version == "v2", "nobody was held, so nothing has been compared"
