"""The probability that a release fails: before it has traffic, and as its first minutes show it.

A hierarchical logistic model. Services share the fleet's odds, each with a deviation that is drawn to zero and with its
own record, drawn to the fleet's rate (partial pooling). What the first minutes show is added to the log-odds; at the
first exposure that is nothing. Predictions are drawn in by how little the coefficients are known (`logit.drawn_in`),
which calibrates them, and to PRIOR_RISK where the model rests on few releases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from analysis.failure.columns import Column, Columns, first_row
from analysis.failure.facts import PRIOR_RISK, FirstMinutes, ReleaseFacts
from analysis.failure.logit import drawn_in

Floats = npt.NDArray[np.float64]

LEAST_RELEASES = 30  # labelled ones: with fewer there is only the prior
SURE_RELEASES = 35  # from which on the model speaks alone; between the two the log-odds are mixed, at first by halves
PRIOR_LOG_ODDS = math.log(PRIOR_RISK / (1 - PRIOR_RISK))
OUTSET = "outset"
"""What a contribution is about that no feature makes: the fleet's own odds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one feature adds to the log-odds of a failure."""

    about: str
    log_odds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """`risk` in (0, 1): that the release fails; `contributions` add up to its log-odds, the outset's among them.

    `seen_s`: how much of the first minutes it rests on; 0: on what was known before.
    """

    risk: float
    contributions: tuple[Contribution, ...]
    seen_s: float = 0.0

    @property
    def log_odds(self) -> float:
        return math.fsum(each.log_odds for each in self.contributions)


PRIOR = Prediction(risk=PRIOR_RISK, contributions=(Contribution(about=OUTSET, log_odds=PRIOR_LOG_ODDS),))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """A posterior: `coef` (D,), `covariance` (D, D)."""

    coef: Floats
    covariance: Floats

    def variance(self, row: Floats) -> float:
        """Of the log-odds that a row adds."""
        return max(float(row @ self.covariance @ row), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FirstStage:
    """What the first minutes add. Without columns: nothing."""

    columns: tuple[Column, ...]
    stage: Stage

    def parts(self, first: FirstMinutes) -> tuple[tuple[tuple[str, float], ...], float]:
        """What each feature adds to the log-odds, and the variance of all of it."""
        row = first_row(self.columns, first)
        terms = row * self.stage.coef
        return _by_feature(self.columns, terms), self.stage.variance(row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standpoint:
    """What is known of one release before its traffic: parts of its log-odds, their variance, the model's weight.

    With the first stage it is all that later predictions of this release need, whatever model serves by then.
    """

    parts: tuple[tuple[str, float], ...]
    variance: float
    weight: float

    def predict(self, first: FirstMinutes | None = None, stage: FirstStage | None = None) -> Prediction:
        """The risk, as known before, or as the first minutes show it."""
        parts, variance, seen_s = self.parts, self.variance, 0.0
        if first is not None and stage is not None:
            added, more = stage.parts(first)
            parts, variance, seen_s = (*parts, *added), variance + more, first.seen_s
        share = self.weight * float(drawn_in(variance))
        outset = share * parts[0][1] + (1 - self.weight) * PRIOR_LOG_ODDS
        contributions = (
            Contribution(about=OUTSET, log_odds=outset),
            *(Contribution(about=about, log_odds=share * term) for about, term in parts[1:]),
        )
        log_odds = math.fsum(each.log_odds for each in contributions)
        return Prediction(risk=float(expit(log_odds)), contributions=contributions, seen_s=seen_s)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FailureModel:
    """`before`: coefficients of the intercept and of `columns`; `releases`: those that it was fitted to."""

    columns: Columns
    before: Stage
    first: FirstStage
    releases: int
    failures: int

    def standpoint(self, facts: ReleaseFacts) -> Standpoint:
        """What is known of a release before its traffic."""
        row = np.append(1.0, self.columns.row(facts))
        terms = row * self.before.coef
        parts = ((OUTSET, float(terms[0])), *_by_feature(self.columns.columns, terms[1:]))
        return Standpoint(parts=parts, variance=self.before.variance(row), weight=weight_of(self.releases))

    def predict(self, facts: ReleaseFacts, first: FirstMinutes | None = None) -> Prediction:
        """The risk of a release, with what its first minutes show where that is given."""
        return self.standpoint(facts).predict(first, self.first)


def weight_of(releases: int) -> float:
    """The model's weight beside the prior, in [0, 1]."""
    if releases < LEAST_RELEASES:
        return 0.0
    return min(0.5 + 0.5 * (releases - LEAST_RELEASES) / (SURE_RELEASES - LEAST_RELEASES), 1.0)


def _by_feature(columns: Sequence[Column], terms: Floats) -> tuple[tuple[str, float], ...]:
    """Terms added up by what they are about, in the columns' order."""
    sums: dict[str, float] = {}
    for column, term in zip(columns, terms.tolist(), strict=True):
        sums[column.about] = sums.get(column.about, 0.0) + term
    return tuple(sums.items())
