"""A7: robustness."""

from __future__ import annotations

import signal
import time

import grpc
import pytest
from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse
from envoy.service.status.v3.csds_pb2 import ClientStatusRequest, ClientStatusResponse

from tests.conformance.client import DELTA_ADS, Client
from tests.conformance.conftest import Connect
from tests.conformance.marks import ADS, shows
from tests.conformance.server import CHANGES, Server, name_of, names_of

PUSHES = 25
CSDS = "envoy.service.status.v3.ClientStatusDiscoveryService"
LRS = "envoy.service.load_stats.v3.LoadReportingService"


@shows("A7", "not reading: memory bounded, others unaffected, the newest in the end", matrix=7)
def test_not_reading(server: Server, connect: Connect, variant) -> None:
    server.set_up(*"ABCDEF")
    lazy = connect(variant)
    kinds = ("CDS", "LDS")
    for kind in kinds:
        lazy.stream(kind, reads=False)
        lazy.subscriber(kind).wildcard()
    others = {kind: connect(variant).subscriber(kind) for kind in kinds}
    for sub in others.values():
        sub.wildcard()
        sub.take()
    before = server.memory_mb()
    for _ in range(PUSHES):
        server.services["A"].change(*kinds)
        server.reload()
        for kind, sub in others.items():
            assert name_of(kind, "A") in sub.take().items
    assert server.memory_mb() - before < 4
    for stream in lazy.streams():
        stream.read()
    for kind in kinds:
        sub = lazy.subscriber(kind)
        sub.wildcard()
        responses = [sub.receive()]
        sub.ack(responses[0])
        responses += sub.drain(1.0)
        assert len(responses) <= 3  # what was under way, the newest, and an answer to asking twice
        newest = others[kind].held[name_of(kind, "A")].content
        assert responses[-1].items[name_of(kind, "A")].content == newest


@shows("A7", "requests larger than gRPC's default of 4 MiB are taken", ADS)
def test_large_request(server: Server, connect: Connect, variant) -> None:
    server.set_up("A")
    sub = connect(variant).subscriber("EDS")
    many = [f"nothing-{n}-{'x' * 60}" for n in range(70_000)]
    sub.subscribe(name_of("EDS", "A"), *many)
    came = {name for response in sub.drain(5.0) for name in response.items}
    assert came == {name_of("EDS", "A")}


@shows("A7", "more names than any mesh has are refused")
def test_too_many_names(server: Server, connect: Connect, variant) -> None:
    stream = connect(variant).stream("CDS")
    field = "resource_names_subscribe" if variant.is_delta else "resource_names"
    stream.send("CDS", **{field: [f"{n}" for n in range(100_001)]})
    assert stream.end(10).code is grpc.StatusCode.INVALID_ARGUMENT


@shows("A7", "what is no message ends its own stream and no other")
def test_garbage(server: Server, connect: Connect, variant) -> None:
    server.set_up("A")
    client = connect(variant)
    sub = client.subscriber("CDS")
    sub.wildcard()
    sub.take()
    for garbage in (b"\xff" * 40, b"\x0a\x05abc", b""):
        stream = client.open("CDS")
        stream.send_raw(garbage)
        assert stream.end().code is grpc.StatusCode.INVALID_ARGUMENT
    server.update("CDS", "A")
    assert set(sub.take().items) == {"A|v1"}


@shows("A7", "keepalive pings each second do not cut an idle stream", ADS)
def test_keepalive(server: Server, connect: Connect, variant) -> None:
    """gRPC's defaults would cut it at the third ping."""
    server.set_up("A")
    pings = {
        "grpc.keepalive_time_ms": 1_000,
        "grpc.keepalive_timeout_ms": 1_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
    }
    client = connect(variant, options=pings)
    sub = client.subscriber("CDS")
    sub.wildcard()
    sub.take()
    time.sleep(5)
    client.is_left_alone(0.1)
    server.update("CDS", "A")
    sub.take()


@shows("A7", "a hundred streams on one connection")
def test_many_streams(server: Server, connect: Connect, variant) -> None:
    server.set_up("A", "B")
    client = connect(variant)
    streams = [client.open("CDS") for _ in range(100)]
    for stream in streams:
        stream.send("CDS")
    for stream in streams:
        assert set(stream.next("CDS", 10).items) == names_of("CDS", "AB")


