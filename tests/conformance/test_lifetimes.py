"""A6: lifetimes, on demand, errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conformance.client import VARIANTS
from tests.conformance.conftest import Connect
from tests.conformance.marks import ADS, DELTA, shows
from tests.conformance.server import Server, name_of

BEAT_S = 12.0  # 5 s until a new lifetime is noticed, then a third of it


@pytest.mark.shows("A6", "what has a lifetime says so, and is sent again before it is over")
def test_lifetime_and_beat(server: Server, connect: Connect) -> None:
    """In all variants at once: there is some waiting. On ADS canaries are off until the client has its routes."""
    server.set_up("A", dead_man="10s")
    subs = []
    for variant in VARIANTS:
        client = connect(variant)
        subs.append(client.subscriber("RTDS"))
        subs[-1].subscribe("serinus")
        if variant.aggregated:
            assert subs[-1].take().items["serinus"].ttl_s == 0
        routes = client.subscriber("RDS")
        routes.subscribe(name_of("RDS", "A"))
        routes.take()
        assert subs[-1].take().items["serinus"].ttl_s == 10
    deadline = time.monotonic() + BEAT_S
    for sub in subs:
        first = sub.history[-1]
        again = sub.take(max(deadline - time.monotonic(), 0.1))
        assert again.items["serinus"].ttl_s == 10
        assert again.items["serinus"].content == first.items["serinus"].content


@shows("A6", "without a dead-man switch nothing has a lifetime", ADS)
def test_no_lifetime(server: Server, connect: Connect, variant) -> None:
    server.set_up("A")
    sub = connect(variant).subscriber("RTDS")
    sub.subscribe("serinus")
    assert sub.take().items["serinus"].ttl_s == 0


@shows("A6", "clusters on demand: one more by name, later", DELTA)
def test_on_demand(server: Server, connect: Connect, variant) -> None:
    server.set_up(*"ABC")
    client = connect(variant)
    sub = client.subscriber("CDS")
    for letter in "BA":
        sub.subscribe(name_of("CDS", letter))
        assert set(sub.take().items) == {name_of("CDS", letter)}
    client.is_left_alone(0.3)


@shows("A6", "what does not exist is an error with our own words (xRFC TP3)")
def test_errors(server: Server, connect: Connect, variant) -> None:
    server.set_up("A")
    for kind, message in (("CDS", "Cluster"), ("RDS", "RouteConfiguration")):
        sub = connect(variant).subscriber(kind)
        sub.subscribe("nothing")
        response = sub.take()
        assert response.errors == {"nothing": f"Serinus serves no {message} called nothing"}


@pytest.mark.shows("matrix", 11)
@pytest.mark.shows("A6", "proxyless gRPC fails at once, with our own words")
def test_proxyless(server: Server) -> None:
    """gRPC takes the field where it is told to; else it waits for 15 s."""
    server.set_up("A")
    command = [sys.executable, Path(__file__).with_name("proxyless.py"), str(server.grpc), "nothing"]
    environment = {**os.environ, "GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    answers = json.loads(done.stdout)
    assert [answer["code"] for answer in answers] == ["UNAVAILABLE"] * 2
    assert all("Serinus serves no Listener called nothing" in answer["says"] for answer in answers)
    assert min(answer["s"] for answer in answers) < 0.1
