"""Click paths of a segment's people as a mixture of Markov chains.

Each cluster of sessions is a chain with an entry and an exit (Cadez, Heckerman, Meek, Smyth & White 2000), fitted by
EM. A chain's row is shrunk towards what is known with less context: the row of the last two labels towards the
cluster's row of the last label, and that towards the row of all clusters together. So a cluster departs from the crowd
only as far as its own sessions carry it. How strongly rows are shrunk is chosen on sessions held out of the training.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from analysis.profile.paths import Ints, Paths

Floats = npt.NDArray[np.float64]

MAX_CLUSTERS = 10
RESTARTS = 3
ITERATIONS = 200
TOLERANCE = 1e-6  # relative gain of the log-likelihood below which EM has ended
STRENGTHS = tuple(product((5.0, 20.0), (8.0, 25.0, 60.0)))
"""Pseudo-counts tried: of the crowd's row in a cluster's, and of the one-label row in the two-label one."""
POOLED = 2.0  # pseudo-counts of the overall shares in the crowd's own rows
SPREAD = 0.3  # Dirichlet concentration of the responsibilities that EM starts from: low, so that clusters differ
HELD_OUT = 0.25
REFINEMENTS = 10  # steps of EM from clusters that are known
DOUBT = 0.2  # share of a session that is spread over all clusters at the start of those
CHOOSE_N = 20_000  # sessions that strengths and restarts are chosen on
SHORTEST_LOG = -700.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """Every step of n paths with the two labels before it, as codes; the edge (entry and exit) is label L.

    `trigrams`, `inverse`: distinct (before-last, last, next) codes, and which of them each step is.
    """

    n_labels: int
    owner: Ints
    trigrams: Ints
    inverse: Ints
    n_paths: int

    @classmethod
    def of(cls, paths: Paths, n_labels: int, *, exits: bool) -> Self:
        """`exits`: the end of a path is a step too."""
        edge = n_labels
        lengths = paths.lengths + exits
        after = np.full(lengths.sum(), edge, np.int64)
        starts = np.cumsum(lengths) - lengths
        within = np.arange(len(after)) - np.repeat(starts, lengths)
        after[within < np.repeat(paths.lengths, lengths)] = paths.steps
        last = np.where(within >= 1, np.roll(after, 1), edge)
        before = np.where(within >= 2, np.roll(after, 2), edge)
        width = n_labels + 1
        trigrams, inverse = np.unique((before * width + last) * width + after, return_inverse=True)
        owner = np.repeat(np.arange(len(paths)), lengths)
        return cls(n_labels=n_labels, owner=owner, trigrams=trigrams, inverse=inverse, n_paths=len(paths))

    def counts(self) -> csr_array:
        """(n, number of distinct trigrams) how often each path takes each step."""
        ones = np.ones(len(self.owner))
        shape = (self.n_paths, len(self.trigrams))
        counts = csr_array((ones, (self.owner, self.inverse)), shape=shape)
        counts.sum_duplicates()
        return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainMixture:
    """K chains over L labels and the edge.

    `shares`: (K,) of sessions. `rows`: (K, L+1, L+1) chance of the next label after the last one. `trigrams`: (U,)
    codes seen in training, ascending; `chances`: (U, K) of each. `contexts`: (C,) codes of the two labels before,
    ascending; `backoff`: (C, K) what is kept for labels that never followed those two, in multiples of the row of one.
    """

    n_labels: int
    exits: bool
    strengths: tuple[float, float]
    shares: Floats
    rows: Floats
    trigrams: Ints
    chances: Floats
    contexts: Ints
    backoff: Floats

    @property
    def n_clusters(self) -> int:
        return len(self.shares)

    def log_likelihoods(self, paths: Paths) -> Floats:
        """(n, K) log of the chance (nats) of each path in each cluster, without the cluster's share."""
        steps = Contexts.of(paths, self.n_labels, exits=self.exits)
        return np.asarray(steps.counts() @ self._log_chances(steps.trigrams))

    def log_likelihood(self, paths: Paths) -> Floats:
        """(n,) log of the chance (nats) of each path."""
        return _log_sum(self.log_likelihoods(paths) + np.log(self.shares))

    def responsibilities(self, paths: Paths) -> Floats:
        """(n, K) chance that a path is of each cluster."""
        return _softmax(self.log_likelihoods(paths) + np.log(self.shares))

    def assign(self, paths: Paths) -> Ints:
        """(n,) the likeliest cluster of each path."""
        cluster: Ints = np.argmax(self.log_likelihoods(paths) + np.log(self.shares), axis=1)
        return cluster

    def bits_an_event(self, paths: Paths) -> float:
        """Bits to tell the steps of the paths, the first one included, over the number of steps.

        The end of a path is no event; where the mixture models it, its bits are in the sum all the same.
        """
        return float(-self.log_likelihood(paths).sum() / np.log(2) / max(int(paths.lengths.sum()), 1))

    def rarest_steps(self, paths: Paths) -> tuple[Ints, Ints, Floats]:
        """The least likely step of each path in its likeliest cluster: label before, label after, chance.

        The edge (entry and exit) is label L. A path without steps has the step from entry to exit.
        """
        steps = Contexts.of(paths, self.n_labels, exits=True)
        cluster = self.assign(paths)[steps.owner]
        chances = self._log_chances(steps.trigrams)[steps.inverse, cluster]
        order = np.lexsort((chances, steps.owner))
        rarest = order[np.flatnonzero(np.append(True, np.diff(steps.owner[order]) > 0))] if len(order) else order
        code, width = steps.trigrams[steps.inverse[rarest]], self.n_labels + 1
        return code // width % width, code % width, np.exp(chances[rarest])

    def _log_chances(self, trigrams: Ints) -> Floats:
        """(len(trigrams), K) log of the chance of each step."""
        width = self.n_labels + 1
        context, after = trigrams // width, trigrams % width
        chance = self.rows[:, context % width, after].T
        place, known = _find(self.contexts, context)
        chance = np.where(known[:, None], self.backoff[place] * chance, chance)
        place, known = _find(self.trigrams, trigrams)
        chance = np.where(known[:, None], self.chances[place], chance)
        return np.log(np.maximum(chance, np.exp(SHORTEST_LOG)))


