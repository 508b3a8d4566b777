from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from envoy.data.accesslog.v3 import accesslog_pb2

from analysis.sample import NO_STEP, SAMPLE_DTYPE, SampleKind
from xds_server.clock import Clock
from xds_server.ingest import Ingest, Reporter
from xds_server.ingest.ingest import MAX_AGE_S, MAX_AHEAD_S, MAX_NODES
from xds_server.mesh import Mesh

NOW = 1_700_000_000.0
MakeEntry = Callable[..., accesslog_pb2.HTTPAccessLogEntry]
MakeMessage = Callable[..., bytes]


@pytest.fixture
def ingest(mesh: Mesh, clock: Clock) -> Ingest:
    return Ingest(mesh, user_hash_key=b"secret", queue_limit=5, clock=clock)


def count(ingest: Ingest, reason: str, source: str = "access_log") -> int:
    return ingest.counts.get((source, reason), 0)


def test_what_arrives_is_drained_once_and_in_order(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    keys = ["anna", "ben", "cleo"]
    ingest.take_access_logs(stream_message(*(make_entry(key=key) for key in keys), node="edge-1", cluster="edge"), None)
    rows = ingest.drain()["shop"].rows
    assert rows.dtype == SAMPLE_DTYPE
    assert len(set(rows["user"])) == 3
    assert count(ingest, "accepted") == 3
    again = ingest.drain()["shop"].rows
    assert again.shape == (0,)
    assert again.dtype == SAMPLE_DTYPE


def test_what_was_drained_cannot_be_changed(ingest: Ingest) -> None:
    assert not ingest.drain()["shop"].rows.flags.writeable


def test_a_full_queue_drops_the_oldest_and_says_so(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    entries = [make_entry(status=status) for status in (500, 500, 200, 200, 200, 200, 200)]
    ingest.take_access_logs(stream_message(*entries, node="edge"), None)
    assert ingest.depths() == {"shop": 5}
    assert ingest.dropped() == {"shop": 2}
    assert ingest.accepted() == {"shop": 7}
    assert not ingest.drain()["shop"].rows["error"].any()


def test_only_the_first_message_names_the_envoy(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    reporter = ingest.take_access_logs(stream_message(make_entry(), node="edge-1", cluster="edge"), None)
    assert reporter == Reporter(node="edge-1", role=b"gateway")
    assert ingest.take_access_logs(stream_message(make_entry()), reporter) == reporter
    assert count(ingest, "accepted") == 2


def test_a_stream_that_does_not_say_where_it_comes_from_counts_nothing(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    assert ingest.take_access_logs(stream_message(make_entry()), None) is None
    assert count(ingest, "no_node") == 1
    assert ingest.depths() == {"shop": 0}


@pytest.mark.parametrize(
    ("node", "cluster", "role"),
    [
        ("edge", "", b"gateway"),
        ("edge-1", "edge", b"gateway"),
        ("web-1", "sidecar", b"sidecar"),
        ("web-1", "", b"sidecar"),
    ],
)
def test_a_gateway_is_known_by_its_node_or_its_cluster(
    node: str, cluster: str, role: bytes, ingest: Ingest, stream_message: MakeMessage
) -> None:
    reporter = ingest.take_access_logs(stream_message(node=node, cluster=cluster), None)
    assert reporter == Reporter(node=node, role=role)


def test_a_request_that_two_envoys_log_counts_once(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    ingest.take_access_logs(stream_message(make_entry(hop="gateway"), node="edge"), None)
    ingest.take_access_logs(stream_message(make_entry(hop="gateway"), node="web-1", cluster="sidecar"), None)
    assert len(ingest.drain()["shop"].rows) == 1
    assert count(ingest, "later_hop") == 1


def test_a_gateway_that_only_forwards_leaves_the_count_to_the_sidecar(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    ingest.take_access_logs(stream_message(make_entry(service="", hop=""), node="edge"), None)
    ingest.take_access_logs(stream_message(make_entry(hop="sidecar"), node="web-1", cluster="sidecar"), None)
    assert len(ingest.drain()["shop"].rows) == 1
    assert count(ingest, "forwarding_hop") == 1
    assert ingest.traffic_nodes("shop", 60, NOW) == {"web-1"}


def test_the_logs_show_which_generation_each_node_routes_by(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    ingest.take_access_logs(stream_message(make_entry(generation="7"), node="edge"), None)
    ingest.take_access_logs(stream_message(make_entry(generation="8"), node="edge"), None)
    ingest.take_access_logs(stream_message(make_entry(generation="7"), node="web-1"), None)
    ingest.take_access_logs(stream_message(make_entry(generation="soon"), node="web-1"), None)
    assert ingest.generations("shop") == {"edge": 8, "web-1": 7}


def test_nodes_that_have_fallen_silent_carry_no_traffic(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    ingest.take_access_logs(stream_message(make_entry(), node="edge"), None)
    assert ingest.traffic_nodes("shop", within_s=60, now=NOW + 59) == {"edge"}
    assert ingest.traffic_nodes("shop", within_s=60, now=NOW + 61) == set()


def test_nodes_are_remembered_up_to_a_limit(ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage) -> None:
    entry = make_entry()
    for i in range(MAX_NODES + 1):
        ingest.take_access_logs(stream_message(entry, node=f"web-{i}"), None)
    assert len(ingest.traffic_nodes("shop", 60, NOW)) == MAX_NODES
    assert "web-0" not in ingest.generations("shop")


@pytest.mark.parametrize(
    ("offset_s", "reason"),
    [
        (MAX_AHEAD_S + 1, "ahead"),
        (MAX_AHEAD_S - 1, "accepted"),
        (-MAX_AGE_S - 1, "stale"),
        (-MAX_AGE_S + 1, "accepted"),
    ],
)
def test_a_clock_that_is_far_off_is_not_believed(
    offset_s: int, reason: str, ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    entry = make_entry()
    entry.common_properties.start_time.seconds += offset_s
    ingest.take_access_logs(stream_message(entry, node="edge"), None)
    assert count(ingest, reason) == 1


def test_what_names_no_service_of_the_mesh_is_counted(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    ingest.take_access_logs(stream_message(make_entry(service="payments"), node="edge"), None)
    assert count(ingest, "unknown_service") == 1


def test_a_request_that_names_no_version_is_counted_twice_over(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    ingest.take_access_logs(stream_message(make_entry(cluster=""), make_entry(), node="edge"), None)
    assert count(ingest, "accepted") == 2
    assert count(ingest, "no_version") == 1


def test_a_message_that_cannot_be_read_does_not_end_the_stream(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    reporter = ingest.take_access_logs(stream_message(node="edge"), None)
    assert ingest.take_access_logs(b"\xff\xff", reporter) == reporter
    ingest.take_access_logs(stream_message(make_entry()), reporter)
    assert count(ingest, "malformed") == 1
    assert count(ingest, "accepted") == 1


def test_what_is_judged_has_its_label_before_a_flood_of_paths(ingest: Ingest) -> None:
    assert ingest.vocabulary("shop").labels == (
        "other",
        "feature wishlist",
        "page /checkout/done",
        "call /checkout/done",
    )


def test_what_the_opentelemetry_sdk_sends_is_understood(ingest: Ingest) -> None:
    """Bytes recorded from the real SDK, so that this needs no second copy of the OTLP modules."""
    recorded = json.loads(Path(__file__).with_name("otlp_sdk.json").read_text())
    assert all(ingest.take_spans(bytes.fromhex(message)) for message in recorded["traces"])
    assert all(ingest.take_events(bytes.fromhex(message)) for message in recorded["logs"])
    rows = ingest.drain()["shop"].rows
    kinds = [SampleKind(kind) for kind in rows["kind"]]
    assert kinds == [SampleKind.SPAN_ERROR, SampleKind.FEATURE, SampleKind.PAGE, SampleKind.PAGE, SampleKind.PAGE]
    labels = ingest.vocabulary("shop").labels
    assert [labels[i] for i in rows["label"] if i != NO_STEP] == [
        "feature wishlist",
        "page /product/*",
        "screen Home",
        "page /",
    ]
    assert np.array_equal(rows["error"], [True, False, False, False, False])
    assert (rows["version"] == 1).all()
    assert (rows["user"] != 0).all()
    assert rows["user"][0] == rows["user"][1]  # the span and the event name the same person
    assert count(ingest, "not_a_server_error", "span") == 3
    assert count(ingest, "not_an_event", "event") == 1


def test_telemetry_that_cannot_be_read_is_refused_and_counted(ingest: Ingest) -> None:
    assert not ingest.take_spans(b"\xff")
    assert not ingest.take_events(b"\xff")
    assert count(ingest, "malformed", "span") == 1
    assert count(ingest, "malformed", "event") == 1
