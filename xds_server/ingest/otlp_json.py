"""OTLP's JSON, as the messages that its protobuf gives. Pure; what is not OTLP is a `ValueError`, whatever it is.

Protobuf's JSON mapping with OTLP's deviations: keys in lowerCamelCase, unknown ones ignored, numbers of 64 bits as
strings or numbers, enumerations as numbers. Their names are understood as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from xds_server.pb import otlp_pb2

SPAN_KINDS: Mapping[str, int] = {
    "SPAN_KIND_UNSPECIFIED": 0,
    "SPAN_KIND_INTERNAL": 1,
    "SPAN_KIND_SERVER": 2,
    "SPAN_KIND_CLIENT": 3,
    "SPAN_KIND_PRODUCER": 4,
    "SPAN_KIND_CONSUMER": 5,
}
STATUS_CODES: Mapping[str, int] = {"STATUS_CODE_UNSET": 0, "STATUS_CODE_OK": 1, "STATUS_CODE_ERROR": 2}
TEMPORALITIES: Mapping[str, int] = {
    "AGGREGATION_TEMPORALITY_UNSPECIFIED": 0,
    "AGGREGATION_TEMPORALITY_DELTA": 1,
    "AGGREGATION_TEMPORALITY_CUMULATIVE": 2,
}

_MAX_DIGITS = 40  # of a number in a string: more than any of 64 bits has


def traces_from_json(text: bytes) -> otlp_pb2.ExportTraceServiceRequest:
    """Read an `ExportTraceServiceRequest`.

    Raises
    ------
    ValueError
        It is none.
    """
    request = otlp_pb2.ExportTraceServiceRequest()
    for scope, group in _scopes(text, "Spans", request.resource_spans.add):
        spans = group.scope_spans.add().spans
        for span in _objects(scope, "spans"):
            _span(span, spans.add())
    return request


def logs_from_json(text: bytes) -> otlp_pb2.ExportLogsServiceRequest:
    """Read an `ExportLogsServiceRequest`.

    Raises
    ------
    ValueError
        It is none.
    """
    request = otlp_pb2.ExportLogsServiceRequest()
    for scope, group in _scopes(text, "Logs", request.resource_logs.add):
        records = group.scope_logs.add().log_records
        for record in _objects(scope, "logRecords"):
            _record(record, records.add())
    return request


def metrics_from_json(text: bytes) -> otlp_pb2.ExportMetricsServiceRequest:
    """Read an `ExportMetricsServiceRequest`; of what is neither a gauge nor a sum the name alone.

    Raises
    ------
    ValueError
        It is none.
    """
    request = otlp_pb2.ExportMetricsServiceRequest()
    for scope, group in _scopes(text, "Metrics", request.resource_metrics.add):
        metrics = group.scope_metrics.add().metrics
        for metric in _objects(scope, "metrics"):
            _metric(metric, metrics.add())
    return request


class _Group(Protocol):
    """What a request holds of one resource."""

    @property
    def resource(self) -> otlp_pb2.Resource: ...


GroupT = TypeVar("GroupT", bound=_Group)


def _scopes(text: bytes, signal: str, add: Callable[[], GroupT]) -> Iterator[tuple[Mapping[str, Any], GroupT]]:
    """Each scope of a request of that signal, and what its resource becomes, which `add` makes."""
    for given in _objects(_parsed(text), f"resource{signal}"):
        group = add()
        _resource(given, group.resource)
        for scope in _objects(given, f"scope{signal}"):
            yield scope, group


def _parsed(text: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 -- of what was sent, not of a caller
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _objects(parent: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    members = parent.get(key)
    if members is None:
        return
    if not isinstance(members, list):
        raise ValueError(f"{key} is not a list")  # noqa: TRY004
    for member in members:
        if not isinstance(member, dict):
            raise ValueError(f"{key} holds something else than objects")  # noqa: TRY004
        yield member


def _object(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    member = parent.get(key)
    if member is None:
        return {}
    if not isinstance(member, dict):
        raise ValueError(f"{key} is not an object")  # noqa: TRY004
    return member


def _text(parent: Mapping[str, Any], key: str) -> bytes:
    value = parent.get(key)
    if value is None:
        return b""
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a string")  # noqa: TRY004
    return value.encode("utf-8", "replace")  # half a surrogate pair is no text


def _whole(parent: Mapping[str, Any], key: str, low: int, high: int, names: Mapping[str, int] | None = None) -> int:
    """A whole number from `low` up to, not including, `high`."""
    value = parent.get(key)
    if value is None:
        return 0
    if isinstance(value, str) and names is not None and value in names:
        return names[value]
    if isinstance(value, str) and len(value) <= _MAX_DIGITS and value.isascii():
        value = int(value)  # ValueError where it is none
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value < high:
        raise ValueError(f"{key} is not a whole number in its range")
    return value


def _time(parent: Mapping[str, Any], key: str) -> int:
    return _whole(parent, key, 0, 1 << 64)


def _resource(parent: Mapping[str, Any], resource: otlp_pb2.Resource) -> None:
    _attributes(_object(parent, "resource"), resource.attributes)


def _span(given: Mapping[str, Any], span: otlp_pb2.Span) -> None:
    span.name = _text(given, "name")
    span.kind = _whole(given, "kind", -(1 << 31), 1 << 31, SPAN_KINDS)
    span.start_time_unix_nano = _time(given, "startTimeUnixNano")
    span.status.code = _whole(_object(given, "status"), "code", -(1 << 31), 1 << 31, STATUS_CODES)
    _attributes(given, span.attributes)


def _record(given: Mapping[str, Any], record: otlp_pb2.LogRecord) -> None:
    record.time_unix_nano = _time(given, "timeUnixNano")
    record.observed_time_unix_nano = _time(given, "observedTimeUnixNano")
    record.event_name = _text(given, "eventName")
    _attributes(given, record.attributes)


def _metric(given: Mapping[str, Any], metric: otlp_pb2.Metric) -> None:
    metric.name = _text(given, "name")
    if given.get("gauge") is not None:
        metric.gauge.SetInParent()
        _points(_object(given, "gauge"), metric.gauge.data_points)
    elif given.get("sum") is not None:
        total = _object(given, "sum")
        metric.sum.aggregation_temporality = _whole(total, "aggregationTemporality", -(1 << 31), 1 << 31, TEMPORALITIES)
        _points(total, metric.sum.data_points)


def _points(given: Mapping[str, Any], points: Any) -> None:
    for each in _objects(given, "dataPoints"):
        point = points.add()
        point.time_unix_nano = _time(each, "timeUnixNano")
        point.flags = _whole(each, "flags", 0, 1 << 32)
        if each.get("asDouble") is not None:
            point.as_double = _real(each, "asDouble")
        elif each.get("asInt") is not None:
            point.as_int = _whole(each, "asInt", -(1 << 63), 1 << 63)


def _real(parent: Mapping[str, Any], key: str) -> float:
    """A number; protobuf's JSON has those that are none as words."""
    value = parent[key]
    if isinstance(value, str) and len(value) <= _MAX_DIGITS:
        return float(value)  # ValueError where it is none
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{key} is not a number")  # noqa: TRY004
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{key} is too large") from error


def _attributes(given: Mapping[str, Any], attributes: Any) -> None:
    for pair in _objects(given, "attributes"):
        attribute = attributes.add()
        attribute.key = _text(pair, "key")
        value = _object(pair, "value")
        if value.get("stringValue") is not None:
            attribute.value.string_value = _text(value, "stringValue")
        elif value.get("intValue") is not None:
            attribute.value.int_value = _whole(value, "intValue", -(1 << 63), 1 << 63)
