"""A mixture sequential probability ratio test as Statsig's: a gate's schedule, and Safeguards on rollout alerts.

Rules from statsig-io/docs: `experiments/advanced-setup/sequential-testing.mdx` (mSPRT with a normal mixture),
`metrics/rollout-alerts.mdx` (looked at every 24 hours in the cloud, whenever results load in a warehouse),
`feature-flags/safeguards-create.mdx` (roll back to 0 %; the evaluation starts anew when the pass percentage changes).
Kept as they are: the test is two-sided, the alert is for the bad side; control is everybody else; nothing is looked at
once all pass.

Inferred: the schedule (10, 25, 50, 100 %), the alert's threshold (none: any significant harm), at least 100 people in
each group, the metrics (people with an error, sessions that leave before their goal).
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from benchmarks.contest.metrics import ABANDONED, BASELINE, CANARY, SESSIONS, USERS, USERS_BAD, Metrics
from benchmarks.contest.peers.protocol import PROMOTED, ROLLED_BACK, Step

ALPHA, MIN_UNITS = 0.05, 100
WEIGHTS = (0.10, 0.25, 0.50)
METRICS = ((USERS_BAD, USERS), (ABANDONED, SESSIONS))


def critical_z(variance: float, tau: float, alpha: float) -> float:
    """Z* for a difference whose sampling variance is V, with a normal mixture of variance tau."""
    v = variance
    return math.sqrt((v + tau) / tau * (-2 * math.log(alpha / 2) - math.log(v / (v + tau))))


def is_worse(control: tuple[int, int], canary: tuple[int, int], alpha: float) -> bool:
    """Whether a share is significantly higher on the canary. Each arm: bad ones, and all."""
    (bad_0, n_0), (bad_1, n_1) = control, canary
    if min(n_0, n_1) < MIN_UNITS:
        return False
    p_0, p_1 = bad_0 / n_0, bad_1 / n_1
    var_0, var_1 = p_0 * (1 - p_0), p_1 * (1 - p_1)
    variance = var_0 / n_0 + var_1 / n_1
    if variance <= 0 or p_1 <= p_0:
        return False
    tau = float(ndtri(1 - alpha / 2)) ** 2 * (var_0 + var_1) / (n_0 + n_1)
    return (p_1 - p_0) / math.sqrt(variance) > critical_z(variance, tau, alpha)


class Statsig:
    def __init__(self, name: str, *, step_s: float, look_s: float, alpha: float = ALPHA) -> None:
        self.name = name
        self.interval_s = look_s
        self._step_s, self._alpha = step_s, alpha
        self._step, self._since_s = 0, 0.0

    def decide(self, seen: Metrics, at_s: float) -> Step:
        if at_s > 0 and any(self._alerts(seen, bad, n, at_s) for bad, n in METRICS):
            return ROLLED_BACK
        if at_s >= self._since_s + self._step_s:
            if self._step + 1 == len(WEIGHTS):
                return PROMOTED
            self._step, self._since_s = self._step + 1, at_s
        return Step(WEIGHTS[self._step])

    def _alerts(self, seen: Metrics, bad: int, n: int, at_s: float) -> bool:
        control, canary = (
            (seen.between(bad, arm, self._since_s, at_s), seen.between(n, arm, self._since_s, at_s))
            for arm in (BASELINE, CANARY)
        )
        return is_worse(control, canary, self._alpha)


def statsig_daily() -> Statsig:
    """The cloud's look a day, a step a day."""
    return Statsig("statsig-daily", step_s=86_400.0, look_s=86_400.0)


def statsig_minute(alpha: float = ALPHA) -> Statsig:
    """The same test with a look each minute and steps of 10 minutes."""
    return Statsig("statsig-1m", step_s=600.0, look_s=60.0, alpha=alpha)
