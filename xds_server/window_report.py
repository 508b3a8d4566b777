"""Windows in their protobuf form, which names what it counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from analysis.sample import UNKNOWN
from analysis.sketch import Sketch
from analysis.spec import TOTAL_BP, ServiceSpec
from analysis.window import CANARY, Traffic, Window
from xds_server.errors import BadRequestError
from xds_server.pb import window_pb2 as pb

_SEGMENTS, _KPIS, _ARMS = "segments", "kpis", "arms"
_COUNTS: Final[Mapping[str, tuple[str, ...]]] = {
    "n": (_SEGMENTS, _KPIS, _ARMS),
    "bad": (_SEGMENTS, _KPIS, _ARMS),
    "harm_n": (_SEGMENTS, _ARMS),
    "harm_bad": (_SEGMENTS, _ARMS),
    "exposed": (_SEGMENTS,),
    "arrived": (_SEGMENTS,),
    "unexposed_n": (_SEGMENTS, _KPIS),
    "unexposed_bad": (_SEGMENTS, _KPIS),
    "unexposed_harm_n": (_SEGMENTS,),
    "unexposed_harm_bad": (_SEGMENTS,),
    "people": (_SEGMENTS, _ARMS),
    "failing": (_SEGMENTS, _ARMS),
    "bots": (_SEGMENTS,),
}
"""What each field of counts is counted by."""

_ARM_NAMES: Final = ("baseline", "canary")
_MOST: Final = 1 << 53  # of any count: more is nonsense
_KEYS_MOST: Final = 4_096


def encode(window: Window, spec: ServiceSpec, *, start_unix_ns: int, end_unix_ns: int) -> bytes:
    """The report of a window of that service, which covers that stretch of time."""
    segments = [segment.name for segment in spec.segments]
    report = pb.WindowReport(
        service=spec.name,
        start_unix_ns=start_unix_ns,
        end_unix_ns=end_unix_ns,
        segments=segments,
        versions=spec.versions,
        kpis=[kpi.name for kpi in spec.kpis],
        entries=window.entries,
        **{name: getattr(window, name).ravel().tolist() for name in _COUNTS},
    )
    for (segment, asked_bp, arm), n in sorted(window.newcomers.items()):
        report.newcomers.add(segment=segments[segment], asked_bp=asked_bp, on_canary=arm == CANARY, n=n)
    for (segment, version), traffic in sorted(window.traffic.items()):
        if segment < len(segments):
            report.traffic.append(_traffic(traffic, segments[segment], _version_name(spec, version)))
    return report.SerializeToString(deterministic=True)


def _version_name(spec: ServiceSpec, version: int) -> str:
    return spec.versions[version] if version < len(spec.versions) else ""


def _traffic(traffic: Traffic, segment: str, version: str) -> pb.Traffic:
    return pb.Traffic(
        segment=segment,
        version=version,
        requests=traffic.requests,
        errors=traffic.errors,
        slow=traffic.slow,
        duration=_sketch(traffic.duration),
        first_byte=_sketch(traffic.first_byte),
    )


def _sketch(sketch: Sketch) -> pb.Sketch:
    bins = sketch.bins
    if not bins:
        return pb.Sketch()
    first, last = min(bins), max(bins)
    return pb.Sketch(first_key=first, counts=[bins.get(key, 0) for key in range(first, last + 1)])


def decode(message: bytes, spec: ServiceSpec) -> Window:
    """The window of a report, with segments, versions and KPIs where `spec` has them; those that it lacks are left out.

    Raises
    ------
    BadRequestError
        It is no report, one of another service, or its counts are not as many as its names say.
    """
    try:
        report = pb.WindowReport.FromString(message)
    except DecodeError as error:
        raise BadRequestError("not a WindowReport") from error
    if report.service != spec.name:
        raise BadRequestError(f"a report of service {report.service[:100]!r}; this is {spec.name}")
    theirs = {_SEGMENTS: list(report.segments), _KPIS: list(report.kpis), _ARMS: list(_ARM_NAMES)}
    ours = {
        _SEGMENTS: [segment.name for segment in spec.segments],
        _KPIS: [kpi.name for kpi in spec.kpis],
        _ARMS: list(_ARM_NAMES),
    }
    counts = {
        name: _moved(name, getattr(report, name), [theirs[by] for by in dimensions], [ours[by] for by in dimensions])
        for name, dimensions in _COUNTS.items()
    }
    return Window(
        **counts,
        newcomers=_newcomers(report, spec),
        traffic=_all_traffic(report, spec),
        entries=min(report.entries, _MOST),
    )


def _moved(
    field: str, values: Sequence[int], theirs: Sequence[Sequence[str]], ours: Sequence[Sequence[str]]
) -> npt.NDArray[np.int64]:
    """Counts under the names that they were counted by, as an array under ours."""
    shape = tuple(map(len, theirs))
    if len(values) != np.prod(shape, dtype=int) or max(values, default=0) > _MOST:
        raise BadRequestError(f"{field}: {len(values)} counts do not fit the report's names")
    counts = np.array(values, np.int64).reshape(shape)
    into = np.zeros(tuple(map(len, ours)), np.int64)
    from_, to = [], []
    for there, here in zip(theirs, ours, strict=True):
        shared = [(i, here.index(name)) for i, name in enumerate(there) if name in here]
        from_.append([i for i, _ in shared])
        to.append([j for _, j in shared])
    if all(from_):
        np.add.at(into, np.ix_(*to), counts[np.ix_(*from_)])
    return into


def _newcomers(report: pb.WindowReport, spec: ServiceSpec) -> Counter[tuple[int, int, int]]:
    index = spec.segment_index
    found: Counter[tuple[int, int, int]] = Counter()
    for newcomers in report.newcomers:
        if newcomers.asked_bp > TOTAL_BP:
            raise BadRequestError(f"newcomers who were asked for at {newcomers.asked_bp} bp of {TOTAL_BP}")
        if newcomers.segment in index:
            found[index[newcomers.segment], newcomers.asked_bp, int(newcomers.on_canary)] += min(newcomers.n, _MOST)
    return found


def _all_traffic(report: pb.WindowReport, spec: ServiceSpec) -> dict[tuple[int, int], Traffic]:
    segments, versions = spec.segment_index, spec.version_index
    found: dict[tuple[int, int], Traffic] = {}
    for each in report.traffic:
        if each.segment not in segments:
            continue
        traffic = Traffic(
            requests=min(each.requests, _MOST), errors=min(each.errors, _MOST), slow=min(each.slow, _MOST),
            duration=_read_sketch(each.duration), first_byte=_read_sketch(each.first_byte),
        )  # fmt: skip
        key = segments[each.segment], versions.get(each.version, UNKNOWN)
        found[key] = found[key] + traffic if key in found else traffic
    return found


def _read_sketch(sketch: pb.Sketch) -> Sketch:
    if len(sketch.counts) > _KEYS_MOST or max(sketch.counts, default=0) > _MOST or abs(sketch.first_key) > _KEYS_MOST:
        raise BadRequestError("a sketch with more bins, or more in one, than latencies have")
    return Sketch.from_bins({sketch.first_key + i: n for i, n in enumerate(sketch.counts) if n})
