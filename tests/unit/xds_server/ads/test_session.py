from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import pytest

from xds_server.ads.answer import Acked, Answer, Nacked
from xds_server.ads.gates import DRAIN_S
from xds_server.ads.response import Response, Target, Variant
from xds_server.ads.session import DeltaRequest, Request, StreamSession
from xds_server.snapshot import Resource, ResourceType, Snapshot

CDS, EDS, LDS, SRDS, RDS, RTDS = ResourceType


def resource(name: str, content: str = "1", needs: str = "") -> Resource:
    digest = hashlib.sha256(f"{name}{content}{needs}".encode()).hexdigest()[:16]
    return Resource(name=name, version=digest, packed=b"", needs=frozenset(needs.split()))


def snapshot(*, clusters: str = "a1 b1", endpoints: str = "1", routes: Mapping[str, str] | None = None) -> Snapshot:
    """Clusters are a name and a content of one letter each; routes name the clusters that they need."""
    routes = {"r": "a b"} if routes is None else routes
    resources = {
        CDS: {c[0]: resource(c[0], c[1], c[0]) for c in clusters.split()},
        EDS: {c[0]: resource(c[0], endpoints) for c in clusters.split()},
        LDS: {name: resource(name, "1", name) for name in routes},
        RDS: {name: resource(name, "1", needs) for name, needs in routes.items()},
    }
    return Snapshot(resources)


class Client:
    """Says to a session what Envoy would, and keeps what it was sent."""

    def __init__(self, first: Snapshot | None = None) -> None:
        self.session = StreamSession()
        self.now = 0.0
        self.names: dict[ResourceType, tuple[str, ...]] = {}
        self.nonce: dict[ResourceType, str] = {}
        if first is not None:
            self.session.offer(Target(first))

    def ask(self, kind: ResourceType, *names: str, error: str | None = None, nonce: str | None = None) -> Answer | None:
        self.names[kind] = names
        nonce = self.nonce.get(kind, "") if nonce is None else nonce
        return self.session.receive(Request(type=kind, names=names, nonce=nonce, error=error), self.now)

    def ack(self, kind: ResourceType, error: str | None = None) -> Answer | None:
        return self.ask(kind, *self.names[kind], error=error)

    def read(self) -> Response | None:
        response = self.session.next_response(self.now)
        if response is not None:
            self.nonce[response.type] = response.nonce
        return response

    def says(self) -> list[tuple[ResourceType, list[str]]]:
        """Everything that is written now, unanswered."""
        written = []
        while (response := self.read()) is not None:
            written.append((response.type, [r.name for r in response.resources]))
        return written

    def connect(self) -> None:
        """Subscribe as Envoy does, and take everything."""
        for kind, names in ((CDS, ()), (EDS, ("a", "b")), (LDS, ()), (RDS, ("r",))):
            self.ask(kind, *names)
            self.settle()

    def settle(self) -> None:
        while (response := self.read()) is not None:
            assert isinstance(self.ack(response.type), Acked)


def connected(first: Snapshot | None = None) -> Client:
    client = Client(first or snapshot())
    client.connect()
    return client


def test_nothing_is_said_before_there_is_a_snapshot() -> None:
    client = Client()
    client.ask(CDS)
    assert client.says() == []
    client.session.offer(Target(snapshot()))
    assert client.says() == [(CDS, ["a", "b"])]


def test_a_wildcard_is_answered_even_if_there_is_nothing() -> None:
    """Else Envoy would wait for its listeners until a timeout."""
    client = Client(snapshot(clusters="", routes={}))
    client.ask(LDS)
    assert client.says() == [(LDS, [])]


@pytest.mark.parametrize("variant", Variant)
def test_listeners_asked_for_before_clusters_are_acked_come_whole_and_not_none_at_first(variant: Variant) -> None:
    """Envoy does so where clusters take no time to warm, and goes live with whatever it is answered."""
    session = StreamSession(variant)
    session.offer(Target(snapshot()))
    ask = {
        kind: Request(type=kind, names=(), nonce="")
        if variant is Variant.SOTW
        else DeltaRequest(type=kind, subscribe=(), unsubscribe=(), versions={}, nonce="")
        for kind in (CDS, LDS)
    }
    session.receive(ask[CDS], 0.0)
    clusters = session.next_response(0.0)
    assert clusters is not None
    assert clusters.type is CDS
    session.receive(ask[LDS], 0.0)
    assert session.next_response(0.0) is None
    session.receive(replace(ask[CDS], nonce=clusters.nonce), 0.0)
    listeners = session.next_response(0.0)
    assert listeners is not None
    assert [resource.name for resource in listeners.resources] == ["r"]


