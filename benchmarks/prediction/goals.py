"""Each goal of the predictions as jobs that measure it."""

from __future__ import annotations

from benchmarks.goal_table import Measures
from benchmarks.prediction import calibration, failure, lead, leak, real

MEASURES: Measures = {
    **failure.MEASURES,
    "backtest": real.thousand,
    "real": real.judged,
    "lead": lead.leads,
    "load": lead.loads,
    "leak": leak.leaks,
    "calibration": calibration.calibrations,
}
