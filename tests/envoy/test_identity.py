"""Who asks: cookies minted before routing, people without identity, and headers that clients must not set."""

from __future__ import annotations

import asyncio
import re

import aiohttp

from xds_server.assign import bucket, version_for
from xds_server.mesh import CookieIdentity, Gateway, HeaderIdentity, Mesh

COOKIE = CookieIdentity(cookie="sid", ttl_s=3_600)
HEADER_OR_COOKIE = (HeaderIdentity(header="x-user-id"), COOKIE)


def test_a_visitor_without_identity_gets_a_cookie_is_routed_by_it_at_once_and_stays(rig):
    """The minted value decides the very request that it was minted on."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            service = rig.service({"v1": v1, "v2": v2}, port=port, identity=(COOKIE,))
            splits = rig.split(5_000)
            plane.cache.publish(Mesh(path="mesh.yaml", services={"shop": service}), splits)
            default = splits["shop"].segments["default"]
            jar = aiohttp.DummyCookieJar()
            async with (
                rig.envoy(Mesh(path="mesh.yaml", services={"shop": service}), "side-1", plane.port),
                aiohttp.ClientSession(cookie_jar=jar) as client,
            ):
                minted = set()
                for _ in range(100):
                    first = await rig.ask(client, port)
                    form = r"sid=([0-9a-f]{32}); Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"
                    (line,) = first.set_cookies
                    found = re.fullmatch(form, line)
                    assert found, line
                    key = found.group(1)
                    minted.add(key)
                    assert first.headers["x-serinus-key"] == key
                    assert first.version == version_for(default, bucket("shop-1", key))
                    again = await rig.ask(client, port, {"cookie": f"theme=dark; sid={key}"})
                    assert (again.version, again.set_cookies) == (first.version, ())
                assert len(minted) == 100

    asyncio.run(scenario())


def test_without_any_identity_everybody_gets_the_baseline(rig):
    """Envoy would draw lots at each request, so nobody without a key takes part; nor does an empty or absurd one."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            mesh = Mesh(path="mesh.yaml", services={"shop": rig.service({"v1": v1, "v2": v2}, port=port)})
            plane.cache.publish(mesh, rig.split(10_000))
            async with rig.envoy(mesh, "side-1", plane.port), aiohttp.ClientSession() as client:
                nobody = ({}, {"x-user-id": ""}, {"x-user-id": "a" * 300}, {"x-serinus-key": ""})
                for headers in nobody:
                    answers = [await rig.ask(client, port, headers) for _ in range(10)]
                    assert {a.version for a in answers} == {"v1"}, headers
                    assert not any("x-serinus-key" in a.headers or a.set_cookies for a in answers)
                assert (await rig.ask(client, port, {"x-user-id": "anna"})).version == "v2"

    asyncio.run(scenario())


def test_a_gateway_ignores_what_clients_must_not_set(rig):
    """x-serinus-* and the gateway's `strip` headers are gone before the route is chosen; a sidecar trusts them."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            port, edge = rig.free_port(), rig.free_port()
            service = rig.service({"v1": v1, "v2": v2}, port=port, identity=HEADER_OR_COOKIE)
            gateway = Gateway(node="edge-1", listen=("127.0.0.1", edge), services=("shop",), strip=("x-user-id",))
            mesh = Mesh(path="mesh.yaml", services={"shop": service}, gateways={"edge": gateway})
            plane.cache.publish(mesh, rig.split(5_000))
            claimed = {"x-serinus-key": "mallory", "x-serinus-hop": "sidecar", "x-user-id": "anna", "cookie": "sid=me"}
            async with (
                rig.envoy(mesh, "edge-1", plane.port),
                rig.envoy(mesh, "side-1", plane.port),
                aiohttp.ClientSession() as client,
            ):
                at_edge = (await rig.ask(client, edge, claimed)).headers
                assert (at_edge["x-serinus-key"], at_edge["x-serinus-hop"]) == ("me", "gateway")
                assert "x-user-id" not in at_edge
                at_side = (await rig.ask(client, port, claimed)).headers
                assert (at_side["x-serinus-key"], at_side["x-user-id"]) == ("mallory", "anna")

    asyncio.run(scenario())
