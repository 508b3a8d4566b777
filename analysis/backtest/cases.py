"""Records as releases with value series, and which of them ran at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from analysis.change.kpis import kind_of
from analysis.change.series import NOWHERE, Release, Series, Source
from analysis.history.record import Gauge, RolloutRecord
from analysis.window import BASELINE, CANARY

CASE = "case"
"""Attribute that names deployments which ran at once; without it those whose times overlap did."""


def cases(records: Sequence[RolloutRecord]) -> list[list[int]]:
    """Indices of records that ran at once, in order of their beginnings."""
    named: dict[object, list[int]] = {}
    free: list[int] = []
    for i, record in enumerate(records):
        case = record.attributes.get(CASE)
        named.setdefault(case, []).append(i) if case is not None else free.append(i)
    return sorted([*named.values(), *_overlapping(records, free)], key=lambda case: records[case[0]].started_unix_s)


def _overlapping(records: Sequence[RolloutRecord], free: Sequence[int]) -> Iterator[list[int]]:
    """Those that overlap with one of their group, while none of the group names a service that is there already.

    Two deployments of one service never run at once: the second one of a service begins a group of its own.
    """
    group: list[int] = []
    ends = -np.inf
    for i in sorted(free, key=lambda i: records[i].started_unix_s):
        begins = records[i].started_unix_s
        if group and (begins > ends or any(records[j].service == records[i].service for j in group)):
            yield group
            group, ends = [], -np.inf
        group.append(i)
        ends = max(ends, begins + last_s(records[i]))
    if group:
        yield group


def last_s(record: RolloutRecord) -> float:
    """The newest measurement, in seconds after the beginning; 0 without any."""
    ends = [record.ends_s, *(float(gauge.at_s[-1]) for gauge in record.gauges if len(gauge.at_s))]
    return max(ends)


def release(record: RolloutRecord) -> Release:
    """A record's value series; counts of people come as shares where no baseline ran beside the canary.

    Where one did, counts are the engine's matter, whose tests are exact.
    """
    series = [_series(gauge) for gauge in record.gauges]
    if not has_control(record):
        series += _shares(record)
    return Release(
        rollout=record.rollout, service=record.service, started_unix_s=record.started_unix_s,
        interval_s=record.interval_s, series=tuple(each for each in series if len(each.at_s)),
    )  # fmt: skip


def has_control(record: RolloutRecord) -> bool:
    """Whether people were counted on both versions after the beginning."""
    after = record.n[record.at_s > 0]
    return bool(after[..., BASELINE].any() and after[..., CANARY].any())


def _series(gauge: Gauge) -> Series:
    return Series(
        kpi=gauge.kpi, arm=gauge.arm, at_s=gauge.at_s, value=gauge.value, source=Source.parse(gauge.source),
        segment=gauge.segment,
    )  # fmt: skip


def _shares(record: RolloutRecord) -> Iterator[Series]:
    for s, segment in enumerate(record.segments):
        for k, kpi in enumerate(record.kpis):
            for arm in (BASELINE, CANARY):
                n, bad = record.n[:, s, k, arm], record.bad[:, s, k, arm]
                seen = n > 0
                is_known = kind_of(kpi).is_share
                yield Series(
                    kpi=kpi if is_known else f"{kpi} errors", arm=arm, at_s=record.at_s[seen],
                    value=bad[seen] / n[seen], source=NOWHERE, segment=segment,
                )  # fmt: skip
