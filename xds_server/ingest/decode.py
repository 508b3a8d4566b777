"""Access log entries, spans and log records, as rows of `SAMPLE_DTYPE`. Pure and total.

Whatever arrives becomes a row or a `Drop`; nothing here raises on what a peer has sent. Text is bytes until it is known
to be wanted, so that a path or key that is not UTF-8 is just another path or key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from google.protobuf.message import DecodeError

from analysis.sample import NO_BUCKET, UNKNOWN, SampleKind, Vocabulary
from analysis.spec import KpiKind
from xds_server.assign import bucket
from xds_server.mesh import Service
from xds_server.pb import als_pb2, otlp_pb2

Row = tuple[int, float, int, int, int, int, int, int, bool, bool]
"""One sample: the fields of `SAMPLE_DTYPE`, in their order."""

HashUser = Callable[[bytes], int]
"""Keyed hash of a person's sticky key: never 0, which stands for nobody known."""


class Drop(StrEnum):
    """Why something that arrived did not become a sample."""

    MALFORMED = "malformed"  # not the message that it should be
    NOT_HTTP = "not_http"  # a TCP access log entry
    NO_NODE = "no_node"  # the stream did not say which Envoy it comes from
    UNFINISHED = "unfinished"  # logged at the start or in the middle of a request
    FORWARDING_HOP = "forwarding_hop"  # a route that only passes requests on
    LATER_HOP = "later_hop"  # an Envoy before this one has split, and reports
    UNKNOWN_SERVICE = "unknown_service"
    NOT_ALLOWED = "not_allowed"  # the peer's certificate does not let it report of the service
    UNKNOWN_SEGMENT = "unknown_segment"
    NO_TIME = "no_time"
    AHEAD = "ahead"  # it claims to lie in the future: one such row would end every session
    STALE = "stale"
    NOT_A_SERVER_ERROR = "not_a_server_error"  # a span that says nothing against the service
    IGNORED_BY_RULE = "ignored_by_rule"  # errors.span_status is off
    NOT_AN_EVENT = "not_an_event"  # a plain log record, or an event of no interest
    UNWANTED_FEATURE = "unwanted_feature"  # no KPI asks for it
    NO_LABEL = "no_label"  # a page event that does not say which page
    NO_USER = "no_user"  # an event of nobody


FLAG_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "failed_local_healthcheck": "LH",
        "no_healthy_upstream": "UH",
        "upstream_request_timeout": "UT",
        "local_reset": "LR",
        "upstream_remote_reset": "UR",
        "upstream_connection_failure": "UF",
        "upstream_connection_termination": "UC",
        "upstream_overflow": "UO",
        "no_route_found": "NR",
        "delay_injected": "DI",
        "fault_injected": "FI",
        "rate_limited": "RL",
        "unauthorized_details": "UAEX",
        "rate_limit_service_error": "RLSE",
        "downstream_connection_termination": "DC",
        "upstream_retry_limit_exceeded": "URX",
        "stream_idle_timeout": "SI",
        "invalid_envoy_request_headers": "IH",
        "downstream_protocol_error": "DPE",
        "upstream_max_stream_duration_reached": "UMSDR",
        "response_from_cache_filter": "RFCF",
        "no_filter_config_found": "NFCF",
        "duration_timeout": "DT",
        "upstream_protocol_error": "UPE",
        "no_cluster_found": "NC",
        "overload_manager": "OM",
        "dns_resolution_failure": "DF",
        "downstream_remote_reset": "DR",
    }
)
"""Fields of `ResponseFlags` and the short names under which Envoy writes them (%RESPONSE_FLAGS%)."""

GRPC_UNKNOWN = 2
GRPC_FAILING = frozenset({GRPC_UNKNOWN, 4, 12, 13, 14, 15})
"""gRPC statuses that are the server's fault.

UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS. The others tell the caller something, as
4xx do (OpenTelemetry semantic conventions for gRPC, server spans).
"""

FEATURE_EVENT = b"feature.used"
PAGE_EVENTS = frozenset(
    {
        b"page.view",
        b"page.click",
        b"app.click",
        b"app.screen.click",
        b"app.screen.view",
        b"app.widget.click",
        b"browser.page_view",
    }
)
USER_ATTRIBUTES = (b"user.id", b"enduser.pseudo.id", b"session.id")
"""Span and event attributes that carry the person's sticky key; the first that is there counts."""

