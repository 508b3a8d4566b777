"""What a KPI's name says of it: which way is worse, how differences are measured, and how large one must be."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import Enum

import numpy as np

from analysis.change.series import Floats


class Worse(Enum):
    RISE = 1
    FALL = -1
    EITHER = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KpiKind:
    """`is_share`: in [0, 1], compared by differences; others by ratios where all values are positive.

    `tolerance`: a difference that is accepted, on that scale; `floor`: how far apart two instances of one version may
    always be. `decisive`: whether it harms people; other KPIs are only told of.
    """

    worse: Worse
    is_share: bool
    tolerance: float
    floor: float
    decisive: bool = True

    def is_log(self, values: Floats) -> bool:
        """Whether differences are those of logarithms: ratios mean something where nothing is zero or below."""
        seen = values[np.isfinite(values)]
        return not self.is_share and bool(len(seen)) and bool((seen > 0).all())

    @property
    def signs(self) -> tuple[int, ...]:
        """The directions that are worse: 1 a rise, -1 a fall."""
        return (1, -1) if self.worse is Worse.EITHER else (self.worse.value,)


_SUCCESS = KpiKind(worse=Worse.FALL, is_share=True, tolerance=0.02, floor=0.01)
_ERRORS = KpiKind(worse=Worse.RISE, is_share=True, tolerance=0.02, floor=0.01)
_LATENCY = KpiKind(worse=Worse.RISE, is_share=False, tolerance=math.log(2), floor=0.1)
_PROCESSOR = KpiKind(worse=Worse.RISE, is_share=False, tolerance=math.log(4), floor=0.1)
_RESOURCE = KpiKind(worse=Worse.RISE, is_share=False, tolerance=math.log(1.5), floor=0.1, decisive=False)
_UNKNOWN = KpiKind(worse=Worse.EITHER, is_share=False, tolerance=math.log(2), floor=0.1)

_NAMES = (
    (re.compile(r"success|availab"), _SUCCESS),
    (re.compile(r"error|fail|abandon"), _ERRORS),
    (re.compile(r"latency|duration|response_time"), _LATENCY),
    (re.compile(r"cpu"), _PROCESSOR),
    (re.compile(r"memory|heap|disk|threads|connections|queue|open_files"), _RESOURCE),
)


def kind_of(kpi: str) -> KpiKind:
    """By the first word in the name that is known; of an unknown KPI either way is worse."""
    return next((kind for pattern, kind in _NAMES if pattern.search(kpi.lower())), _UNKNOWN)
