"""The 18 scenarios of the CNCF's xDS test harness, in every variant that they apply to: 98 runs.

The harness changes resources through an adapter inside the server; here they are changed as a user does, in the mesh
file. Its letters are services, each with one resource of every type. Where the harness waits for 3 s, or 15, to see
that nothing comes, `QUIET_S` must do: what an over-eager server sends, it sends within milliseconds.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.client import DELTA_ADS, DELTA_TYPE, SOTW_ADS, SOTW_TYPE, Response, Subscriber
from tests.conformance.conftest import Connect
from tests.conformance.server import Server, name_of, names_of

SOTW, DELTA = (SOTW_TYPE, SOTW_ADS), (DELTA_TYPE, DELTA_ADS)
LISTED = ("CDS", "LDS")
NAMED = ("RDS", "EDS")
ALL = ("CDS", "LDS", "RDS", "EDS")


def scenario(number: int, variants: tuple[Any, ...], **columns: tuple[Any, ...]) -> Any:
    """A test of one scenario: each row of its examples in each variant."""
    rows = list(zip(*columns.values(), strict=True))

    def mark(test: Any) -> Any:
        ids = ["-".join(map(str, row)) for row in rows]
        test = pytest.mark.parametrize(tuple(columns), rows, ids=ids)(test)
        test = pytest.mark.parametrize("variant", variants, ids=str)(test)
        return pytest.mark.shows("matrix", 1)(pytest.mark.shows("scenarios", number)(test))

    return mark


def is_updated(before: Response, after: Response, name: str) -> bool:
    """Whether a response brings other content, and says so."""
    return before.items[name].content != after.items[name].content and before.version != after.version


# --- subscribing


@scenario(1, SOTW, kind=LISTED, letters=("ABC", "DEF"))
def test_01_wildcard(server: Server, connect: Connect, variant, kind, letters) -> None:
    server.set_up(*letters)
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.wildcard()
    assert set(sub.take().items) == names_of(kind, letters)
    client.is_left_alone()


@scenario(2, SOTW, kind=LISTED, letters=("ABC", "DEF"), chosen=("A", "D"))
def test_02_wildcard_and_update(server: Server, connect: Connect, variant, kind, letters, chosen) -> None:
    server.set_up(*letters)
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.wildcard()
    first = sub.take()
    server.update(kind, chosen)
    second = sub.take()
    assert set(first.items) == set(second.items) == names_of(kind, letters)
    assert is_updated(first, second, name_of(kind, chosen))
    client.is_left_alone()


@scenario(3, SOTW, kind=LISTED, letters=("ABC", "DEF"), new=("D", "G"))
def test_03_wildcard_and_new(server: Server, connect: Connect, variant, kind, letters, new) -> None:
    server.set_up(*letters)
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.wildcard()
    assert set(sub.take().items) == names_of(kind, letters)
    server.add(new)
    assert set(sub.take().items) == names_of(kind, letters + new)
    client.is_left_alone()


@scenario(4, SOTW + DELTA, kind=("LDS", "RDS"), letters=("GBLD", "AB"), subset=("LG", "BA"))
def test_04_subset(server: Server, connect: Connect, variant, kind, letters, subset) -> None:
    server.set_up(*letters)
    client = connect(variant)
    subscribed(client.subscriber(kind), subset)
    client.is_left_alone()


def subscribed(sub: Subscriber, letters: str) -> dict[str, Response]:
    """Subscribe to these and get them; the response that each came in."""
    names = [name_of(sub.kind, letter) for letter in letters]
    sub.subscribe(*names)
    came = sub.take_all(names)
    if sub.kind in LISTED and not sub.stream.variant.is_delta:
        assert len(came) == 1, "in a single response"
    return {name: response for response in came for name in response.items}


@scenario(5, SOTW, kind=LISTED, letters=("ABCD", "GBLD"), subset=("BD", "LG"), chosen=("B", "G"))
def test_05_subset_and_update_whole(server: Server, connect: Connect, variant, kind, letters, subset, chosen) -> None:
    server.set_up(*letters)
    client = connect(variant)
    sub = client.subscriber(kind)
    before = subscribed(sub, subset)
    server.update(kind, chosen)
    after = sub.take()
    assert set(after.items) == names_of(kind, subset)
    assert is_updated(before[name_of(kind, chosen)], after, name_of(kind, chosen))
    client.is_left_alone()


@scenario(6, SOTW, kind=NAMED, letters=("ABCD", "ABCD"), subset=("BD", "BD"), chosen=("B", "B"))
def test_06_subset_and_update_alone(server: Server, connect: Connect, variant, kind, letters, subset, chosen) -> None:
    server.set_up(*letters)
    client = connect(variant)
    sub = client.subscriber(kind)
    before = subscribed(sub, subset)
    server.update(kind, chosen)
    after = sub.take()
    assert name_of(kind, chosen) in after.items
    assert set(after.items) <= names_of(kind, subset)
    assert is_updated(before[name_of(kind, chosen)], after, name_of(kind, chosen))
    client.is_left_alone()


@scenario(7, SOTW, kind=LISTED, letters=("ABCD", "GBLD"), there=("A", "BD"), new=("Z", "X"))
def test_07_missing_whole(server: Server, connect: Connect, variant, kind, letters, there, new) -> None:
    server.set_up(*letters)
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.subscribe(*(name_of(kind, letter) for letter in there + new))
    first = sub.take()
    assert set(first.items) == names_of(kind, there)
    server.add(new)
    second = sub.take()
    assert set(second.items) == names_of(kind, there + new)
    assert second.version != first.version
    client.is_left_alone()


@scenario(8, SOTW, kind=NAMED, letters=("ABCD", "ABCD"), there=("A", "A"), new=("Z", "Z"))
def test_08_missing_alone(server: Server, connect: Connect, variant, kind, letters, there, new) -> None:
    server.set_up(*letters)
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.subscribe(*(name_of(kind, letter) for letter in there + new))
    first = sub.take_all(names_of(kind, there))
    server.add(new)
    second = sub.take()
    assert name_of(kind, new) in second.items
    assert set(second.items) <= names_of(kind, there + new)
    assert second.version not in {each.version for each in first}
    client.is_left_alone()


@scenario(9, (SOTW_ADS,), kind=("CDS", "RDS"), other=("LDS", "EDS"), letters=("ABC", "ABC"), subset=("B", "B"))
def test_09_two_types(server: Server, connect: Connect, variant, kind, other, letters, subset) -> None:
    server.set_up(*letters)
    client = connect(variant)
    first, second = client.subscriber(kind), client.subscriber(other)
    before = subscribed(first, subset)
    subscribed(second, subset)
    server.update(kind, subset)
    after = first.take()
    assert set(after.items) == names_of(kind, subset)
    assert is_updated(before[name_of(kind, subset)], after, name_of(kind, subset))
    client.is_left_alone()


# --- unsubscribing


@scenario(10, SOTW, kind=LISTED, letters=("FABCD", "GBLD"), subset=("CAB", "BD"), kept=("AC", "B"))
def test_10_shrunk(server: Server, connect: Connect, variant, kind, letters, subset, kept) -> None:
    server.set_up(*letters)
    client = connect(variant)
    sub = client.subscriber(kind)
    before = subscribed(sub, subset)
    sub.name_only(*(name_of(kind, letter) for letter in kept))
    server.update(kind, *kept)
    after = sub.take()
    assert names_of(kind, kept) <= set(after.items) <= names_of(kind, subset)
    assert all(is_updated(before[name], after, name) for name in names_of(kind, kept))
    client.is_left_alone()


@scenario(11, SOTW, kind=NAMED, letters=("GBLD", "GBLD"), subset=("BD", "BD"), kept=("B", "B"))
def test_11_shrunk_to_one(server: Server, connect: Connect, variant, kind, letters, subset, kept) -> None:
    server.set_up(*letters)
    client = connect(variant)
    sub = client.subscriber(kind)
    before = subscribed(sub, subset)
    sub.name_only(name_of(kind, kept))
    server.update(kind, kept)
    after = sub.take()
    assert set(after.items) == {name_of(kind, kept)}
    assert is_updated(before[name_of(kind, kept)], after, name_of(kind, kept))
    client.is_left_alone()


@scenario(12, SOTW, kind=ALL, letters=("ABCD",) * 4, subset=("AB",) * 4)
def test_12_unsubscribed_from_all(server: Server, connect: Connect, variant, kind, letters, subset) -> None:
    """The harness does it with one empty name."""
    server.set_up(*letters)
    client = connect(variant)
    sub = client.subscriber(kind)
    subscribed(sub, subset)
    sub.name_only("")
    server.update(kind, *subset)
    client.is_left_alone()


# --- delta


@scenario(13, DELTA, kind=ALL, letters=("ABC", "DEF", "DEF", "DEF"), one=tuple("ADDD"), two=tuple("BEEE"))
def test_13_one_after_the_other(server: Server, connect: Connect, variant, kind, letters, one, two) -> None:
    server.set_up(*letters)
    client = connect(variant)
    sub = client.subscriber(kind)
    for letter in (one, two):
        sub.subscribe(name_of(kind, letter))
        assert set(sub.take().items) == {name_of(kind, letter)}
    client.is_left_alone()


def is_only(sub: Subscriber, response: Response, name: str) -> bool:
    """Whether no other resource came with this one, or shares its version or its nonce."""
    others = [item.version for other, item in sub.held.items() if other != name]
    earlier = [each.nonce for each in sub.history if each is not response]
    return (
        set(response.items) == {name} and response.items[name].version not in others and response.nonce not in earlier
    )


@scenario(14, DELTA, kind=("LDS", "CDS", "RDS", "EDS"), letters=("ABC",) * 4, one=("A",) * 4)
def test_14_only_what_changed(server: Server, connect: Connect, variant, kind, letters, one) -> None:
    server.set_up(*letters)
    client = connect(variant)
    sub = client.subscriber(kind)
    subscribed(sub, letters)
    before = dict(sub.held)
    server.update(kind, one)
    response = sub.take()
    assert is_only(sub, response, name_of(kind, one))
    assert response.items[name_of(kind, one)].version != before[name_of(kind, one)].version
    client.is_left_alone()


@scenario(15, DELTA, kind=ALL, letters=("AB", "DE", "DE", "DE"))
def test_15_missing(server: Server, connect: Connect, variant, kind, letters) -> None:
    """The harness has left out the step that the missing one is told of: go-control-plane fails it. It is in here."""
    one, two = letters
    server.set_up(one)
    client = connect(variant)
    sub = client.subscriber(kind)
    sub.subscribe(*(name_of(kind, letter) for letter in letters))
    sub.take_all({name_of(kind, one)})
    while not sub.removed:
        assert not sub.take().items
    assert sub.removed == [name_of(kind, two)]
    server.add(two)
    assert is_only(sub, sub.take(), name_of(kind, two))
    client.is_left_alone()


@scenario(16, DELTA, kind=ALL, letters=("AB", "DE", "DE", "DE"))
def test_16_removed_and_added(server: Server, connect: Connect, variant, kind, letters) -> None:
    one = letters[-1]
    server.set_up(*letters)
    client = connect(variant)
    sub = client.subscriber(kind)
    subscribed(sub, letters)
    before = dict(sub.held)
    server.remove(one)
    response = sub.take()
    assert (response.removed, response.items) == ((name_of(kind, one),), {})
    server.add(one, kind)
    response = sub.take()
    assert is_only(sub, response, name_of(kind, one))
    assert response.items[name_of(kind, one)].version != before[name_of(kind, one)].version
    client.is_left_alone()


@scenario(17, DELTA, kind=ALL, letters=("AB", "DE", "DE", "DE"))
def test_17_unsubscribed(server: Server, connect: Connect, variant, kind, letters) -> None:
    server.set_up(*letters)
    client = connect(variant)
    sub = client.subscriber(kind)
    subscribed(sub, letters)
    for letter in reversed(letters):
        sub.unsubscribe(name_of(kind, letter))
        server.update(kind, letter)
        client.is_left_alone()


@scenario(18, (DELTA_ADS,), kind=("CDS", "LDS", "RDS", "EDS"), other=("LDS", "CDS", "EDS", "RDS"))
def test_18_two_types(server: Server, connect: Connect, variant, kind, other) -> None:
    server.set_up(*"ABC")
    client = connect(variant)
    subs = [client.subscriber(kind), client.subscriber(other)]
    for sub in subs:
        sub.subscribe(name_of(sub.kind, "B"))
    before = [sub.take() for sub in subs]
    for sub, first in zip(subs, before, strict=True):
        server.update(sub.kind, "B")
        response = sub.take()
        assert set(response.items) == {name_of(sub.kind, "B")}
        assert is_updated(first, response, name_of(sub.kind, "B"))
    client.is_left_alone()
