"""Can the comparison be trusted? Whether people are where they were sent, and whether they stayed there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from analysis.evidence.sample_ratio import LOG_ODDS, RISK

Floats = npt.NDArray[np.float64]

FIXED_LEVEL = 0.01
"""Of the fixed-sample test. It is right at one look chosen beforehand; at many of them the e-value is."""
FINE_LOG_ODDS = np.array([-0.05, -0.025, -0.0125, 0.0125, 0.025, 0.05])  # mismatches that large experiments find
MULTIPLE_SHARE, MULTIPLE_N = 0.01, 10
"""More people than that share, and than that number, with several variants are no accident (GrowthBook's defaults)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """People first exposed under one allocation: `shares` asked for and `exposed`, (V,) each."""

    shares: tuple[float, ...]
    exposed: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRatio:
    """`observed`, `expected` (V,): people. `strays`: people on variants with a share of 0 then, in neither.

    `p_value`: of the chi-square test, for one look; `log_e`: evidence at every look; None and 0 without people.
    """

    observed: tuple[int, ...]
    expected: tuple[float, ...]
    strays: int
    p_value: float | None
    log_e: float

    @property
    def is_mismatch(self) -> bool:
        """Whether the fixed-sample test says so."""
        return self.p_value is not None and self.p_value < FIXED_LEVEL

    @property
    def is_proven(self) -> bool:
        """Whether the e-value says so: with a chance of RISK at most, at any look, where nothing is wrong."""
        return self.log_e >= -math.log(RISK)


def sample_ratio(stages: Iterable[Stage]) -> SampleRatio:
    """Hold people against the shares asked for, over all allocations.

    The fixed test is Pearson's, (O - E)'·Σ⁻·(O - E) with the multinomial covariances of all stages added up. The
    e-value is the mean, over variants v and tilts θ, of the likelihood ratio of shares with the odds of v multiplied by
    θ (Lindon & Malek, NeurIPS 2022, arXiv 2011.03567, with a grid of tilts in place of the Dirichlet, since shares
    move: `evidence/sample_ratio.py`).
    """
    stages = list(stages)
    n_variants = len(stages[0].shares) if stages else 0
    tilts = np.concatenate([LOG_ODDS, FINE_LOG_ODDS])
    observed, expected = np.zeros(n_variants), np.zeros(n_variants)
    covariance, log_r = np.zeros((n_variants, n_variants)), np.zeros((n_variants, len(tilts)))
    strays = 0.0
    for stage in stages:
        p, seen = np.asarray(stage.shares, float), np.asarray(stage.exposed, float)
        strays += seen[p == 0].sum()
        seen = np.where(p > 0, seen, 0.0)
        n = seen.sum()
        observed, expected = observed + seen, expected + n * p
        covariance += n * (np.diag(p) - np.outer(p, p))
        log_r += seen[:, None] * tilts - n * np.log1p(p[:, None] * np.expm1(tilts))
    return SampleRatio(
        observed=tuple(int(n) for n in observed),
        expected=tuple(float(n) for n in expected),
        strays=int(strays),
        p_value=_p_value(observed - expected, covariance),
        log_e=float(np.logaddexp.reduce(log_r, axis=None) - math.log(log_r.size)) if log_r.size else 0.0,
    )


def _p_value(gap: Floats, covariance: Floats) -> float | None:
    if not np.any(covariance):
        return None
    statistic = float(gap @ np.linalg.pinv(covariance, hermitian=True) @ gap)
    rank = int(np.linalg.matrix_rank(covariance, hermitian=True))
    return float(chi2.sf(statistic, rank))


@dataclass(frozen=True, slots=True, kw_only=True)
class MultipleExposure:
    """`people` who met several variants, `of` all who were exposed."""

    people: int
    of: int

    @property
    def share(self) -> float:
        return self.people / self.of if self.of else 0.0

    @property
    def is_too_many(self) -> bool:
        return self.people >= MULTIPLE_N and self.share > MULTIPLE_SHARE
