"""A3: subscriptions."""

from __future__ import annotations

import pytest

from tests.conformance.client import Subscriber
from tests.conformance.conftest import Connect
from tests.conformance.marks import DELTA, SOTW, shows
from tests.conformance.server import CHANGES, Server, name_of, names_of

LISTED, NAMED = ("CDS", "LDS"), ("RDS", "EDS")


def hears_of(server: Server, sub: Subscriber) -> set[str]:
    """Of which of A and B the client hears when they change."""
    heard = set()
    for letter in "AB":
        before = sub.held.get(name_of(sub.kind, letter))
        server.update(sub.kind, letter)
        for response in sub.drain():
            after = response.items.get(name_of(sub.kind, letter))
            if after is not None and after != before:
                heard.add(letter)
    return heard


@pytest.mark.parametrize("kind", LISTED)
@shows("A3", "the specification's table, state of the world", SOTW, matrix=10)
def test_the_table_of_state_of_the_world(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A", "B")
    sub = connect(variant).subscriber(kind)
    a = name_of(kind, "A")
    sub.wildcard()  # 1. nothing named: a subscription to "*"
    assert set(sub.take().items) == names_of(kind, "AB")
    assert hears_of(server, sub) == {"A", "B"}
    sub.name_only("*", a)  # 2. goes on with "*", and adds A
    sub.drain()
    assert hears_of(server, sub) == {"A", "B"}
    sub.name_only(a)  # 3. ends "*", goes on with A
    sub.drain()
    assert hears_of(server, sub) == {"A"}
    sub.name_only()  # 4. the same as the first request, but now it ends A: there have been names
    sub.drain()
    assert hears_of(server, sub) == set()


@pytest.mark.parametrize("kind", LISTED)
@shows("A3", "the specification's table, delta", DELTA, matrix=10)
def test_the_table_of_delta(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A", "B")
    sub = connect(variant).subscriber(kind)
    a = name_of(kind, "A")
    sub.wildcard()  # 1. nothing named: a subscription to "*"
    assert set(sub.take().items) == names_of(kind, "AB")
    assert hears_of(server, sub) == {"A", "B"}
    sub.subscribe(a)  # 2. goes on with "*", and adds A
    sub.drain()
    assert hears_of(server, sub) == {"A", "B"}
    sub.unsubscribe("*")  # 3. ends "*", goes on with A
    sub.drain()
    assert hears_of(server, sub) == {"A"}
    sub.unsubscribe(a)  # 4. ends A as well
    sub.drain()
    assert hears_of(server, sub) == set()


@pytest.mark.parametrize("kind", NAMED)
@shows("A3", "for routes and endpoints, no name is no wildcard")
def test_no_wildcard_for_named_types(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A")
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.wildcard()
    server.update(kind, "A")
    client.is_left_alone(0.4)
    sub.subscribe(name_of(kind, "A"))
    assert set(sub.take().items) == {name_of(kind, "A")}


@pytest.mark.parametrize("kind", CHANGES)
@shows("A3", "an empty list after names ends all of them", SOTW)
def test_empty_after_names(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A")
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.subscribe(name_of(kind, "A"))
    sub.take()
    sub.name_only()
    server.update(kind, "A")
    client.is_left_alone(0.4)


@pytest.mark.parametrize("kind", CHANGES)
@shows("A3", "given up and taken again: sent again, though unchanged")
def test_resubscribed(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A", "B")
    client = connect(variant)
    sub = client.subscriber(kind)
    a, b = name_of(kind, "A"), name_of(kind, "B")
    sub.subscribe(a, b)
    sub.take_all([a, b])
    sub.unsubscribe(a)
    sub.drain(0.2)
    sub.subscribe(a)
    assert a in sub.take().items
    client.is_left_alone(0.3)


@pytest.mark.parametrize("kind", CHANGES)
@shows("A3", "subscribed again without having been given up: sent again", DELTA)
def test_subscribed_twice(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A", "B")
    client = connect(variant)
    sub = client.subscriber(kind)
    a, b = name_of(kind, "A"), name_of(kind, "B")
    sub.subscribe(a, b)
    sub.take_all([a, b])
    sub.subscribe(a)
    assert set(sub.take().items) == {a}
    client.is_left_alone(0.3)


@pytest.mark.parametrize("kind", LISTED)
@shows("A3", "a name given up that the wildcard still covers is answered", DELTA)
def test_left_to_the_wildcard(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A", "B")
    client = connect(variant)
    sub = client.subscriber(kind)
    a, gone = name_of(kind, "A"), name_of(kind, "Z")
    sub.subscribe("*", a, gone)
    sub.drain()
    sub.unsubscribe(a)
    assert set(sub.take().items) == {a}
    sub.unsubscribe(gone)
    assert sub.take().removed == (gone,)
    client.is_left_alone(0.3)


@pytest.mark.parametrize("kind", CHANGES)
@shows("A3", "to give up what was never subscribed is no matter", DELTA)
def test_superfluous_unsubscribe(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A", "B")
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.subscribe(name_of(kind, "A"))
    sub.take()
    sub.unsubscribe(name_of(kind, "B"), "nothing")
    client.is_left_alone(0.3)
    server.update(kind, "A")
    assert set(sub.take().items) == {name_of(kind, "A")}


@pytest.mark.parametrize("kind", LISTED)
@shows("A3", "`*` taken and given up in the first request is nothing", DELTA)
def test_nothing_at_all(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A")
    client = connect(variant)
    client.stream(kind).send(kind, resource_names_subscribe=["*"], resource_names_unsubscribe=["*"])
    server.update(kind, "A")
    client.is_left_alone(0.4)


@pytest.mark.parametrize("kind", CHANGES)
@shows("A3", "a missing resource stays subscribed, and comes when it is there")
def test_missing_then_there(server: Server, connect: Connect, variant, kind) -> None:
    server.set_up("A")
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.subscribe(name_of(kind, "Z"))
    sub.drain()
    server.add("Z")
    assert set(sub.take().items) == {name_of(kind, "Z")}
    client.is_left_alone(0.3)


@pytest.mark.parametrize("kind", CHANGES)
@shows("A3", "a missing resource is told at once", matrix=11)
def test_missing_is_told(server: Server, connect: Connect, variant, kind) -> None:
    """In delta as removed; in both as an error that says so (xRFC TP3). At best of five, within 10 ms."""
    server.set_up("A")
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.subscribe(name_of(kind, "A"))
    sub.take()
    took = []
    for n in range(5):
        missing = f"nothing-{n}"
        sub.subscribe(missing)
        asked = client.stream(kind).sent_at
        response = sub.take()
        took.append(response.at - asked)
        assert missing in response.errors
        assert response.errors[missing].endswith(f" called {missing}")
        assert response.removed == ((missing,) if variant.is_delta else ())
    assert min(took) < 0.01, took
    client.is_left_alone(0.3)


@pytest.mark.parametrize("kind", ["CDS", "EDS"])
@shows("A3", "some of many: no need to name all")
def test_some_of_many(server: Server, connect: Connect, variant, kind) -> None:
    """go-control-plane's ADS mode says nothing to a request that does not name every resource of a snapshot."""
    server.set_up(*"ABCDEF")
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.subscribe(name_of(kind, "C"))
    assert set(sub.take().items) == {name_of(kind, "C")}
    client.is_left_alone(0.3)
