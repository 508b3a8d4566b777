"""How the next batch of newcomers is shared out: as designed, by Thompson sampling, or to know the best one soonest.

Batched: shares are set between batches from the posterior of all strata so far, and stay for the batch. Only newcomers
follow them; whoever has been exposed keeps the variant (`buckets.py`). What the guard and the harm budget allow comes
in as caps: they outrank every policy, and what a cap takes away goes to the control.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from analysis.experiment.design import Allocation, Experiment
from analysis.experiment.posterior import Posterior
from analysis.spec import TOTAL_BP

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

TOP = 0.5
"""Of top-two sampling: how often the likeliest best is taken, and else its likeliest rival (Russo 2020, section 3)."""


def next_shares(
    experiment: Experiment, belief: Posterior, withdrawn: Flags, caps: Floats, rng: np.random.Generator
) -> Ints:
    """(S, V) shares of the next batch's newcomers in basis points; rows sum to 10,000.

    `withdrawn` (S, V): variants that get nobody any more; never the control. `caps` (S, V) in [0, 1]: most that each
    variant may get at present; the control's is not read. Below a cap, each variant in play keeps the floor.
    """
    in_play = ~withdrawn
    in_play[:, 0] = True
    asked = np.array([[variant.share for variant in experiment.variants]]) * in_play
    if experiment.allocation is not Allocation.FIXED:
        rows = np.concatenate([in_play, in_play.any(axis=0, keepdims=True)])
        chances = belief.chance_best(experiment.primary, rows, rng)[:-1]
        if experiment.allocation is Allocation.BEST_ARM:
            chances = top_two(chances)
        spare = 1 - experiment.floor * in_play.sum(axis=1, keepdims=True)
        asked = in_play * experiment.floor + spare * chances
    asked = asked / asked.sum(axis=1, keepdims=True)
    capped = np.minimum(asked, np.nan_to_num(np.clip(caps, 0.0, 1.0), nan=0.0))
    return _basis_points(capped)


def top_two(chances: Floats) -> Floats:
    """(…, V) shares of top-two Thompson sampling, from the chances of being the best, (…, V).

    ψ_i = α_i·(β + (1 - β)·sum over j ≠ i of α_j/(1 - α_j)) (Russo, Operations Research 2020, section 3.3). Of two
    variants each gets half: nothing makes sure sooner.
    """
    others = 1 - chances
    odds = np.divide(chances, others, out=np.zeros_like(chances), where=others > 0)
    shares = chances * (TOP + (1 - TOP) * (odds.sum(axis=-1, keepdims=True) - odds))
    missing = 1 - shares.sum(axis=-1, keepdims=True)  # where one is surely best, no rival can be drawn
    total = shares + missing * (chances == chances.max(axis=-1, keepdims=True))
    scaled: Floats = total / total.sum(axis=-1, keepdims=True)
    return scaled


def _basis_points(shares: Floats) -> Ints:
    """Whole basis points, rounded down for all but the control, which gets the rest: no cap is passed by rounding."""
    points = np.floor(shares * TOTAL_BP + 1e-6).astype(np.int64)
    points[:, 0] = TOTAL_BP - points[:, 1:].sum(axis=1)
    return points


def regret(people: Floats, mean: Floats, sign: float) -> tuple[Floats, Floats]:
    """What learning has cost so far, and what equal shares would have cost, (…) each, in the metric's unit × people.

    Each person counts with the difference between the best variant's mean and that of the one met: `people` and `mean`
    (…, V), the latter up to a constant; `sign`: 1 if up is better, else -1.
    """
    best = (sign * mean).max(axis=-1, keepdims=True)
    lost = best - sign * mean
    own = (people * lost).sum(axis=-1)
    equal = people.sum(axis=-1) * lost.mean(axis=-1)
    return own, equal
