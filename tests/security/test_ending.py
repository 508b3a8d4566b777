"""The end is orderly: nobody is cut off all at once, and what has arrived is not lost."""

from __future__ import annotations

import asyncio
import signal
import time

import grpc
import pytest
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from xds_server.ads.servicer import DRAIN_S
from xds_server.ingest import Ingest
from xds_server.ingest.als import add_als
from xds_server.settings import parse_mesh
from xds_server.snapshot import ResourceType

ALS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def test_streams_end_one_after_the_other_and_the_process_soon(kit, tmp_path):
    n = 200

    async def go(plane):
        async with kit.client(plane) as client:
            ended = []

            async def stay(node):
                said = await client.said(kit.request(ResourceType.CDS, node=node))
                ended.append(time.monotonic())
                return said

            staying = [asyncio.create_task(stay(f"node-{i}")) for i in range(n)]
            await asyncio.to_thread(plane.wait_for, "everybody", lambda: plane.metrics("serinus_xds_nodes")[""] == n)
            plane.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            codes = {code for code, _ in await asyncio.gather(*staying)}
            await asyncio.to_thread(plane.process.wait, 10)
            return codes, ended[-1] - ended[0], time.monotonic() - began

    with kit.running(tmp_path, kit.mesh_of(["shop"])) as plane:
        codes, spread_s, all_s = asyncio.run(go(plane))
        assert plane.process.returncode == 0
    assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK}
    assert DRAIN_S / 2 < spread_s < DRAIN_S * 2
    assert all_s < 5


def test_access_logs_that_have_arrived_are_still_taken_and_nobody_new_is(kit):
    async def go():
        mesh = parse_mesh(kit.mesh_of(["shop"]), "mesh.yaml")
        ingest, until = Ingest(mesh, user_hash_key=b"k", queue_limit=10), asyncio.Event()
        server = grpc.aio.server()
        add_als(server, ingest, until=until)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            message = StreamAccessLogsMessage()
            message.identifier.node.id = "a"
            message.tcp_logs.log_entry.add()
            call = channel.stream_unary(ALS)()
            for _ in range(500):
                await call.write(message.SerializeToString())
            until.set()
            await call
            assert await call.code() is grpc.StatusCode.OK
            with pytest.raises(grpc.aio.AioRpcError, match="the control plane is ending"):
                await channel.stream_unary(ALS)(iter([message.SerializeToString()]))
        await server.stop(0)
        return ingest.counts

    assert asyncio.run(go()) == {("access_log", "not_http"): 500}
