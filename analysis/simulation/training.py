"""Training of the policy `learned`: Watkins' Q-learning on simulated rollouts that the live `Ramp` steers.

Decision points are the ticks at which a segment may rise; between two of them the reward of every tick adds up. An
episode goes on for ever after its last decision (promoted: the canary's true harm at the full split; rolled back:
nothing), so that neither a missed fault nor a false rollback needs a penalty of its own. Later ticks count less, and a
rollout that is cut off goes on at its value: what a state is worth must not hang on how late in an episode it came.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from analysis.decision import Phase
from analysis.guard import SMALLEST_BP, SUSPICIOUS, UNKNOWN_CEILING_BP
from analysis.policy import BudgetPolicy, FixedPolicy, LearnedPolicy, Policy, PolicyView, Proposal, QTable
from analysis.policy.learned import ACTIONS, SHAPE, state_of
from analysis.ramp import Ramp
from analysis.reward import ERROR, reward
from analysis.simulation.counts import CountSimulator, SegmentWorld
from analysis.spec import (
    TOTAL_BP,
    HarmSpec,
    KpiKind,
    KpiSpec,
    RolloutSpec,
    SegmentSpec,
    ServiceSpec,
)

GAMMA = 0.98  # discount of a tick; values are means of a tick's reward, those of the next 50 ticks or so
FOREVER = 400  # ticks after which nothing counts any more
EXPLORE_FIRST, EXPLORE_LAST = 0.8, 0.2  # chance of a random action; with four actions each keeps at least 0.05
LEARNING_MARGIN = 0.02  # while learning, what looks better by less is tried too
SLOWEST_RATE = 0.02  # at which a state seen often is still corrected
BAD_SHARE = 0.35  # of segments
SEGMENTS = {"demo": ("power", "eu", "newcomers", "default"), "production": ("eu", "default")}
RATES = {"demo": (2.0, 40.0), "production": (0.5, 20.0)}  # lowest and highest number of sessions/s in a segment
HORIZONS = {"demo": 90, "production": 110}  # ticks
HELD_OUT = 16  # rollouts at each pace that score a table
NOT_TRAINING = 1_000_003  # keeps the held-out seeds apart from the training's


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A service, its people and the truth; `horizon` in ticks. `seed` of everything that happens in it."""

    pace: str
    spec: ServiceSpec
    world: tuple[SegmentWorld, ...]
    horizon: int
    seed: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one segment's rollout went. `reward`: mean of all ticks, in [-1, 1]; `harm`: expected excess bad sessions."""

    good: bool
    phase: Phase
    seconds: float
    reward: float
    harm: float


@dataclass(slots=True, kw_only=True)
class _Step:
    """A decision and what came of it until the next one: discounted reward, discount, next state (None: the end)."""

    state: tuple[int, ...]
    action: int
    gained: float = 0.0
    discount: float = 1.0
    following: tuple[int, ...] | None = None


@dataclass(slots=True, kw_only=True)
class _Recorder:
    """The policy while it learns: passes on what `LearnedPolicy` chooses and keeps it for the trace."""

    inner: LearnedPolicy
    name: str = "learned"
    calls: list[tuple[PolicyView, int]] = field(default_factory=list)

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:
        action, propensity = self.inner.choose(view, rng=rng)
        self.calls.append((view, action))
        return self.inner.proposal(view, action, propensity)


def train(*, seed: int, episodes: int, progress: Callable[[int], None], held_out: int = HELD_OUT) -> QTable:
    """Learn a table from `episodes` simulated rollouts and score it on `held_out` others at each pace.

    The same seed gives the same table. `progress` is told how many episodes are done.
    """
    table = QTable(values=np.zeros(SHAPE), visits=np.zeros(SHAPE, np.int64), origin={})
    for done in range(episodes):
        explore = max(EXPLORE_LAST, EXPLORE_FIRST * (1 - 2 * done / episodes))
        _learn(table, _episode(table, draw((seed, done)), explore))
        progress(done + 1)
    return replace(table, origin=_origin(table, seed, episodes, held_out))


def _origin(table: QTable, seed: int, episodes: int, held_out: int) -> dict[str, object]:
    scores = _scores(table, seed, held_out) if held_out else {}
    return {
        "made_by": "analysis.simulation.training", "algorithm": "tabular Q-learning", "seed": seed,
        "episodes": episodes, "held_out_rollouts": held_out, "scores": scores,
        "finding": {pace: _finding(by_policy) for pace, by_policy in scores.items()},
    }  # fmt: skip