def fit(
    paths: Paths,
    n_labels: int,
    n_clusters: int,
    rng: np.random.Generator,
    *,
    exits: bool = True,
    strengths: tuple[float, float] | None = None,
    restarts: int = RESTARTS,
) -> ChainMixture:
    """The best of several runs of EM. `strengths`: pseudo-counts; None: those that serve held-out sessions best."""
    if strengths is None:
        strengths = choose_strengths(paths, n_labels, n_clusters, rng, exits=exits)
    training = _Training.of(paths, n_labels, exits=exits)
    runs = [training.em(n_clusters, strengths, rng) for _ in range(max(restarts, 1) if n_clusters > 1 else 1)]
    return max(runs, key=lambda run: run[1])[0]


def refine(
    paths: Paths,
    n_labels: int,
    clusters: Ints,
    rng: np.random.Generator,
    *,
    exits: bool = True,
    strengths: tuple[float, float] | None = None,
) -> ChainMixture:
    """The chains of (n,) given clusters, after REFINEMENTS steps of EM: few, so that clusters stay what they are."""
    if strengths is None:
        strengths = choose_strengths(paths, n_labels, int(clusters.max(initial=0)) + 1, rng, exits=exits)
    training = _Training.of(paths, n_labels, exits=exits)
    return training.em_from(clusters, strengths)


