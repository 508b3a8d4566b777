"""By how much does the canary differ? Stratified differences of rates with confidence sequences, for people to read.

A tick's people are a stratum: the difference of the rates of those who came in the same tick, weighted by
n_c·n_b/(n_c + n_b) (Mantel & Haenszel 1959; Greenland & Robins 1985, for risk differences), so that neither a base rate
that drifts nor a split that moves passes for an effect. Its interval holds at all times at once: a normal mixture with
estimated variance (Waudby-Smith et al. 2024, arXiv 2103.06476, Theorem 2.2). It is asymptotic and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.evidence.blocks import Blocks
from analysis.window import BASELINE, CANARY

Floats = npt.NDArray[np.float64]

RISK = 0.05  # chance that an interval ever leaves out the true difference
TIGHTEST_AT = 25.0  # weighted variance at which the interval is tightest: some hundred people at an even split


class Effects:
    """Differences canary minus baseline of streams of any shape (B, …)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._blocks = Blocks(shape)
        self._sums = np.zeros((3, *shape))  # of weights, weighted differences, and their variances

    def update(self, n: Floats, bad: Floats) -> None:
        """Add one tick's counts, (…, 2) by arm; those of one arm alone wait for the other."""
        n, bad = self._blocks.take(n, bad)
        n_c, n_b = n[..., CANARY], n[..., BASELINE]
        both = n_c + n_b
        weight = np.divide(n_c * n_b, both, out=np.zeros_like(both), where=both > 0)
        canary, baseline = (
            np.divide(bad[..., arm], n[..., arm], out=np.zeros_like(both), where=n[..., arm] > 0)
            for arm in (CANARY, BASELINE)
        )
        pooled = np.divide(bad.sum(axis=-1), both, out=np.zeros_like(both), where=both > 0)
        variance = weight * pooled * (1 - pooled)  # of weight·difference: the weight cancels 1/n_c + 1/n_b once
        self._sums += np.stack([weight, weight * (canary - baseline), variance])

    def interval(self, place: tuple[int, ...]) -> tuple[float, float, float]:
        """(difference, lower, upper) of one stream, in [-1, 1]; NaN where no tick had people of both arms."""
        weight, total, variance = (float(x[place]) for x in self._sums)
        if weight <= 0:
            return float("nan"), float("nan"), float("nan")
        v = variance + 1.0  # a prior session keeps it from being sure of a rate of 0
        width = np.sqrt(2 * (v + TIGHTEST_AT) * np.log(np.sqrt((v + TIGHTEST_AT) / TIGHTEST_AT) / RISK)) / weight
        effect = total / weight
        return effect, max(effect - float(width), -1.0), min(effect + float(width), 1.0)

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as plain lists. Of a single rollout."""
        return {"sums": self._sums[:, 0].tolist(), "blocks": self._blocks.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state` gave, of the same specification."""
        self._sums = np.asarray(state["sums"], float).reshape(self._sums.shape)
        self._blocks.restore(state["blocks"])
