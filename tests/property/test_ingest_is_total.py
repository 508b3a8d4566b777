"""Whatever a peer sends, ingest counts it and goes on."""

from __future__ import annotations

import math

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from analysis.sample import NO_BUCKET, SAMPLE_DTYPE, UNKNOWN, Vocabulary
from xds_server.ingest import Ingest, Reporter
from xds_server.ingest.entries import grpc_status_of, response_flags
from xds_server.ingest.rows import path_template
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

instants = st.one_of(
    st.builds(als_pb2.Instant, seconds=INT64, nanos=INT32),
    st.builds(als_pb2.Instant, seconds=st.integers(1_699_999_000, 1_700_000_100), nanos=st.integers(0, 10**9 - 1)),
)
tag_names = st.sampled_from([b"service", b"segment", b"rollout", b"generation", b"key", b"hop", b"grpc-status", b"?"])
texts = st.lists(st.builds(als_pb2.Text, key=tag_names, value=BYTES), max_size=8)
flag_bytes = st.one_of(
    st.just(b""),
    st.builds(als_pb2.ResponseFlags, upstream_overflow=st.booleans(), duration_timeout=st.booleans()).map(
        als_pb2.ResponseFlags.SerializeToString
    ),
    st.binary(max_size=12),
)
commons = st.builds(
    als_pb2.Common,
    start_time=instants,
    time_to_last_downstream_tx_byte=st.none() | instants,
    duration=st.none() | instants,
    upstream_cluster=BYTES,
    response_flags=flag_bytes,
    custom_tags=texts,
    intermediate_log_entry=st.booleans(),
    access_log_type=st.one_of(st.just(6), INT32),
)
responses = st.builds(
    als_pb2.Response,
    response_code=st.builds(als_pb2.Code, value=st.integers(0, 2**32 - 1)),
    response_headers=texts,
    response_trailers=texts,
)
entries = st.builds(
    als_pb2.HttpEntry,
    common_properties=commons,
    request=st.builds(als_pb2.Request, path=BYTES, original_path=BYTES),
    response=responses,
)
messages = st.builds(
    als_pb2.StreamAccessLogsMessage,
    identifier=st.none()
    | st.builds(als_pb2.Identifier, node=st.builds(als_pb2.Node, id=BYTES, cluster=BYTES), log_name=BYTES),
    http_logs=st.builds(als_pb2.HttpEntries, log_entry=st.lists(entries, max_size=4)),
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
        assert math.isfinite(row["duration_ms"])
        assert row["duration_ms"] >= 0
        assert row["bucket"] < 10_000 or row["bucket"] == NO_BUCKET
        assert row["version"] in {0, 1, UNKNOWN}
        assert row["segment"] in {0, UNKNOWN}
        assert not (row["goal"] and row["error"])


@given(messages)
def test_every_log_entry_becomes_a_sample_or_a_reason(message: als_pb2.StreamAccessLogsMessage) -> None:
    box = ingest()
    box.take_access_logs(message.SerializeToString(), REPORTER)
    check_counted(box, len(message.http_logs.log_entry))


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


@given(messages, st.data())
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


@given(st.binary(max_size=30))
def test_flags_are_names_or_malformed(message: bytes) -> None:
    flags = response_flags(message)
    try:
        als_pb2.ResponseFlags.FromString(message)
    except DecodeError:
        assert flags is None
    else:
        assert flags is not None


@given(responses)
def test_a_grpc_status_is_a_small_number_or_absent(response: als_pb2.Response) -> None:
    status = grpc_status_of(response)
    assert status is None or 0 <= status < 1000


@given(st.lists(st.text(max_size=20), max_size=700))
def test_a_vocabulary_stays_bounded(labels: list[str]) -> None:
    vocabulary = Vocabulary(limit=16)
    assert all(vocabulary.index(label) < 16 for label in labels)
