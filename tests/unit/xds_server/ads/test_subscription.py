"""The two tables of the xDS protocol, "How the client specifies what resources to return", row by row."""

from __future__ import annotations

from xds_server.ads.subscription import Subscription


def test_a_legacy_wildcard_ends_with_the_first_name() -> None:
    subscription = Subscription(may_be_legacy=True)
    assert subscription.replace([]) == {"*"}
    assert subscription.covers("anything")
    assert subscription.replace(["A"]) == {"A"}
    assert not subscription.covers("B")
    assert subscription.replace([]) == frozenset()
    assert not subscription.covers("A")  # empty after a name: unsubscribed from everything


def test_an_explicit_wildcard_can_go_with_names() -> None:
    subscription = Subscription(may_be_legacy=True)
    assert subscription.replace(["*"]) == {"*"}
    assert subscription.replace(["*", "A"]) == {"A"}
    assert subscription.covers("B")
    assert subscription.replace(["A"]) == frozenset()
    assert (subscription.covers("A"), subscription.covers("B")) == (True, False)


def test_no_names_are_nothing_where_there_is_no_legacy_wildcard() -> None:
    subscription = Subscription(may_be_legacy=False)
    assert subscription.replace([]) == frozenset()
    assert not subscription.covers("A")


def test_a_name_given_up_and_taken_again_is_new() -> None:
    subscription = Subscription(may_be_legacy=False)
    assert subscription.replace(["A", "B"]) == {"A", "B"}
    assert subscription.replace(["B"]) == frozenset()
    assert subscription.replace(["A", "B"]) == {"A"}