def test_listeners_of_a_rejected_cluster_do_not_hold_up_the_others_for_ever() -> None:
    client = Client(snapshot(routes={"q": "a", "r": "b"}))
    client.ask(CDS)
    assert client.says() == [(CDS, ["a", "b"])]
    client.ask(LDS)
    assert client.says() == []
    client.ack(CDS, error="b is no good")
    while (response := client.read()) is not None and response.type is CDS:
        names = [resource.name for resource in response.resources]
        client.ack(CDS, error="b is no good" if "b" in names else None)
    assert response is not None
    assert [resource.name for resource in response.resources] == ["q"]


def test_an_ack_is_not_answered() -> None:
    client = connected()
    assert client.says() == []
    for kind in (CDS, EDS, LDS, RDS):
        client.ack(kind)
        assert client.says() == []


def test_what_changes_while_a_response_waits_for_its_ack_goes_out_once_in_its_newest_state() -> None:
    client = Client(snapshot(clusters="a1"))
    client.ask(CDS)
    assert client.says() == [(CDS, ["a"])]
    client.session.offer(Target(snapshot(clusters="a2")))
    client.session.offer(Target(snapshot(clusters="a3")))
    assert client.says() == []
    client.ack(CDS)
    response = client.read()
    assert response is not None
    assert response.resources == tuple(snapshot(clusters="a3").resources[CDS].values())


def test_a_changed_cluster_is_followed_by_its_unchanged_endpoints() -> None:
    client = connected()
    client.session.offer(Target(snapshot(clusters="a2 b1")))
    assert client.says() == [(CDS, ["a", "b"]), (EDS, ["a"])]


def test_envoys_request_for_endpoints_during_warming_is_no_ack() -> None:
    """It has the nonce and the names of an ACK; what tells it apart is that CDS went out after the last EDS."""
    client = connected()
    client.session.offer(Target(snapshot(clusters="a2 b1")))
    response = client.read()
    assert response is not None
    assert response.type is CDS
    client.ack(EDS)  # comes before EDS could be written
    assert client.says() == [(EDS, ["a", "b"])]


def test_routes_wait_until_their_clusters_are_acked() -> None:
    client = connected()
    client.session.offer(Target(snapshot(clusters="a1 b1 c1", routes={"r": "a c"})))
    assert client.says() == [(CDS, ["a", "b", "c"])]
    client.ack(CDS)
    assert client.says() == [(RDS, ["r"])]


def test_routes_do_not_wait_for_a_client_that_asks_for_clusters_by_name() -> None:
    """Proxyless gRPC learns from the route which clusters to ask for."""
    client = Client(snapshot())
    client.ask(RDS, "r")
    assert client.says() == [(RDS, ["r"])]
    client.ask(CDS, "a")
    assert client.says() == [(CDS, ["a"])]


def test_a_removed_cluster_stays_until_no_route_names_it_and_a_little_longer() -> None:
    client = connected()
    client.session.offer(Target(snapshot(clusters="a1", routes={"r": "a"})))
    assert client.says() == [(RDS, ["r"])]  # CDS still has to hold b: nothing to say
    assert client.session.next_drain() is None
    client.ack(RDS)
    assert client.says() == []
    assert client.session.next_drain() == DRAIN_S
    client.now = DRAIN_S
    assert client.says() == [(CDS, ["a"])]
    assert client.session.next_drain() is None


def moved_off_b() -> Client:
    """What has no route to cluster b any more, and has had its time to go."""
    client = connected()
    client.session.offer(Target(snapshot(clusters="a1", routes={"r": "a"})))
    client.says()
    client.ack(RDS)
    assert client.says() == []
    client.now += DRAIN_S
    return client


