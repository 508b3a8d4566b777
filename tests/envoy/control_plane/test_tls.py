"""Real Envoys over mutual TLS."""

from __future__ import annotations

import asyncio
import json

import aiohttp

from xds_server.bootstrap import UpstreamTls, bootstrap

ACCESS = """
access:
  - {san: "spiffe://mesh/ns/shop/*", may: [xds, ingest], nodes: ["side-*"]}
  - {san: "spiffe://mesh/people/*", may: [observe, control]}
"""
SERVER = ("spiffe://mesh/serinus", "127.0.0.1")


def test_envoys_are_who_their_certificates_say_and_outlive_a_change_of_certificates(rig, place, authorities):
    """A new certificate of the server reaches whoever comes later; nobody else notices."""
    authority = authorities("mesh")
    server = authority.issue(*SERVER)
    person = authority.issue("spiffe://mesh/people/ann")

    def over_tls(node, port, own, san=SERVER[0]):
        def edit(config) -> None:
            tls = UpstreamTls(ca=str(authority.ca), san=san, certificate=str(own.certificate), key=str(own.key))
            config["static_resources"] = bootstrap(place.mesh(), node, xds=("127.0.0.1", port), tls=tls)[
                "static_resources"
            ]

        return edit

    def envoy(serinus, node, own, **options):
        return rig.envoy(place.mesh(), node, serinus.grpc, edit=over_tls(node, serinus.grpc, own, **options))

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop, aiohttp.ClientSession() as client:
            path, port = place.write_mesh(shop)
            path.write_text(path.read_text() + ACCESS)
            options = (
                "--tls-certificate",
                server.certificate,
                "--tls-key",
                server.key,
                "--tls-client-ca",
                authority.ca,
            )
            me = ("--tls-ca", authority.ca, "--tls-certificate", person.certificate, "--tls-key", person.key)
            async with place.serinus(*options) as serinus:

                async def nodes() -> dict[str, bool]:
                    said = await serinus.say("status", "--json", *me)
                    assert said.code == 0, said.err
                    return {node["node"]: node["connected"] for node in json.loads(said.out)["nodes"]}

                async def refused(reason: str) -> bool:
                    return (await serinus.metrics("serinus_access_refusals_total")).get((reason,), 0) > 0

                own = authority.issue("spiffe://mesh/ns/shop/a")
                async with envoy(serinus, "side-1", own) as first, place.crowd(port) as crowd:
                    assert await place.visit(client, port, "ann") == (200, "v1")

                    async def has_logs() -> bool:
                        return (await serinus.metrics("serinus_samples_total")).get(("shop",), 0) > 0

                    await rig.eventually(has_logs, "access logs arrive")

                    authority.issue(*SERVER, to=server)

                    async def is_adopted() -> bool:
                        return (await serinus.metrics("serinus_tls_reads_total")).get(("adopted",), 0) > 0

                    await rig.eventually(is_adopted, "the new certificate is in force")
                    # Each worker connects when it has something to log, so connections may come; none may go.
                    gone = await first.stats("cluster.serinus.upstream_cx_destroy$")
                    assert gone
                    said = await serinus.say("rollout", "start", "shop", "--canary", "v2", *me)
                    assert said.code == 0, said.err
                    said = await serinus.say("rollout", "set", "shop", "--split", "100%", *me)
                    assert said.code == 0, said.err

                    async def is_on_v2() -> bool:
                        return (await place.visit(client, port, "ann"))[1] == "v2"

                    await rig.eventually(is_on_v2, "an Envoy that has connected before gets what is pushed later")
                    assert await first.stats("cluster.serinus.upstream_cx_destroy$") == gone
                    assert crowd.failed_n == 0
                # the port is that of every sidecar: one after the other
                async with envoy(serinus, "side-2", own):
                    assert await nodes() == {"side-1": False, "side-2": True}
                for node, stranger, reason in (
                    ("side-3", authority.issue("spiffe://mesh/ns/evil/a"), "no_rule"),
                    ("edge", own, "node"),
                ):
                    waiting = asyncio.create_task(_run(envoy(serinus, node, stranger)))
                    await rig.eventually(lambda reason=reason: refused(reason), f"{node} is refused")
                    waiting.cancel()
                    await asyncio.wait((waiting,))
                misled = asyncio.create_task(_run(envoy(serinus, "side-4", own, san="spiffe://mesh/other")))
                await asyncio.sleep(2)
                assert set(await nodes()) == {"side-1", "side-2"}, (
                    "an Envoy does not talk to who is not its control plane"
                )
                misled.cancel()
                await asyncio.wait((misled,))

    asyncio.run(scenario())


async def _run(envoy) -> None:
    async with envoy:
        await asyncio.sleep(3_600)
