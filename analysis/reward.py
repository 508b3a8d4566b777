"""What one tick was worth: progress bought, harm paid. The reinforcement learner's reward, and shown to people."""

from __future__ import annotations

from dataclasses import dataclass

PROGRESS = 1.0  # value of a tick at full exposure
ERROR, SLOW, ABANDONED = 6.0, 3.0, 4.0  # cost of an excess share of 1 among the exposed
ANOMALY = 1.0  # cost of an excess share of unusual sessions: a suspicion, not yet harm


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """`value` in [-1, 1] and the parts it is the clipped sum of."""

    value: float
    progress: float
    errors: float
    slowness: float
    abandonment: float
    anomaly: float


def reward(
    *, split: float, errors: float, slowness: float, abandonment: float, anomaly: float, weight: float = 1.0
) -> Reward:
    """Reward of one tick of one segment.

    `split` in [0, 1]; the others are excess shares of canary over baseline sessions in [-1, 1], NaN where unknown (then
    they count 0: not knowing is punished by the guard, not by the reward). `weight`: the segment's cost of harm.
    """
    costs = {
        "errors": -ERROR * _excess(errors) * split * weight,
        "slowness": -SLOW * _excess(slowness) * split * weight,
        "abandonment": -ABANDONED * _excess(abandonment) * split * weight,
        "anomaly": -ANOMALY * _excess(anomaly) * split * weight,
    }
    progress = PROGRESS * split
    value = min(1.0, max(-1.0, progress + sum(costs.values())))
    return Reward(value=value, progress=progress, **costs)


def _excess(share: float) -> float:
    """The harmful part of an excess: an improvement is no licence."""
    return max(share, 0.0) if share == share else 0.0  # noqa: PLR0124 -- NaN is the one value that differs from itself