# -- scenarios --------------------------------------------------------------------------------------------------------


def draw(seed: tuple[int, ...], pace: str | None = None) -> Scenario:
    """A scenario from a seed: at the demo's pace or at one as in production, good segments and bad ones."""
    rng = np.random.default_rng(seed)
    drawn = "demo" if rng.random() < 0.5 else "production"
    pace = pace or drawn
    spec = _demo_spec(rng) if pace == "demo" else _production_spec(rng)
    horizon = HORIZONS[pace]
    last_onset_s = horizon * spec.rollout.interval_s / 3
    world = tuple(_segment(rng, spec, last_onset_s) for _ in spec.segments)
    return Scenario(pace=pace, spec=spec, world=world, horizon=horizon, seed=(*seed, 1))


def _demo_spec(rng: np.random.Generator) -> ServiceSpec:
    ages = (4.0, 4.0, float(rng.uniform(8, 10)), 10.0, 10.0)
    rollout = RolloutSpec(
        harm=HarmSpec(budget=500, tolerance=0.02), interval_s=1, warmup_s=5, min_dwell_s=2, horizon_s=60, bake_s=10
    )
    return _spec("demo", ages, rollout)


def _production_spec(rng: np.random.Generator) -> ServiceSpec:
    """Ticks ten times as long, a tight budget; the bake is cut short, since nothing is chosen while it lasts."""
    quick_s = 60.0
    slow_s = float(np.exp(rng.uniform(np.log(60), np.log(300))))
    rollout = RolloutSpec(
        harm=HarmSpec(budget=float(rng.choice([50, 100, 200])), tolerance=0.02),
        interval_s=10, warmup_s=60, min_dwell_s=10, horizon_s=600, bake_s=120,
    )  # fmt: skip
    return _spec("production", (quick_s, quick_s, slow_s, slow_s, slow_s), rollout)


def _spec(pace: str, ages_s: tuple[float, ...], rollout: RolloutSpec) -> ServiceSpec:
    """No KPI has a limit: forecasts cost most of a tick and are the guard's matter, not the policy's."""
    tolerance = rollout.harm.tolerance
    kinds = (
        (KpiKind.ERROR_RATE, tolerance), (KpiKind.LATENCY, 0.05), (KpiKind.ABANDONMENT, tolerance),
        (KpiKind.FEATURE, 0.05), (KpiKind.ANOMALY, 0.1),
    )  # fmt: skip
    kpis = tuple(
        KpiSpec(kind=kind, judge_after_s=age_s, tolerance=accepted, feature="any" if kind is KpiKind.FEATURE else None)
        for (kind, accepted), age_s in zip(kinds, ages_s, strict=True)
    )
    segments = tuple(SegmentSpec(name=name) for name in SEGMENTS[pace])
    return ServiceSpec(name=pace, baseline="v1", versions=("v1", "v2"), segments=segments, kpis=kpis, rollout=rollout)


def _segment(rng: np.random.Generator, spec: ServiceSpec, last_onset_s: float) -> SegmentWorld:
    base = tuple(rng.uniform((0.002, 0.02, 0.05, 0.5, 0.02), (0.02, 0.06, 0.2, 0.8, 0.06)).tolist())
    excess = np.zeros(len(spec.kpis))
    if rng.random() < BAD_SHARE:
        kind = int(rng.integers(4))
        most = 1 - base[kind] - 0.01
        excess[kind] = np.exp(rng.uniform(np.log(min(2 * spec.kpis[kind].tolerance, most)), np.log(most)))
        excess[4] = 0.5 * excess[kind] if kind >= 2 else 0.0  # sessions cut short, or unlike the others, look unusual
    return SegmentWorld(
        sessions_per_s=float(np.exp(rng.uniform(*np.log(RATES[spec.name])))), base=base, excess=tuple(excess.tolist()),
        onset_s=float(rng.choice([0.0, rng.uniform(0, last_onset_s)])),
    )  # fmt: skip


# -- episodes ---------------------------------------------------------------------------------------------------------


