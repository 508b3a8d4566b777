"""A5: make before break. The client behaves as Envoy does, and holds its ACKs back where that shows the order."""

from __future__ import annotations

import time

from tests.conformance.client import Client, Subscriber
from tests.conformance.conftest import Connect
from tests.conformance.marks import ADS, shows
from tests.conformance.server import Server, Service, name_of, names_of

DRAINED_S = 8.0  # in which a cluster is gone once its routes are


def connected(client: Client, letters: str) -> dict[str, Subscriber]:
    """A client that has everything of these services."""
    subs = {kind: client.subscriber(kind) for kind in ("CDS", "EDS", "LDS", "RDS")}
    for kind, sub in subs.items():
        if kind in ("CDS", "LDS"):
            sub.wildcard()
        else:
            sub.subscribe(*sorted(names_of(kind, letters)))
        sub.take_all(names_of(kind, letters))
    return subs


@shows("A5", "a listener waits until the clusters of its routes are warm", ADS)
def test_listener_after_clusters(server: Server, connect: Connect, variant) -> None:
    server.set_up("A")
    client = connect(variant)
    subs = connected(client, "A")
    server.add("B")
    clusters = subs["CDS"].receive()
    assert name_of("CDS", "B") in clusters.items
    subs["EDS"].subscribe("B|v1")
    assert "B|v1" in subs["EDS"].take().items
    assert not client.stream("LDS").waiting("LDS")
    time.sleep(0.3)
    assert not client.stream("LDS").waiting("LDS")
    subs["CDS"].ack(clusters)
    assert name_of("LDS", "B") in subs["LDS"].take().items
    subs["RDS"].subscribe(name_of("RDS", "B"))
    assert set(subs["RDS"].take().items) == {name_of("RDS", "B")}
    client.is_left_alone(0.3)


@shows("A5", "a cluster outlives the last route to it", ADS)
def test_cluster_after_routes(server: Server, connect: Connect, variant) -> None:
    server.set_up("A", "B")
    client = connect(variant)
    subs = connected(client, "AB")
    server.remove("B")
    listeners = subs["LDS"].receive()
    assert not client.stream("CDS").waiting("CDS")
    subs["LDS"].ack(listeners)
    assert name_of("LDS", "B") not in subs["LDS"].held
    subs["RDS"].drain(0.3)
    subs["RDS"].unsubscribe(name_of("RDS", "B"))
    let_go = time.monotonic()
    clusters = subs["CDS"].take(DRAINED_S)
    assert clusters.at - let_go > 1
    assert "B|v1" not in subs["CDS"].held
    assert "A|v1" in subs["CDS"].held
    subs["EDS"].drain(0.3)
    client.is_left_alone(0.3)


@shows("A5", "a version is swapped: cluster, routes, and only then the old one goes", ADS)
def test_swap(server: Server, connect: Connect, variant) -> None:
    server.set_up("A", "B")
    client = connect(variant)
    subs = connected(client, "AB")
    server.services["A"].versions = ("v2",)
    server.reload()
    clusters = subs["CDS"].receive()
    assert {"A|v1", "A|v2"} <= (set(clusters.items) | set(subs["CDS"].held))
    assert not clusters.removed
    subs["EDS"].subscribe("A|v2")
    subs["EDS"].take_all({"A|v2"})
    time.sleep(0.2)
    assert not client.stream("RDS").waiting("RDS")
    subs["CDS"].ack(clusters)
    routes = subs["RDS"].receive()
    assert b"A|v2" in routes.items[name_of("RDS", "A")].content
    assert b"A|v1" not in routes.items[name_of("RDS", "A")].content
    time.sleep(2.5)  # longer than a cluster that is no longer named is kept
    assert not client.stream("CDS").waiting("CDS")
    subs["RDS"].ack(routes)
    subs["CDS"].take(DRAINED_S)
    assert "A|v1" not in subs["CDS"].held
    assert "A|v2" in subs["CDS"].held


@shows("A5", "a type's own stream waits for no other type")
def test_types_on_their_own(server: Server, connect: Connect, variant) -> None:
    """What no stream carries clusters for cannot wait for their ACK."""
    server.set_up("A")
    client = connect(variant)
    sub = client.subscriber("LDS")
    sub.wildcard()
    sub.take()
    server.add("B")
    assert name_of("LDS", "B") in sub.take().items


@shows("A5", "a canary taken back waits for nothing", ADS)
def test_rollback_first(server: Server, connect: Connect, variant) -> None:
    """Neither for clusters that have not been ACKed, nor in the queue of other services' routes."""
    server.services = {letter: Service(letter) for letter in "ABC"} | {"R": Service("R", versions=("v1", "v2"))}
    server.reload()
    client = connect(variant)
    clusters, routes = client.subscriber("CDS"), client.subscriber("RDS")
    clusters.wildcard()
    clusters.take()
    names = names_of("RDS", "ABCR")
    routes.subscribe(*sorted(names))
    routes.take_all(names)
    server.say("rollout", "start", "R", "--canary", "v2")
    server.say("rollout", "set", "R", "--split", "20%")
    assert any(b"R|v2" in r.items[name_of("RDS", "R")].content for r in routes.drain(1.0))
    server.services["A"].change("CDS", "RDS")
    server.reload()
    held_back, under_way = clusters.receive(), routes.receive()
    assert set(under_way.items) == {name_of("RDS", "A")}
    server.update("RDS", "B", "C")
    server.say("rollout", "rollback", "R")
    routes.ack(under_way)
    first = routes.take()
    assert set(first.items) == {name_of("RDS", "R")}
    assert b"R|v2" not in first.items[name_of("RDS", "R")].content
    routes.take_all(names_of("RDS", "BC"))
    clusters.ack(held_back)
