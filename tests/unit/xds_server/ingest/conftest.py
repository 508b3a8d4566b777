"""A shop's mesh, and requests to it as Envoy's own messages say them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2

from xds_server.ingest.rows import DecodeRules, rules_of
from xds_server.mesh import Mesh
from xds_server.settings import parse_mesh
from xds_server.stamp import TAG

MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    session: {gap: 8s, goal: {path: /checkout/done}}
    errors: {status: [5xx, 418]}
    versions:
      v1: {endpoints: ["127.0.0.1:9001"]}
      v2: {endpoints: ["127.0.0.1:9002"]}
    baseline: v1
    segments:
      power: {match: {headers: [{name: x-plan, exact: pro}]}}
      eu: {match: {headers: [{name: x-region, exact: eu}]}}
    kpis:
      features: {wishlist: {max_regression: 5pp}}
gateways:
  edge: {listen: "127.0.0.1:8000", services: [shop]}
"""

NOW_UNIX_S = 1_700_000_000
"""When the requests of these tests started, and what the clock of these tests says."""

Entry = accesslog_pb2.HTTPAccessLogEntry
MakeEntry = Callable[..., Entry]
STAMP = {"service": "shop", "segment": "eu", "rollout": "shop-1", "generation": "7"}
LINES = ("content_type", "grpc_header", "grpc_trailer", "key")
USUAL = {"hop": "gateway", "content_type": "text/html", "grpc_header": "", "grpc_trailer": "", "key": "anna"}


class StoppedClock:
    def now_unix_ns(self) -> int:
        return NOW_UNIX_S * 1_000_000_000

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture(scope="session")
def mesh() -> Mesh:
    return parse_mesh(MESH, "shop.yaml")


@pytest.fixture(scope="session")
def rules(mesh: Mesh) -> DecodeRules:
    return rules_of(mesh.services["shop"])


@pytest.fixture(scope="session")
def make_entry() -> MakeEntry:
    def make(
        *,
        path: str = "/product/17?colour=red",
        status: int | None = 200,
        cluster: str = "shop|v2",
        flags: tuple[str, ...] = (),
        kind: str = "DownstreamEnd",
        stream: bool = False,
        **said: str,
    ) -> Entry:
        entry = Entry()
        common = entry.common_properties
        common.start_time.seconds = NOW_UNIX_S
        common.time_to_last_downstream_tx_byte.nanos = 12_500_000
        common.duration.nanos = 13_000_000
        stamp = "|".join(said.get(name, usual) for name, usual in STAMP.items())
        lines = {**USUAL, **said}
        common.custom_tags[TAG] = "\n".join(
            (
                f"{stamp}|stream" if stream else stamp,
                lines["hop"],
                kind,
                str(status or 0),
                ",".join(flags) or "-",
                cluster,
                *(lines[name] for name in LINES),
            )
        )
        entry.request.path = path
        return entry

    return make


@pytest.fixture(scope="session")
def stream_message() -> Callable[..., bytes]:
    def make(*entries: Entry, node: str | None = None, cluster: str = "") -> bytes:
        message = als_pb2.StreamAccessLogsMessage()
        message.http_logs.log_entry.extend(entries)
        if node is not None:
            message.identifier.node.id = node
            message.identifier.node.cluster = cluster
            message.identifier.log_name = "serinus"
        return message.SerializeToString()

    return make
