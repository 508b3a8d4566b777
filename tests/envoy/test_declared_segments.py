"""Segments by cookie, address and claim of a verified token: right ones match, near misses and forgeries do not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from ipaddress import ip_network

import aiohttp
import grpc

from analysis.spec import SegmentSpec
from tests.envoy.test_grpc import greeter
from tests.tokens import Issuer
from xds_server.mesh import (
    ClaimMatch,
    Gateway,
    JwtProvider,
    MatchKind,
    Mesh,
    SegmentMatch,
    SegmentSplit,
    ServiceSplits,
    Sidecar,
    ValueMatch,
)
from xds_server.node import ANY_SIDECAR
from xds_server.resources import build
from xds_server.resources.source import source_matcher

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


def splits(segments: Iterable[str]) -> dict[str, ServiceSplits]:
    """Everybody in a segment that is declared gets v2, and everybody else v1."""
    each = {name: SegmentSplit(baseline="v2") for name in segments}
    each["default"] = SegmentSplit(baseline="v1")
    return {"shop": ServiceSplits(rollout="shop-1", generation=1, segments=each)}


@contextlib.asynccontextmanager
async def shop(rig, match: SegmentMatch, *, via: str = "sidecar", jwt=(), trusted_hops: int = 0) -> AsyncIterator:
    """`await is_in(headers, path)`: whether who asks so is in the segment. `via`: sidecar, gateway, or both."""
    async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
        side, edge = rig.free_port(), rig.free_port()
        service = rig.service({"v1": v1, "v2": v2}, port=side, segments=[(SegmentSpec(name="few"), match)])
        to = "inner" if via == "both" else None
        listen = ("127.0.0.1", edge)
        mesh = Mesh(
            path="mesh.yaml",
            services={"shop": service},
            gateways={
                "edge": Gateway(node="edge", listen=listen, services=("shop",), to=to, trusted_hops=trusted_hops)
            },
            sidecars={"inner": Sidecar(node="inner", listen=("127.0.0.1", side))},
            jwt={provider.name: provider for provider in jwt},
        )
        plane.cache.publish(mesh, splits(["few"]))
        nodes = {"sidecar": ["inner"], "gateway": ["edge"], "both": ["inner", "edge"]}[via]
        async with contextlib.AsyncExitStack() as stack:
            for node in nodes:
                await stack.enter_async_context(rig.envoy(mesh, node, plane.port))
            client = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))

            async def is_in(headers: Headers = (), path: str = "/") -> bool:
                answer = await rig.ask(client, side if via == "sidecar" else edge, headers, path)
                assert answer.status == 200
                return bool(answer.version == "v2")

            yield is_in


def cookie(name: str, kind: MatchKind, value: str | bool) -> SegmentMatch:
    return SegmentMatch(cookies=(ValueMatch(name=name, kind=kind, value=value),))


def test_a_cookie_matches_by_its_own_name_and_value(rig):
    """Among others, in several lines, quoted; never by a part of its name, or in another one's value."""
    right = ("plan=pro", "a=1; plan=pro; b=2", "a=1;plan=pro", 'plan="pro"', "plan=pro ", "plan=pro; plan=free")
    wrong = (
        *("", "plan=", "plan=prox", "plan=xpro", "xplan=pro", "PLAN=pro", "plan=PRO", "planpro", "plan=free; plan=pro"),
        *("a=plan=pro", 'a="b; plan"=pro', "a=1,plan=pro", "plan%3Dpro", "pro=plan"),
    )

    async def scenario() -> None:
        async with shop(rig, cookie("plan", "exact", "pro")) as is_in:
            for jar in right:
                assert await is_in({"cookie": jar}), jar
            for jar in wrong:
                assert not await is_in({"cookie": jar}), jar
            assert not await is_in()
            assert await is_in([("cookie", "a=1"), ("cookie", "plan=pro")])
            assert not await is_in({"plan": "pro", "x-cookie": "plan=pro"})

    asyncio.run(scenario())


