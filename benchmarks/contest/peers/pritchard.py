"""Q-learning for staged rollouts after Pritchard, Nagaraju and Fiondella (arXiv 2204.02189; poster at ASE 2024).

Known from the abstracts and public summaries: a staged rollout is a non-stationary Markov decision process whose states
are development and the stages of the rollout; the actions are moves between them; the reward weighs time to deliver
against downtime (failures times their mean time to resolve, by the share of people exposed); tabular Q-learning,
exploring by an upper confidence bound or epsilon-greedily; it learns along the timeline, without a separate training
set; it is shown on SYS1's failure times; no segments, no statistics, no bound on harm.

Inferred, since the paper's numbers are not public text: the stages (1, 5, 25, 50, 100 %), an epoch of a minute, moves
by one stage, the state's second part (the failed share of the canary's requests in the epoch, in half-decades: its
non-stationarity), one weight kappa for downtime, rates. Back in development the release is over. A table that starts
empty would send the first release of its life up and down by chance, so it gets the better of it: it has lived through
`LIVES` rollouts of a toy world before (3 of 10 bad, by a factor of 2 to 40), from a seed, by both ways of exploring
together, and learns on by the bound.
"""

from __future__ import annotations

import copy
import functools
import math

import numpy as np

from benchmarks.contest.metrics import CANARY, FAILED, REQUESTS, Metrics
from benchmarks.contest.peers.protocol import ROLLED_BACK, Step

STAGES = (0.0, 0.01, 0.05, 0.25, 0.50, 1.0)
BINS = (1e-9, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # lower bounds of the failed share's bins, beside "none failed"
STAY, UP, DEVELOPMENT = 0, 1, 2
RATE, DISCOUNT, BOUND, SEED = 0.05, 0.95, 0.05, 20_220_402
LIVES, LIFE_EPOCHS, TRAINING_BOUND, EPSILON = 6_000, 30, 1.0, 0.2
KAPPA = 200.0

Table = list[list[list[float]]]


class Learner:
    """The table of values and its counts, by stage, bin and action."""

    def __init__(self) -> None:
        self.q: Table = [[[0.0] * 3 for _ in range(len(BINS) + 1)] for _ in STAGES]
        self.n: Table = [[[0.0] * 3 for _ in range(len(BINS) + 1)] for _ in STAGES]

    def choose(self, stage: int, bin_: int, bound: float) -> int:
        """By the upper confidence bound; what was never tried goes first."""
        n, q = self.n[stage][bin_], self.q[stage][bin_]
        log_n = math.log(sum(n) + 2)
        return max(_possible(stage), key=lambda action: q[action] + bound * math.sqrt(log_n / max(n[action], 1e-9)))

    def learn(self, state: tuple[int, int], action: int, reward: float, then: tuple[int, int] | None) -> None:
        q, n = self.q[state[0]][state[1]], self.n[state[0]][state[1]]
        n[action] += 1
        later = 0.0
        if then is not None:
            later = DISCOUNT * max(self.q[then[0]][then[1]][a] for a in _possible(then[0]))
        q[action] += max(RATE, 1 / n[action]) * (reward + later - q[action])


def _possible(stage: int) -> tuple[int, ...]:
    """There is no stage above the last one."""
    return (STAY, UP, DEVELOPMENT) if stage < len(STAGES) - 1 else (STAY, DEVELOPMENT)


def reward_of(weight: float, failed_share: float, kappa: float) -> float:
    """One epoch: progress, less downtime."""
    return weight - kappa * weight * failed_share


def bin_of(failed_share: float) -> int:
    return sum(failed_share >= bound for bound in BINS)


@functools.cache
def lived(kappa: float) -> Learner:
    """A learner with its toy lives behind it; the same for the same kappa."""
    rng = np.random.default_rng(SEED)
    learner = Learner()
    for _ in range(LIVES):
        base = 0.002
        share = base * (np.exp(rng.uniform(np.log(2), np.log(40))) if rng.random() < 0.3 else 1.0)
        per_s = np.exp(rng.uniform(np.log(10), np.log(1_000)))
        state = (1, 0)
        for _ in range(LIFE_EPOCHS):
            action = learner.choose(*state, bound=TRAINING_BOUND)
            if rng.random() < EPSILON and state[0] + 1 < len(STAGES):
                action = int(rng.integers(3))
            if action == DEVELOPMENT:
                learner.learn(state, action, 0.0, None)
                break
            stage = state[0] + (action == UP)
            requests = max(int(per_s * 60 * STAGES[stage]), 1)
            seen = rng.binomial(requests, min(share, 1.0)) / requests
            then = (stage, bin_of(seen))
            learner.learn(state, action, reward_of(STAGES[stage], float(seen), kappa), then)
            state = then
    return learner


class Pritchard:
    def __init__(self, kappa: float = KAPPA) -> None:
        self.name = "pritchard-q"
        self.interval_s = 60.0
        self._kappa, self._learner = kappa, copy.deepcopy(lived(kappa))
        self._state, self._action = (1, 0), STAY

    def decide(self, seen: Metrics, at_s: float) -> Step:
        if at_s > 0:
            requests = seen.count(REQUESTS, CANARY, self.interval_s)
            share = seen.count(FAILED, CANARY, self.interval_s) / requests if requests else 0.0
            stage = self._state[0] + (self._action == UP)
            then = (stage, bin_of(share))
            self._learner.learn(self._state, self._action, reward_of(STAGES[stage], share, self._kappa), then)
            self._state = then
            self._action = self._learner.choose(*then, bound=BOUND)
        if self._action == DEVELOPMENT:
            return ROLLED_BACK
        return Step(STAGES[self._state[0] + (self._action == UP)])
