"""The naive floor: a straight ramp in half an hour, and a two-sample z-test at every look, as if it were the only one.

Nobody's product; what a careful script does. One-sided, people with an error, all data so far, normal approximation
from five bad people in all on. It peeks without a correction.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from benchmarks.contest.metrics import BASELINE, CANARY, USERS, USERS_BAD, Metrics
from benchmarks.contest.peers.protocol import PROMOTED, ROLLED_BACK, Step

ALPHA, RAMP_S, MIN_BAD = 0.05, 1_800.0, 5


class RampZ:
    def __init__(self, alpha: float = ALPHA, *, look_s: float = 60.0) -> None:
        self.name = "ramp-z"
        self.interval_s = look_s
        self._critical = float(-ndtri(alpha))

    def decide(self, seen: Metrics, at_s: float) -> Step:
        if z_value(seen) > self._critical:
            return ROLLED_BACK
        if at_s >= RAMP_S:
            return PROMOTED
        return Step((at_s + self.interval_s) / (RAMP_S + self.interval_s))


def z_value(seen: Metrics) -> float:
    """Pooled two-sample z of people with an error; minus infinity as long as there are too few."""
    (bad_0, n_0), (bad_1, n_1) = ((seen.count(USERS_BAD, a), seen.count(USERS, a)) for a in (BASELINE, CANARY))
    if not n_0 or not n_1 or bad_0 + bad_1 < MIN_BAD:
        return -math.inf
    p = (bad_0 + bad_1) / (n_0 + n_1)
    variance = p * (1 - p) * (1 / n_0 + 1 / n_1)
    return (bad_1 / n_1 - bad_0 / n_0) / math.sqrt(variance) if variance > 0 else -math.inf