def test_a_cluster_that_is_gone_is_waited_for_no_longer() -> None:
    """Else each stream would look again at once, and again, for ever."""
    client = moved_off_b()
    assert client.says() == [(CDS, ["a"])]
    client.ack(CDS)
    assert client.says() == []
    assert client.session.next_drain() is None


def test_a_cluster_whose_removal_was_refused_is_waited_for_no_longer() -> None:
    client = moved_off_b()
    client.session.offer(Target(snapshot(clusters="a2", routes={"r": "a"})))
    assert client.says()[0] == (CDS, ["a"])
    client.ack(CDS, error="no")
    assert client.says()[0] == (CDS, ["a", "b"])
    client.ack(CDS)
    assert client.says() == []
    assert client.session.next_drain() is None


def test_routes_wait_for_a_cluster_whose_removal_is_on_its_way() -> None:
    client = connected()
    client.session.offer(Target(snapshot(clusters="a1", routes={"r": "a"})))
    client.settle()
    client.now = DRAIN_S
    assert client.says() == [(CDS, ["a"])]
    client.session.offer(Target(snapshot()))  # b is wanted again, while its removal has not been ACKed
    assert client.says() == [(EDS, ["b"])]
    client.ack(EDS)
    client.ack(CDS)
    assert client.says() == [(CDS, ["a", "b"]), (EDS, ["b"])]
    client.ack(CDS)
    assert client.says() == [(RDS, ["r"])]


def test_a_rejected_route_is_reported_and_stays_away_until_it_changes() -> None:
    client = connected()
    bad = snapshot(routes={"r": "a"})
    client.session.offer(Target(bad))
    assert client.says() == [(RDS, ["r"])]
    answer = client.ack(RDS, error="weights")
    assert isinstance(answer, Nacked)
    assert (answer.message, [r.name for r in answer.culprits]) == ("weights", ["r"])
    assert client.session.has_rejected(RDS, bad.resources[RDS]["r"])
    assert client.session.acked(RDS) == snapshot().resources[RDS]
    client.session.offer(Target(bad))
    assert client.says() == []
    assert client.ack(RDS, error="weights") is None  # said again: counts once
    client.session.offer(Target(snapshot(routes={"r": "b"})))
    assert client.says() == [(RDS, ["r"])]


def test_a_rejected_cluster_gives_way_to_its_last_acked_content_and_holds_up_no_other() -> None:
    """Envoy applies a rejected CDS response in part, so the last good content has to be sent again."""
    client = connected()
    client.session.offer(Target(snapshot(clusters="a1 b2")))
    client.says()
    client.ack(EDS)
    answer = client.ack(CDS, error="b is bad")
    assert isinstance(answer, Nacked)
    assert [r.name for r in answer.culprits] == ["b"]
    response = client.read()
    assert response is not None
    assert response.resources == tuple(snapshot().resources[CDS].values())
    assert response.version == snapshot().versions[CDS]
    client.ack(CDS)
    client.settle()
    client.session.offer(Target(snapshot(clusters="a3 b2")))
    response = client.read()
    assert response is not None
    assert response.resources == tuple(snapshot(clusters="a3 b1").resources[CDS].values())


def test_whoever_was_rejected_with_a_culprit_is_sent_again_when_the_culprit_is_mended() -> None:
    client = connected()
    client.session.offer(Target(snapshot(clusters="a2 b2")))
    client.says()
    client.ack(EDS)
    client.ack(CDS, error="b is bad")
    client.settle()
    assert client.session.acked(CDS) == snapshot().resources[CDS]
    client.session.offer(Target(snapshot(clusters="a2 b3")))
    client.settle()
    assert client.session.acked(CDS) == snapshot(clusters="a2 b3").resources[CDS]


def test_a_client_from_before_a_restart_that_rejects_its_clusters_keeps_what_it_has() -> None:
    """Nothing has been ACKed on this stream: an answer with less would delete clusters that carry traffic."""
    client = Client(snapshot())
    client.ask(CDS)
    client.says()
    assert isinstance(client.ack(CDS, error="bad"), Nacked)
    assert client.says() == []


