"""Tabular Q-learning (Watkins & Dayan 1992) under the cap: which share of the allowed room to use.

State: split, suspicion, worst excess not excluded, anomaly, each in a few bins. Action: share of the room between split
and cap. The table is an artefact with its origin and scores; `analysis.simulation.training` makes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

from analysis.errors import StateError
from analysis.policy.protocol import PolicyView, Proposal

SPLIT_EDGES = np.array([0.005, 0.1, 0.25, 0.45, 0.75, 0.93])
SUSPICION_EDGES = np.array([-0.2, 0.1, 0.3, 0.5])
EXCESS_EDGES = np.array([0.03, 0.08, 0.2, 0.5])
ANOMALY_EDGES = np.array([0.1, 0.3])
ACTIONS = np.array([0.0, 0.25, 0.5, 1.0])
SHAPE = (len(SPLIT_EDGES) + 1, len(SUSPICION_EDGES) + 1, len(EXCESS_EDGES) + 1, len(ANOMALY_EDGES) + 1, len(ACTIONS))
FORMAT = 1
ARTEFACT = "q_table.json"
MARGIN = 0.05
"""By how much another action must be worth more than the whole cap, in mean reward a tick: less than this is noise."""
DOUBT = 0.6
"""… and how much more after a single visit, shrinking with the root of the visits: about two standard errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QTable:
    """Values of shape SHAPE; `visits` how often each was learnt; `origin` seed, episodes and scores of the training."""

    values: npt.NDArray[np.float64]
    visits: npt.NDArray[np.int64]
    origin: dict[str, object]

    def to_json(self) -> str:
        """The artefact's text; numbers rounded to six places so that it is stable."""
        body = {
            "format": FORMAT,
            "origin": self.origin,
            "shape": list(SHAPE),
            "values": np.round(self.values, 6).ravel().tolist(),
            "visits": self.visits.ravel().tolist(),
        }
        return json.dumps(body, indent=None, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> QTable:
        """Read an artefact. Raises StateError where its format or shape is another one's."""
        try:
            body = json.loads(text)
            if body["format"] != FORMAT or tuple(body["shape"]) != SHAPE:
                raise StateError(
                    f"policy table of format {body['format']} and shape {body['shape']}, not {FORMAT} and {SHAPE}"
                )
            values = np.asarray(body["values"], float).reshape(SHAPE)
            visits = np.asarray(body["visits"], np.int64).reshape(SHAPE)
            return cls(values=values, visits=visits, origin=dict(body["origin"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"policy table cannot be read: {error}") from error


def load_table() -> QTable:
    """The table that is shipped with this version."""
    return QTable.from_json(resources.files("analysis.policy").joinpath(ARTEFACT).read_text())


def state_of(view: PolicyView) -> tuple[int, int, int, int]:
    """Bins of a view."""
    return (
        int(np.searchsorted(SPLIT_EDGES, view.split, side="right")),
        int(np.searchsorted(SUSPICION_EDGES, view.suspicion, side="right")),
        int(np.searchsorted(EXCESS_EDGES, view.worst_excess, side="right")),
        int(np.searchsorted(ANOMALY_EDGES, np.nan_to_num(view.anomaly), side="right")),
    )


class LearnedPolicy:
    """Chooses by the table; with `explore` > 0 (training only) at random with that probability.

    It leaves the closed form, the whole cap, only where training saw enough to tell that another action is worth more:
    near ties are noise, and a hold that ties with a step is taken for ever.
    """

    name = "learned"
    trusted_visits = 20  # of an action in a state

    def __init__(self, table: QTable, *, explore: float = 0.0, margin: float = MARGIN, doubt: float = DOUBT) -> None:
        self._table = table
        self._margin = margin
        self._doubt = doubt
        self._explore = explore

    def choose(self, view: PolicyView, *, rng: np.random.Generator) -> tuple[int, float]:
        """Index into ACTIONS and its probability."""
        best = self._best(state_of(view))
        floor = self._explore / len(ACTIONS)
        action = int(rng.integers(len(ACTIONS))) if rng.random() < self._explore else best
        return action, floor + (1 - self._explore if action == best else 0.0)

    def _best(self, state: tuple[int, ...]) -> int:
        values, whole = self._table.values[state], len(ACTIONS) - 1
        trusted = self._table.visits[state] >= self.trusted_visits
        if not trusted[whole]:
            return whole
        best = int(np.argmax(np.where(trusted, values, -np.inf)))
        visits = self._table.visits[state]
        doubt = self._doubt * np.sqrt(1 / visits[best] + 1 / visits[whole])
        return best if values[best] > values[whole] + self._margin + doubt else whole

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:
        """The split that uses the chosen share of the room below the cap."""
        action, propensity = self.choose(view, rng=rng)
        return self.proposal(view, action, propensity)

    @staticmethod
    def proposal(view: PolicyView, action: int, propensity: float) -> Proposal:
        """What an action (index into ACTIONS) comes to."""
        room = max(view.cap - view.split, 0.0)
        return Proposal(split=view.split + float(ACTIONS[action]) * room, propensity=propensity)
