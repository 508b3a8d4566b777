"""A4: responses."""

from __future__ import annotations

import pytest

from tests.conformance.client import Client, Subscriber, Variant
from tests.conformance.conftest import Connect
from tests.conformance.marks import ADS, DELTA, SOTW, shows
from tests.conformance.server import CHANGES, Server, Service, name_of, names_of

LISTED, NAMED = ("CDS", "LDS"), ("RDS", "EDS")


@pytest.mark.parametrize("kind", LISTED)
@shows("A4", "clusters, listeners: every response is all; what is gone is left out", SOTW)
def test_whole_state(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up(*"ABC")
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.wildcard()
    sub.take()
    server.remove("B")
    assert set(sub.take().items) == names_of(kind, "AC")
    server.update(kind, "A")
    assert set(sub.take().items) == names_of(kind, "AC")
    client.is_left_alone(0.3)


@pytest.mark.parametrize("kind", NAMED)
@shows("A4", "routes and endpoints: only what has changed", SOTW)
def test_partial_state(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up(*"ABC")
    client = connect(variant)
    sub = client.subscriber(kind)
    names = names_of(kind, "ABC")
    sub.subscribe(*names)
    sub.take_all(names)
    server.update(kind, "B")
    assert set(sub.take().items) == {name_of(kind, "B")}
    server.remove("C")
    client.is_left_alone(0.4)


@pytest.mark.parametrize("kind", CHANGES)
@shows("A4", "a name given twice is answered once")
def test_no_doubles(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A", "B")
    client = connect(variant)
    a, b = name_of(kind, "A"), name_of(kind, "B")
    field = "resource_names_subscribe" if variant.is_delta else "resource_names"
    client.stream(kind).send(kind, **{field: [a, b, a, b, b]})
    names = [name for response in client.subscriber(kind).drain() for name in response.names]
    assert sorted(names) == sorted([a, b])


@pytest.mark.parametrize("kind", CHANGES)
@shows("A4", "what is not subscribed to is no reason to respond")
def test_unrelated_changes(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A", "B")
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.subscribe(name_of(kind, "A"))
    sub.take()
    server.update(kind, "B")  # the same type, another resource
    for other in CHANGES:
        if other != kind and (kind, other) != ("EDS", "CDS"):  # a changed cluster wants its endpoints again
            server.update(other, "A")  # the same service, another type
    server.add("C")
    server.remove("B")
    client.is_left_alone(0.4)


@pytest.mark.parametrize("kind", LISTED)
@shows("A4", "a first wildcard of delta is answered, even if there is nothing new", DELTA)
def test_first_wildcard_is_answered(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A")
    first = connect(variant).subscriber(kind)
    first.wildcard()
    versions = {name: item.version for name, item in first.take().items.items()}
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.wildcard(initial_resource_versions=versions)
    response = sub.take()
    assert (response.items, response.removed) == ({}, ())
    client.is_left_alone(0.3)


@pytest.mark.parametrize("kind", CHANGES)
@shows("A4", "reconnected in delta: exactly what differs", DELTA)
def test_reconnected_delta(server: Server, connect: Connect, variant, kind) -> None:
    """One as it was, one changed, one gone, one new."""
    server.set_up(*"ABC")
    client = connect(variant)
    sub = client.subscriber(kind)
    names = names_of(kind, "ABCD")
    sub.subscribe(*names)
    sub.drain()
    versions = {name: item.version for name, item in sub.held.items()}
    sub.stream.close()
    server.services["B"].change(kind)
    del server.services["C"]
    server.add("D")
    again = connect(variant).subscriber(kind)
    again.subscribe(*names, initial_resource_versions=versions)
    came = again.drain(3.0 if kind == "CDS" else 0.6)  # a cluster's routes may still be in use
    assert {name for response in came for name in response.items} == names_of(kind, "BD")
    assert {name for response in came for name in response.removed} == {name_of(kind, "C")}


@pytest.mark.parametrize("kind", LISTED)
@shows("A4", "reconnected in state of the world: a wildcard that has all is not sent it", SOTW)
def test_reconnected_sotw(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A", "B")
    first = connect(variant).subscriber(kind)
    first.wildcard()
    version = first.take().version
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.wildcard(version_info=version)
    client.is_left_alone(0.4)
    server.update(kind, "A")
    assert set(sub.take().items) == names_of(kind, "AB")


def everything(client: Client, letters: str, variant: Variant, held: dict[str, Subscriber]) -> dict[str, Subscriber]:
    """Ask as Envoy does when it connects, with what it has from before; the types by name."""
    subs = {}
    for kind in ("CDS", "EDS", "LDS", "RDS"):
        sub = subs[kind] = client.subscriber(kind)
        before, fields = held.get(kind), {}
        if before is not None and variant.is_delta:
            fields = {"initial_resource_versions": {name: item.version for name, item in before.held.items()}}
        elif before is not None:
            fields = {"version_info": before.version}
        if kind in LISTED:
            sub.wildcard(**fields)
        else:
            sub.subscribe(*sorted(names_of(kind, letters)), **fields)
    return subs


@shows("A4", "killed and restarted: versions are those of the content", ADS, matrix=8)
def test_killed_and_restarted(own_server: Server, variant) -> None:
    """Not one resource is sent again in delta, nor by a wildcard in state of the world."""
    own_server.start(*"ABC")
    with Client(own_server.grpc, variant) as client:
        before = everything(client, "ABC", variant, {})
        for kind, sub in before.items():
            sub.take_all(names_of(kind, "ABC"))
    own_server.end()
    own_server.start()
    with Client(own_server.grpc, variant) as client:
        after = everything(client, "ABC", variant, before)
        came = {kind: sub.drain(0.5) for kind, sub in after.items()}
        sent = {kind for kind, responses in came.items() if any(response.items for response in responses)}
        assert sent == (set() if variant.is_delta else {"EDS", "RDS"})
        assert not any(response.removed for responses in came.values() for response in responses)
        for (
            kind
        ) in sent:  # in state of the world it cannot be known what the client has: the same, under the same version
            assert {r.version for r in came[kind]} == {before[kind].version}
            assert after[kind].held == before[kind].held


@shows("A4", "restarted with another mesh: exactly what differs", [v for v in DELTA if v.aggregated])
def test_restarted_with_another_mesh(own_server: Server, variant) -> None:
    own_server.start(*"ABC")
    with Client(own_server.grpc, variant) as client:
        before = everything(client, "ABC", variant, {})
        for kind, sub in before.items():
            sub.take_all(names_of(kind, "ABC"))
    own_server.end()
    own_server.services["B"].change("CDS", "LDS")
    own_server.services["D"] = Service("D")
    own_server.start()
    with Client(own_server.grpc, variant) as client:
        after = everything(client, "ABC", variant, before)
        clusters, listeners = (after[kind].drain(0.5) for kind in LISTED)
        assert {name for r in clusters for name in r.items} == names_of("CDS", "BD")
        assert {name for r in listeners for name in r.items} == names_of("LDS", "BD")


@shows("A4", "a changed cluster is followed by its endpoints, unasked")
def test_endpoints_follow_their_cluster(server: Server, connect: Connect, variant) -> None:
    """Envoy would wait 15 s for them, on whatever stream they come."""
    server.set_up("A", "B")
    client = connect(variant)
    clusters, endpoints = client.subscriber("CDS"), client.subscriber("EDS")
    clusters.wildcard()
    clusters.take()
    names = names_of("EDS", "AB")
    endpoints.subscribe(*names)
    endpoints.take_all(names)
    before = endpoints.held[name_of("EDS", "A")].content
    server.update("CDS", "A")
    changed = clusters.receive()
    followed = endpoints.take()
    assert {name: item.content for name, item in followed.items.items()} == {name_of("EDS", "A"): before}
    assert followed.at - changed.at < 0.5
    clusters.ack(changed)
    client.is_left_alone(0.4)


@shows("A4", "endpoints asked for again while a cluster warms are sent again", [v for v in SOTW if v.aggregated])
def test_endpoints_asked_for_while_warming(server: Server, connect: Connect, variant) -> None:
    """Envoy's request looks like an ACK: the same version, nonce and names."""
    server.set_up("A", "B")
    client = connect(variant)
    clusters, endpoints = client.subscriber("CDS"), client.subscriber("EDS")
    clusters.wildcard()
    clusters.take()
    names = names_of("EDS", "AB")
    endpoints.subscribe(*names)
    endpoints.take_all(names)
    server.update("CDS", "A")
    clusters.receive()
    endpoints.take()
    server.update("CDS", "B")  # the ACK of the first has not been given: the second waits
    endpoints._answer(endpoints.nonce)
    client.subscriber("CDS").ack(clusters.history[-1])
    clusters.take()
    assert name_of("EDS", "B") in {name for r in endpoints.drain() for name in r.items}


@shows("A4", "endpoints are not taken away before their cluster", [v for v in DELTA if v.aggregated])
def test_endpoints_outlive_their_cluster(server: Server, connect: Connect, variant) -> None:
    server.set_up("A", "B")
    client = connect(variant)
    clusters, endpoints = client.subscriber("CDS"), client.subscriber("EDS")
    clusters.wildcard()
    clusters.take()
    names = names_of("EDS", "AB")
    endpoints.subscribe(*names)
    endpoints.take_all(names)
    server.remove("B")
    gone = clusters.receive(10)
    assert gone.removed == ("B|v1",)
    assert not endpoints.drain()
    clusters.ack(gone)
    assert endpoints.take().removed == ("B|v1",)
