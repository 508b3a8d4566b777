"""The rows of the table that have numbers, and the titles of its sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SCENARIOS: Final[Mapping[int, str]] = {
    1: "wildcard: all resources, in one response",
    2: "wildcard, one is updated: all of them, in one response",
    3: "wildcard, one is added: all of them, in one response",
    4: "a subset: these and no others",
    5: "a subset, one is updated: the whole subset, in one response",
    6: "a subset, one is updated: that one is enough",
    7: "a missing one is created: the whole subset, in one response",
    8: "a missing one is created: that one is enough",
    9: "two types on one stream, one is updated",
    10: "unsubscribed from some, one of the rest is updated",
    11: "unsubscribed from some, one of the rest is updated: only that one",
    12: "unsubscribed from all, some are updated: silence",
    13: "delta: one after the other",
    14: "delta: one is updated: only that one",
    15: "delta: a missing one is created: only that one",
    16: "delta: removed, then added again",
    17: "delta: unsubscribed, then updated: silence",
    18: "delta: two types on one stream, both are updated",
}
"""Of the CNCF's xDS test harness (github.com/ii/xds-test-harness), in the order of its features."""

MATRIX: Final[Mapping[int, str]] = {
    1: "the harness in four variants",
    2: "a cluster changes, its endpoints do not: warm in < 50 ms",
    3: "bad routes: one NACK, silence, the next good ones are taken",
    4: "one bad cluster of several: the others are taken, the bad one is named",
    5: "40 swaps of clusters under load: no request fails",
    6: "keepalive of 1 s, idle for 30 s: one stream",
    7: "a client that does not read: memory bounded, the others unaffected",
    8: "killed and restarted: nothing is sent again",
    9: "a stale nonce with new names: honoured, one answer",
    10: "the specification's tables of subscriptions",
    11: "missing resources are told at once, to proxyless gRPC as well",
    12: "splits only add people; two rollouts are independent",
    13: "endpoints that proxyless gRPC takes",
    14: "a certificate that does not fit the node",
    15: "a storm of streams",
    16: "access logs are lost",
}

SECTIONS: Final[Mapping[str, str]] = {
    "scenarios": "the scenarios of the xDS test harness",
    "A1": "A1: streams, identity, first request",
    "A2": "A2: ACK, NACK, nonce",
    "A3": "A3: subscriptions",
    "A4": "A4: responses",
    "A5": "A5: make before break",
    "A6": "A6: lifetimes, on demand, errors",
    "A7": "A7: robustness",
    "matrix": "what other control planes get wrong",
}
