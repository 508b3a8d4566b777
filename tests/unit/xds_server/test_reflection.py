"""What a generic client learns of the server, and that it is true."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from xds_server import health
from xds_server.ads.cache import AdsCache
from xds_server.ads.csds import add_csds
from xds_server.reflection import MAIN_SERVICES, NAMES, OTLP_SERVICES, add_reflection


def test_a_client_that_knows_nothing_can_ask_for_the_clients_status() -> None:
    """It learns the messages from the server, calls, and reads the answer by what it has learnt."""

    def ask(port: int) -> tuple[set[str], dict[str, object]]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            services = set(database.get_services())
            pool = DescriptorPool(database)
            service = pool.FindServiceByName("envoy.service.status.v3.ClientStatusDiscoveryService")
            method = service.FindMethodByName("FetchClientStatus")
            request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
            call = channel.unary_unary(
                f"/{service.full_name}/{method.name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            return services, MessageToDict(call(request()))

    async def scenario() -> None:
        server = grpc.aio.server()
        end = asyncio.Event()
        add_reflection(server, MAIN_SERVICES, until=end)
        add_csds(server, AdsCache(), until=end)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        services, answer = await asyncio.to_thread(ask, port)
        assert services == {*MAIN_SERVICES, health.SERVICE, *NAMES}
        assert answer == {}, json.dumps(answer)
        await server.stop(None)

    asyncio.run(scenario())


@pytest.mark.parametrize("name", NAMES)
def test_every_service_is_described_under_both_names_until_the_end(name: str) -> None:
    async def scenario() -> None:
        server, end = grpc.aio.server(), asyncio.Event()
        add_reflection(server, MAIN_SERVICES, until=end)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with asyncio.timeout(10), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_stream(
                f"/{name}/ServerReflectionInfo",
                request_serializer=ServerReflectionRequest.SerializeToString,
                response_deserializer=ServerReflectionResponse.FromString,
            )()
            for service in (*MAIN_SERVICES, *OTLP_SERVICES, health.SERVICE, NAMES[0]):
                await call.write(ServerReflectionRequest(file_containing_symbol=service))
                response = await call.read()
                assert response.WhichOneof("message_response") == "file_descriptor_response", service
            end.set()
            assert await call.read() is grpc.aio.EOF
        await server.stop(None)

    asyncio.run(scenario())