def test_a_client_that_refuses_even_what_it_had_acked_is_left_alone() -> None:
    client = connected()
    client.session.offer(Target(snapshot(clusters="a1 b2")))
    client.says()
    client.ack(EDS)
    for _ in range(3):
        client.ack(CDS, error="no")
        client.says()
        client.ack(EDS)
    client.ack(CDS, error="no")
    assert client.says() == []


def test_endpoints_rejected_together_are_tried_one_by_one() -> None:
    client = connected()
    client.session.offer(Target(snapshot(endpoints="2")))
    assert client.says() == [(EDS, ["a", "b"])]
    client.ack(EDS, error="one of them is bad")
    assert client.says() == [(EDS, ["a"])]
    client.ack(EDS, error="a is bad")
    assert client.says() == [(EDS, ["b"])]
    client.ack(EDS)
    assert client.says() == []
    assert client.session.acked(EDS)["b"] == snapshot(endpoints="2").resources[EDS]["b"]
    assert client.session.acked(EDS)["a"] == snapshot().resources[EDS]["a"]


def test_names_in_a_stale_request_are_honoured_and_its_verdict_is_not() -> None:
    client = Client(snapshot())
    client.ask(EDS, "a")
    client.says()
    client.ask(EDS, "a", "b", nonce="", error="of an older response")
    assert client.session.stale_n == 1
    assert client.says() == []  # one response is in flight
    assert isinstance(client.ask(EDS, "a", "b"), Acked)
    assert client.says() == [(EDS, ["b"])]


def test_a_resource_unsubscribed_and_subscribed_again_is_sent_again() -> None:
    client = connected()
    client.ask(EDS, "a")
    assert client.says() == []
    client.ask(EDS, "a", "b")
    assert client.says() == [(EDS, ["b"])]


def test_a_resource_that_does_not_exist_yet_is_sent_when_it_does() -> None:
    client = connected()
    client.ask(EDS, "a", "b", "c")
    response = client.read()
    assert response is not None
    assert (response.resources, response.body.missing) == ((), ("c",))
    client.ack(EDS)
    client.session.offer(Target(snapshot(clusters="a1 b1 c1")))
    assert client.says() == [(CDS, ["a", "b", "c"]), (EDS, ["c"])]


def test_a_nonce_from_an_earlier_stream_means_nothing() -> None:
    client = Client(snapshot())
    assert client.ask(CDS, nonce="17", error="of another stream") is None
    assert client.says() == [(CDS, ["a", "b"])]


def test_route_configurations_go_out_one_by_one() -> None:
    """So that a rejection has one culprit and holds up nobody else's rollback."""
    client = connected(snapshot(routes={"r": "a", "s": "b"}))
    client.ask(RDS, "r", "s")
    assert client.says() == [(RDS, ["s"])]
    client.ack(RDS)
    client.session.offer(Target(snapshot(routes={"r": "b", "s": "a"})))
    assert client.says() == [(RDS, ["r"])]
    client.ack(RDS, error="no")
    assert client.says() == [(RDS, ["s"])]


def test_the_dead_man_switch_is_armed_with_the_routes_or_at_once_where_the_stream_can_carry_none() -> None:
    off = resource("serinus", "off")
    armed = replace(resource("serinus", "on"), ttl_ms=10_000, at_first=off)
    target = Target(Snapshot({**snapshot().resources, RTDS: {"serinus": armed}}))

    def first_sent(session: StreamSession) -> Resource:
        session.offer(target)
        session.receive(Request(type=RTDS, names=("serinus",)), 0.0)
        response = session.next_response(0.0)
        assert response is not None
        return response.resources[0]

    assert first_sent(StreamSession()) is off
    assert first_sent(StreamSession(only=RTDS)) is armed


def test_the_beat_goes_on_for_a_client_that_is_fed_from_another_snapshot_that_says_the_same() -> None:
    """As a sidecar is that the mesh file has come to name."""

    def armed() -> Snapshot:
        switch = replace(resource("serinus"), ttl_ms=10_000)
        return Snapshot({**snapshot().resources, RTDS: {"serinus": switch}})

    client = connected(armed())
    client.ask(RTDS, "serinus")
    client.settle()
    for _ in range(2):
        client.session.beat()
        assert client.says() == [(RTDS, ["serinus"])]
        client.ack(RTDS)
        client.session.offer(Target(armed()))
        assert client.says() == []
