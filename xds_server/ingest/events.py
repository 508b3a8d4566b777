"""Spans and log records of applications, as rows of `SAMPLE_DTYPE`. Pure and total, as `entries` is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from analysis.sample import NO_BUCKET, NO_STEP, UNKNOWN, SampleKind, Vocabulary
from xds_server.ingest.rows import INT64_END, DecodeRules, Drop, HashUser, Row, feature_label, path_template
from xds_server.pb import otlp_pb2

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

_SPAN_KIND_SERVER = 2
_STATUS_CODE_ERROR = 2
_MAX_LABEL = 120  # characters


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
    span: otlp_pb2.Span, version: int, rules: DecodeRules, _vocabulary: Vocabulary, hash_user: HashUser
) -> Row | Drop:
    """Return the sample of a server span that ended in error; every other span says nothing that the log does not.

    A span that names no person is user 0. Its segment and bucket are unknown: they are joined to the person's session.
    """
    if span.kind != _SPAN_KIND_SERVER or span.status.code != _STATUS_CODE_ERROR:
        return Drop.NOT_A_SERVER_ERROR
    if not rules.span_status:
        return Drop.IGNORED_BY_RULE
    if not 0 < span.start_time_unix_nano < INT64_END:
        return Drop.NO_TIME
    attributes = attributes_of(span.attributes)
    return _event_row(
        span.start_time_unix_nano,
        hash_user(_sticky_key(attributes)),
        version,
        NO_STEP,
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
    if not 0 < unix_ns < INT64_END:
        return Drop.NO_TIME
    user = hash_user(_sticky_key(attributes))
    if not user:
        return Drop.NO_USER
    return _event_row(unix_ns, user, version, vocabulary.index(label), kind)


def _event_row(unix_ns: int, user: int, version: int, label: int, kind: SampleKind) -> Row:
    error = kind is SampleKind.SPAN_ERROR
    return (unix_ns, 0.0, np.nan, user, NO_BUCKET, UNKNOWN, version, label, kind, error, False, False)


def _sticky_key(attributes: Mapping[bytes, bytes]) -> bytes:
    return next((attributes[name] for name in USER_ATTRIBUTES if attributes.get(name)), b"")


def _feature_label(attributes: Mapping[bytes, bytes], rules: DecodeRules) -> str | Drop:
    name = attributes.get(b"feature.name", b"").decode("utf-8", "replace")
    return feature_label(name) if name in rules.features else Drop.UNWANTED_FEATURE


def _page_label(attributes: Mapping[bytes, bytes]) -> str | Drop:
    path = attributes.get(b"url.path")
    if path:
        return f"page {path_template(path)}"
    screen = attributes.get(b"app.screen.name")
    return f"screen {screen.decode('utf-8', 'replace')[:_MAX_LABEL]}" if screen else Drop.NO_LABEL
