"""Q-learning with function approximation under the closed form: which share of what `budget` would use to use.

State: `PolicyView`, coded by tiles (Sutton & Barto 2018, section 9.5.4): each of TILINGS puts a few features into bins,
and the value of an action is the sum of its values in the active bin of every tiling. Beside what the closed form sees
(split, cap, suspicion) it knows anomaly scores that are no proof yet, the failure prior, traffic still to come, how
long latency has to settle, and how large and how dear the segment is beside the others that share the budget.
Action: share of the step that `budget` would take, one of SHARES: never more than the closed form.
Reward: `analysis.reward`, progress less weighted harm, the anomaly score among it.
The values are an artefact with their origin and scores; `analysis.simulation.training` makes it.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources

import numpy as np
import numpy.typing as npt

from analysis.errors import StateError
from analysis.policy.closed_form import budgeted_share
from analysis.policy.protocol import FLOOR, PolicyView, Proposal

Floats = npt.NDArray[np.float64]

SHARES = (0.0, 0.25, 0.5, 1.0)
"""Actions: shares of the step that `budget` would take."""
WHOLE = len(SHARES) - 1

EDGES: Mapping[str, Sequence[float]] = {
    "split": (0.0005, 0.01, 0.05, 0.15, 0.3, 0.49, 0.7, 0.93),
    "suspicion": (-0.2, 0.05, 0.2, 0.35, 0.5),
    "worst": (0.006, 0.02, 0.06, 0.15, 0.4),
    "anomaly": (0.01, 0.05, 0.15),
    "healthy": (0.5,),
    "share": (0.1, 0.3, 0.6),
    "weight": (0.75, 1.5, 3.0),
    "risk": (0.07, 0.15, 0.3),
    "ahead": (0.8, 1.25),
    "settling": (1.0, 60.0, 150.0, 240.0),
    "at_once": (100.0, 500.0, 2_000.0, 8_000.0),
    "room": (1.25, 2.0, 4.0),  # cap over split
}
TILINGS: tuple[tuple[str, ...], ...] = (
    ("split", "suspicion", "healthy"),
    ("split", "settling", "at_once"),
    ("worst", "at_once", "room"),
    ("suspicion", "anomaly", "risk"),
    ("suspicion", "share", "weight"),
    ("split", "at_once", "ahead"),
)
FORMAT = 2
ARTEFACT = "q_values.json"
DECIMALS = 6
MARGIN = 0.05
"""By how much another action must be worth more than the whole step, in ticks of full progress: less is noise."""
DOUBT = 6.0
"""... and how much more after a single visit, shrinking with the root of the visits: about two standard errors."""
TRUSTED_VISITS = 100  # of an action in every active tile, before it is preferred to the whole step
GAMMA = 0.99  # discount of a tick
STEP_MAX, DRIFT_MAX = 0.002, 0.02
"""Bounds of learning on the job: how far one update, and all of them together, move a value from the shipped one."""

State = tuple[int, ...]
"""Row of the active tile in each tiling."""


def _offsets() -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...], int]:
    starts, strides, total = [], [], 0
    for names in TILINGS:
        lengths = [len(EDGES[name]) + 1 for name in names]
        starts.append(total)
        strides.append(tuple(int(np.prod(lengths[i + 1 :])) for i in range(len(lengths))))
        total += int(np.prod(lengths))
    return tuple(starts), tuple(strides), total


STARTS, STRIDES, N_TILES = _offsets()


def state_of(view: PolicyView) -> State:
    """The active tile of each tiling."""
    values = {
        "split": view.split, "suspicion": view.suspicion, "worst": view.worst_excess, "anomaly": view.anomaly,
        "healthy": float(view.healthy), "share": view.share, "weight": view.weight, "risk": view.risk,
        "ahead": view.ahead, "settling": view.settling_s, "at_once": view.at_once,
        "room": view.cap / max(view.split, 1e-4),
    }  # fmt: skip
    bins = {name: bisect_right(EDGES[name], value) for name, value in values.items()}
    return tuple(
        start + sum(stride * bins[name] for stride, name in zip(each, names, strict=True))
        for start, each, names in zip(STARTS, STRIDES, TILINGS, strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QValues:
    """`values`, `visits` (N_TILES, len(SHARES)): parts of an action's value by tile, and how often each was learnt.

    `origin`: seed, episodes and scores of the training.
    """

    values: Floats
    visits: npt.NDArray[np.int64]
    origin: Mapping[str, object]

    def of(self, state: State) -> Floats:
        """(len(SHARES),) value of each action: discounted reward, in ticks of full progress."""
        worth: Floats = self.values[list(state)].sum(axis=0)
        return worth

    def to_json(self) -> str:
        """The artefact's text; numbers rounded so that it is stable."""
        body = {
            "format": FORMAT,
            "origin": dict(self.origin),
            "edges": {name: list(edges) for name, edges in EDGES.items()},
            "tilings": [list(names) for names in TILINGS],
            "shares": list(SHARES),
            "values": np.round(self.values, DECIMALS).ravel().tolist(),
            "visits": self.visits.ravel().tolist(),
        }
        return json.dumps(body, separators=(",", ":")) + "\n"

    @classmethod
    def from_json(cls, text: str) -> QValues:
        """Read an artefact. Raises StateError where its format, tiles or actions are other ones."""
        try:
            body = json.loads(text)
            if body["format"] != FORMAT:
                raise StateError(f"policy values of format {body['format']}; this version reads format {FORMAT}")
            tiles = ({name: tuple(e) for name, e in body["edges"].items()}, tuple(map(tuple, body["tilings"])))
            if tiles != (dict(EDGES), TILINGS) or tuple(body["shares"]) != SHARES:
                raise StateError("policy values of other tiles or actions than this version's")
            values = np.asarray(body["values"], float).reshape(N_TILES, len(SHARES))
            visits = np.asarray(body["visits"], np.int64).reshape(values.shape)
            if not np.isfinite(values).all():
                raise StateError("policy values hold what is no number")
            return cls(values=values, visits=visits, origin=dict(body["origin"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StateError(f"policy values cannot be read: {error}") from error


def load_values() -> QValues:
    """The values that are shipped with this version."""
    return QValues.from_json(resources.files("analysis.policy").joinpath(ARTEFACT).read_text())


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A decision and what came of it until the next one: discounted reward, discount, next state (None: the end)."""

    state: State
    action: int
    gained: float
    discount: float
    following: State | None


def discounted(gains: Floats, ticks: float = 1.0) -> tuple[float, float]:
    """What rewards (n,), `ticks` apart, come to from the first one on, and the discount of what follows them."""
    n = len(gains)
    return float(gains @ GAMMA ** (np.arange(n) * ticks)), GAMMA ** (n * ticks)


def learn_bounded(values: QValues, shipped: QValues, seen: Transition, *, rate: float) -> QValues:
    """Watkins' update on the job, within bounds: no value moves by more than STEP_MAX, nor DRIFT_MAX from `shipped`.

    `rate` in (0, 1]. A reward that is no number teaches nothing.
    """
    ahead = 0.0 if seen.following is None else float(values.of(seen.following).max())
    error = seen.gained + seen.discount * ahead - float(values.of(seen.state)[seen.action])
    if not np.isfinite(error):
        return values
    step = float(np.clip(rate * error / len(TILINGS), -STEP_MAX, STEP_MAX))
    rows = list(seen.state)
    learnt, visits = values.values.copy(), values.visits.copy()
    anchor = shipped.values[rows, seen.action]
    learnt[rows, seen.action] = np.clip(learnt[rows, seen.action] + step, anchor - DRIFT_MAX, anchor + DRIFT_MAX)
    visits[rows, seen.action] += 1
    return replace(values, values=learnt, visits=visits)


class LearnedPolicy:
    """Chooses by the values; with `explore` > 0 (training, shadow) at random with that probability.

    It leaves the closed form only where training saw enough to tell that another share is worth more: near ties are
    noise, and a hold that ties with a step is taken for ever.
    """

    name = "learned"

    def __init__(
        self,
        values: QValues,
        *,
        explore: float = 0.0,
        margin: float = MARGIN,
        doubt: float = DOUBT,
        trusted: int = TRUSTED_VISITS,
    ) -> None:
        self._values = values
        self._explore = explore
        self._margin = margin
        self._doubt = doubt
        self._trusted = trusted

    @classmethod
    def shadow(cls, values: QValues) -> LearnedPolicy:
        """The policy where it only watches: every action keeps a probability of FLOOR, so that logs can judge it."""
        return cls(values, explore=FLOOR * len(SHARES))

    def best(self, state: State) -> int:
        """Index into SHARES of what it takes for best."""
        rows = list(state)
        worth = self._values.values[rows].sum(axis=0)
        visits = self._values.visits[rows].min(axis=0)
        trusted = visits >= self._trusted
        if not trusted[WHOLE]:
            return WHOLE
        doubts = self._doubt * np.sqrt(1 / np.maximum(visits, 1) + 1 / visits[WHOLE])
        surely = np.where(trusted, worth - doubts, -np.inf)
        best = int(np.argmax(surely))
        return best if surely[best] > worth[WHOLE] + self._margin else WHOLE

    def chances(self, view: PolicyView) -> Floats:
        """Probability of each of SHARES; they sum to one."""
        return self._chances(state_of(view))

    def _chances(self, state: State) -> Floats:
        chances = np.full(len(SHARES), self._explore / len(SHARES))
        chances[self.best(state)] += 1 - self._explore
        return chances

    def choose(self, state: State, *, rng: np.random.Generator) -> tuple[int, float]:
        """Index into SHARES and its probability."""
        chances = self._chances(state)
        action = min(int(np.searchsorted(np.cumsum(chances), rng.random(), side="right")), WHOLE)
        return action, float(chances[action])

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:
        """The split that takes the chosen share of the closed form's step."""
        action, propensity = self.choose(state_of(view), rng=rng)
        return self.proposal(view, action, propensity)

    @staticmethod
    def proposal(view: PolicyView, action: int, propensity: float) -> Proposal:
        """What an action, an index into SHARES, comes to."""
        return Proposal(split=view.using(SHARES[action] * budgeted_share(view)), propensity=propensity)