class _Rollout:
    """One scenario under one policy, tick by tick."""

    def __init__(self, scenario: Scenario, policy: Policy) -> None:
        self.scenario = scenario
        arms = dict.fromkeys(scenario.spec.segment_index, ("v1", "v2"))
        self.ramp = Ramp(scenario.spec, policy, arms)
        people, chance = np.random.default_rng(scenario.seed).spawn(2)
        self.people = CountSimulator(scenario.spec, scenario.world, rng=people)
        self._chance = chance  # apart from the people's, who so are the same under every policy that does the same
        self.ticks = 0
        n_segments = len(scenario.world)
        self.rewards = np.zeros(n_segments)
        self.harm = np.zeros(n_segments)
        self.final_s = np.full(n_segments, np.nan)
        # what makes a tolerated excess of errors cost as much as full progress is worth
        self._weight = 1 / (ERROR * scenario.spec.rollout.harm.tolerance)

    @property
    def is_decided(self) -> bool:
        """Whether no choice is left. A good canary's bake is not played: it ends in promotion but for 1 in 100."""
        states = zip(self.scenario.world, self.ramp.segments.values(), strict=True)
        return all(s.phase.is_final or (world.is_good and s.phase is Phase.BAKING) for world, s in states)

    @property
    def is_over(self) -> bool:
        return self.ramp.is_finished or self.ticks >= self.scenario.horizon

    def tick(self) -> npt.NDArray[np.float64]:
        """One tick; gives each segment's reward for it, in [-1, 1]."""
        splits = [state.split_bp for state in self.ramp.segments.values()]
        at_s = self.people.now_s + self.scenario.spec.rollout.interval_s / 2
        gained = np.array([self.reward(i, splits[i] / TOTAL_BP, at_s) for i in range(len(splits))])
        window = self.people.advance(splits)
        harm = self.people.harm_rates(at_s)
        self.harm += window.exposed * (harm[:, 1] - harm[:, 0])
        self.ramp.step(window, now_s=self.people.now_s, rng=self._chance)
        self.ticks += 1
        self.rewards += gained
        for i, (name, state) in enumerate(self.ramp.segments.items()):
            self.ramp.confirm(name)
            if state.phase.is_final and np.isnan(self.final_s[i]):
                self.final_s[i] = self.people.now_s
        return gained

    def reward(self, segment: int, split: float, at_s: float) -> float:
        """The reward of one tick by what is true, not by what was seen."""
        world = self.scenario.world[segment]
        errors, slow, abandoned, feature, anomaly = world.excess if at_s >= world.onset_s else (0.0,) * 5
        return reward(
            split=split, errors=errors, slowness=slow, abandonment=max(abandoned, feature), anomaly=anomaly,
            weight=self._weight,
        ).value  # fmt: skip

    def rest(self, segment: int, ticks: int) -> npt.NDArray[np.float64]:
        """Rewards of the next ticks, in which nothing is decided any more."""
        split = list(self.ramp.segments.values())[segment].split_bp / TOTAL_BP
        interval_s = self.scenario.spec.rollout.interval_s
        at = self.people.now_s + interval_s * (np.arange(ticks) + 0.5)
        return np.array([self.reward(segment, split, float(at_s)) for at_s in at])

    def ending(self, segment: int) -> Ending:
        """How the segment's rollout went; what was final counts as it is up to the horizon."""
        rest = self.rest(segment, self.scenario.horizon - self.ticks)
        return Ending(
            good=self.scenario.world[segment].is_good,
            phase=list(self.ramp.segments.values())[segment].phase,
            seconds=float(self.final_s[segment]),
            reward=float(self.rewards[segment] + rest.sum()) / self.scenario.horizon,
            harm=float(self.harm[segment]),
        )


def _episode(table: QTable, scenario: Scenario, explore: float) -> list[list[_Step]]:
    """Play a scenario; each segment's decisions, in order."""
    recorder = _Recorder(inner=LearnedPolicy(table, explore=explore, margin=LEARNING_MARGIN, doubt=0.0))
    rollout = _Rollout(scenario, recorder)
    traces: list[list[_Step]] = [[] for _ in scenario.world]
    while not (rollout.is_over or rollout.is_decided):
        recorder.calls.clear()
        rising = [
            _is_rising(rollout.ramp, i, rollout.people.now_s + scenario.spec.rollout.interval_s)
            for i in range(len(traces))
        ]
        gained = rollout.tick()
        for i, trace in enumerate(traces):
            if trace:
                _add(trace[-1], gained[i])
            view, action = recorder.calls[i]
            if rising[i] and _has_a_choice(view, scenario.spec):
                if trace:
                    trace[-1].following = state_of(view)
                trace.append(_Step(state=state_of(view), action=action))
    for i, (trace, state) in enumerate(zip(traces, rollout.ramp.segments.values(), strict=True)):
        if trace and state.phase is Phase.RAMPING:
            trace[-1].following = state_of(recorder.calls[i][0])
        elif trace:
            for value in rollout.rest(i, FOREVER):
                _add(trace[-1], value)
    return traces


