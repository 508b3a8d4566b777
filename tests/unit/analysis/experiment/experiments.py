"""Experiments and tallies for the tests; many runs are the segments of one experiment."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.experiment.design import Experiment, Metric, Variant
from analysis.experiment.tally import Tally


def experiment(n_variants: int = 2, *, runs: int = 1, metrics: tuple[Metric, ...] = (), **more: Any) -> Experiment:
    names = "abcdefghij"[:n_variants]
    return Experiment(
        name="checkout",
        variants=tuple(Variant(name=name, version=f"v-{name}", share=1 / n_variants) for name in names),
        metrics=metrics or (Metric(name="conversion"),),
        segments=tuple(f"s{i}" for i in range(runs)),
        **more,
    )


def rates(n: np.ndarray, yes: np.ndarray) -> Tally:
    """A tick's tally of one rate: `n`, `yes` (S, V)."""
    cells = np.zeros((*np.shape(n), 1, 6))
    cells[..., 0, 0], cells[..., 0, 1], cells[..., 0, 2] = n, yes, yes
    return Tally(cells, np.asarray(n, np.int64), np.zeros(len(n), np.int64))


def moments(y: np.ndarray, x: np.ndarray, n_a: np.ndarray) -> Tally:
    """A tick's tally of one metric: outcomes and covariates (S, people), of whom the first `n_a` (S,) met variant a."""
    first = np.arange(y.shape[1]) < n_a[:, None]
    cells = np.stack(
        [np.stack([m.sum(1), *((v * m).sum(1) for v in (y, y * y, x, x * x, x * y))], -1) for m in (first, ~first)], 1
    )[:, :, None]
    return Tally(cells.astype(float), cells[..., 0, 0].astype(np.int64), np.zeros(len(y), np.int64))
