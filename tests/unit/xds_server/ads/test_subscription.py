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


def test_an_empty_name_asks_for_nothing() -> None:
    subscription = Subscription(may_be_legacy=True)
    subscription.replace(["A"])
    assert subscription.replace([""]) == frozenset()
    assert not subscription.covers("A")
    delta = Subscription(may_be_legacy=True)
    assert delta.change([""], []) == (frozenset(), frozenset())
    assert not delta.covers("")


def test_a_name_given_up_and_taken_again_is_new() -> None:
    subscription = Subscription(may_be_legacy=False)
    assert subscription.replace(["A", "B"]) == {"A", "B"}
    assert subscription.replace(["B"]) == frozenset()
    assert subscription.replace(["A", "B"]) == {"A"}


# --- delta


def test_a_legacy_wildcard_of_delta_lasts_until_it_is_unsubscribed() -> None:
    subscription = Subscription(may_be_legacy=True)
    assert subscription.change([], []) == ({"*"}, frozenset())
    assert subscription.change(["A"], []) == ({"A"}, frozenset())
    assert subscription.covers("B")
    assert subscription.change([], ["*"]) == (frozenset(), frozenset())
    assert (subscription.covers("A"), subscription.covers("B")) == (True, False)
    subscription.change([], ["A"])
    assert not subscription.covers("A")


def test_a_first_request_of_delta_with_a_name_is_no_wildcard() -> None:
    subscription = Subscription(may_be_legacy=True)
    assert subscription.change(["A"], []) == ({"A"}, frozenset())
    assert not subscription.covers("B")
    assert subscription.change([], []) == (frozenset(), frozenset())
    assert not subscription.covers("B")


def test_subscribing_to_the_wildcard_and_at_once_unsubscribing_from_it_is_a_subscription_to_nothing() -> None:
    subscription = Subscription(may_be_legacy=True)
    subscription.change(["*"], ["*"])
    assert not subscription.covers("A")


def test_what_is_subscribed_again_is_sent_again() -> None:
    subscription = Subscription(may_be_legacy=False)
    assert subscription.change(["A"], []) == ({"A"}, frozenset())
    assert subscription.change(["A"], []) == (frozenset(), {"A"})


def test_a_name_left_to_the_wildcard_is_answered() -> None:
    subscription = Subscription(may_be_legacy=True)
    subscription.change(["*", "A"], [])
    assert subscription.change([], ["A"]) == (frozenset(), {"A"})
    assert subscription.change([], ["A"]) == (frozenset(), frozenset())  # superfluous


def test_equal_subscriptions_share_their_names() -> None:
    one, other = Subscription(may_be_legacy=False), Subscription(may_be_legacy=False)
    one.change([f"n{i}" for i in range(5)], [])
    other.replace([f"n{i}" for i in range(5)])
    assert one.names is other.names
