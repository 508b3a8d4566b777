"""What decoding needs and gives, whatever arrives: rules, rows, and why something is none. Pure and total."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

from analysis.spec import KpiKind
from xds_server.mesh import CookieIdentity, Service

Row = tuple[int, float, float, int, int, int, int, int, int, bool, bool, bool]
"""One sample: the fields of `SAMPLE_DTYPE`, in their order."""

HashUser = Callable[[bytes], int]
"""Keyed hash of a person's sticky key: never 0, which stands for nobody known."""

INT64_END = 1 << 63


class Labels(Protocol):
    """What gives a label its number: a service's `Vocabulary`, or the part of it that somebody may use."""

    def index(self, label: str) -> int: ...


_MAX_PATH_SEGMENTS = 4
_MAX_PATH = 1024  # bytes of a path that are looked at
_ID = re.compile(
    r"\+?\d+|[0-9a-fA-F]{12,}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|.{41,}|.*(?:@|%\d\d).*|[{:<].*",
    re.DOTALL,
)
"""A path segment that names one thing among many: digits, long hex, a UUID, longer than any word, an e-mail address,
what somebody has typed (`%20` or `%40` in it), or the placeholder of a route (`{id}`, `:id`, `<id>`). Which digits are
there makes no difference."""


class Drop(StrEnum):
    """Why something that arrived did not become a sample."""

    MALFORMED = "malformed"  # not the message that it should be
    NOT_HTTP = "not_http"  # a TCP access log entry
    OVERLOAD = "overload"  # there was no time to decode it: newer ones went first
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
    EXCEPTION = "exception"  # an event that tells of an exception: what it did to people shows in what they do
    FLAG_EVALUATION = "flag_evaluation"  # which variant of a feature flag somebody was given
    FROM_ENVOY = "from_envoy"  # an Envoy's own tracer, whose access log has said it already
    FROM_BROWSER = "from_browser"  # a browser that speaks for the server
    TOO_MANY = "too_many"  # more than a browser may say
    NO_LABEL = "no_label"  # an event that does not say which page, element or feature
    NO_USER = "no_user"  # an event of nobody
    NO_GAUGE = "no_gauge"  # a metric that has no last value: a histogram, a summary, a sum of what is new
    NO_RESOURCE = "no_resource"  # a metric that `resources` does not ask for
    UNKNOWN_VERSION = "unknown_version"  # a metric of none of the service's versions
    NO_VALUE = "no_value"  # a data point without a number, or with one that no resource can have


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauged:
    """What a process of a version has reported of a resource: `value`, in the metric's unit."""

    metric: str
    version: str
    value: float


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
    cookie: bytes | None  # the one that tells people apart
    metrics: frozenset[bytes]  # of resources


def rules_of(service: Service) -> DecodeRules:
    """Return the lookup tables of one service."""
    versions = {name.encode(): i for name, i in service.spec.version_index.items()}
    goal = service.spec.session.goal_path
    cookies = (identity.cookie for identity in service.identity if isinstance(identity, CookieIdentity))
    cookie = next(cookies, None)
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
        cookie=None if cookie is None else cookie.encode(),
        metrics=frozenset(each.metric.encode() for each in service.spec.resources),
    )


def feature_label(name: str) -> str:
    """Return the vocabulary's label of a feature."""
    return f"feature {name}"


def user_hash(hash_key: bytes, sticky_key: bytes) -> int:
    """Return the first 8 bytes of the keyed BLAKE2b of a sticky key, as an integer in [1, 2**64).

    `hash_key` has at most 64 bytes. No sticky key at all is nobody: 0.
    """
    if not sticky_key:
        return 0
    digest = hashlib.blake2b(sticky_key, digest_size=8, key=hash_key).digest()
    return int.from_bytes(digest, "little") or 1


@lru_cache(maxsize=4096)
def path_template(path: bytes) -> str:
    """Return the path without query, its identifiers replaced by `*`, cut after four segments.

    >>> path_template(b"/product/1234/reviews?page=2")
    '/product/*/reviews'
    """
    plain = path[:_MAX_PATH].split(b"?", 1)[0].split(b"#", 1)[0].decode("utf-8", "replace")
    segments = [segment for segment in plain.split("/") if segment][:_MAX_PATH_SEGMENTS]
    return "/" + "/".join("*" if _ID.fullmatch(segment) else segment for segment in segments)
