"""Access log entries, as rows of `SAMPLE_DTYPE`. Pure and total.

Whatever arrives becomes a row or a `Drop`; nothing here raises on what a peer has sent. Text is bytes until it is known
to be wanted, so that a path or key that is not UTF-8 is just another path or key.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from analysis.sample import NO_BUCKET, UNKNOWN, SampleKind, Vocabulary
from xds_server.assign import bucket
from xds_server.ingest.rows import INT64_END, DecodeRules, Drop, HashUser, Row, path_template
from xds_server.pb import als_pb2

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

_DOWNSTREAM_END = 6
_FINISHED = frozenset({0, _DOWNSTREAM_END})  # 0: an Envoy from before access log types, which logs at the end only


class Stamp(NamedTuple):
    """What the route that was taken has written on the log entry. Empty: the tag is not there."""

    service: bytes
    segment: bytes
    rollout: bytes
    generation: bytes
    key: bytes
    hop: bytes


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
        _first_byte_ms(common),
        hash_user(stamp.key),
        _bucket(stamp),
        segment,
        rules.clusters.get(common.upstream_cluster, UNKNOWN),
        vocabulary.index(f"page {path_template(path)}"),
        SampleKind.REQUEST,
        error,
        _reaches_goal(path, rules.goal_path) and not error and 200 <= status < 400,
        False,
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
    return unix_ns if 0 < unix_ns < INT64_END else None


def _duration_ms(common: als_pb2.Common) -> float:
    last_byte = "time_to_last_downstream_tx_byte"
    time = common.time_to_last_downstream_tx_byte if common.HasField(last_byte) else common.duration
    return max(0.0, time.seconds * 1e3 + time.nanos / 1e6)


def _first_byte_ms(common: als_pb2.Common) -> float:
    if not common.HasField("time_to_first_upstream_rx_byte"):
        return np.nan
    time = common.time_to_first_upstream_rx_byte
    return max(0.0, time.seconds * 1e3 + time.nanos / 1e6)
