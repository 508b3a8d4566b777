"""Each goal of the predictions as jobs that measure it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from benchmarks.decisions.goals import Row
from benchmarks.prediction import calibration, failure, lead, leak, real

Job = Callable[[], list[Row]]


def _each_a_row(measure: Callable[[float], list[Callable[[], Row]]]) -> Callable[[float], list[Job]]:
    return lambda share: [partial(_listed, job) for job in measure(share)]


def _listed(job: Callable[[], Row]) -> list[Row]:
    return [job()]


MEASURES: Mapping[str, Callable[[float], list[Job]]] = {
    **failure.MEASURES,
    "backtest": _each_a_row(real.thousand),
    "real": _each_a_row(real.judged),
    "lead": _each_a_row(lead.leads),
    "load": _each_a_row(lead.loads),
    "leak": _each_a_row(leak.leaks),
    "calibration": _each_a_row(calibration.calibrations),
}
"""By name, the jobs of a measure for a share in (0, 1] of its full size."""
