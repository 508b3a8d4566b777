"""Mixtures of Markov chains: chances add up to one, clusters are found, unseen steps are unlikely, not impossible."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from analysis.profile.chains import STRENGTHS, fit
from analysis.profile.clusters import count_clusters, fit_clusters, shares
from analysis.profile.features import log_chance_of_repeating
from analysis.profile.paths import Paths


def _two_crowds(n: int, rng: np.random.Generator) -> Paths:
    """Half walk 0 1 2 0 1 2 …, half stay among 3 and 4."""
    return Paths.of(
        np.arange(length) % 3 if i % 2 else 3 + rng.integers(0, 2, length)
        for i, length in enumerate(rng.integers(2, 9, n))
    )


@pytest.mark.parametrize("n_clusters", [1, 3])
def test_chances_of_all_paths_of_a_length_add_up_to_one(n_clusters: int) -> None:
    rng = np.random.default_rng(1)
    mixture = fit(
        Paths.of(rng.integers(0, 3, length) for length in (1, 2, 3, 5, 7) * 9), 3, n_clusters, rng, exits=False
    )
    every = Paths.of(product(range(3), repeat=4))
    assert np.exp(mixture.log_likelihood(every)).sum() == pytest.approx(1.0)


def test_an_end_is_a_step_like_another() -> None:
    rng = np.random.default_rng(1)
    mixture = fit(Paths.of([(0, 1)] * 50 + [(1,)] * 50), 2, 1, rng)
    shorter_than_4 = Paths.of(path for n in range(4) for path in product(range(2), repeat=n))
    assert 0.9 < np.exp(mixture.log_likelihood(shorter_than_4)).sum() < 1.0
    assert mixture.log_likelihood(Paths.of([(0, 1)]))[0] > mixture.log_likelihood(Paths.of([(0,)]))[0] + 1.0


def test_clusters_are_who_walks_alike() -> None:
    rng = np.random.default_rng(2)
    paths = _two_crowds(600, rng)
    mixture, stability = fit_clusters(paths, 5, rng)
    assert stability.n_clusters >= 2
    crowd, cluster = np.arange(600) % 2, mixture.assign(paths)
    assert not set(cluster[crowd == 0]) & set(cluster[crowd == 1])
    assert mixture.bits_an_event(paths) < fit(paths, 5, 1, rng).bits_an_event(paths)
    assert (np.diff(np.bincount(mixture.assign(paths))) <= 60).all()  # from the largest on, about


def test_one_crowd_is_not_split() -> None:
    rng = np.random.default_rng(3)
    assert count_clusters(rng.normal(size=(2_000, 6)), rng).n_clusters == 1
    assert count_clusters(np.zeros((500, 3)), rng).n_clusters == 1
    paths = Paths.of([(0, 1)] * 10)
    assert fit_clusters(paths, 2, rng)[0].n_clusters == 1


def test_the_number_of_clusters_is_the_largest_stable_one() -> None:
    rng = np.random.default_rng(4)
    points = np.repeat(np.eye(4) * 9, 300, axis=0) + rng.normal(size=(1_200, 4))
    found = count_clusters(points, rng)
    assert found.n_clusters in {4, 5}  # two trainings that split one of four agree on the other three
    assert all(agreement < 0.8 for k, agreement in found.agreement.items() if k > found.n_clusters)


def test_the_same_chance_gives_the_same_mixture() -> None:
    paths = _two_crowds(200, np.random.default_rng(5))
    one, two = (fit_clusters(paths, 5, np.random.default_rng(6))[0] for _ in range(2))
    np.testing.assert_array_equal(one.log_likelihoods(paths), two.log_likelihoods(paths))


def test_unseen_steps_are_surprising_and_never_impossible() -> None:
    rng = np.random.default_rng(7)
    mixture = fit(Paths.of([(0, 1, 2)] * 100), 9, 1, rng)
    way, other_way, nowhere, none = mixture.log_likelihood(Paths.of([(0, 1, 2), (0, 2, 1), (8, 8), ()]))
    assert way > other_way > -np.inf
    assert np.isfinite(nowhere)
    assert np.isfinite(none)
    before, after, chance = mixture.rarest_steps(Paths.of([(0, 1, 2), (0, 2), ()]))
    assert (before[1], after[1]) == (0, 2)
    assert (before[2], after[2]) == (9, 9)
    assert chance[1] < 0.1 < chance[0]


def test_strengths_are_those_that_serve_held_out_sessions() -> None:
    rng = np.random.default_rng(8)
    assert fit(_two_crowds(400, rng), 5, 2, rng).strengths in STRENGTHS


def test_whoever_goes_in_circles_is_foretold_by_their_own_steps() -> None:
    circle, straight, none = log_chance_of_repeating(Paths.of([(1, 2) * 6, range(12), ()]), 12)
    assert circle > straight + 15.0
    assert none == 0.0


def test_shares_are_points_on_a_sphere() -> None:
    points = shares(Paths.of([(0, 0, 1), (), (2,)]), 3)
    np.testing.assert_allclose((points**2).sum(axis=1), [1, 0, 1])
