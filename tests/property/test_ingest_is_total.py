"""Whatever a peer sends, ingest counts it and goes on."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from analysis.sample import NO_BUCKET, SAMPLE_DTYPE, UNKNOWN, Vocabulary
from xds_server.ingest import Ingest, Reporter
from xds_server.ingest import entries as entries_module
from xds_server.ingest.entries import Arrived, Decoded, Decoder, Logged, grpc_status_of, length
from xds_server.ingest.instants import instants as instants_of
from xds_server.ingest.rows import Drop, path_template, rules_of
from xds_server.ingest.templates import Templates
from xds_server.mesh import Mesh
from xds_server.pb import als_pb2, otlp_pb2
from xds_server.settings import parse_mesh

MESH: Mesh = parse_mesh(
    """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    session: {goal: {path: /done}}
    versions:
      v1: {endpoints: ["127.0.0.1:9001"]}
      v2: {endpoints: ["127.0.0.1:9002"]}
    baseline: v1
    kpis: {features: {wishlist: {max_regression: 5pp}}}
""",
    "shop.yaml",
)
NOW_UNIX_NS = 1_700_000_000_000_000_000
REPORTER = Reporter(node="edge", role=b"sidecar")
OTHER = Reporter(node="inner", role=b"gateway", services=frozenset({b"cart"}))


class StoppedClock:
    def now_unix_ns(self) -> int:
        return NOW_UNIX_NS

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def ingest() -> Ingest:
    return Ingest(MESH, user_hash_key=b"secret", queue_limit=100, clock=StoppedClock())


INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
WORDS = st.sampled_from(
    [
        b"",
        b"shop",
        b"default",
        b"shop|v1",
        b"shop|v2",
        b"sidecar",
        b"gateway",
        b"7",
        b"14",
        b"/done",
        b"wishlist",
        b"\xff",
    ]
)
BYTES = st.one_of(WORDS, st.binary(max_size=40))


def serialised(*messages: st.SearchStrategy[Message]) -> st.SearchStrategy[bytes]:
    """Such messages, and bytes that may be none."""
    return st.one_of(
        st.just(b""),
        *(message.map(lambda message: message.SerializeToString()) for message in messages),
        st.binary(max_size=14),
    )


def tag(value: bytes) -> bytes:
    return als_pb2.Text(key=b"serinus", value=value).SerializeToString()


instants = serialised(
    st.builds(als_pb2.Instant, seconds=INT64, nanos=INT32),
    st.builds(als_pb2.Instant, seconds=st.integers(1_699_999_000, 1_700_000_100), nanos=st.integers(0, 10**9 - 1)),
)
stamps = st.lists(WORDS, max_size=6).map(b"|".join) | st.sampled_from(
    [
        b"shop|default|shop-1|7",
        b"shop|default|shop-1|8|stream",
        b"shop|default||",
        b"cart|default|cart-1|7",
        b"shop|mars||",
    ]
)
said = st.sampled_from([b"", b"", b"text/html", b"image/png", b"text/event-stream", b"0", b"14", b"\xff"])
kinds = st.sampled_from([b"DownstreamEnd", b"DownstreamEnd", b"DownstreamPeriodic", b"NotSet", b""])
statuses = st.sampled_from([b"200", b"503", b"101", b"0", b"", b"-", b"99999"])
flags = st.sampled_from([b"-", b"UF", b"UO,DT", b"", b",", b"\xff"])
clusters = st.sampled_from([b"shop|v1", b"shop|v2", b"cart|v1", b""])
tags = st.one_of(
    *(
        st.tuples(stamps, hops, kinds, statuses, flags, clusters, said, said, said, BYTES).map(
            lambda lines: tag(b"\n".join(lines))
        )
        for hops in (said, st.just(b"sidecar"))
    ),
    st.binary(max_size=200).map(tag),
    st.builds(als_pb2.Text, key=BYTES, value=BYTES).map(lambda message: message.SerializeToString()),
    st.binary(max_size=30),
    st.just(b""),
)
commons = st.builds(
    als_pb2.Common,
    start_time=instants,
    time_to_first_upstream_rx_byte=instants,
    time_to_last_downstream_tx_byte=instants,
    duration=instants,
    custom_tags=tags,
    upstream_request_attempt_count=st.integers(0, 3),
)
entries = st.builds(
    als_pb2.HttpEntry,
    common_properties=commons,
    request=st.builds(als_pb2.Request, path=BYTES, original_path=BYTES, user_agent=BYTES),
)
logs = st.builds(
    als_pb2.StreamAccessLogsMessage,
    http_logs=st.builds(als_pb2.HttpEntries, log_entry=st.lists(entries, max_size=6)),
    tcp_logs=st.builds(als_pb2.TcpEntries, log_entry=st.lists(BYTES, max_size=2)),
)
openings = st.builds(
    als_pb2.StreamOpening,
    identifier=st.none()
    | st.builds(als_pb2.Identifier, node=st.builds(als_pb2.Node, id=BYTES, cluster=BYTES), log_name=BYTES),
)


values = st.one_of(
    st.builds(otlp_pb2.AnyValue, string_value=BYTES),
    st.builds(otlp_pb2.AnyValue, int_value=INT64),
    st.builds(otlp_pb2.AnyValue, bool_value=st.booleans()),
    st.builds(otlp_pb2.AnyValue, double_value=st.floats()),
    st.just(otlp_pb2.AnyValue()),
)
attribute_names = st.sampled_from(
    [
        b"service.name",
        b"service.version",
        b"user.id",
        b"session.id",
        b"url.path",
        b"feature.name",
        b"event.name",
        b"\xff",
    ]
)
attributes = st.lists(st.builds(otlp_pb2.KeyValue, key=attribute_names, value=values), max_size=6)
resources = st.one_of(
    st.builds(otlp_pb2.Resource, attributes=attributes),
    st.just(
        otlp_pb2.Resource(
            attributes=[otlp_pb2.KeyValue(key=b"service.name", value=otlp_pb2.AnyValue(string_value=b"shop"))]
        )
    ),
)
spans = st.builds(
    otlp_pb2.Span,
    kind=st.one_of(st.just(2), INT32),
    start_time_unix_nano=st.one_of(st.just(NOW_UNIX_NS), UINT64),
    attributes=attributes,
    status=st.builds(otlp_pb2.Status, code=st.one_of(st.just(2), INT32)),
)
event_names = st.one_of(st.sampled_from([b"feature.used", b"page.view", b"app.click"]), BYTES)
records = st.builds(
    otlp_pb2.LogRecord,
    time_unix_nano=st.one_of(st.just(NOW_UNIX_NS), UINT64),
    observed_time_unix_nano=UINT64,
    attributes=attributes,
    event_name=event_names,
)


def check_counted(box: Ingest, n: int) -> None:
    """Every one of `n` has become a sample or has been counted as something else; samples are in range."""
    outcomes = {reason: count for (_, reason), count in box.counts.items() if reason != "no_version"}
    assert sum(outcomes.values()) == n
    rows = box.drain()["shop"].rows
    assert rows.dtype == SAMPLE_DTYPE
    assert len(rows) == outcomes.get("accepted", 0)
    for row in rows:
        assert abs(int(row["start_unix_ns"]) - NOW_UNIX_NS) < 2 * 24 * 3600 * 10**9
        assert row["duration_ms"] >= 0 or math.isnan(row["duration_ms"])
        assert not math.isinf(row["duration_ms"])
        assert not row["first_byte_ms"] < 0
        assert row["bucket"] < 10_000 or row["bucket"] == NO_BUCKET
        assert row["version"] in {0, 1, UNKNOWN}
        assert row["segment"] in {0, UNKNOWN}
        assert not (row["goal"] and row["error"])


@given(openings, logs)
def test_every_log_entry_becomes_a_sample_or_a_reason(
    opening: als_pb2.StreamOpening, message: als_pb2.StreamAccessLogsMessage
) -> None:
    box = ingest()
    box.take_access_logs(opening.SerializeToString() + message.SerializeToString(), REPORTER)
    check_counted(box, len(message.http_logs.log_entry) + len(message.tcp_logs.log_entry))
    assert length(message.SerializeToString()) == len(message.http_logs.log_entry) + len(message.tcp_logs.log_entry)


@given(st.lists(st.tuples(logs, st.sampled_from([None, REPORTER, OTHER])), max_size=4), st.booleans())
def test_many_at_once_come_to_the_same_as_one_by_one(
    batch: list[tuple[als_pb2.StreamAccessLogsMessage, Reporter | None]], is_compared: bool
) -> None:
    """And a batch that is larger than a chunk to the same as one that is smaller."""
    arrived = [Arrived(message.SerializeToString(), reporter, is_compared) for message, reporter in batch]
    alone = [
        Arrived(
            als_pb2.StreamAccessLogsMessage(http_logs=als_pb2.HttpEntries(log_entry=[entry])).SerializeToString(),
            reporter,
            is_compared,
        )
        for message, reporter in batch
        for entry in message.http_logs.log_entry
    ]
    tcp_n = sum(len(message.tcp_logs.log_entry) for message, _ in batch)
    rules = {b"shop": rules_of(MESH.services["shop"])}
    decoder = Decoder(hash_key=b"secret")
    together = outcome(decoder.decode(arrived, rules, NOW_UNIX_NS))
    repeated = outcome(decoder.decode(arrived, rules, NOW_UNIX_NS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries_module, "CHUNK", 2)
        in_pieces = outcome(Decoder(hash_key=b"secret").decode(arrived, rules, NOW_UNIX_NS))
    each = [Decoder(hash_key=b"secret").decode([one], rules, NOW_UNIX_NS) for one in alone]
    one_by_one = outcome(*each, counts=Counter({Drop.NOT_HTTP: tcp_n} if tcp_n else {}))
    assert together == repeated == in_pieces == one_by_one


def outcome(*parts: Decoded, counts: Counter[str] | None = None) -> tuple[object, ...]:
    """All that messages come to; rows as text, in which NaN equals itself."""
    counts = counts or Counter()
    rows: list[str] = []
    seen: dict[tuple[str, str], int | None] = {}
    logged: Counter[tuple[str, Logged]] = Counter()
    for part in parts:
        counts.update(part.counts)
        for few in part.rows:
            labels = [few.labels[i] if i >= 0 else "" for i in few.label.tolist()]
            rows += [f"{row} {label}" for row, label in zip(few.rows.tolist(), labels, strict=True)]
        for key, generation in part.seen.items():
            before = seen.pop(key, None)
            seen[key] = before if generation is None else generation
        for node, requests in part.logged.items():
            logged.update({(node, request): n for request, n in requests.items()})
    return counts, rows, list(seen.items()), logged


@given(logs, st.integers(0, 400))
def test_the_rest_of_a_truncated_message_is_one_reason(message: als_pb2.StreamAccessLogsMessage, at: int) -> None:
    """Wherever it is cut: what is whole counts, or the message is malformed."""
    box = ingest()
    cut = message.SerializeToString()[:at]
    box.take_access_logs(cut, REPORTER)
    counts = {reason: n for (_, reason), n in box.counts.items() if reason != "no_version"}
    assert sum(counts.values()) == length(cut) or counts == {"malformed": 1}


@given(st.lists(st.builds(otlp_pb2.ResourceSpans, resource=resources), max_size=3), st.lists(spans, max_size=4))
def test_every_span_becomes_a_sample_or_a_reason(
    groups: list[otlp_pb2.ResourceSpans], members: list[otlp_pb2.Span]
) -> None:
    for group in groups:
        group.scope_spans.add().spans.extend(members)
    box = ingest()
    assert box.take_spans(otlp_pb2.ExportTraceServiceRequest(resource_spans=groups).SerializeToString())
    check_counted(box, len(groups) * len(members))


@given(st.lists(st.builds(otlp_pb2.ResourceLogs, resource=resources), max_size=3), st.lists(records, max_size=4))
def test_every_log_record_becomes_a_sample_or_a_reason(
    groups: list[otlp_pb2.ResourceLogs], members: list[otlp_pb2.LogRecord]
) -> None:
    for group in groups:
        group.scope_logs.add().log_records.extend(members)
    box = ingest()
    assert box.take_events(otlp_pb2.ExportLogsServiceRequest(resource_logs=groups).SerializeToString())
    check_counted(box, len(groups) * len(members))


@given(st.binary(max_size=200))
def test_random_bytes_are_survived(noise: bytes) -> None:
    box = ingest()
    box.take_access_logs(noise, REPORTER)
    box.take_spans(noise)
    box.take_events(noise)
    box.drain()


@given(logs, st.data())
def test_a_damaged_message_is_survived(message: als_pb2.StreamAccessLogsMessage, data: st.DataObject) -> None:
    damaged = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(1, 5)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    box = ingest()
    box.take_access_logs(bytes(damaged), REPORTER)
    box.drain()


@given(st.binary(max_size=2000))
def test_a_path_has_a_template_of_bounded_length(path: bytes) -> None:
    template = path_template(path)
    assert template.startswith("/")
    assert len(template) <= 4 * 41
    assert template == path_template(template.encode()) or "?" in template or "#" in template


@given(BYTES, BYTES)
def test_a_grpc_status_is_a_small_number_or_absent(header: bytes, trailer: bytes) -> None:
    status = grpc_status_of(header, trailer)
    assert status is None or 0 <= status < 1000


@given(st.lists(st.binary(max_size=25) | instants, max_size=20))
def test_times_are_those_that_protobuf_reads(blobs: list[bytes]) -> None:
    for blob, seconds, nanos, malformed in zip(blobs, *(column.tolist() for column in instants_of(blobs)), strict=True):
        try:
            instant = als_pb2.Instant.FromString(blob)
        except DecodeError:
            assert malformed
        else:
            assert (seconds, nanos, malformed) == (instant.seconds, instant.nanos, False)


path_parts = st.sampled_from(["v2", "17", "17a", "#", "*", "é1", "٣", "0", "x" * 40 + "1", "deadbeefdead"]) | st.text(
    max_size=6
)


@given(st.lists(st.lists(path_parts, max_size=6).map(lambda parts: ("/" + "/".join(parts)).encode()), max_size=8))
def test_a_remembered_template_is_the_path_s_own(paths: list[bytes]) -> None:
    remembered = Templates()
    for _ in range(2):
        index, names = remembered(paths)
        assert [names[i] for i in index.tolist()] == [path_template(path) for path in paths]


@given(st.lists(st.text(max_size=20), max_size=700))
def test_a_vocabulary_stays_bounded(labels: list[str]) -> None:
    vocabulary = Vocabulary(limit=16)
    assert all(vocabulary.index(label) < 16 for label in labels)
