"""Who asks: cookies minted before routing, people without identity, and headers that clients must not set."""

from __future__ import annotations

import asyncio
import re

import aiohttp

from xds_server.assign import bucket, version_for
from xds_server.mesh import CookieIdentity, Gateway, HeaderIdentity, Mesh

COOKIE = (HeaderIdentity(header="x-user-id"), CookieIdentity(cookie="sid", ttl_s=3_600))


def test_a_visitor_without_identity_gets_a_cookie_is_routed_by_it_at_once_and_stays(
    run_envoy, control_plane, backend, ask, make_service, split, free_port
):
    """The minted value decides the very request that it was minted on."""

    async def scenario() -> None:
        async with backend("v1") as v1, backend("v2") as v2, control_plane() as plane:
            port = free_port()
            service = make_service({"v1": v1, "v2": v2}, port=port, identity=COOKIE)
            splits = split(5_000)
            plane.cache.publish(Mesh(path="mesh.yaml", services={"shop": service}), splits)
            default = splits["shop"].segments["default"]
            jar = aiohttp.DummyCookieJar()
            async with (
                run_envoy(Mesh(path="mesh.yaml", services={"shop": service}), "side-1", plane.port),
                aiohttp.ClientSession(cookie_jar=jar) as client,
            ):
                minted = set()
                for _ in range(100):
                    first = await ask(client, port)
                    form = r"sid=([0-9a-f]{32}); Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"
                    found = re.fullmatch(form, first.set_cookie)
                    assert found, first.set_cookie
                    key = found.group(1)
                    minted.add(key)
                    assert first.headers["x-serinus-key"] == key
                    assert first.version == version_for(default, bucket("shop-1", key))
                    again = await ask(client, port, {"cookie": f"theme=dark; sid={key}"})
                    assert (again.version, again.set_cookie) == (first.version, "")
                assert len(minted) == 100
                # The header comes first in the list of identities, and needs no cookie.
                known = await ask(client, port, {"x-user-id": "anna", "cookie": "sid=other"})
                assert (known.headers["x-serinus-key"], known.set_cookie) == ("anna", "")

    asyncio.run(scenario())


def test_without_any_identity_everybody_gets_the_baseline(
    run_envoy, control_plane, backend, ask, make_service, split, free_port
):
    """Envoy would draw lots at each request, so nobody without a key takes part; nor does an empty or absurd one."""

    async def scenario() -> None:
        async with backend("v1") as v1, backend("v2") as v2, control_plane() as plane:
            port = free_port()
            mesh = Mesh(path="mesh.yaml", services={"shop": make_service({"v1": v1, "v2": v2}, port=port)})
            plane.cache.publish(mesh, split(10_000))
            async with run_envoy(mesh, "side-1", plane.port), aiohttp.ClientSession() as client:
                nobody = ({}, {"x-user-id": ""}, {"x-user-id": "a" * 300}, {"x-serinus-key": ""})
                for headers in nobody:
                    answers = [await ask(client, port, headers) for _ in range(10)]
                    assert {a.version for a in answers} == {"v1"}, headers
                    assert not any("x-serinus-key" in a.headers or a.set_cookie for a in answers)
                assert (await ask(client, port, {"x-user-id": "anna"})).version == "v2"

    asyncio.run(scenario())


def test_a_gateway_ignores_what_clients_must_not_set(
    run_envoy, control_plane, backend, ask, make_service, split, free_port
):
    """x-serinus-* and the gateway's `strip` headers are gone before the route is chosen; a sidecar trusts them."""

    async def scenario() -> None:
        async with backend("v1") as v1, backend("v2") as v2, control_plane() as plane:
            port, edge = free_port(), free_port()
            service = make_service({"v1": v1, "v2": v2}, port=port, identity=COOKIE)
            gateway = Gateway(node="edge-1", listen=("127.0.0.1", edge), services=("shop",), strip=("x-user-id",))
            mesh = Mesh(path="mesh.yaml", services={"shop": service}, gateways={"edge": gateway})
            plane.cache.publish(mesh, split(5_000))
            claimed = {"x-serinus-key": "mallory", "x-serinus-hop": "sidecar", "x-user-id": "anna", "cookie": "sid=me"}
            async with (
                run_envoy(mesh, "edge-1", plane.port),
                run_envoy(mesh, "side-1", plane.port),
                aiohttp.ClientSession() as client,
            ):
                at_edge = (await ask(client, edge, claimed)).headers
                assert (at_edge["x-serinus-key"], at_edge["x-serinus-hop"]) == ("me", "gateway")
                assert "x-user-id" not in at_edge
                at_side = (await ask(client, port, claimed)).headers
                assert (at_side["x-serinus-key"], at_side["x-user-id"]) == ("mallory", "anna")

    asyncio.run(scenario())
