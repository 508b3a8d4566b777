"""Data points of metrics, as what processes use of a resource. Pure and total, as `events` is."""

from __future__ import annotations

import math
from collections.abc import Iterator

from xds_server.ingest.entries import MAX_AGE_S, MAX_AHEAD_S
from xds_server.ingest.rows import DecodeRules, Drop, Gauged
from xds_server.pb import otlp_pb2

CUMULATIVE = 2  # aggregation temporality of a sum whose newest value is the whole
_NOT_RECORDED = 1  # flag of a data point that says no more than that there is none
_NS = 1_000_000_000


def decode_metric(
    metric: otlp_pb2.Metric, version: str | None, rules: DecodeRules, now_unix_ns: int
) -> Iterator[Gauged | Drop]:
    """Yield what each data point of a gauge or a cumulative sum says, or why nothing.

    Of what is neither a gauge nor a sum it is one for the whole metric. `version`: None where it is none of the
    service's.
    """
    points = metric.gauge.data_points or metric.sum.data_points
    has_last = metric.HasField("gauge") or metric.sum.aggregation_temporality == CUMULATIVE
    if metric.name not in rules.metrics:
        reason: Drop | None = Drop.NO_RESOURCE
    elif not has_last:
        reason = Drop.NO_GAUGE
    else:
        reason = Drop.UNKNOWN_VERSION if version is None else None
    if reason is not None:
        yield from (reason for _ in range(max(len(points), 1)))
        return
    assert version is not None  # noqa: S101 -- that would be a reason
    for point in points:
        yield _decode_point(point, metric.name.decode("utf-8", "replace"), version, now_unix_ns)


def _decode_point(point: otlp_pb2.NumberDataPoint, metric: str, version: str, now_unix_ns: int) -> Gauged | Drop:
    kind = point.WhichOneof("value")
    value = float(getattr(point, kind)) if kind is not None and not point.flags & _NOT_RECORDED else math.nan
    if not (math.isfinite(value) and value >= 0):
        return Drop.NO_VALUE
    if not point.time_unix_nano:
        return Drop.NO_TIME
    age_ns = now_unix_ns - point.time_unix_nano
    if age_ns < -MAX_AHEAD_S * _NS:
        return Drop.AHEAD
    return Drop.STALE if age_ns > MAX_AGE_S * _NS else Gauged(metric=metric, version=version, value=value)