def test_a_cookie_matches_in_every_way_that_there_is(rig):
    ways: tuple[tuple[MatchKind, str | bool, tuple[str, ...], tuple[str, ...]], ...] = (
        ("prefix", "pro-", ("plan=pro-1",), ("plan=xpro-1", "plan=pro")),
        ("suffix", "-x", ("plan=1-x",), ("plan=-xx", "a=1-x")),
        ("contains", "mid", ("plan=amidst",), ("plan=mi; a=mid",)),
        ("regex", "[0-9]+", ("plan=123",), ("plan=123x", "plan=")),
        ("present", True, ("plan=1", "plan=", "a=b; plan=x"), ("a=plan", "plans=1", "")),
        ("present", False, ("a=plan", "plans=1", ""), ("plan=1", "plan=")),
    )

    async def scenario() -> None:
        for kind, value, right, wrong in ways:
            async with shop(rig, cookie("plan", kind, value)) as is_in:
                for jar in (*right, *wrong):
                    assert await is_in({"cookie": jar} if jar else {}) is (jar in right), (kind, value, jar)

    asyncio.run(scenario())


def test_cookies_of_an_http2_client_come_in_several_lines(rig):
    async def scenario() -> None:
        async with greeter("v1") as v1, greeter("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            segments = [(SegmentSpec(name="few"), cookie("plan", "exact", "pro"))]
            mesh = Mesh(
                path="mesh.yaml", services={"shop": rig.service({"v1": v1, "v2": v2}, port=port, segments=segments)}
            )
            plane.cache.publish(mesh, splits(["few"]))
            options = [("grpc.default_authority", "shop")]
            async with (
                rig.envoy(mesh, "side-1", plane.port),
                grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel,
            ):
                greet = channel.unary_unary("/test.Greeter/Greet")
                said = [
                    await greet(b"", metadata=(("cookie", "a=1"), ("cookie", f"plan={plan}")), wait_for_ready=True)
                    for plan in ("free", "pro")
                ]
                assert said[0] != said[1]

    asyncio.run(scenario())


NETWORKS = SegmentMatch(source=(ip_network("10.1.0.0/16"), ip_network("192.0.2.7/32"), ip_network("2001:db8::/32")))
INSIDE = ("10.1.0.0", "10.1.255.255", "192.0.2.7", "2001:db8::", "2001:db8:ffff::1", "::ffff:10.1.2.3")
OUTSIDE = ("10.0.255.255", "10.2.0.0", "192.0.2.8", "2001:db9::1", "::ffff:10.2.2.3", "::10.1.2.3", "127.0.0.1", "x")


def test_at_a_sidecar_the_last_address_that_is_forwarded_counts(rig):
    async def scenario() -> None:
        async with shop(rig, NETWORKS) as is_in:
            assert not await is_in()
            for address in (*INSIDE, *OUTSIDE):
                assert await is_in({"x-forwarded-for": address}) is (address in INSIDE), address
            assert not await is_in({"x-forwarded-for": "10.1.2.3, 9.9.9.9"})
            assert await is_in({"x-forwarded-for": "9.9.9.9, 10.1.2.3"})
            assert await is_in({"x-forwarded-for": "10.1.2.3", "x-user-id": "anna", "x-serinus-key": "anna"})

    asyncio.run(scenario())


def test_at_a_gateway_nobody_can_say_where_he_is(rig):
    """Neither in x-forwarded-for nor in the header that the gateway itself sets for those behind it."""
    here = SegmentMatch(source=(ip_network("127.0.0.0/8"),))
    claims = ("x-forwarded-for", "x-serinus-source", "x-real-ip", "x-envoy-external-address", "forwarded")

    async def scenario() -> None:
        for via in ("gateway", "both"):
            async with shop(rig, NETWORKS, via=via) as is_in:
                for name in claims:
                    assert not await is_in({name: "10.1.2.3"}), (via, name)
                assert not await is_in({"x-forwarded-for": "10.1.2.3, 10.1.2.3"})
            async with shop(rig, here, via=via) as is_in:
                assert await is_in()
                assert await is_in({"x-forwarded-for": "9.9.9.9", "x-serinus-source": "9.9.9.9"})

    asyncio.run(scenario())


def test_nobody_can_say_in_which_network_he_is(rig):
    """Routes know networks by a tag in a header, which is dropped before they are looked at."""
    matcher = source_matcher(NETWORKS.source)
    tags = {matcher.name: matcher.string_match.contains}

    async def scenario() -> None:
        for via in ("sidecar", "gateway", "both"):
            async with shop(rig, NETWORKS, via=via) as is_in:
                for more in ({}, {"x-serinus-key": "anna"}, {"x-user-id": "anna"}):
                    assert not await is_in({**tags, **more}), (via, more)

    asyncio.run(scenario())


def test_networks_are_no_part_of_routes(rig):
    """Nor is the tag sent on."""
    many = SegmentMatch(source=tuple(ip_network((0x0A000000 + n * 256, 24)) for n in range(5_000)))
    service = rig.service({"v1": 1}, segments=[(SegmentSpec(name="few"), many)])
    built = build(Mesh(path="mesh.yaml", services={"shop": service}), {}, ANY_SIDECAR)
    assert sum(routes.ByteSize() for routes in built.routes) < 2_000
    assert all("x-serinus-networks" in routes.request_headers_to_remove for routes in built.routes)


def test_a_gateway_behind_proxies_takes_their_word_and_no_more(rig):
    """The sidecar behind it takes the gateway's."""

    async def scenario() -> None:
        for via in ("gateway", "both"):
            async with shop(rig, NETWORKS, via=via, trusted_hops=1) as is_in:
                assert await is_in({"x-forwarded-for": "10.1.2.3"}), via
                assert await is_in({"x-forwarded-for": "9.9.9.9, 10.1.2.3"})
                assert not await is_in({"x-forwarded-for": "10.1.2.3, 9.9.9.9"})
                assert not await is_in({"x-forwarded-for": "9.9.9.9", "x-serinus-source": "10.1.2.3"})
                assert not await is_in()

    asyncio.run(scenario())


def claim(*path: str, kind: MatchKind = "exact", value: str | bool | tuple[int, int] = "pro", provider: str = "people"):
    return SegmentMatch(claims=(ClaimMatch(provider=provider, path=path, kind=kind, value=value),))


def provider_of(issuer: Issuer, name: str = "people", **other) -> JwtProvider:
    return JwtProvider(name=name, jwks=issuer.jwks, issuer=issuer.name, audiences=("shop",), **other)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_a_claim_counts_if_its_token_is_good(rig):
    """Whoever has a bad token, or none, is served all the same, in another segment."""

    async def scenario() -> None:
        issuer, other = Issuer(), Issuer()
        good = issuer.token(aud="shop", plan="pro")
        head, body, signature = good.split(".")
        bad = {
            "of somebody else's": other.token(aud="shop", plan="pro"),
            "for another audience": issuer.token(aud="bank", plan="pro"),
            "for nobody": issuer.token(plan="pro"),
            "expired": issuer.token(aud="shop", plan="pro", lasts_s=-600),
            "of another plan": issuer.token(aud="shop", plan="free"),
            "of a longer plan": issuer.token(aud="shop", plan="prof"),
            "without a plan": issuer.token(aud="shop"),
            "with a list of lists": issuer.token(aud="shop", plan=[["pro"]]),
            "with a mapping": issuer.token(aud="shop", plan={"pro": "pro"}),
            "unsigned": f"{head}.{body}.",
            "that promises no signature": f"eyJhbGciOiJub25lIn0.{body}.",
            "changed": f"{head}.{issuer.token(aud='shop', plan='pro', sub='eve').split('.')[1]}.{signature}",
            "garbage": "garbage",
        }
        for via in ("sidecar", "gateway", "both"):
            async with shop(rig, claim("plan"), via=via, jwt=[provider_of(issuer)]) as is_in:
                assert await is_in(bearer(good))
                assert await is_in(bearer(good) | {"x-serinus-key": "k"}), "a second time, and known already"
                assert await is_in(bearer(issuer.token(aud=["bank", "shop"], plan=["free", "pro"])))
                for what, token in bad.items():
                    assert not await is_in(bearer(token)), what
                for headers in ({}, {"authorization": good}, {"authorization": "Basic cHJv"}, {"x-token": good}):
                    assert not await is_in(headers), headers
                for name in ("plan", "x-serinus-claim-plan", "x-jwt-payload", "envoy.filters.http.jwt_authn"):
                    assert not await is_in({name: "pro"}), name
                assert not await is_in((), f"/?access_token={good}")

    asyncio.run(scenario())


def test_a_claim_is_matched_in_every_way_that_there_is(rig):
    ways = (
        (claim("a", "b"), ({"a": {"b": "pro"}}, {"a": {"b": ["x", "pro"]}}), ({"a.b": "pro"}, {"a": "pro"}, {})),
        (claim("https://shop.example/plan"), ({"https://shop.example/plan": "pro"},), ({"plan": "pro"},)),
        (claim("n", value="3"), ({"n": 3}, {"n": "3"}, {"n": [1, 3]}), ({"n": 30}, {"n": "03"}, {"n": True})),
        (claim("b", value="true"), ({"b": True}, {"b": "true"}), ({"b": False}, {"b": 1})),
        (claim("n", kind="range", value=(3, 5)), ({"n": 3}, {"n": 4.9}, {"n": [9, 4]}), ({"n": 5}, {"n": "4"})),
        (claim("p", kind="prefix", value="ab"), ({"p": "abc"},), ({"p": "ba"},)),
        (claim("p", kind="suffix", value="ab"), ({"p": "cab"},), ({"p": "abc"},)),
        (claim("p", kind="contains", value="ab"), ({"p": "cabc"},), ({"p": "acb"},)),
        (claim("p", kind="regex", value="[a-c]+"), ({"p": "abc"},), ({"p": "abcd"},)),
        (claim("p", kind="present", value=True), ({"p": ""}, {"p": 0}, {"p": []}, {"p": {"x": 1}}), ({"q": 1},)),
        (claim("p", kind="present", value=False), ({"q": 1},), ({"p": ""}, {"p": 0}, {"p": False})),
    )  # fmt: skip

    async def scenario() -> None:
        issuer = Issuer()
        for match, right, wrong in ways:
            async with shop(rig, match, jwt=[provider_of(issuer)]) as is_in:
                for n, said in enumerate((*right, *wrong)):
                    found = await is_in(bearer(issuer.token(aud="shop", **said)))
                    assert found is (n < len(right)), (match, said)

    asyncio.run(scenario())


def test_tokens_of_two_providers_are_both_looked_at_each_in_its_own_place(rig):
    async def scenario() -> None:
        people, staff = Issuer("https://people"), Issuer("https://staff")
        match = SegmentMatch(
            claims=(
                ClaimMatch(provider="people", path=("plan",), kind="exact", value="pro"),
                ClaimMatch(provider="staff", path=("team",), kind="exact", value="shop"),
            )
        )
        providers = [provider_of(people), provider_of(staff, "staff", cookie="staff_token", header="", prefix="")]
        async with shop(rig, match, jwt=providers) as is_in:
            pro, team = (
                people.token(aud="shop", plan="pro", team="shop"),
                staff.token(aud="shop", team="shop", plan="pro"),
            )
            assert await is_in({"cookie": f"a=1; staff_token={team}", **bearer(pro)})
            assert not await is_in({"cookie": f"staff_token={pro}", **bearer(team)})
            assert not await is_in(bearer(pro))
            assert not await is_in({"cookie": f"staff_token={team}"})

    asyncio.run(scenario())