def _add(step: _Step, value: float) -> None:
    step.gained += (1 - GAMMA) * step.discount * value
    step.discount *= GAMMA


def _is_rising(ramp: Ramp, segment: int, now_s: float) -> bool:
    """Whether the segment may take a step at the tick that ends then."""
    spec = ramp.spec.rollout
    state = ramp.segments[ramp.spec.segments[segment].name]
    dwelt = state.split_bp == 0 or now_s - state.changed_s >= spec.min_dwell_s
    return dwelt and (state.phase is Phase.RAMPING or (state.phase is Phase.WARMUP and now_s >= spec.warmup_s))


def _has_a_choice(view: PolicyView, spec: ServiceSpec) -> bool:
    """Whether the guard would let the split rise at all."""
    ceiling_bp = min(view.cap * TOTAL_BP, spec.rollout.bake_split_bp)
    if not view.healthy:
        ceiling_bp = min(ceiling_bp, UNKNOWN_CEILING_BP)
    return view.suspicion < SUSPICIOUS and ceiling_bp - view.split * TOTAL_BP >= 1 and ceiling_bp >= SMALLEST_BP


def _learn(table: QTable, traces: list[list[_Step]]) -> None:
    """Watkins' update for every step, the last first: so the whole trace learns of its ending at once (Lin 1992)."""
    for trace in traces:
        for step in reversed(trace):
            ahead = 0.0 if step.following is None else float(table.values[step.following].max())
            at = (*step.state, step.action)
            table.visits[at] += 1
            rate = max(SLOWEST_RATE, float(table.visits[at]) ** -0.7)
            table.values[at] += rate * (step.gained + step.discount * ahead - table.values[at])


# -- scores -----------------------------------------------------------------------------------------------------------


def play(scenario: Scenario, policy: Policy) -> tuple[Ending, ...]:
    """Play a scenario under a policy; how each segment ended."""
    rollout = _Rollout(scenario, policy)
    while not rollout.is_over:
        rollout.tick()
    return tuple(rollout.ending(i) for i in range(len(scenario.world)))


def _scores(table: QTable, seed: int, n: int) -> dict[str, dict[str, dict[str, float | None]]]:
    policies: tuple[Policy, ...] = (LearnedPolicy(table), BudgetPolicy(), FixedPolicy())
    return {
        pace: {
            policy.name: score([play(draw((seed, NOT_TRAINING, i), pace), policy) for i in range(n)])
            for policy in policies
        }
        for pace in ("demo", "production")
    }


def _finding(scores: dict[str, dict[str, float | None]]) -> str:
    """Whether learning was worth it, in words."""
    learned, budget = scores["learned"], scores["budget"]
    gain = (learned["mean_reward"] or 0.0) - (budget["mean_reward"] or 0.0)
    noise = learned["reward_standard_error"] or 0.0
    word = "no different from" if abs(gain) <= 2 * noise else "better than" if gain > 0 else "worse than"
    return f"{word} budget: mean reward differs by {gain:+.4f}, standard error {noise:.4f}"


def score(rollouts: list[tuple[Ending, ...]]) -> dict[str, float | None]:
    """What a policy came to over several rollouts. Shares in [0, 1], None where there is nothing to share."""
    endings = [ending for rollout in rollouts for ending in rollout]
    good, bad = [e for e in endings if e.good], [e for e in endings if not e.good]
    full = [e.seconds for e in good if e.phase is Phase.PROMOTED]
    return {
        "mean_reward": _mean([e.reward for e in endings]),
        "reward_standard_error": round(float(np.std([e.reward for e in endings]) / np.sqrt(len(endings))), 4),
        "excess_bad_sessions_a_rollout": _mean([sum(e.harm for e in rollout) for rollout in rollouts]),
        "good_promoted": _mean([e.phase is Phase.PROMOTED for e in good]),
        "median_seconds_to_full": round(float(np.median(full)), 1) if full else None,
        "good_rolled_back": _mean([e.phase is Phase.ROLLED_BACK for e in good]),
        "good_withdrawn": _mean([e.phase is Phase.WITHDRAWN for e in good]),
        "bad_promoted": _mean([e.phase is Phase.PROMOTED for e in bad]),
        "bad_taken_back": _mean([e.phase in (Phase.ROLLED_BACK, Phase.WITHDRAWN) for e in bad]),
    }


def _mean(values: list[float] | list[bool]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


assert EXPLORE_LAST / len(ACTIONS) >= 0.05  # noqa: S101 -- the exploration that the docstring promises
