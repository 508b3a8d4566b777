"""A2: ACK, NACK, nonce."""

from __future__ import annotations

import json

import pytest

from tests.conformance.client import Subscriber, Variant
from tests.conformance.conftest import Connect
from tests.conformance.marks import ADS, DELTA, SOTW, shows
from tests.conformance.server import CHANGES, Server, name_of

REFUSED = "Error adding/updating {}: this client will not have it"


def begun(connect: Connect, variant: Variant, kind: str, letters: str = "A") -> Subscriber:
    """A client that has these resources, and has ACKed them."""
    sub = connect(variant).subscriber(kind)
    names = [name_of(kind, letter) for letter in letters]
    sub.subscribe(*names)
    sub.take_all(names)
    return sub


@shows("A2", "nonces are given once on a stream, across types")
def test_nonces(server: Server, connect: Connect, variant) -> None:
    server.set_up("A")
    client = connect(variant)
    subs = [client.subscriber(kind) for kind in CHANGES]
    for sub in subs:
        sub.subscribe(name_of(sub.kind, "A"))
        sub.take()
    server.services["A"].change(*CHANGES)
    server.reload()
    for sub in subs:
        sub.take()
    for stream in client.streams():
        nonces = [response.nonce for sub in subs if sub.stream is stream for response in sub.history]
        assert len(nonces) >= 2
        assert len(set(nonces)) == len(nonces)


@pytest.mark.parametrize("kind", CHANGES)
@shows("A2", "what was rejected is not sent again; other content is")
def test_nack(server: Server, connect: Connect, variant, kind) -> None:
    """Where a client may have taken a part, it may be sent what it had before, once."""
    server.set_up("A", "B")
    sub = begun(connect, variant, kind, "AB")
    name = name_of(kind, "A")
    before = sub.held[name].content
    server.update(kind, "A")
    refused = sub.receive()
    sub.nack(refused, REFUSED.format(name))
    after = sub.drain(1.0)
    assert len(after) <= 1
    assert all(r.items[name].content == before for r in after if name in r.items)
    server.update(kind, "A")
    good = sub.take()
    assert good.items[name].content not in (before, refused.items[name].content)
    assert not sub.drain()


@shows("A2", "a rejection takes nothing else with it")
def test_nack_and_others(server: Server, connect: Connect, variant) -> None:
    server.set_up("A", "B")
    for kind in CHANGES:
        sub = begun(connect, variant, kind, "AB")
        server.update(kind, "A")
        sub.nack(sub.receive(), REFUSED.format(name_of(kind, "A")))
        sub.drain()
        before = sub.held[name_of(kind, "B")].content
        server.update(kind, "B")
        assert sub.take().items[name_of(kind, "B")].content != before
        sub.stream.close()


@shows("A2", "names in a NACK are honoured")
def test_names_in_a_nack(server: Server, connect: Connect, variant) -> None:
    server.set_up("A", "B")
    for kind in CHANGES:
        sub = begun(connect, variant, kind)
        server.update(kind, "A")
        refused = sub.receive()
        new = name_of(kind, "B")
        sub.names = (*sub.names, new)
        fields = {"resource_names_subscribe": [new]} if variant.is_delta else {}
        sub.nack(refused, REFUSED.format(name_of(kind, "A")), **fields)
        came = {name: item for response in sub.drain() for name, item in response.items.items()}
        assert new in came
        assert came.get(name_of(kind, "A")) != refused.items[name_of(kind, "A")]
        sub.stream.close()


@pytest.mark.parametrize("kind", CHANGES)
@shows("A2", "names with a stale nonce are honoured, in one answer", SOTW, matrix=9)
def test_stale_nonce_sotw(server: Server, connect: Connect, variant, kind) -> None:
    """With nothing under way, the stale request alone must do; with a response under way, it waits for its ACK."""
    server.set_up("A", "B", "C")
    sub = begun(connect, variant, kind)
    a, b, c = (name_of(kind, letter) for letter in "ABC")
    stale = sub.nonce
    server.update(kind, "A")
    sub.take()
    sub.name_only(a, b, response_nonce=stale)
    (answer,) = sub.drain()
    assert b in answer.items
    server.update(kind, "A")
    overtaking = sub.receive()
    sub.name_only(a, b, c, response_nonce=stale)
    sub.ack(overtaking)
    (answer,) = sub.drain()
    assert c in answer.items


