"""What `serinus run` tells generic gRPC clients: its health, what it serves, and what its Envoys have."""

from __future__ import annotations

import asyncio

import grpc
from envoy.service.status.v3 import csds_pb2
from envoy.service.status.v3.csds_pb2_grpc import ClientStatusDiscoveryServiceStub
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from xds_server.health import SERVICE
from xds_server.reflection import MAIN_SERVICES, NAMES, OTLP_SERVICES


def reflected(port: int) -> set[str]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return set(ProtoReflectionDescriptorDatabase(channel).get_services())


async def is_served(channel: grpc.aio.Channel, service: str, method: str) -> bool:
    """Whether a method exists; it is given an empty message, and whatever it makes of that is fine."""
    call = channel.stream_stream(f"/{service}/{method}")()
    await call.write(b"")
    await call.done_writing()
    try:
        await asyncio.wait_for(call.read(), 5)
    except grpc.aio.AioRpcError as error:
        return error.code() is not grpc.StatusCode.UNIMPLEMENTED
    return True


def test_generic_clients_learn_its_health_its_services_and_what_its_envoys_have(rig, place):
    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            place.write_mesh(shop)
            async with place.serinus() as serinus:
                main = grpc.aio.insecure_channel(f"127.0.0.1:{serinus.grpc}")
                otlp = grpc.aio.insecure_channel(f"127.0.0.1:{serinus.otlp}")
                async with main, otlp:
                    for port, services in ((serinus.grpc, MAIN_SERVICES), (serinus.otlp, OTLP_SERVICES)):
                        assert await asyncio.to_thread(reflected, port) == {*services, SERVICE, *NAMES}
                    for channel, services in ((main, MAIN_SERVICES), (otlp, OTLP_SERVICES)):
                        for service in services:
                            reply = await HealthStub(channel).Check(HealthCheckRequest(service=service))
                            assert reply.status == HealthCheckResponse.SERVING

                    async with rig.envoy(place.mesh(), "side-1", serinus.grpc):
                        csds = ClientStatusDiscoveryServiceStub(main)

                        async def are_synced() -> bool:
                            request = csds_pb2.ClientStatusRequest(exclude_resource_contents=True)
                            for config in (await csds.FetchClientStatus(request)).config:
                                statuses = {each.config_status for each in config.generic_xds_configs}
                                return (config.node.id, statuses) == ("side-1", {csds_pb2.SYNCED})
                            return False

                        await rig.eventually(are_synced, "the Envoy has all that it asks for")

                    # Every stream that has no end of its own is open when the end comes.
                    watches = [HealthStub(channel).Watch(HealthCheckRequest()) for channel in (main, otlp)]
                    for watch in watches:
                        assert (await watch.read()).status == HealthCheckResponse.SERVING
                    asked = csds.StreamClientStatus()
                    await asked.write(csds_pb2.ClientStatusRequest())
                    await asked.read()
                    info = main.stream_stream(f"/{NAMES[0]}/ServerReflectionInfo")()
                    await info.write(b"")
                    await info.read()
                    ending = asyncio.create_task(serinus.end())
                    for watch in watches:
                        assert (await watch.read()).status == HealthCheckResponse.NOT_SERVING
                        assert await watch.read() is grpc.aio.EOF
                    for stream in (asked, info):
                        assert await stream.read() is grpc.aio.EOF
                    code, took_s = await ending
                    assert code == 0
                    assert took_s < 5

    asyncio.run(scenario())


def test_what_is_reflected_is_there(place):
    """The list is written down, since a gRPC server does not tell what it serves."""
    methods = {
        "envoy.service.accesslog.v3.AccessLogService": "StreamAccessLogs",
        "envoy.service.auth.v3.Authorization": "Check",
        "envoy.service.load_stats.v3.LoadReportingService": "StreamLoadStats",
        "envoy.service.status.v3.ClientStatusDiscoveryService": "StreamClientStatus",
        "serinus.control.v1.Control": "GetStatus",
        "serinus.control.v1.History": "Label",
        "serinus.registry.v1.Registry": "List",
        "serinus.training.v1.Training": "ListArtefacts",
        "opentelemetry.proto.collector.trace.v1.TraceService": "Export",
        "opentelemetry.proto.collector.logs.v1.LogsService": "Export",
        "opentelemetry.proto.collector.metrics.v1.MetricsService": "Export",
        "envoy.service.discovery.v3.AggregatedDiscoveryService": "DeltaAggregatedResources",
        "envoy.service.cluster.v3.ClusterDiscoveryService": "DeltaClusters",
        "envoy.service.endpoint.v3.EndpointDiscoveryService": "DeltaEndpoints",
        "envoy.service.listener.v3.ListenerDiscoveryService": "DeltaListeners",
        "envoy.service.route.v3.RouteDiscoveryService": "DeltaRoutes",
        "envoy.service.route.v3.ScopedRoutesDiscoveryService": "DeltaScopedRoutes",
        "envoy.service.runtime.v3.RuntimeDiscoveryService": "DeltaRuntime",
    }
    assert methods.keys() == set(MAIN_SERVICES) >= set(OTLP_SERVICES)

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            place.write_mesh(shop)
            async with place.serinus() as serinus:
                for port, services in ((serinus.grpc, MAIN_SERVICES), (serinus.otlp, OTLP_SERVICES)):
                    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                        for service in services:
                            assert await is_served(channel, service, methods[service]), service

    asyncio.run(scenario())
