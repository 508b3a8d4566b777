"""The seam between what is known of a segment and how much of the allowed split to use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from analysis.failure.facts import PRIOR_RISK
from analysis.spec import TOTAL_BP
from analysis.splits import worth_bp

FLOOR = 0.05
"""Least probability of every action where a policy draws lots: what is never tried cannot be judged afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """People of one version judged of late, `n` >= 0, and the bad ones among them, in [0, n]."""

    n: float = 0.0
    bad: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyView:
    """What a policy may know of one segment at one tick.

    `split`, `cap` in [0, 1], cap >= 0 is what budget and guard allow now. `suspicion`: the strongest evidence of harm
    as a share of what proves it, below 0 when it speaks for the canary. `worst_excess` in (0, 1]: excess not yet
    excluded.
    `anomaly`: excess share of unusual sessions, 0 where unknown. `healthy`: whether enough is known to pass an even
    split. `share`: of the service's sessions that are this segment's, in [0, 1]; `weight`: its relative cost of harm.
    `risk`: probability that this release fails, as known before it is seen, then by its first minutes. `ahead`:
    sessions of the next hour over those of the last one, where the day's shape is known. `settling_s`: seconds until
    who comes says anything about latency, 0 where nothing has to settle. `at_once`: sessions that a split of 1 would
    expose before the first of them is judged. `canary`, `baseline`: of late, on the KPI that speaks most against the
    canary, whose accepted excess is `tolerance`.
    """

    split: float
    cap: float
    suspicion: float
    worst_excess: float
    anomaly: float
    healthy: bool
    share: float = 1.0
    weight: float = 1.0
    risk: float = PRIOR_RISK
    ahead: float = 1.0
    settling_s: float = 0.0
    at_once: float = 0.0
    canary: Arm = Arm()
    baseline: Arm = Arm()
    tolerance: float = 0.0

    @property
    def smallest_step(self) -> float:
        """The smallest rise of the split that is worth a push, in (0, 1]."""
        return worth_bp(round(self.split * TOTAL_BP)) / TOTAL_BP

    def using(self, share: float) -> float:
        """The split that uses a share in [0, 1] of the room between split and cap; never below the split."""
        return self.split + share * max(self.cap - self.split, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A split in [0, cap] and the probability with which the policy would choose it again (logged for evaluation)."""

    split: float
    propensity: float


class Policy(Protocol):
    """Proposes; never decides. Must give the same proposal for the same view and generator state."""

    @property
    def name(self) -> str: ...

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal: ...
