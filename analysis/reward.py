"""What one tick was worth: progress bought, harm paid. The reinforcement learner's reward, and shown to people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PROGRESS = 1.0  # value of a tick at full exposure
ERROR, SLOW, ABANDONED = 6.0, 3.0, 4.0  # cost of an excess share of 1 among the exposed
ANOMALY = 1.0  # cost of an excess share of unusual sessions: a suspicion, not yet harm
BUDGET_WORTH_S = 300.0
"""Seconds of full progress that are worth as much as a whole harm budget: what trades time for harm in learning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """`value` in [-1, 1] and the parts it is the clipped sum of; arrays of one shape."""

    value: Floats
    progress: Floats
    errors: Floats
    slowness: Floats
    abandonment: Floats
    anomaly: Floats

    def worth(self, shares: npt.ArrayLike) -> Floats:
        """What segments with these shares of the sessions give to the whole rollout: the sum, not clipped.

        What is learnt by; linear in the split.
        """
        costs = self.errors + self.slowness + self.abandonment + self.anomaly
        worth: Floats = np.asarray(shares, float) * self.progress + costs
        return worth


def reward(
    *,
    split: npt.ArrayLike,
    errors: npt.ArrayLike,
    slowness: npt.ArrayLike,
    abandonment: npt.ArrayLike,
    anomaly: npt.ArrayLike,
    weight: npt.ArrayLike = 1.0,
) -> Reward:
    """Reward of one tick of a segment; arguments broadcast.

    `split` in [0, 1]; the others are excess shares of canary over baseline sessions in [-1, 1], NaN where unknown (then
    they count 0: not knowing is punished by the guard, not by the reward). `weight`: the segment's cost of harm.
    """
    exposed = np.asarray(split, float) * np.asarray(weight, float)
    costs = {
        "errors": -ERROR * _excess(errors) * exposed,
        "slowness": -SLOW * _excess(slowness) * exposed,
        "abandonment": -ABANDONED * _excess(abandonment) * exposed,
        "anomaly": -ANOMALY * _excess(anomaly) * exposed,
    }
    progress = PROGRESS * np.asarray(split, float)
    value = np.clip(progress + sum(costs.values()), -1.0, 1.0)
    return Reward(value=value, progress=progress, **costs)


def price_of_harm(budget: float, interval_s: float) -> float:
    """What a weighted bad session costs where people's progress is weighed against it, in ticks of full progress.

    So that a whole `budget` of them costs BUDGET_WORTH_S. A factor of `reward`'s weight, beside the sessions of a tick.
    """
    return BUDGET_WORTH_S / interval_s / budget / ERROR


def _excess(share: npt.ArrayLike) -> Floats:
    """The harmful part of an excess: an improvement is no licence."""
    worse: Floats = np.nan_to_num(np.fmax(np.asarray(share, float), 0.0))
    return worse
