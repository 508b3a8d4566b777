"""Was it the release? Judges value series of a release and of those that ran beside it."""

from analysis.change.finding import Finding, Ground, Judgement, Verdict
from analysis.change.judge import judge
from analysis.change.series import Edge, Release, Series, Source

__all__ = ["Edge", "Finding", "Ground", "Judgement", "Release", "Series", "Source", "Verdict", "judge"]
