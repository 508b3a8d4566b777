"""Training of the policy `learned`: Watkins' Q(λ) on simulated rollouts that the live code steers.

B rollouts of one random release are played in step. Decisions are the ticks at which a segment may rise; its reward is
that of the whole rollout, since segments share the budget. From each tick's reward the mean of the other rollouts of
the same release is taken: it hangs on the release and not on the decision, so the best action stays the same, and what
the release alone explains is no noise any more (a control variate; Greensmith et al. 2004).

Returns are followed as long as the greedy action was taken, and go on at the values of the state after that (Watkins
1989). After the last tick an episode goes on for FOREVER ticks as it stands: a missed fault goes on to harm, a false
rollback goes on to gain nothing, and neither needs a penalty of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from analysis.decision import Phase
from analysis.on_the_job import has_a_choice
from analysis.policy import LearnedPolicy, PolicyView, Proposal, QValues
from analysis.policy.learned import N_TILES, SHARES, TILINGS, WHOLE, State, discounted, state_of
from analysis.policy.protocol import FLOOR
from analysis.simulation.draws import Release, draw
from analysis.simulation.rollouts import Rollouts
from analysis.simulation.scoring import scores_of
from analysis.spec import ServiceSpec

Floats = npt.NDArray[np.float64]

IN_STEP = 24  # rollouts of one release
TICKS = 110  # after which an episode is cut off
FOREVER = 60  # ticks for which it goes on as it stands then
TRACE = 0.95  # λ
EXPLORE_FIRST, EXPLORE_LAST = 0.6, 0.2  # chance of a random action; each keeps at least FLOOR
SLOWEST_RATE = 0.03  # at which values that were learnt often still move
LEARNING_TRUST = 30  # visits before an action may look best while learning


@dataclass(slots=True)
class _Decision:
    tick: int
    state: State
    action: int
    greedy: bool


@dataclass(slots=True)
class _Recorder:
    """The policy while it learns: passes on what `LearnedPolicy` chooses and keeps the newest choices."""

    inner: LearnedPolicy
    spec: ServiceSpec
    name: str = "learned"
    newest: list[tuple[State, int] | None] = field(default_factory=list)

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:
        if not has_a_choice(view, self.spec):
            self.newest.append(None)
            return self.inner.proposal(view, WHOLE, 1.0)
        state = state_of(view)
        action, propensity = self.inner.choose(state, rng=rng)
        self.newest.append((state, action))
        return self.inner.proposal(view, action, propensity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """What was decided in B rollouts, by rollout and segment in order of time, and the rewards (ticks, B)."""

    traces: list[list[_Decision]]
    rollout: list[int]
    rewards: Floats


def train(*, seed: int, episodes: int, progress: Callable[[int], None], held_out: int = 12) -> QValues:
    """Learn from `episodes` simulated rollouts, IN_STEP at a time, and score on `held_out` other releases of a kind.

    The same seed gives the same values. `progress` is told how many episodes are done.
    """
    shape = (N_TILES, len(SHARES))
    values = QValues(values=np.zeros(shape), visits=np.zeros(shape, np.int64), origin={})
    batches = max(1, -(-episodes // IN_STEP))
    for batch in range(batches):
        explore = max(EXPLORE_LAST, EXPLORE_FIRST * (1 - 2 * batch / batches))
        policy = LearnedPolicy(values, explore=explore, margin=0.0, doubt=0.0, trusted=LEARNING_TRUST)
        release = draw(np.random.default_rng((seed, batch)))
        learn(values, policy, play(release, policy, seed=(seed, batch, 1)))
        progress(min((batch + 1) * IN_STEP, episodes))
    origin = {
        "made_by": "serinus train policy", "algorithm": "Watkins' Q(lambda), tile coding", "seed": seed,
        "episodes": episodes, "held_out_releases": held_out,
    }  # fmt: skip
    rounded = QValues.from_json(replace(values, origin=origin).to_json())
    return replace(rounded, origin=origin | (scores_of(rounded, seed=seed, n=held_out) if held_out else {}))


# -- episodes ----------------------------------------------------------------------------------------------------------


def play(release: Release, policy: LearnedPolicy, *, seed: tuple[int, ...]) -> Episode:
    """Play IN_STEP rollouts of a release under a policy."""
    recorders = [_Recorder(policy, release.spec) for _ in range(IN_STEP)]
    rollouts = Rollouts(release, recorders, seed)
    n_segments = len(release.spec.segments)
    traces: list[list[_Decision]] = [[] for _ in range(IN_STEP * n_segments)]
    rewards = []
    for tick in range(TICKS):
        split_bp, phases = rollouts.ramps.split_bp, rollouts.phases()
        rollouts.tick()
        rewards.append(rollouts.reward(split_bp))
        for b, recorder in enumerate(recorders):
            asked = [s for s in range(n_segments) if not phases[b][s].is_final]
            for s, choice in zip(asked, recorder.newest, strict=True):
                if choice is not None and phases[b][s] in (Phase.RAMPING, Phase.WARMUP):
                    state, action = choice
                    greedy = action == policy.best(state)
                    traces[b * n_segments + s].append(_Decision(tick, state, action, greedy))
            recorder.newest.clear()
        if rollouts.ramps.is_finished.all():
            break
    rewards.extend([rollouts.reward(rollouts.ramps.split_bp)] * (TICKS - len(rewards) + FOREVER))
    rollout = [b for b in range(IN_STEP) for _ in range(n_segments)]
    return Episode(traces=traces, rollout=rollout, rewards=np.array(rewards))


# -- learning ----------------------------------------------------------------------------------------------------------


def learn(values: QValues, policy: LearnedPolicy, episode: Episode) -> None:
    """Move `values`, in place, towards the returns of an episode."""
    centred = _centred(episode.rewards)
    rows, actions, errors = [], [], []
    for trace, rollout in zip(episode.traces, episode.rollout, strict=True):
        if trace:
            for decision, error in zip(trace, _errors(values, policy, trace, centred[:, rollout]), strict=True):
                rows.append(decision.state)
                actions.append(decision.action)
                errors.append(error)
    if rows:
        _move(values, np.array(rows), np.array(actions), np.array(errors))


def _centred(rewards: Floats) -> Floats:
    """(ticks, B) rewards less the mean of the other rollouts' at the same tick."""
    n = rewards.shape[1]
    centred: Floats = (rewards - rewards.mean(axis=1, keepdims=True)) * (n / max(n - 1, 1))
    return centred


