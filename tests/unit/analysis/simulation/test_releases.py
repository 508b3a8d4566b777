"""Simulated histories: what they promise of the best possible prediction."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from analysis.simulation.releases import draw_history


def test_the_bayes_probabilities_are_those_that_come_true() -> None:
    histories = [draw_history(seed, 1_000) for seed in range(100, 103)]
    failed = np.concatenate([history.failed for history in histories])
    for stage in ("before", "after"):
        p = np.concatenate([getattr(history, stage) for history in histories])
        error = np.sqrt((p * (1 - p)).sum()) / len(p)
        assert abs(failed.mean() - p.mean()) < 3 * error
        high = p > 0.3
        assert abs(failed[high].mean() - p[high].mean()) < 3 * np.sqrt((p * (1 - p))[high].sum()) / high.sum()


def test_nothing_ranks_perfectly_and_the_first_minutes_tell_more() -> None:
    history = draw_history(200, 1_500)
    before, after = (roc_auc_score(history.failed, p) for p in (history.before, history.after))
    assert 0.65 < before < after < 0.95


def test_facts_are_of_the_past_alone() -> None:
    releases = draw_history(300, 400).releases
    assert [release.began_s for release in releases] == sorted(release.began_s for release in releases)
    counted: dict[str, tuple[int, int]] = {}
    for release in releases:
        name = release.facts.service
        n, failures = counted.get(name, (0, 0))
        assert (release.facts.releases, release.facts.failures) == (n, failures)
        counted[name] = (n + 1, failures + release.failed)
    assert any(release.facts.size is None for release in releases)
    assert any(release.first is None for release in releases)


def test_equal_seeds_give_equal_histories() -> None:
    assert draw_history(1, 60).releases == draw_history(1, 60).releases
    assert draw_history(1, 60).releases != draw_history(2, 60).releases