_DOWNSTREAM_END = 6
_FINISHED = frozenset({0, _DOWNSTREAM_END})  # 0: an Envoy from before access log types, which logs at the end only
_SPAN_KIND_SERVER = 2
_STATUS_CODE_ERROR = 2
_INT64_END = 1 << 63
_MAX_PATH_SEGMENTS = 4
_MAX_PATH = 1024  # bytes of a path that are looked at
_MAX_LABEL = 120  # characters
_ID = re.compile(
    r"\d+|[0-9a-fA-F]{12,}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|.{41,}",
    re.DOTALL,
)
"""A path segment that names one thing among many: digits, long hex, a UUID, or longer than any word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRules:
    """What decoding needs of one service, looked up by the bytes that arrive."""

    name: str
    segments: Mapping[bytes, int]
    versions: Mapping[bytes, int]
    clusters: Mapping[bytes, int]  # `<service>|<version>` to the version's index
    failing_status: frozenset[int]
    failing_flags: frozenset[str]
    grpc_failing: bool
    span_status: bool
    goal_path: bytes | None
    features: frozenset[str]


class Stamp(NamedTuple):
    """What the route that was taken has written on the log entry. Empty: the tag is not there."""

    service: bytes
    segment: bytes
    rollout: bytes
    generation: bytes
    key: bytes
    hop: bytes


def rules_of(service: Service) -> DecodeRules:
    """Return the lookup tables of one service."""
    versions = {name.encode(): i for name, i in service.spec.version_index.items()}
    goal = service.spec.session.goal_path
    return DecodeRules(
        name=service.name,
        segments={name.encode(): i for name, i in service.spec.segment_index.items()},
        versions=versions,
        clusters={f"{service.name}|".encode() + version: i for version, i in versions.items()},
        failing_status=frozenset(code for low, high in service.errors.status for code in range(low, high + 1)),
        failing_flags=service.errors.flags,
        grpc_failing=service.errors.grpc_failing,
        span_status=service.errors.span_status,
        goal_path=None if goal is None else goal.encode(),
        features=frozenset(
            kpi.feature for kpi in service.spec.kpis if kpi.kind is KpiKind.FEATURE and kpi.feature is not None
        ),
    )


def feature_label(name: str) -> str:
    """Return the vocabulary's label of a feature."""
    return f"feature:{name}"


def user_hash(hash_key: bytes, sticky_key: bytes) -> int:
    """Return the first 8 bytes of the keyed BLAKE2b of a sticky key, as an integer in [1, 2**64).

    `hash_key` has at most 64 bytes. No sticky key at all is nobody: 0.
    """
    if not sticky_key:
        return 0
    digest = hashlib.blake2b(sticky_key, digest_size=8, key=hash_key).digest()
    return int.from_bytes(digest, "little") or 1


# --- access logs


def read_stamp(entry: als_pb2.HttpEntry) -> Stamp | Drop:
    """Return what the route wrote on a finished request; entries of routes that do not split carry nothing."""
    common = entry.common_properties
    if common.intermediate_log_entry or common.access_log_type not in _FINISHED:
        return Drop.UNFINISHED
    tags = {tag.key: tag.value for tag in common.custom_tags}
    service = tags.get(b"service")
    if not service:
        return Drop.FORWARDING_HOP
    return Stamp(
        service,
        tags.get(b"segment", b""),
        tags.get(b"rollout", b""),
        tags.get(b"generation", b""),
        tags.get(b"key", b""),
        tags.get(b"hop", b""),
    )


def generation_of(stamp: Stamp) -> int | None:
    """Return the generation of the routes that were in force for this request; None if it cannot be read."""
    digits = stamp.generation
    return int(digits) if len(digits) <= 18 and digits.isdigit() else None


def is_later_hop(stamp: Stamp, role: bytes) -> bool:
    """Return whether an Envoy before this one has split the request already, and counts it.

    The first splitting hop writes its role into the request, and no later one overwrites it. An entry without it was
    answered by this Envoy before it could write: nobody has split before, so it is this one's to report.
    """
    return bool(stamp.hop) and stamp.hop != role


