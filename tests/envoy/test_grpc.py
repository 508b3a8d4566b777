"""gRPC services split like any other, and their own verdict is in the access log."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest

from xds_server.assign import bucket, version_for
from xds_server.mesh import Mesh
from xds_server.stamp import TAG


@asynccontextmanager
async def greeter(version: str):
    """A gRPC server that answers with its version, and fails for whoever asks it to."""

    async def greet(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if request == b"fail":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "as asked")
        return version.encode()

    server = grpc.aio.server()
    methods = {"Greet": grpc.unary_unary_rpc_method_handler(greet)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Greeter", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def test_grpc_in_is_grpc_out_and_its_status_is_logged(rig):
    async def scenario() -> None:
        async with greeter("v1") as v1, greeter("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            mesh = Mesh(path="mesh.yaml", services={"shop": rig.service({"v1": v1, "v2": v2}, port=port)})
            splits = rig.split(5_000)
            plane.cache.publish(mesh, splits)
            default = splits["shop"].segments["default"]
            options = [("grpc.default_authority", "shop")]
            async with (
                rig.envoy(mesh, "side-1", plane.port),
                grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel,
            ):
                greet = channel.unary_unary("/test.Greeter/Greet")
                for person in (f"p{n}" for n in range(20)):
                    answer = await greet(b"", metadata=(("x-user-id", person),), wait_for_ready=True)
                    assert answer.decode() == version_for(default, bucket("shop-1", person))
                with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
                    await greet(b"fail", metadata=(("x-user-id", "p0"),))

                async def is_logged() -> bool:
                    return len(plane.logs) == 21

                await rig.eventually(is_logged, "every call is in the access log")
                lines = [entry.common_properties.custom_tags[TAG].split("\n") for _, entry in plane.logs]
                assert sorted(header or trailer for *_, header, trailer, _ in lines) == ["0"] * 20 + ["8"]

    asyncio.run(scenario())
