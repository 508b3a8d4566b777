"""A running `serinus run`, and clients that say whatever they like to it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)

from xds_server.pb import control_pb2 as pb
from xds_server.pb import control_pb2_grpc as pb_grpc
from xds_server.snapshot import ResourceType

SERINUS = Path(sys.executable).with_name("serinus")
ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
READY_WITHIN_S = 30.0
LOST = (grpc.StatusCode.INTERNAL, "Internal error from Core")
"""What grpc.aio's client says when a stream ends while it writes: the status that was sent is lost to it."""

SERVICE = """
  {name}:
    domains: [{name}]
    port: {port}
    identity: [{{header: x-user-id}}]
    versions:
      v1: {{endpoints: ["127.0.0.1:9001"]}}
      v2: {{endpoints: ["127.0.0.1:9002"]}}
    baseline: v1
    rollout: {{warmup: 1h, min_dwell: 1h, harm: {{budget: 1000000}}}}
"""


def mesh_of(services: Sequence[str], more: str = "") -> str:
    """A mesh of these services, on one port."""
    return "services:" + "".join(SERVICE.format(name=name, port=10_000) for name in services) + more


@dataclass(slots=True)
class Running:
    """A control plane in a process of its own."""

    mesh: Path
    log: Path
    process: subprocess.Popen[bytes]
    grpc: str = ""
    http: str = ""

    @property
    def address(self) -> str:
        return self.grpc.replace("127.0.0.1", "localhost")

    def metrics(self, name: str) -> dict[str, float]:
        """One metric's values by the values of its labels, with commas between."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as response:
            text = response.read().decode()
        found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
        return {",".join(re.findall(r'"([^"]*)"', labels)): float(value) for labels, value in found}

    def rss_mb(self) -> float:
        """Resident memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1_024

    def wait_for(self, what: str, check: Callable[[], bool], within_s: float = 10.0) -> None:
        deadline = time.monotonic() + within_s
        while not check():
            assert time.monotonic() < deadline, f"not within {within_s} s: {what}\n{self.log.read_text()}"
            time.sleep(0.05)


@contextlib.contextmanager
def running(directory: Path, mesh: str, *options: object) -> Iterator[Running]:
    """Run `serinus run` on ports of its own."""
    path, log = directory / "mesh.yaml", directory / "serinus.log"
    path.write_text(mesh)
    ports = ("--grpc-port", "0", "--otlp-port", "0", "--http-port", "0", "--data-dir", directory / "data")
    with log.open("wb") as out:
        process = subprocess.Popen([SERINUS, "run", path, *map(str, (*ports, *options))], stdout=out, stderr=out)
    result = Running(path, log, process)
    try:
        result.wait_for("listening", lambda: process.poll() is not None or "HTTP on" in log.read_text(), READY_WITHIN_S)
        assert process.poll() is None, log.read_text()
        result.grpc = re.findall(r" on (\S+), OTLP", log.read_text())[0]
        result.http = re.findall(r"HTTP on (\S+)", log.read_text())[0]
        yield result
    finally:
        process.terminate()
        process.wait(20)
    assert "Traceback" not in log.read_text(), log.read_text()


class Client:
    """One connection to a control plane."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.control = pb_grpc.ControlStub(channel)

    def raw(self, method: str = ADS + "StreamAggregatedResources", **options: Any) -> Any:
        """A stream of bytes."""
        return self.channel.stream_stream(method)(**options)

    async def said(self, *messages: bytes, method: str = ADS + "StreamAggregatedResources", **options: Any) -> Any:
        """Say this on a stream, and return the status and the text that ends it."""
        while (found := await self._said(*messages, method=method, **options)) == LOST:
            pass
        return found

    async def _said(self, *messages: bytes, method: str, **options: Any) -> Any:
        call = self.raw(method, **options)
        try:
            for message in messages:
                await call.write(message)
            async with asyncio.timeout(20):
                while await call.read() is not grpc.aio.EOF:
                    pass
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()
        return await call.code(), await call.details()

    async def unary(self, method: str, request: bytes) -> Any:
        """The status and the text of one call."""
        try:
            await self.channel.unary_unary(method)(request, timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()
        return grpc.StatusCode.OK, ""


def credentials(ca: Path, own: Any = None) -> grpc.ChannelCredentials:
    """What a client trusts, and what it shows."""
    pair = (own.key.read_bytes(), own.certificate.read_bytes()) if own is not None else (None, None)
    return grpc.ssl_channel_credentials(ca.read_bytes(), *pair)


@contextlib.asynccontextmanager
async def client(plane: Running, ca: Path | None = None, own: Any = None) -> AsyncIterator[Client]:
    """Connect, in plain text or over TLS."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    if ca is None:
        channel = grpc.aio.insecure_channel(plane.address, options)
    else:
        channel = grpc.aio.secure_channel(plane.address, credentials(ca, own), options)
    async with channel:
        yield Client(channel)


class Bystander:
    """A well-behaved Envoy of its own: subscribed, up to date."""

    def __init__(self, call: Any) -> None:
        self._call = call

    @classmethod
    async def join(cls, peer: Client, node: str = "bystander") -> Bystander:
        """Subscribe, and take the first configuration."""
        call = peer.raw(ADS + "DeltaAggregatedResources")
        self = cls(call)
        for kind in (ResourceType.CDS, ResourceType.LDS):
            request = DeltaDiscoveryRequest(type_url=kind.url)
            request.node.id = node
            await call.write(request.SerializeToString())
        self.names = {kind: set() for kind in ResourceType}
        await self.until(ResourceType.LDS)
        request = DeltaDiscoveryRequest(type_url=ResourceType.RDS.url, resource_names_subscribe=["sidecar|10000"])
        await call.write(request.SerializeToString())
        await self.until(ResourceType.RDS)
        return self

    async def until(self, kind: ResourceType, within_s: float = 10.0) -> DeltaDiscoveryResponse:
        """Take and acknowledge what comes, until something of this type does."""
        async with asyncio.timeout(within_s):
            while True:
                response = DeltaDiscoveryResponse.FromString(await self._call.read())
                ack = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
                await self._call.write(ack.SerializeToString())
                found = next(each for each in ResourceType if each.url == response.type_url)
                self.names[found] |= {resource.name for resource in response.resources}
                if found is kind:
                    return response


async def push(operator: Client, split_bp: int, service: str = "shop") -> None:
    """Make the control plane push another split."""
    if not (await operator.control.ListRollouts(pb.ListRolloutsRequest())).rollouts:
        await operator.control.StartRollout(pb.StartRolloutRequest(service=service, canary="v2", who="test"))
    await operator.control.Act(
        pb.ActRequest(service=service, action=pb.ACTION_SET, split_bp=split_bp, who="test"), timeout=10
    )


class Kit:
    """What tests need, by name."""

    mesh_of = staticmethod(mesh_of)
    running = staticmethod(running)
    client = staticmethod(client)
    join = Bystander.join
    push = staticmethod(push)
    ads = ADS
    lost = LOST
    binary = SERINUS

    @staticmethod
    def request(kind: ResourceType | str, *names: str, node: str = "somebody", cluster: str = "") -> bytes:
        """A DiscoveryRequest."""
        message = DiscoveryRequest(type_url=kind.url if isinstance(kind, ResourceType) else kind, resource_names=names)
        message.node.id, message.node.cluster = node, cluster
        return message.SerializeToString()

    response = DiscoveryResponse


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A control plane of two services, without TLS."""
    with running(tmp_path_factory.mktemp("plain"), mesh_of(["shop", "cart"])) as plane:
        yield plane