def upstream_requests(common: als_pb2.Common) -> tuple[int, int]:
    """Return how many requests to an upstream host a finished request stands for, at least and at most.

    Envoy logs the number of tries, those included that never got a connection. It says only of the last one what became
    of it; a request without any flag was answered by its upstream host.
    """
    tries = common.upstream_request_attempt_count or 1  # 0: an Envoy from before it was logged
    if not common.response_flags:
        return 1, tries
    flags = response_flags(common.response_flags)
    return 0, tries - 1 if flags is not None and "UF" in flags else tries


def decode_request(
    entry: als_pb2.HttpEntry, stamp: Stamp, rules: DecodeRules, vocabulary: Vocabulary, hash_user: HashUser
) -> Row | Drop:
    """Return the sample of one finished request.

    Missing parts: no upstream cluster (refused before one was chosen), or one that is not the service's: version
    UNKNOWN, the error still counts. No time of the last byte to the client: the whole duration, else 0 ms. No sticky
    key: user 0 and no bucket. No response code (the client left): status 0, no error by itself.
    """
    common, response = entry.common_properties, entry.response
    segment = rules.segments.get(stamp.segment)
    if segment is None:
        return Drop.UNKNOWN_SEGMENT
    start_unix_ns = _unix_ns(common.start_time)
    if start_unix_ns is None:
        return Drop.NO_TIME
    flags = response_flags(common.response_flags)
    if flags is None:
        return Drop.MALFORMED
    status = response.response_code.value
    error = is_error(rules, status=status, flags=flags, grpc_status=grpc_status_of(response))
    path = entry.request.original_path or entry.request.path
    return (
        start_unix_ns,
        _duration_ms(common),
        hash_user(stamp.key),
        _bucket(stamp),
        segment,
        rules.clusters.get(common.upstream_cluster, UNKNOWN),
        vocabulary.index(path_template(path)),
        SampleKind.REQUEST,
        error,
        _reaches_goal(path, rules.goal_path) and not error and 200 <= status < 400,
    )


def is_error(rules: DecodeRules, *, status: int, flags: frozenset[str], grpc_status: int | None) -> bool:
    """Return whether a request failed, as the service defines it.

    What the client does (DC: it hung up) is an error only for a service that lists the flag.
    """
    if status in rules.failing_status or not flags.isdisjoint(rules.failing_flags):
        return True
    return rules.grpc_failing and grpc_status in GRPC_FAILING


@lru_cache(maxsize=256)
def response_flags(message: bytes) -> frozenset[str] | None:
    """Return the short names set in a serialised `ResponseFlags`; None if it is not one."""
    if not message:
        return frozenset()
    try:
        flags = als_pb2.ResponseFlags.FromString(message)
    except DecodeError:
        return None
    return frozenset(FLAG_NAMES[field.name] for field, _ in flags.ListFields())


def grpc_status_of(response: als_pb2.Response) -> int | None:
    """Return the gRPC status that a response carries, None if it carries none.

    It comes in the trailers, or in the headers if there is nothing else to send. What is not a number is UNKNOWN
    (gRPC over HTTP/2, "Responses").
    """
    for part in (response.response_trailers, response.response_headers):
        for header in part:
            if header.key == b"grpc-status":
                return int(header.value) if header.value.isdigit() and len(header.value) <= 3 else GRPC_UNKNOWN
    return None


@lru_cache(maxsize=4096)
def path_template(path: bytes) -> str:
    """Return the path without query, its identifiers replaced by `*`, cut after four segments.

    >>> path_template(b"/product/1234/reviews?page=2")
    '/product/*/reviews'
    """
    plain = path[:_MAX_PATH].split(b"?", 1)[0].split(b"#", 1)[0].decode("utf-8", "replace")
    segments = [segment for segment in plain.split("/") if segment][:_MAX_PATH_SEGMENTS]
    return "/" + "/".join("*" if _ID.fullmatch(segment) else segment for segment in segments)


def _reaches_goal(path: bytes, goal_path: bytes | None) -> bool:
    return goal_path is not None and path.startswith(goal_path)


def _bucket(stamp: Stamp) -> int:
    if not stamp.rollout or not stamp.key:
        return NO_BUCKET
    try:
        return bucket(stamp.rollout.decode(), stamp.key.decode())
    except UnicodeDecodeError:  # Envoy hashed other bytes than it is able to log
        return NO_BUCKET


