"""A1: streams, identity, first request."""

from __future__ import annotations

import threading
import time

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from tests.conformance.client import KINDS, VARIANTS, Client, StreamEndedError
from tests.conformance.conftest import Connect
from tests.conformance.marks import ADS, shows
from tests.conformance.server import Server, name_of, names_of

GATEWAY = {"edge": {"listen": "127.0.0.1:7000"}}


@pytest.mark.parametrize("kind", KINDS)
@shows("A1", "every type has its methods, and is on ADS")
def test_every_type_in_every_variant(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A", gateways=GATEWAY)
    client = connect(variant, node="edge")
    names = {
        **dict.fromkeys(("CDS", "EDS"), "A|v1"),
        "LDS": "gateway|edge",
        "RDS": "gateway|edge|A",
        "SRDS": "gateway|edge|a.test",
        "RTDS": "serinus",
    }
    sub = client.subscriber(kind)
    sub.subscribe(names[kind])
    assert set(sub.take().items) == {names[kind]}
    client.is_left_alone()


def request(variant, **fields) -> bytes:
    message = DeltaDiscoveryRequest if variant.is_delta else DiscoveryRequest
    return message(**fields).SerializeToString()


@shows("A1", "a request on ADS must name its type", ADS)
def test_no_type_on_ads(connect: Connect, variant) -> None:
    stream = connect(variant).open("CDS")
    stream.send_raw(request(variant, node=Node(id="test-id")))
    assert stream.end().code is grpc.StatusCode.INVALID_ARGUMENT


@shows("A1", "a type's own stream implies the type", [v for v in VARIANTS if not v.aggregated])
def test_implied_type(server: Server, connect: Connect, variant) -> None:
    server.set_up("A")
    stream = connect(variant).open("CDS")
    stream.send_raw(request(variant, node=Node(id="test-id")))
    assert set(stream.next("CDS").items) == {"A|v1"}


@shows("A1", "a type's own stream refuses other types", [v for v in VARIANTS if not v.aggregated])
def test_wrong_type(connect: Connect, variant) -> None:
    stream = connect(variant).open("CDS")
    stream.send_raw(request(variant, node=Node(id="test-id"), type_url=KINDS["LDS"].url))
    assert stream.end().code is grpc.StatusCode.INVALID_ARGUMENT


@shows("A1", "the first request must carry the node")
def test_no_node(connect: Connect, variant) -> None:
    stream = connect(variant).open("CDS")
    stream.send_raw(request(variant, type_url=KINDS["CDS"].url))
    assert stream.end().code is grpc.StatusCode.INVALID_ARGUMENT


@shows("A1", "the node may come once, or with every request")
def test_repeated_node(server: Server, connect: Connect, variant) -> None:
    server.set_up("A")
    for fields in ({}, {"node": Node(id="test-id", cluster="conformance")}):
        client = connect(variant)
        sub = client.subscriber("CDS")
        sub.wildcard()
        first = sub.receive()
        sub.stream._node = fields.get("node")
        sub.ack(first)
        server.update("CDS", "A")
        sub.take()
        client.is_left_alone(0.2)


@shows("A1", "two streams of one node are both served in full")
def test_two_streams_of_one_node(server: Server, connect: Connect, variant) -> None:
    server.set_up("A", "B")
    subs = [connect(variant, node="twin").subscriber("CDS") for _ in range(2)]
    for sub in subs:
        sub.wildcard()
        assert set(sub.take().items) == names_of("CDS", "AB")
    server.update("CDS", "A")
    for sub in subs:
        assert "A|v1" in sub.take().items
    subs[0].stream.close()
    server.update("CDS", "B")
    assert "B|v1" in subs[1].take().items


@shows("A1", "a type that is not served is met with silence", ADS)
def test_unserved_type(server: Server, connect: Connect, variant) -> None:
    server.set_up("A")
    client = connect(variant)
    stream = client.stream("CDS")
    url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    stream.send_raw(request(variant, node=client.node, type_url=url))
    client.is_left_alone(0.3)
    sub = client.subscriber("CDS")
    sub.wildcard()
    assert set(sub.take().items) == {"A|v1"}


@shows("A1", "a node's kind decides what it is sent")
def test_node_kinds(server: Server, connect: Connect, variant) -> None:
    server.set_up("A", gateways=GATEWAY)
    for node, name in (("edge", "gateway|edge"), ("anybody", name_of("LDS", "A"))):
        sub = connect(variant, node=node).subscriber("LDS")
        sub.wildcard()
        assert set(sub.take().items) == {name}


@shows("A1", "nobody is answered before the server knows what to say", ADS)
def test_never_empty_at_boot(own_server: Server, variant) -> None:
    """A client that is there before the server is gets all of it in the first response, or no response."""
    answers = []

    def ask() -> None:
        deadline = time.monotonic() + 30
        while not answers and time.monotonic() < deadline:
            with Client(own_server.grpc, variant) as client:
                sub = client.subscriber("CDS")
                sub.wildcard()
                try:
                    answers.append(sub.receive(30))
                except StreamEndedError as ended:
                    assert ended.code is grpc.StatusCode.UNAVAILABLE  # noqa: PT017
            time.sleep(0.005)

    asking = threading.Thread(target=ask)
    asking.start()
    own_server.start("A", "B")
    asking.join(30)
    assert [set(answer.items) for answer in answers] == [names_of("CDS", "AB")]
