"""What client status discovery tells of a real Envoy is what that Envoy says of itself."""

from __future__ import annotations

import asyncio
import json

import grpc
from envoy.service.status.v3 import csds_pb2 as pb
from envoy.service.status.v3.csds_pb2_grpc import ClientStatusDiscoveryServiceStub
from google.protobuf.json_format import MessageToDict

from tests.envoy.test_ads import tampered
from xds_server.mesh import Mesh
from xds_server.node import ANY_SIDECAR
from xds_server.snapshot import ResourceType

CDS, EDS, LDS, SRDS, RDS, RTDS = ResourceType


async def entries(channel: grpc.aio.Channel) -> dict:
    """What is told of the only client, by type and name."""
    response = await ClientStatusDiscoveryServiceStub(channel).FetchClientStatus(pb.ClientStatusRequest())
    (config,) = response.config
    return {(each.type_url, each.name): each for each in config.generic_xds_configs}


async def versions_in(envoy) -> set[tuple[str, str, str]]:
    """Type, name and version of what an Envoy has of listeners, clusters and routes, by its own dump."""
    found = set()
    for dump in json.loads(await envoy.get("/config_dump"))["configs"]:
        clusters = [("cluster", each) for each in dump.get("dynamic_active_clusters", ())]
        routes = [("route_config", each) for each in dump.get("dynamic_route_configs", ())]
        listeners = [("listener", each["active_state"]) for each in dump.get("dynamic_listeners", ())]
        for key, each in (*clusters, *routes, *listeners):
            found.add((each[key]["@type"], each[key]["name"], each["version_info"]))
    return found


def test_an_envoy_has_what_is_told_of_it_and_refuses_what_is_told_with_its_own_words(rig):
    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            mesh = Mesh(path="mesh.yaml", services={"shop": rig.service({"v1": v1, "v2": v2}, port=port)})
            plane.cache.publish(mesh, rig.split(10_000, generation=1))
            async with (
                rig.envoy(mesh, "side-1", plane.port) as envoy,
                grpc.aio.insecure_channel(f"127.0.0.1:{plane.port}") as channel,
            ):

                async def is_synced() -> bool:
                    told = await entries(channel)
                    return bool(told) and {each.config_status for each in told.values()} == {pb.SYNCED}

                await rig.eventually(is_synced, "all of it is acknowledged")
                told = await entries(channel)
                assert {kind for kind, _ in told} >= {CDS.url, EDS.url, LDS.url, RDS.url}
                dumped = {CDS.url, LDS.url, RDS.url}
                assert {
                    (kind, name, each.version_info) for (kind, name), each in told.items() if kind in dumped
                } == await versions_in(envoy)

                good = told[RDS.url, f"sidecar|{port}"]
                plane.cache.publish_snapshots(mesh, {ANY_SIDECAR: tampered(mesh, rig.split(0, generation=2))})

                async def is_rejected() -> bool:
                    return (await entries(channel))[RDS.url, f"sidecar|{port}"].config_status == pb.ERROR

                await rig.eventually(is_rejected, "the rejection is told")
                bad = (await entries(channel))[RDS.url, f"sidecar|{port}"]
                assert MessageToDict(bad)["clientStatus"] == "NACKED"
                assert bad.version_info == good.version_info, "the last good one stays"
                assert "weight" in bad.error_state.details
                assert bad.error_state.details in envoy.log.read_text(), "its own words"
                assert bad.error_state.version_info != good.version_info

    asyncio.run(scenario())