@pytest.mark.parametrize("kind", CHANGES)
@shows("A2", "names with a stale nonce are honoured, in one answer", DELTA, matrix=9)
def test_stale_nonce_delta(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A", "B")
    sub = begun(connect, variant, kind)
    stale = sub.history[-1].nonce
    server.update(kind, "A")
    overtaking = sub.receive()
    sub.subscribe(name_of(kind, "B"), response_nonce=stale)
    sub.ack(overtaking)
    (answer,) = sub.drain()
    assert set(answer.items) == {name_of(kind, "B")}


@shows("A2", "a late or doubled ACK is not answered")
def test_late_ack(server: Server, connect: Connect, variant) -> None:
    server.set_up("A")
    for kind in ("CDS", "LDS", "RDS"):
        sub = begun(connect, variant, kind)
        first = sub.history[-1]
        server.update(kind, "A")
        second = sub.take()
        for again in (first, second):
            sub._answer(again.nonce)
        assert not sub.drain()
        server.update(kind, "A")
        assert sub.take().items[name_of(kind, "A")].content != second.items[name_of(kind, "A")].content
        sub.stream.close()


@pytest.mark.parametrize("kind", CHANGES)
@shows("A2", "one response of a type at a time: a slow client gets the newest content")
def test_one_in_flight(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A")
    sub = begun(connect, variant, kind)
    server.update(kind, "A")
    slow = sub.receive()
    seen = {slow.items[name_of(kind, "A")].content}
    for _ in range(2):
        server.update(kind, "A")
    assert not sub.stream.waiting()
    sub.ack(slow)
    newest = sub.take()
    assert newest.items[name_of(kind, "A")].content not in seen
    assert not sub.drain()
    other = begun(connect, variant, kind)
    assert other.held[name_of(kind, "A")].content == newest.items[name_of(kind, "A")].content


@shows("A2", "a change taken back before the client could take it is not sent")
def test_there_and_back(server: Server, connect: Connect, variant) -> None:
    server.set_up("A", "B")
    for kind in CHANGES:
        sub = begun(connect, variant, kind, "AB")
        server.update(kind, "A")
        slow = sub.receive()
        for step in (1, -1):
            server.services["B"].revisions[kind] += step
            server.reload()
        sub.ack(slow)
        assert not sub.drain()
        sub.stream.close()


@shows("A2", "a nonce of an earlier stream says nothing")
def test_nonce_of_an_earlier_stream(server: Server, connect: Connect, variant) -> None:
    server.set_up("A")
    for kind in CHANGES:
        earlier = begun(connect, variant, kind)
        sub = connect(variant).subscriber(kind)
        sub.subscribe(name_of(kind, "A"), response_nonce=earlier.history[-1].nonce)
        assert set(sub.take().items) == {name_of(kind, "A")}
        assert not sub.drain(0.2)


@shows("A2", "a rejection is seen in `status` and in the metrics", ADS)
def test_a_rejection_is_told(server: Server, connect: Connect, variant) -> None:
    server.set_up("A")
    sub = connect(variant, node=f"refuses-{variant.protocol}").subscriber("RDS")
    sub.subscribe(name_of("RDS", "A"))
    sub.take()
    before = server.metric("serinus_xds_responses_total", event="nack", type="RDS")
    server.update("RDS", "A")
    refused = sub.receive()
    sub.nack(refused, "no such thing here")
    assert not sub.drain()
    assert server.metric("serinus_xds_responses_total", event="nack", type="RDS") == before + 1
    status = json.loads(server.say("status", "--json"))
    (node,) = [node for node in status["nodes"] if node["node"] == f"refuses-{variant.protocol}"]
    (rejection,) = node["rejections"]
    assert "no such thing here" in rejection["message"]
    assert rejection["version"] == refused.version
