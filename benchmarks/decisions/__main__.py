"""`python -m benchmarks.decisions`: the goals of the decisions, each measured. See benchmarks/README.md."""

from __future__ import annotations

from benchmarks.decisions.goals import MEASURES
from benchmarks.goal_table import run

if __name__ == "__main__":
    run("decisions", __doc__, MEASURES)
