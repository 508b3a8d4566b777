"""Spans and log records of applications and browsers, as rows of `SAMPLE_DTYPE`. Pure and total, as `entries` is.

The names are those of OpenTelemetry's semantic conventions, older ones of browser instrumentations included.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice

import numpy as np

from analysis.sample import NO_BUCKET, NO_STEP, UNKNOWN, SampleKind
from xds_server.ingest.rows import (
    INT64_END,
    DecodeRules,
    Drop,
    HashUser,
    Labels,
    Row,
    feature_label,
    path_template,
)
from xds_server.pb import otlp_pb2

FEATURE_EVENT = b"feature.used"
PAGE_EVENTS = frozenset(
    {
        b"app.screen.view",
        b"browser.navigation",
        b"browser.page_view",
        b"page.view",
        b"page_view",
    }
)
CLICK_EVENTS = frozenset(
    {
        b"app.click",
        b"app.screen.click",
        b"app.widget.click",
        b"browser.click",
        b"browser.user_action.click",
        b"page.click",
    }
)
EXCEPTION_EVENTS = frozenset({b"app.crash", b"browser.error", b"device.crash", b"exception"})
FLAG_EVENT = b"feature_flag.evaluation"

USER_ATTRIBUTES = (b"user.id", b"enduser.id", b"enduser.pseudo.id", b"session.id")
"""Span and event attributes that carry the person's sticky key; the first that is there counts."""

PATH_ATTRIBUTES = (b"url.path", b"url.full", b"http.route", b"http.target", b"http.url")
"""Attributes that say which page was seen; the first that has a path counts."""

ELEMENT_ATTRIBUTES = (
    b"app.widget.name",
    b"app.widget.id",
    b"browser.element.id",
    b"browser.css_selector",
    b"target_xpath",
    b"browser.tag_name",
    b"target_element",
    b"app.screen.name",
)
"""Attributes that say what was clicked; the first that is there counts."""

MAX_ATTRIBUTES = 128  # of a span or record that are looked at: as many as SDKs keep
MAX_LABEL = 60  # characters of a label behind its first word

_MAX_TEXT = 512  # bytes of a name that are looked at
_SPAN_KIND_INTERNAL = 1
_SPAN_KIND_SERVER = 2
_STATUS_CODE_ERROR = 2
_ENVOY = b"envoy"
_NAMES_ONE = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\+?\d+", re.IGNORECASE)
"""Within a word: identifiers and numbers. An e-mail address is a word of its own."""

_ELEMENT_ID = re.compile(r"""@id=["']([^"']+)["']|#([\w-]+)""")
_EMPTY = re.compile(r"[\s*]*")


def attributes_of(pairs: Iterable[otlp_pb2.KeyValue]) -> dict[bytes, bytes]:
    """Return the attributes whose values are text or whole numbers, as bytes; the others are of no use here."""
    attributes = {}
    for pair in islice(pairs, MAX_ATTRIBUTES):
        kind = pair.value.WhichOneof("value")
        if kind == "string_value":
            attributes[pair.key] = pair.value.string_value
        elif kind == "int_value":
            attributes[pair.key] = b"%d" % pair.value.int_value
    return attributes


def is_envoy(resource: Mapping[bytes, bytes]) -> bool:
    """Return whether spans come from an Envoy's own tracer: they say of a request what its access log says."""
    return resource.get(b"telemetry.sdk.name") == _ENVOY


def decode_span(
    span: otlp_pb2.Span, version: int, rules: DecodeRules, labels: Labels, hash_user: HashUser
) -> Row | Drop:
    """Return the sample of a server span that ended in error, or of what a browser has traced of its person.

    A browser's instrumentations write a span for each click and each document loaded. Every other span says nothing
    that the log does not. A span that names no person is user 0. Its segment and bucket are unknown: they are joined to
    the person's session.
    """
    if span.kind == _SPAN_KIND_SERVER and span.status.code == _STATUS_CODE_ERROR:
        if not rules.span_status:
            return Drop.IGNORED_BY_RULE
        if not 0 < span.start_time_unix_nano < INT64_END:
            return Drop.NO_TIME
        key = _sticky_key(attributes_of(span.attributes))
        return _event_row(span.start_time_unix_nano, hash_user(key), version, NO_STEP, SampleKind.SPAN_ERROR)
    if span.kind > _SPAN_KIND_INTERNAL:
        return Drop.NOT_A_SERVER_ERROR
    attributes = attributes_of(span.attributes)
    if attributes.get(b"event_type") == b"click":
        kind, label = SampleKind.CLICK, _click_label(attributes)
    elif span.name == b"documentLoad":
        kind, label = SampleKind.PAGE, _page_label(attributes)
    else:
        return Drop.NOT_A_SERVER_ERROR
    return _personal(span.start_time_unix_nano, attributes, version, label, kind, labels, hash_user)


