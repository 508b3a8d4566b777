"""GrowthBook's Safe Rollout: a ramp schedule whose steps are watched by a one-sided sequential test.

Rules from growthbook/growthbook at 8f1db44: `docs/statistics/sequential.mdx` (asymptotic confidence sequences,
N* = 5,000), `docs/features/ramp-schedules.mdx` (simple view: 1, 5, 10, 25, 50, then 100 %; the control as large as the
canary; 50 % at the most while watched; results every 6 hours), `safe-rollouts.mdx`, `constants.ts` (sample ratio below
.001). Kept as they are: harm of any size counts; metrics are not corrected for being several; what is inconclusive in
the end is shipped; nothing is watched at 100 %; a broken sample ratio holds, but never delays a rollback.

Inferred: the guardrails (people with an error, and sessions that leave before their goal: "error rates, latency, or
conversions"; a warehouse has no durations), the duration (a day, the shortest that can be set), even holds.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import chi2

from benchmarks.contest.metrics import ABANDONED, BASELINE, CANARY, SESSIONS, USERS, USERS_BAD, Metrics
from benchmarks.contest.peers.protocol import PROMOTED, ROLLED_BACK, State, Step

WEIGHTS = (0.01, 0.05, 0.10, 0.25, 0.50)
ALPHA, TUNED_FOR_N = 0.05, 5_000
SRM_P, SRM_MIN_PER_ARM = 0.001, 8
GUARDRAILS = ((USERS_BAD, USERS), (ABANDONED, SESSIONS))


def half_width(n: float, standard_error: float, alpha: float) -> float:
    """One-sided confidence sequence for a difference of means (Waudby-Smith et al., arXiv 2103.06476, eq. 14).

    `n`: units in both arms; `standard_error`: of the difference.
    """
    log_a = math.log(alpha)
    rho2 = (-2 * log_a + math.log(-2 * log_a + 1)) / TUNED_FOR_N
    inside = 2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / alpha)
    return standard_error * math.sqrt(n) * math.sqrt(inside)


class GrowthBook:
    """`counts`: of control and canary since the start, by guardrail: (bad, all)."""

    def __init__(
        self, name: str, *, rng: np.random.Generator, duration_s: float, look_s: float, alpha: float = ALPHA
    ) -> None:
        self.name = name
        self.interval_s = 60.0
        self._rng, self._alpha, self._hold_s, self._look_s = rng, alpha, duration_s / len(WEIGHTS), look_s
        self._is_held = False
        self._counts = np.zeros((2, len(GUARDRAILS), 2))
        self._step, self._step_since_s, self._seen_s = 0, 0.0, 0.0

    def decide(self, seen: Metrics, at_s: float) -> Step:
        is_look = at_s > 0 and at_s % self._look_s == 0
        is_due = at_s >= self._step_since_s + self._hold_s
        if is_look or is_due:
            self._read(seen, at_s)
        if is_look:
            if any(self._is_worse(k) for k in range(len(GUARDRAILS))):
                return ROLLED_BACK
            self._is_held = self._ratio_is_off()
        if self._is_held:
            return Step(WEIGHTS[self._step], State.PAUSED)
        if is_due:
            if self._step + 1 == len(WEIGHTS):
                return PROMOTED
            self._step, self._step_since_s = self._step + 1, at_s
        return Step(WEIGHTS[self._step])

    def _read(self, seen: Metrics, at_s: float) -> None:
        """Add what came since the last look; of the baseline's people an equal share to the canary's is the control."""
        share = min(WEIGHTS[self._step] / (1 - WEIGHTS[self._step]), 1.0)
        for k, columns in enumerate(GUARDRAILS):
            canary = [seen.between(column, CANARY, self._seen_s, at_s) for column in columns]
            bad, n = (seen.between(column, BASELINE, self._seen_s, at_s) for column in columns)
            taken = self._rng.binomial([bad, max(n - bad, 0)], share)
            self._counts[CANARY, k] += canary
            self._counts[BASELINE, k] += (taken[0], taken.sum())
        self._seen_s = at_s

    def _is_worse(self, k: int) -> bool:
        (bad_0, n_0), (bad_1, n_1) = self._counts[:, k]
        if not n_0 or not n_1:
            return False
        p_0, p_1 = bad_0 / n_0, bad_1 / n_1
        error = math.sqrt(p_0 * (1 - p_0) / n_0 + p_1 * (1 - p_1) / n_1)
        return bool(error > 0 and p_1 - p_0 - half_width(n_0 + n_1, error, self._alpha) > 0)

    def _ratio_is_off(self) -> bool:
        n_0, n_1 = self._counts[:, 0, 1]
        expected = (n_0 + n_1) / 2
        if expected < SRM_MIN_PER_ARM:
            return False
        return bool(chi2.sf(2 * (n_1 - expected) ** 2 / expected, 1) < SRM_P)


def growthbook_safe(rng: np.random.Generator) -> GrowthBook:
    """A day, with a look every 6 hours."""
    return GrowthBook("growthbook-safe", rng=rng, duration_s=86_400.0, look_s=21_600.0)


def growthbook_minute(rng: np.random.Generator, alpha: float = ALPHA) -> GrowthBook:
    """The same test and steps with a look each minute and an hour in all: as fast as its sequences allow."""
    return GrowthBook("growthbook-1m", rng=rng, duration_s=3_600.0, look_s=60.0, alpha=alpha)