def choose_strengths(
    paths: Paths, n_labels: int, n_clusters: int, rng: np.random.Generator, *, exits: bool
) -> tuple[float, float]:
    """The pseudo-counts of STRENGTHS that give held-out paths the highest likelihood."""
    chosen = rng.permutation(len(paths))[:CHOOSE_N]
    held_out_n = int(len(chosen) * HELD_OUT)
    if held_out_n == 0:
        return STRENGTHS[-1]
    held_out = paths.take(chosen[:held_out_n])
    training = _Training.of(paths.take(chosen[held_out_n:]), n_labels, exits=exits)
    seed = int(rng.integers(2**63))
    scores = []
    for strengths in STRENGTHS:
        model, _ = training.em(n_clusters, strengths, np.random.default_rng(seed))
        scores.append(float(model.log_likelihood(held_out).sum()))
    return STRENGTHS[int(np.argmax(scores))]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """The distinct paths of a training set, how often each occurs, and what sums their steps up by context."""

    n_labels: int
    exits: bool
    counts: csr_array  # (distinct, U)
    distinct: Ints  # (n,) into counts
    weights: Floats  # (distinct,)
    trigrams: Ints  # (U,)
    contexts: Ints  # (C,)
    context_of: Ints  # (U,) into contexts
    crowd: Floats  # (L+1, L+1) rows of all paths together

    @classmethod
    def of(cls, paths: Paths, n_labels: int, *, exits: bool) -> Self:
        steps = Contexts.of(paths, n_labels, exits=exits)
        counts, distinct = _distinct(steps.counts())
        weights = np.bincount(distinct, minlength=counts.shape[0]).astype(float)
        width = n_labels + 1
        total = np.asarray(counts.T @ weights)
        bigrams = np.bincount(steps.trigrams % (width * width), weights=total, minlength=width * width)
        bigrams = bigrams.reshape(width, width)
        shares = bigrams.sum(axis=0) + 0.5
        if not exits:
            shares[-1] = 0.0
        crowd = bigrams + POOLED * shares / shares.sum()
        contexts, context_of = np.unique(steps.trigrams // width, return_inverse=True)
        return cls(
            n_labels=n_labels,
            exits=exits,
            counts=counts,
            distinct=distinct,
            weights=weights,
            trigrams=steps.trigrams,
            contexts=contexts,
            context_of=context_of,
            crowd=crowd / crowd.sum(axis=1, keepdims=True),
        )

    def em(
        self, n_clusters: int, strengths: tuple[float, float], rng: np.random.Generator
    ) -> tuple[ChainMixture, float]:
        """One run from random responsibilities: the mixture, and the log-likelihood of the training set (nats)."""
        belongs = rng.dirichlet(np.full(n_clusters, SPREAD), len(self.weights))
        return self._climb(belongs, strengths, ITERATIONS)

    def em_from(self, clusters: Ints, strengths: tuple[float, float]) -> ChainMixture:
        """A few steps from (n,) known clusters of the training set's paths."""
        n_clusters = int(clusters.max(initial=0)) + 1
        belongs = np.zeros((len(self.weights), n_clusters))
        np.add.at(belongs, (self.distinct, clusters), 1.0 - DOUBT)
        belongs += DOUBT / n_clusters * self.weights[:, None]
        return self._climb(belongs / self.weights[:, None], strengths, REFINEMENTS)[0]

    def _climb(self, belongs: Floats, strengths: tuple[float, float], iterations: int) -> tuple[ChainMixture, float]:
        n_clusters = belongs.shape[1]
        before = -np.inf
        steps_of = self.counts.T.tocsr()
        for _ in range(iterations):
            model = self._maximise(steps_of @ (belongs * self.weights[:, None]), belongs, strengths)
            joint = self.counts @ np.log(np.maximum(model.chances, np.exp(SHORTEST_LOG))) + np.log(model.shares)
            each = _log_sum(joint)
            now = float(self.weights @ each)
            if n_clusters == 1 or now - before < TOLERANCE * abs(now):
                break
            before, belongs = now, np.exp(joint - each[:, None])
        return model, now

    def _maximise(self, taken: Floats, belongs: Floats, strengths: tuple[float, float]) -> ChainMixture:
        """The mixture given (U, K) how often each cluster takes each step."""
        width, n_clusters = self.n_labels + 1, taken.shape[1]
        of_crowd, of_row = strengths
        bigram = self.trigrams % (width * width)
        pairs = np.stack([np.bincount(bigram, weights=column, minlength=width * width) for column in taken.T])
        pairs = pairs.reshape(n_clusters, width, width)
        rows = (pairs + of_crowd * self.crowd) / (pairs.sum(axis=2, keepdims=True) + of_crowd)
        seen = np.stack(
            [np.bincount(self.context_of, weights=c, minlength=len(self.contexts)) for c in taken.T], axis=1
        )
        backoff = np.asarray(of_row / (seen + of_row), np.float64)
        below = rows[:, bigram // width, bigram % width].T
        chances = taken / (seen + of_row)[self.context_of] + backoff[self.context_of] * below
        of_cluster = self.weights @ belongs + 1.0
        return ChainMixture(
            n_labels=self.n_labels,
            exits=self.exits,
            strengths=strengths,
            shares=of_cluster / of_cluster.sum(),
            rows=rows,
            trigrams=self.trigrams,
            chances=chances,
            contexts=self.contexts,
            backoff=backoff,
        )


def _distinct(counts: csr_array) -> tuple[csr_array, Ints]:
    """The distinct rows, and which of them each row is: most visits are short, and many alike."""
    numbers: dict[bytes, int] = {}
    number_of = np.empty(counts.shape[0], np.int64)
    first: list[int] = []
    for row, (begin, end) in enumerate(zip(counts.indptr[:-1], counts.indptr[1:], strict=True)):
        key = counts.indices[begin:end].tobytes() + counts.data[begin:end].tobytes()
        number_of[row] = numbers.setdefault(key, len(numbers))
        if number_of[row] == len(first):
            first.append(row)
    return counts[first], number_of


def _find(ascending: Ints, wanted: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Where each wanted code is, and whether it is there at all."""
    if len(ascending) == 0:
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    place = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return place, ascending[place] == wanted


def _log_sum(joint: Floats) -> Floats:
    highest = joint.max(axis=1)
    total: Floats = highest + np.log(np.exp(joint - highest[:, None]).sum(axis=1))
    return total


def _softmax(joint: Floats) -> Floats:
    weights = np.exp(joint - joint.max(axis=1, keepdims=True))
    shares: Floats = weights / weights.sum(axis=1, keepdims=True)
    return shares