def decode_event(
    record: otlp_pb2.LogRecord, version: int, rules: DecodeRules, labels: Labels, hash_user: HashUser
) -> Row | Drop:
    """Return the sample of a log record that is an event of a person: a page seen, a click, a feature used.

    Its name is `event_name`, in older senders the attribute `event.name`; its time, where it has none, is when it was
    observed.
    """
    attributes = attributes_of(record.attributes)
    name = record.event_name or attributes.get(b"event.name", b"")
    label: str | Drop
    if name == FEATURE_EVENT:
        kind, label = SampleKind.FEATURE, _feature_label(attributes, rules)
    elif name in PAGE_EVENTS:
        kind, label = SampleKind.PAGE, _page_label(attributes)
    elif name in CLICK_EVENTS:
        kind, label = SampleKind.CLICK, _click_label(attributes)
    else:
        return _of_no_step(name)
    unix_ns = record.time_unix_nano or record.observed_time_unix_nano
    return _personal(unix_ns, attributes, version, label, kind, labels, hash_user)


def _of_no_step(name: bytes) -> Drop:
    if name in EXCEPTION_EVENTS:
        return Drop.EXCEPTION
    return Drop.FLAG_EVALUATION if name == FLAG_EVENT else Drop.NOT_AN_EVENT


def _personal(
    unix_ns: int,
    attributes: Mapping[bytes, bytes],
    version: int,
    label: str | Drop,
    kind: SampleKind,
    labels: Labels,
    hash_user: HashUser,
) -> Row | Drop:
    """A row of somebody's; its label goes into the vocabulary only if everything else is there."""
    if isinstance(label, Drop):
        return label
    if not 0 < unix_ns < INT64_END:
        return Drop.NO_TIME
    user = hash_user(_sticky_key(attributes))
    if not user:
        return Drop.NO_USER
    return _event_row(unix_ns, user, version, labels.index(label), kind)


def _event_row(unix_ns: int, user: int, version: int, label: int, kind: SampleKind) -> Row:
    error = kind is SampleKind.SPAN_ERROR
    return (unix_ns, 0.0, np.nan, user, NO_BUCKET, UNKNOWN, version, label, kind, error, False, False)


def _sticky_key(attributes: Mapping[bytes, bytes]) -> bytes:
    return next((attributes[name] for name in USER_ATTRIBUTES if attributes.get(name)), b"")


def _feature_label(attributes: Mapping[bytes, bytes], rules: DecodeRules) -> str | Drop:
    """A feature that a KPI asks for is called as the mesh file calls it, any other as far as it names nobody."""
    given = attributes.get(b"feature.name", b"")
    name = given.decode("utf-8", "replace")
    known = name if name in rules.features else impersonal(given)
    return feature_label(known) if known else Drop.NO_LABEL


def _page_label(attributes: Mapping[bytes, bytes]) -> str | Drop:
    for name in PATH_ATTRIBUTES:
        if path := path_of(attributes.get(name, b"")):
            return f"page {path_template(path)}"
    screen = impersonal(attributes.get(b"app.screen.name", b""))
    return f"screen {screen}" if screen else Drop.NO_LABEL


def _click_label(attributes: Mapping[bytes, bytes]) -> str | Drop:
    for name in ELEMENT_ATTRIBUTES:
        if element := element_label(attributes.get(name, b"")):
            return f"click {element}"
    return Drop.NO_LABEL


def path_of(url: bytes) -> bytes:
    """Return the path of a URL, or the path itself; empty if there is none.

    >>> path_of(b"https://shop.example:8443/cart?item=7")
    b'/cart?item=7'
    """
    if url.startswith(b"/"):
        return url
    scheme, found, rest = url.partition(b"://")
    if not found or b"/" in scheme:
        return b""
    host = re.split(rb"[/?#]", rest, maxsplit=1)[0]
    return rest[len(host) :] if rest[len(host) :].startswith(b"/") else b"/"


@lru_cache(maxsize=4096)
def element_label(text: bytes) -> str:
    """Return what to call a thing that can be clicked: the last ID in its path or selector, else the whole.

    >>> element_label(b'//*[@id="cart"]/form/*[@id="buy"]')
    'buy'
    """
    ids = _ELEMENT_ID.findall(text[:_MAX_TEXT].decode("utf-8", "replace"))
    return impersonal("".join(ids[-1]).encode() if ids else text)


@lru_cache(maxsize=4096)
def impersonal(text: bytes) -> str:
    """Return a name that somebody gave to a thing, without what names one person or one item; cut, on one line.

    >>> impersonal(b"Write to anna@example.com, order 4711")
    'Write to * order *'
    """
    words = text[:_MAX_TEXT].decode("utf-8", "replace").split()
    impersonal_words = ("*" if "@" in word or "%40" in word else _NAMES_ONE.sub("*", word) for word in words)
    name = " ".join(impersonal_words)[:MAX_LABEL].strip()
    return "" if _EMPTY.fullmatch(name) else name
