"""A segment's click paths as a first-order Markov chain, which says how surprising a path is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

SMOOTHING = 0.5  # pseudo-count of each transition: what was never seen is unusual, not impossible


class ClickPaths:
    """Transition counts over at most `n_labels` labels, entry (-1) and exit (-2) included by their own rows."""

    def __init__(self, n_labels: int) -> None:
        self._counts = np.full((n_labels + 1, n_labels + 1), SMOOTHING / n_labels)
        self._edge = n_labels  # row: entry; column: exit

    def learn(self, paths: Iterable[Sequence[int]]) -> None:
        """Count the transitions of each path (labels below n_labels)."""
        for path in paths:
            steps = [self._edge, *path, self._edge]
            np.add.at(self._counts, (steps[:-1], steps[1:]), 1.0)

    def surprise(self, path: Sequence[int]) -> float:
        """Negative log-likelihood of the path (nats): high where people rarely go. 0 for an empty path."""
        if not path:
            return 0.0
        steps = [self._edge, *path, self._edge]
        rows = self._counts[steps[:-1]]
        chosen = self._counts[steps[:-1], steps[1:]]
        return float(-np.log(chosen / rows.sum(axis=1)).sum())
