"""How often a judge was right, with exact intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

COVERAGE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`hits` of `n`; `value`, `lower`, `upper` in [0, 1], NaN where n is 0."""

    value: float
    lower: float
    upper: float
    hits: int
    n: int


def at_least(hits: int, n: int, *, tail: float) -> float:
    """The share above which the truth is, but for a chance of `tail` in (0, 1) at the most.

    Source: Clopper and Pearson 1934, by the beta quantiles. Assumes that the cases are independent of each other.
    """
    return 0.0 if hits == 0 else float(beta.ppf(tail, hits, n - hits + 1))


def rate(hits: int, n: int) -> Rate:
    """A share with its exact interval of COVERAGE, of which each end is as in `at_least`."""
    if n == 0:
        return Rate(value=np.nan, lower=np.nan, upper=np.nan, hits=0, n=0)
    tail = (1 - COVERAGE) / 2
    lower = at_least(hits, n, tail=tail)
    upper = 1.0 if hits == n else float(beta.ppf(1 - tail, hits + 1, n - hits))
    return Rate(value=hits / n, lower=lower, upper=upper, hits=hits, n=n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Quartiles of what was measured `n` times; NaN where it never was."""

    quarter: float
    median: float
    three_quarters: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    if not values:
        return Spread(quarter=np.nan, median=np.nan, three_quarters=np.nan, n=0)
    quarter, median, three_quarters = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    return Spread(quarter=quarter, median=median, three_quarters=three_quarters, n=len(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rollbacks against what is known: bad ones taken back and not, good ones taken back and not."""

    true_positive: int
    false_negative: int
    false_positive: int
    true_negative: int

    @classmethod
    def of(cls, bad: Sequence[bool], taken_back: Sequence[bool]) -> Table:
        pairs = list(zip(bad, taken_back, strict=True))
        return cls(
            true_positive=pairs.count((True, True)), false_negative=pairs.count((True, False)),
            false_positive=pairs.count((False, True)), true_negative=pairs.count((False, False)),
        )  # fmt: skip

    @property
    def precision(self) -> Rate:
        return rate(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> Rate:
        return rate(self.true_positive, self.true_positive + self.false_negative)

    @property
    def false_positive_rate(self) -> Rate:
        return rate(self.false_positive, self.false_positive + self.true_negative)

    @property
    def f1(self) -> Rate:
        """The F1 score. It rises with the share of true positives among all that were bad or taken back.

        That share is a proportion with an exact interval; F1 = 2j/(1+j) carries its ends over.
        """
        share = rate(self.true_positive, self.true_positive + self.false_negative + self.false_positive)
        value, lower, upper = (2 * j / (1 + j) for j in (share.value, share.lower, share.upper))
        return Rate(value=value, lower=lower, upper=upper, hits=share.hits, n=share.n)
