"""How the failure model is fitted to past releases.

How wide the priors of the coefficients are, is chosen by what predicts best over time: the model of what came before is
scored on what came next, block after block. With few releases that says little, so a width must beat the one that is
shipped by more than noise.

The first minutes' coefficients are fitted with the log-odds that others than the release's own block predict for it
before its traffic, so that these are as wrong as they will be of new releases.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from analysis.failure.columns import Columns, first_row, learn_columns, learn_first_columns
from analysis.failure.facts import PastRelease
from analysis.failure.logit import Posterior, fit
from analysis.failure.model import PRIOR_LOG_ODDS, FailureModel, FirstStage, Stage

Floats = npt.NDArray[np.float64]
Progress = Callable[[float], None]
"""Told which share of the work is done, in [0, 1]."""

MOST_RELEASES = 2_000  # the newest ones
INTERCEPT_SD = 1.0
WIDTHS = (1.0, 2.0, 4.0)  # of the coefficients' priors, over those that the columns bring
BLOCKS = 5
SURER = 1.0  # standard errors by which another width must be better


def fit_model(releases: Sequence[PastRelease], *, progress: Progress = lambda _: None) -> FailureModel:
    """The model of these releases, in the order in which they began; only the newest MOST_RELEASES count.

    Raises ValueError where none has failed or none has gone well: there is nothing to tell them by.
    """
    releases = releases[-MOST_RELEASES:]
    failed = np.array([release.failed for release in releases], float)
    if not 0 < failed.sum() < len(failed):
        raise ValueError(f"of {len(failed)} releases {failed.sum():.0f} failed; nothing tells the two apart")
    columns = learn_columns([release.facts for release in releases], failures=int(failed.sum()))
    x = _design(columns, releases)
    width = _width(x, failed, columns, lambda done: progress(0.8 * done))
    posterior = _fit(x, failed, columns, width)
    first = _first_stage(releases, failed, _offsets(x, failed, columns, width))
    progress(1.0)
    return FailureModel(
        columns=columns, before=Stage(coef=posterior.coef, covariance=posterior.covariance), first=first,
        releases=len(releases), failures=int(failed.sum()),
    )  # fmt: skip


def _design(columns: Columns, releases: Sequence[PastRelease]) -> Floats:
    rows = np.array([columns.row(release.facts) for release in releases]).reshape(len(releases), -1)
    return np.column_stack([np.ones(len(releases)), rows])


def _fit(x: Floats, failed: Floats, columns: Columns, width: float) -> Posterior:
    mean = np.array([PRIOR_LOG_ODDS, *(column.prior_mean for column in columns.columns)])
    sd = np.array([INTERCEPT_SD, *(width * column.prior_sd for column in columns.columns)])
    return fit(x, failed, mean=mean, sd=sd)


def _width(x: Floats, failed: Floats, columns: Columns, progress: Progress) -> float:
    """The priors' width, by the losses of forward-chained predictions."""
    edges = np.linspace(len(x) / 3, len(x), BLOCKS + 1).astype(int)
    losses = np.full((len(WIDTHS), len(x) - edges[0]), np.nan)
    for i, width in enumerate(WIDTHS):
        for start, end in itertools.pairwise(edges.tolist()):
            posterior = _fit(x[:start], failed[:start], columns, width)
            eta = x[start:end] @ posterior.coef
            losses[i, start - edges[0] : end - edges[0]] = np.logaddexp(0.0, eta) - failed[start:end] * eta
        progress((i + 1) / len(WIDTHS))
    better = losses[0] - losses[1:]
    noise = better.std(axis=1) / math.sqrt(max(better.shape[1], 1))
    sure = better.mean(axis=1) - SURER * noise
    return WIDTHS[1 + int(sure.argmax())] if sure.max() > 0 else WIDTHS[0]


def _offsets(x: Floats, failed: Floats, columns: Columns, width: float) -> Floats:
    """(N,) log-odds before the traffic, each block's by the model of all others."""
    offsets = np.zeros(len(x))
    for block in np.array_split(np.arange(len(x)), min(BLOCKS, len(x))):
        others = np.setdiff1d(np.arange(len(x)), block, assume_unique=True)
        offsets[block] = x[block] @ _fit(x[others], failed[others], columns, width).coef
    return offsets


def _first_stage(releases: Sequence[PastRelease], failed: Floats, offsets: Floats) -> FirstStage:
    seen = [i for i, release in enumerate(releases) if release.first is not None]
    firsts = [releases[i].first for i in seen]
    columns = learn_first_columns(first for first in firsts if first is not None)
    rows = np.array([first_row(columns, first) for first in firsts if first is not None])
    posterior = fit(
        rows.reshape(len(seen), len(columns)),
        failed[seen],
        mean=np.array([column.prior_mean for column in columns]),
        sd=np.array([column.prior_sd for column in columns]),
        offset=offsets[seen],
    )
    return FirstStage(columns=columns, stage=Stage(coef=posterior.coef, covariance=posterior.covariance))
