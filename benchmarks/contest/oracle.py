"""The oracle: it knows the base rates, the effect and its onset, and not whether the release is bad.

Two simple hypotheses, so a sequential probability ratio test is the best there is (Wald 1945; with the onset known,
Shiryaev-Roberts with all its weight on that onset): per segment the log likelihood ratio of the canary's judged people,
for the KPI whose effect tells most (largest Kullback-Leibler divergence), summed over segments. It takes the release
back at log 1/alpha: a good one is taken back in no more than alpha (Ville).

Its split is as high as the evidence allows: with pi the posterior chance that the release is bad, D the time until what
is exposed now has been judged (latency is judged late in a canary's life), and h the expected excess of bad sessions a
second at the full split then,

    split = min(1, STAKE * budget / (pi * h * D)),

so that what is at stake unseen is never more than a tenth of the harm budget. On good releases it looks for the effect
that it is told to look for (errors four times as frequent, from the start).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ALPHA, PRIOR_BAD, STAKE = 0.01, 0.5, 0.1
FLOOR = 1e-12


def divergence(p_0: Floats, p_1: Floats) -> Floats:
    """Kullback-Leibler divergence of Bernoulli p_1 from p_0, by element."""
    p_0, p_1 = (np.clip(p, FLOOR, 1 - FLOOR) for p in (p_0, p_1))
    return np.asarray(p_1 * np.log(p_1 / p_0) + (1 - p_1) * np.log((1 - p_1) / (1 - p_0)))


def telling(p_0: Floats, p_1: Floats) -> int:
    """The KPI whose effect tells most; shapes as in `Oracle.see`."""
    return int(divergence(p_0, p_1).reshape(-1, p_0.shape[-1]).sum(axis=0).argmax())


class Oracle:
    """B rollouts over S segments."""

    def __init__(self, n_runs: int, *, budget: float) -> None:
        self._log_ratio = np.zeros(n_runs)
        self._stake = STAKE * budget
        self.rolled_back = np.zeros(n_runs, dtype=bool)

    def see(self, n: Floats, bad: Floats, p_0: Floats, p_1: Floats) -> None:
        """`n`, `bad`: (B, S, K) people judged on the canary; `p_0`, `p_1`: (S, K) or (B, S, K) if good, and if bad."""
        tells = divergence(p_0, p_1)
        if not tells.any():
            return
        best = telling(p_0, p_1)
        good, worse = (np.clip(p[..., best], FLOOR, 1 - FLOOR) for p in (p_0, p_1))
        hits, all_ = bad[..., best], n[..., best]
        ratio = hits * np.log(worse / good) + (all_ - hits) * np.log((1 - worse) / (1 - good))
        self._log_ratio += ratio.sum(axis=-1)
        self.rolled_back |= self._log_ratio >= math.log(1 / ALPHA)

    def split(self, unseen_harm: Floats) -> Floats:
        """(B,) in [0, 1].

        `unseen_harm`: (B,) or () expected excess of bad sessions at the full split until they are judged: h D above.
        """
        odds = np.exp(np.clip(self._log_ratio + math.log(PRIOR_BAD / (1 - PRIOR_BAD)), -50, 50))
        at_risk = np.maximum(odds / (1 + odds) * unseen_harm, FLOOR)
        return np.where(self.rolled_back, 0.0, np.minimum(1.0, self._stake / at_risk))