def _errors(values: QValues, policy: LearnedPolicy, trace: list[_Decision], rewards: Floats) -> Floats:
    """By how much each decision's return differs from its value."""
    until = [decision.tick for decision in trace[1:]] + [len(rewards) - 1]
    errors = np.zeros(len(trace))
    following = 0.0  # return from the next decision on
    for i in range(len(trace) - 1, -1, -1):
        decision = trace[i]
        gains = rewards[decision.tick + 1 : until[i] + 1]
        gained, discount = discounted(gains)
        target = gained + discount * following
        worth = values.of(decision.state)
        errors[i] = target - worth[decision.action]
        best = float(worth[policy.best(decision.state)])
        following = TRACE * target + (1 - TRACE) * best if decision.greedy else best
    return errors


def _move(values: QValues, rows: npt.NDArray[np.int64], actions: npt.NDArray[np.int64], errors: Floats) -> None:
    """One step for every tile and action that was seen, by the mean of its errors."""
    shape = values.values.shape
    flat = (rows * len(SHARES) + actions[:, None]).ravel()
    seen = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
    total = np.bincount(flat, np.repeat(errors, len(TILINGS)), minlength=shape[0] * shape[1]).reshape(shape)
    values.visits[:] += seen
    some = seen > 0
    mean = total[some] / seen[some]
    # as a running mean over decisions would move, but never slower than SLOWEST_RATE a batch
    rate = np.clip(seen[some] / values.visits[some], SLOWEST_RATE, 1.0)
    values.values[some] += rate * mean / len(TILINGS)


assert EXPLORE_LAST / len(SHARES) >= FLOOR  # noqa: S101 -- the exploration that is promised
assert SHARES[WHOLE] == 1.0  # noqa: S101 -- what is fallen back on
