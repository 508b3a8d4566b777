"""`python -m benchmarks.prediction`: the goals of the predictions, each measured. See benchmarks/README.md."""

from __future__ import annotations

from benchmarks.goal_table import run
from benchmarks.prediction.goals import MEASURES

if __name__ == "__main__":
    run("prediction", __doc__, MEASURES)
