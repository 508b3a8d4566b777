"""Each goal of the predictions as jobs that measure it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.decisions.goals import Row
from benchmarks.prediction import failure, real

Job = Callable[[], list[Row]]

MEASURES: Mapping[str, Callable[[float], list[Job]]] = {**failure.MEASURES, **real.MEASURES}
"""By name, the jobs of a measure for a share in (0, 1] of its full size."""
