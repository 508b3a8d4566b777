"""Four days of a real web server's log as access log messages with their own times: visitors, sessions, machines."""

from __future__ import annotations

import hashlib

import pytest
from envoy.service.accesslog.v3 import als_pb2

from analysis.engine import ServiceEngine
from tests.real_data import Hit, apache_hits
from xds_server.ingest import Ingest
from xds_server.settings import parse_mesh
from xds_server.stamp import TAG

VISITORS, SESSIONS = 1_861, 3_223
NS = 1_000_000_000
TICK_S = 600
MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    session: {gap: 30m}
    versions: {v1: {endpoints: ["127.0.0.1:9001"]}}
    baseline: v1
"""


class ClockOfTheLog:
    """As late as the newest line that was read."""

    unix_s = 0.0

    def now_unix_ns(self) -> int:
        return round(self.unix_s * NS)

    def monotonic(self) -> float:
        return self.unix_s

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def message(hits: list[Hit]) -> bytes:
    """What an Envoy would have logged of them."""
    result = als_pb2.StreamAccessLogsMessage()
    result.identifier.node.id, result.identifier.node.cluster = "edge", "sidecar"
    for hit in hits:
        entry = result.http_logs.log_entry.add()
        entry.common_properties.start_time.FromNanoseconds(round(hit.unix_s * NS))
        entry.common_properties.duration.FromMilliseconds(20)
        entry.request.path, entry.request.user_agent = hit.path, hit.agent
        who = hashlib.sha256(hit.visitor.encode()).hexdigest()
        said = ("shop|default||1", "sidecar", "DownstreamEnd", str(hit.status), "-", "shop|v1", "text/html", "", "")
        entry.common_properties.custom_tags[TAG] = "\n".join((*said, who))
    return result.SerializeToString()


@pytest.fixture(scope="module")
def replayed() -> tuple[set[int], int, ServiceEngine, Ingest]:
    """The log, ten minutes at a time: people, sessions begun, and who has seen them."""
    clock = ClockOfTheLog()
    mesh = parse_mesh(MESH, "mesh.yaml")
    ingest = Ingest(mesh, user_hash_key=b"secret", queue_limit=100_000, clock=clock)
    engine = ServiceEngine(mesh.services["shop"].spec, seed=1)
    people, reporter = set[int](), None
    hits = apache_hits()
    while hits:
        part = [hit for hit in hits if hit.unix_s < hits[0].unix_s + TICK_S]
        hits, clock.unix_s = hits[len(part) :], part[-1].unix_s
        reporter = ingest.take_access_logs(message(part), reporter)
        rows = ingest.drain()["shop"].rows
        people |= set(rows["user"].tolist())
        engine.observe(rows, ingest.vocabulary("shop").labels)
        engine.tick(clock.now_unix_ns())
    return people, engine.observer.tracker.columns.begun_n, engine, ingest


def test_the_log_has_its_visitors_and_sessions(replayed: tuple[set[int], int, ServiceEngine, Ingest]) -> None:
    people, begun, _, ingest = replayed
    assert ingest.counts["access_log", "accepted"] == 9_999
    assert (len(people), begun) == (VISITORS, SESSIONS)


def test_machines_are_told_apart_and_teach_nothing(replayed: tuple[set[int], int, ServiceEngine, Ingest]) -> None:
    _, _, engine, _ = replayed
    agents = {hit.visitor: hit.agent.lower() for hit in apache_hits()}
    machines = sum("bot" in agent or "spider" in agent or "crawl" in agent for agent in agents.values())
    assert len(engine.people) < VISITORS - 0.9 * machines
    assert len(engine.people) > 0.6 * VISITORS