@pytest.mark.shows("matrix", 15)
@shows("A7", "a storm: 300 connections at once, each is served in full", ADS)
def test_storm(server: Server, connect: Connect, variant) -> None:
    """`make bench-xds` does it with thousands."""
    server.set_up(*"ABCD")
    began = time.monotonic()
    subs = [connect(variant, node=f"storm-{n}").subscriber("CDS") for n in range(300)]
    for sub in subs:
        sub.wildcard()
    for sub in subs:
        assert set(sub.take(30).items) == names_of("CDS", "ABCD")
    assert time.monotonic() - began < 30
    server.update("CDS", "A")
    for sub in subs:
        sub.take(30)


@shows("A7", "a client that goes without a word is forgotten", ADS)
def test_gone(server: Server, variant) -> None:
    server.set_up("A")
    before = server.metric("serinus_xds_nodes")
    with Client(server.grpc, variant, node=f"gone-{variant.protocol}") as client:
        sub = client.subscriber("CDS")
        sub.wildcard()
        sub.take()
        assert server.metric("serinus_xds_nodes") == before + 1
    deadline = time.monotonic() + 5
    while server.metric("serinus_xds_nodes") != before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@shows("A7", "it ends in order: streams are closed, the exit code is 0", ADS)
def test_end(own_server: Server, variant) -> None:
    own_server.start("A")
    with Client(own_server.grpc, variant) as client:
        subs = [client.subscriber(kind) for kind in CHANGES]
        for sub in subs:
            sub.subscribe(name_of(sub.kind, "A"))
            sub.take()
        began = time.monotonic()
        assert own_server.end(signal.SIGTERM) == 0
        assert time.monotonic() - began < 5
        assert all(not stream.is_open or stream.end(1) for stream in client.streams())


@pytest.mark.shows("matrix", 13)
@pytest.mark.shows("A7", "endpoints: a weight for each locality, priorities from 0 without gaps")
def test_endpoints_for_proxyless(server: Server, connect: Connect) -> None:
    """gRPC takes a locality without a weight for an empty one, and refuses a gap. A mesh file cannot say either."""
    server.set_up(*"ABC")
    sub = connect(DELTA_ADS).subscriber("EDS")
    names = names_of("EDS", "ABC")
    sub.subscribe(*names)
    sub.take_all(names)
    for item in sub.held.values():
        localities = ClusterLoadAssignment.FromString(item.content).endpoints
        assert all(locality.load_balancing_weight.value > 0 for locality in localities)
        assert {locality.priority for locality in localities} == set(range(len({x.priority for x in localities})))
        hosts = [host.endpoint.address.socket_address for locality in localities for host in locality.lb_endpoints]
        assert all(host.address and host.port_value for host in hosts)


@shows("A7", "a node that is as large as Envoy's is no matter")
def test_large_node(server: Server, connect: Connect, variant) -> None:
    server.set_up("A")
    client = connect(variant)
    client.node = Node(id="large", cluster="conformance")
    client.node.metadata.update({"notes": "x" * 60_000})
    sub = client.subscriber("CDS")
    sub.wildcard()
    assert set(sub.take().items) == {"A|v1"}


@shows("A7", "client status (CSDS): what each has and has refused, in its own words")
def test_client_status(server: Server, connect: Connect, variant) -> None:
    server.set_up("A", "B")
    client = connect(variant, node=f"status-{variant.protocol}-{variant.aggregated}")
    sub = client.subscriber("CDS")
    names = names_of("CDS", "AB")
    sub.subscribe(*sorted(names))
    sub.take_all(names)
    server.update("CDS", "A")
    sub.nack(sub.receive(), "Error adding/updating cluster(s) A|v1: no")
    sub.drain()
    matcher = {"node_id": {"exact": client.node.id}}
    for method in ("Fetch", "Stream"):
        request = ClientStatusRequest(node_matchers=[matcher], exclude_resource_contents=True)
        response = client.ask(f"/{CSDS}/{method}ClientStatus", request, ClientStatusResponse)
        (config,) = response.config
        found = {each.name: each for each in config.generic_xds_configs}
        assert found.keys() == names
        assert found["A|v1"].client_status == ClientResourceStatus.NACKED
        assert "A|v1: no" in found["A|v1"].error_state.details
        assert found["B|v1"].client_status == ClientResourceStatus.ACKED
        assert not any(each.HasField("xds_config") for each in config.generic_xds_configs)


@pytest.mark.shows("A7", "load reports (LRS): the server says what it wants, and how often")
def test_load_reports(server: Server, connect: Connect) -> None:
    server.set_up("A")
    client = connect(DELTA_ADS)
    wanted = client.ask(f"/{LRS}/StreamLoadStats", LoadStatsRequest(node=client.node), LoadStatsResponse)
    assert wanted.load_reporting_interval.ToMilliseconds() >= 1_000
    assert not wanted.clusters  # no rollout is running