def _unix_ns(time: als_pb2.Instant) -> int | None:
    unix_ns = time.seconds * 1_000_000_000 + time.nanos
    return unix_ns if 0 < unix_ns < _INT64_END else None


def _duration_ms(common: als_pb2.Common) -> float:
    last_byte = "time_to_last_downstream_tx_byte"
    time = common.time_to_last_downstream_tx_byte if common.HasField(last_byte) else common.duration
    return max(0.0, time.seconds * 1e3 + time.nanos / 1e6)


# --- OpenTelemetry


def attributes_of(pairs: Iterable[otlp_pb2.KeyValue]) -> dict[bytes, bytes]:
    """Return the attributes whose values are text or whole numbers, as bytes; the others are of no use here."""
    attributes = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        if kind == "string_value":
            attributes[pair.key] = pair.value.string_value
        elif kind == "int_value":
            attributes[pair.key] = b"%d" % pair.value.int_value
    return attributes


def decode_span(
    span: otlp_pb2.Span, version: int, rules: DecodeRules, vocabulary: Vocabulary, hash_user: HashUser
) -> Row | Drop:
    """Return the sample of a server span that ended in error; every other span says nothing that the log does not.

    A span that names no person is user 0. Its segment and bucket are unknown: they are joined to the person's session.
    """
    if span.kind != _SPAN_KIND_SERVER or span.status.code != _STATUS_CODE_ERROR:
        return Drop.NOT_A_SERVER_ERROR
    if not rules.span_status:
        return Drop.IGNORED_BY_RULE
    if not 0 < span.start_time_unix_nano < _INT64_END:
        return Drop.NO_TIME
    attributes = attributes_of(span.attributes)
    label = vocabulary.index(path_template(attributes.get(b"url.path") or attributes.get(b"http.route", b"")))
    return _event_row(
        span.start_time_unix_nano,
        hash_user(_sticky_key(attributes)),
        version,
        label,
        SampleKind.SPAN_ERROR,
    )


def decode_event(
    record: otlp_pb2.LogRecord, version: int, rules: DecodeRules, vocabulary: Vocabulary, hash_user: HashUser
) -> Row | Drop:
    """Return the sample of a log record that is an event of a person: a feature used, a page seen.

    Its name is `event_name`, in older senders the attribute `event.name`; its time, where it has none, is when it was
    observed.
    """
    attributes = attributes_of(record.attributes)
    name = record.event_name or attributes.get(b"event.name", b"")
    if name == FEATURE_EVENT:
        kind, label = SampleKind.FEATURE, _feature_label(attributes, rules)
    elif name in PAGE_EVENTS:
        kind, label = SampleKind.PAGE, _page_label(attributes)
    else:
        return Drop.NOT_AN_EVENT
    if isinstance(label, Drop):
        return label
    unix_ns = record.time_unix_nano or record.observed_time_unix_nano
    if not 0 < unix_ns < _INT64_END:
        return Drop.NO_TIME
    user = hash_user(_sticky_key(attributes))
    if not user:
        return Drop.NO_USER
    return _event_row(unix_ns, user, version, vocabulary.index(label), kind)


def _event_row(unix_ns: int, user: int, version: int, label: int, kind: SampleKind) -> Row:
    return (unix_ns, 0.0, user, NO_BUCKET, UNKNOWN, version, label, kind, kind is SampleKind.SPAN_ERROR, False)


def _sticky_key(attributes: Mapping[bytes, bytes]) -> bytes:
    return next((attributes[name] for name in USER_ATTRIBUTES if attributes.get(name)), b"")


def _feature_label(attributes: Mapping[bytes, bytes], rules: DecodeRules) -> str | Drop:
    name = attributes.get(b"feature.name", b"").decode("utf-8", "replace")
    return feature_label(name) if name in rules.features else Drop.UNWANTED_FEATURE


def _page_label(attributes: Mapping[bytes, bytes]) -> str | Drop:
    path = attributes.get(b"url.path")
    if path:
        return path_template(path)
    screen = attributes.get(b"app.screen.name")
    return f"screen:{screen.decode('utf-8', 'replace')[:_MAX_LABEL]}" if screen else Drop.NO_LABEL
