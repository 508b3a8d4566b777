"""How odd a visit is for its segment, by signals whose names people can read.

The two signals of the path are log-likelihood ratios against people who do not go by the site: one who jumps anywhere,
and one who goes round in circles. The others are features of which there is too much, or too little; one more is all
the counts taken together (Mahalanobis with a covariance shrunk after Ledoit & Wolf 2004). Each is turned into the share
of usual visits that are as far out; the score is the log of the weighted mean of one over these shares, so that it is
as odd as its oddest signal, or nearly, and knows which one that is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.covariance import LedoitWolf

from analysis.profile.chains import ChainMixture, refine
from analysis.profile.clusters import fit_clusters
from analysis.profile.features import NAMES, Visits, features, log_chance_of_repeating
from analysis.profile.paths import LabelTable, Paths
from analysis.profile.tails import UpperTail

Floats = npt.NDArray[np.float64]

WAY, CIRCLES, TOGETHER = "way taken", "same steps again", "counts together"
FEW = ("steps", "different steps", "seconds")
"""Features of which too little is unusual as well."""
SIGNALS = (WAY, CIRCLES, TOGETHER, *NAMES, *(f"few {name}" for name in FEW))
WEIGHTS = np.array([0.3, 0.3, *[0.4 / (len(SIGNALS) - 2)] * (len(SIGNALS) - 2)])
FOLDS = 2
LEAST_SCALE = 0.1  # of log(1 + count): a feature that never varied must not be infinitely odd when it does


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """Where log(1 + features) of usual visits lie: robust `centre` and `scale`, then `location` and `precision`."""

    centre: Floats
    scale: Floats
    location: Floats
    precision: Floats

    @classmethod
    def of(cls, counts: Floats) -> Usual:
        logged = np.log1p(counts)
        centre = np.median(logged, axis=0)
        low, high = np.quantile(logged, [0.25, 0.75], axis=0)
        scale = np.maximum((high - low) / 1.35, np.maximum(logged.std(axis=0), LEAST_SCALE) * 0.5)
        shrunk = LedoitWolf().fit((logged - centre) / scale)
        return cls(centre=centre, scale=scale, location=shrunk.location_, precision=shrunk.precision_)

    def distance(self, counts: Floats) -> Floats:
        """(n,) squared Mahalanobis distance from the usual."""
        distance: Floats = self.contributions(counts).sum(axis=1)
        return distance

    def contributions(self, counts: Floats) -> Floats:
        """(n, F) each feature's part of the distance; may be below 0 where features make up for each other."""
        off = (np.log1p(counts) - self.centre) / self.scale - self.location
        contributions: Floats = off * (off @ self.precision)
        return contributions


@dataclass(frozen=True, slots=True, kw_only=True)
class Oddity:
    """Scores visits told in the labels of `table`. `medians`: of SIGNALS, over usual visits."""

    table: LabelTable
    mixture: ChainMixture
    usual: Usual
    tails: tuple[UpperTail, ...]
    medians: Floats

    @classmethod
    def learn(cls, visits: Visits, table: LabelTable, rng: np.random.Generator) -> tuple[Oddity, dict[int, float]]:
        """From usual visits; also the agreement of each number of clusters that was tried."""
        mixture, stability = fit_clusters(visits.paths, len(table), rng)
        counts = features(visits, table)
        usual = Usual.of(counts)
        likelihood = _cross_fitted(mixture, visits.paths, rng)
        signals = _signals(counts, usual, likelihood, visits.paths, len(table))
        tails = tuple(UpperTail.of(column) for column in signals.T)
        medians = np.median(signals, axis=0)
        oddity = cls(table=table, mixture=mixture, usual=usual, tails=tails, medians=medians)
        return oddity, stability.agreement

    def signals(self, visits: Visits) -> Floats:
        """(n, len(SIGNALS)); larger is odder."""
        counts = features(visits, self.table)
        likelihood = self.mixture.log_likelihood(visits.paths)
        return _signals(counts, self.usual, likelihood, visits.paths, len(self.table))

    def parts(self, signals: Floats) -> Floats:
        """(n, len(SIGNALS)) log of each signal's part of the score."""
        depths = [tail.depth(column) for tail, column in zip(self.tails, signals.T, strict=True)]
        parts: Floats = np.column_stack(depths) + np.log(WEIGHTS)
        return parts

    def scores(self, visits: Visits) -> Floats:
        """(n,) how odd each visit is; of no meaning by itself, see `Profile.p_values`."""
        scores: Floats = np.logaddexp.reduce(self.parts(self.signals(visits)), axis=1)
        return scores


def _signals(counts: Floats, usual: Usual, likelihood: Floats, paths: Paths, n_labels: int) -> Floats:
    anywhere = -np.log(n_labels) * paths.lengths
    few = [-counts[:, NAMES.index(name)] for name in FEW]
    circles = log_chance_of_repeating(paths, n_labels)
    return np.column_stack([anywhere - likelihood, circles - likelihood, usual.distance(counts), counts, *few])


def _cross_fitted(mixture: ChainMixture, paths: Paths, rng: np.random.Generator) -> Floats:
    """(n,) log-likelihood of each training path under chains that have not seen it.

    Chains like the paths that they were taught better than they will like others: tails must not be taken from those.
    """
    clusters, fold = mixture.assign(paths), np.arange(len(paths)) % FOLDS
    likelihood = mixture.log_likelihood(paths)
    for number in range(FOLDS):
        own, others = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        if len(own) and len(others):
            unseen = refine(
                paths.take(others),
                mixture.n_labels,
                clusters[others],
                rng,
                exits=mixture.exits,
                strengths=mixture.strengths,
            )
            likelihood[own] = unseen.log_likelihood(paths.take(own))
    return likelihood
