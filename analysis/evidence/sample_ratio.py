"""Do new people get the canary as often as the splits asked for? One e-process a segment, and a pooled one.

If they do, a person's first request is on the canary (x = 1) with the known probability p that the split then in force
asked for, whatever came before. For an odds multiplier θ the factor θ^x / (1 - p + pθ) then has expectation 1 at every
p: it is the payout of a fair bet that the odds of the canary are θ times those asked for. The product over people,
averaged over a grid of θ on both sides of 1, is a test martingale: P(it ever reaches 1/a) <= a (Ville), however often
one looks and however the split moves.

Lindon and Malek (Anytime-Valid Inference for Multinomial Count Data, NeurIPS 2022, arXiv 2011.03567) test sample ratios
in this way, with one fixed p and a Dirichlet mixture. Here p changes with each split, and a ratio of odds does not
depend on it.

What breaks the ratio: access logs of one version that get lost, an Envoy that routes by another configuration, a cache
or a client that pins its people. Splits of 0 and 1 leave nothing to chance, so their people are no evidence here: one
of them on the other version was routed by a configuration from before, which acknowledgements are there to tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.evidence.stake import Stake
from analysis.spec import TOTAL_BP
from analysis.window import CANARY

Floats = npt.NDArray[np.float64]

RISK = 0.001
"""Chance that a rollout whose splits are kept is ever held for this. Of its own, beside the two risks that users set:
it costs no person anything, only time."""

LOG_ODDS = np.array([-3.2, -1.6, -0.8, -0.4, -0.2, -0.1, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
"""Bets, as natural logarithms of θ: at a split of one half on 52.5 to 96 of 100 people, or on 47.5 to 4."""

PEOPLE, ON_CANARY, ASKED = range(3)


class SampleRatio:
    """e-processes of shape (B, S + 1): B rollouts; S segments and, last, all segments together.

    `totals` (B, S + 1, 3): new people, those of them on the canary, and how many the splits asked for there (columns
    PEOPLE, ON_CANARY, ASKED).
    """

    def __init__(self, n_segments: int, n: int = 1) -> None:
        self._log_r = np.full((n, n_segments + 1, len(LOG_ODDS)), -np.inf)
        self._stake = Stake(n)
        self.totals = np.zeros((n, n_segments + 1, 3))
        share = np.full(n_segments + 1, 0.5 / n_segments)
        share[-1] = 0.5
        self.log_thresholds: Floats = np.log(1 / (RISK * share))  # a union bound: their risks add up to RISK

    def update(self, newcomers: npt.NDArray[np.int64], *, since_exposure_s: npt.ArrayLike) -> None:
        """Add one tick's people: rows of (rollout, segment, split asked for in basis points, arm, people)."""
        due = np.broadcast_to(self._stake.due(since_exposure_s), self._log_r.shape[:1])
        with np.errstate(divide="ignore"):
            self._log_r = np.logaddexp(self._log_r, np.log(due)[:, None, None])
        by_chance = newcomers[(newcomers[:, 2] > 0) & (newcomers[:, 2] < TOTAL_BP) & (newcomers[:, 4] > 0)]
        if not len(by_chance):
            return
        rollout, segment, split_bp, arm, n = by_chance.T
        p, on_canary = split_bp / TOTAL_BP, arm == CANARY
        factors = np.where(on_canary[:, None], LOG_ODDS, 0.0) - np.log1p(p[:, None] * np.expm1(LOG_ODDS))
        where = rollout, segment
        self._add(self._log_r, where, n[:, None] * factors)
        self._add(self.totals, where, n[:, None] * np.stack([np.ones_like(p), on_canary, p], axis=1))

    @staticmethod
    def _add(rows: Floats, where: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]], values: Floats) -> None:
        np.add.at(rows, where, values)
        np.add.at(rows[:, -1], where[0], values)

    @property
    def log_e_values(self) -> Floats:
        """(B, S + 1) logarithms of the e-processes now; -inf before the first tick."""
        mean: Floats = np.logaddexp.reduce(self._log_r, axis=-1) - math.log(len(LOG_ODDS))
        return mean

    @property
    def is_mismatch(self) -> npt.NDArray[np.bool_]:
        """(B, S + 1) whether the people of a row are not what was asked for."""
        found: npt.NDArray[np.bool_] = self.log_e_values >= self.log_thresholds
        return found

    @property
    def log_e(self) -> Floats:
        """(B,) a rollout's whole evidence: a mismatch is in some row where it reaches log(1/RISK), nowhere below."""
        highest: Floats = np.max(self.log_e_values - self.log_thresholds, axis=-1)
        return highest + math.log(1 / RISK)

    def forget(self, rows: npt.NDArray[np.bool_]) -> None:
        """Begin anew in some rows, (B, S + 1) bool. Each time takes a risk of its own."""
        with np.errstate(divide="ignore"):
            anew = np.broadcast_to(np.log(self._stake.spent)[:, None, None], self._log_r.shape)
        self._log_r[rows] = anew[rows]
        self.totals[rows] = 0.0

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as plain lists. Of a single rollout."""
        log_r = np.where(np.isfinite(self._log_r), self._log_r, -1e300)[0]
        return {"log_r": log_r.tolist(), "spent": float(self._stake.spent[0]), "totals": self.totals[0].tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state` gave, of the same specification."""
        log_r = np.asarray(state["log_r"], float).reshape(self._log_r.shape)
        totals = np.array(state["totals"], float).reshape(self.totals.shape)
        spent = float(state["spent"])
        if not (np.isfinite(log_r).all() and np.isfinite(totals).all() and 0 <= spent <= 1):
            raise ValueError("the sample ratio is damaged")
        self._log_r = np.where(log_r <= -1e299, -np.inf, log_r)
        self.totals, self._stake.spent = totals, np.array([spent])
