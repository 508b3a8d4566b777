"""Kinds of visits: how many there are, and which visit is of which kind.

Visits are alike when they spend their steps on the same things: k-means on the square roots of the shares of each
label (Hellinger distance). A number of clusters is stable when two trainings on resampled sessions mostly agree on who
belongs together (adjusted Rand index, Hubert & Arabie 1985; Ben-Hur, Elisseeff & Guyon 2002). The largest stable number
is taken; EM then gives each cluster its chain, in so few steps that clusters stay nearly what they were found to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from analysis.profile.chains import MAX_CLUSTERS, ChainMixture, refine
from analysis.profile.paths import Ints, Paths

Floats = npt.NDArray[np.float64]

STABLE = 0.8  # mean adjusted Rand index between resampled trainings at which a number of clusters is stable
RESAMPLES = 4  # trainings, and so 6 pairs
SEEDS = 4  # k-means starts of each training
CLUSTER_MIN_N = 25  # sessions for each cluster; fewer sessions have fewer clusters
STABILITY_N = 20_000  # sessions that the number is chosen on
VALLEY = 0.5  # points midway between two centres, for each one around a centre, up to which there is a valley
REFERENCE_N = 5_000  # sessions that two trainings are compared on


@dataclass(frozen=True, slots=True, kw_only=True)
class Stability:
    """Mean adjusted Rand index of each number of clusters that was tried, and the number taken."""

    agreement: dict[int, float]
    n_clusters: int


def shares(paths: Paths, n_labels: int) -> Floats:
    """(n, L) square roots of the shares of a path's steps that each label has; zeros for a path without steps."""
    counts = np.zeros((len(paths), n_labels))
    np.add.at(counts, (paths.owner, paths.steps), 1.0)
    roots: Floats = np.sqrt(counts / np.maximum(paths.lengths, 1)[:, None])
    return roots


def count_clusters(
    points: Floats, rng: np.random.Generator, *, most: int = MAX_CLUSTERS, apart: bool = False
) -> Stability:
    """The largest stable number of k-means clusters of points (n, d); 1 where none is stable.

    `apart`: between any two of them there must also be a valley: k-means cuts what is evenly spread as well, and always
    in the same places.
    """
    agreement: dict[int, float] = {}
    points = points[rng.permutation(len(points))[:STABILITY_N]]
    distinct_n = len(np.unique(points, axis=0))
    for k in range(min(most, len(points) // CLUSTER_MIN_N, distinct_n), 1, -1):
        agreement[k] = _agreement(points, k, rng)
        if agreement[k] >= STABLE and (not apart or _are_apart(points, k_means(points, k, rng))):
            return Stability(agreement=agreement, n_clusters=k)
    return Stability(agreement=agreement, n_clusters=1)


def _agreement(points: Floats, k: int, rng: np.random.Generator) -> float:
    reference = points[:REFERENCE_N]
    assigned = []
    for _ in range(RESAMPLES):
        resampled = points[rng.integers(0, len(points), len(points))]
        if len(np.unique(resampled, axis=0)) < k:
            return 0.0
        assigned.append(k_means(resampled, k, rng).predict(reference))
    return float(np.mean([adjusted_rand_score(a, b) for a, b in combinations(assigned, 2)]))


def _are_apart(points: Floats, found: KMeans) -> bool:
    """Whether between any two centres there are at most VALLEY times as many of their points as around either."""
    for a, b in combinations(range(found.n_clusters), 2):
        own = points[(found.labels_ == a) | (found.labels_ == b)] - found.cluster_centers_[a]
        axis = found.cluster_centers_[b] - found.cluster_centers_[a]
        along = own @ axis / max(float(axis @ axis), 1e-12)
        at_a, between, at_b = (int((np.abs(along - place) < 0.15).sum()) for place in (0.0, 0.5, 1.0))
        if between > VALLEY * min(at_a, at_b):
            return False
    return True


def k_means(points: Floats, k: int, rng: np.random.Generator) -> KMeans:
    """On one core: its threads wait for each other longer than they work where others want the cores too."""
    with threadpool_limits(1, "openmp"):
        return KMeans(n_clusters=k, n_init=SEEDS, random_state=int(rng.integers(2**31))).fit(points)


def fit_clusters(
    paths: Paths, n_labels: int, rng: np.random.Generator, *, exits: bool = True, most: int = MAX_CLUSTERS
) -> tuple[ChainMixture, Stability]:
    """The chains of the largest stable number of clusters, clusters in descending order of their share."""
    points = shares(paths, n_labels)
    stability = count_clusters(points, rng, most=most)
    kinds = np.zeros(len(paths), np.int64)
    if stability.n_clusters > 1:
        sample = points[rng.permutation(len(points))[:STABILITY_N]]
        kinds = np.asarray(k_means(sample, stability.n_clusters, rng).predict(points), np.int64)
    return refine(paths, n_labels, _by_size(kinds), rng, exits=exits), stability


def _by_size(kinds: Ints) -> Ints:
    """The same clusters, numbered from the largest on."""
    order = np.argsort(-np.bincount(kinds), kind="stable")
    return np.argsort(order)[kinds]
