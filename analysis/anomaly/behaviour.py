"""Anomaly scores of sessions: the distance of what people did from what is usual, calibrated by conformal p-values.

The distance (Mahalanobis, covariance shrunk after Ledoit & Wolf 2004, scikit-learn) and the click-path chain learn from
one half of the segment's baseline sessions from before the exposure; the other half calibrates. A score of p says: a
share p of usual sessions looks at least as odd (split conformal: Vovk, Gammerman & Shafer 2005, chapter 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from sklearn.covariance import LedoitWolf

from analysis.profile.clickpath import ClickPaths

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.void]

UNUSUAL = 0.05  # a conformal p-value below this makes a session unusual
TRAIN_N = 60  # sessions of a segment before anything is scored
TRAIN_MAX_N = 2_000
MAX_LABEL = 128  # labels above share the last row of the chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What a session did up to the age at which it is judged. `path`: labels in order; times in seconds."""

    path: tuple[int, ...]
    duration_s: float

    @classmethod
    def of(cls, session: np.void, age_s: float) -> Behaviour:
        """The behaviour of one row of SESSION_DTYPE within `age_s` of its first request."""
        n = int(session["n_path"])
        within = session["path_ds"][:n] <= age_s * 10
        labels, when = session["path"][:n][within], session["path_ds"][:n][within]
        path = tuple(int(label) for label in np.minimum(labels, MAX_LABEL - 1))
        return cls(path=path, duration_s=float(when[-1]) / 10 if len(when) else 0.0)


@dataclass(slots=True)
class _SegmentModel:
    sessions: list[Behaviour] = field(default_factory=list)
    chain: ClickPaths | None = None
    usual: LedoitWolf | None = None
    scale: Floats | None = None  # (5,) standard deviations of the features
    calibration: Floats | None = None  # ascending scores


class BehaviourModel:
    """Scores sessions of S segments. Learns only from what it is given: the caller keeps exposed sessions out."""

    def __init__(self, n_segments: int, *, age_s: float) -> None:
        self._age_s = age_s
        self._models = [_SegmentModel() for _ in range(n_segments)]

    def learn(self, segment: int, sessions: Rows, labels: Sequence[str]) -> None:  # noqa: ARG002
        """Remember usual sessions; at most TRAIN_MAX_N a segment, and none once the segment is fitted."""
        model = self._models[segment]
        if model.usual is None:
            room = TRAIN_MAX_N - len(model.sessions)
            model.sessions += [Behaviour.of(session, self._age_s) for session in sessions[:room]]

    def is_fitted(self, segment: int) -> bool:
        return self._models[segment].usual is not None

    def fit(self) -> None:
        """Fit every segment that has TRAIN_N sessions and is not fitted. Even ones train, odd ones calibrate."""
        for model in self._models:
            if model.usual is None and len(model.sessions) >= TRAIN_N:
                self._fit(model)

    def _fit(self, model: _SegmentModel) -> None:
        train, held_out = model.sessions[::2], model.sessions[1::2]
        model.chain = ClickPaths(MAX_LABEL)
        model.chain.learn(session.path for session in train)
        features = _features(train, model.chain)
        model.scale = np.maximum(features.std(axis=0), 1e-3)
        model.usual = LedoitWolf().fit(features / model.scale)
        model.calibration = np.sort(_oddity(model, held_out))

    def p_values(self, segment: int, sessions: Rows, labels: Sequence[str]) -> Floats:  # noqa: ARG002
        """Conformal p-values in (0, 1], one a session; NaN for all of them while the segment is not fitted."""
        model = self._models[segment]
        if model.calibration is None or not len(sessions):
            return np.full(len(sessions), np.nan)
        odd = _oddity(model, [Behaviour.of(session, self._age_s) for session in sessions])
        at_least = len(model.calibration) - np.searchsorted(model.calibration, odd, side="left")
        p: Floats = np.asarray((1.0 + at_least) / (1.0 + len(model.calibration)), float)
        return p

    def state(self) -> list[list[list[object]]]:
        """The sessions that it was trained on; fitting them again gives the same model."""
        return [[[list(s.path), s.duration_s] for s in model.sessions] for model in self._models]

    def restore(self, state: list[list[list[object]]]) -> None:
        """Take a state that `state` gave, and fit."""
        for model, sessions in zip(self._models, state, strict=True):
            model.sessions = [Behaviour(path=tuple(path), duration_s=float(d)) for path, d in sessions]  # type: ignore[arg-type] # by `state`
        self.fit()


def _features(sessions: list[Behaviour], chain: ClickPaths) -> Floats:
    """(n, 5): requests, distinct pages, repeats of the commonest, seconds, surprise a step."""
    rows = []
    for session in sessions:
        steps = len(session.path)
        counts = np.bincount(session.path) if steps else np.zeros(1)
        rows.append(
            [
                steps,
                np.count_nonzero(counts),
                counts.max(),
                session.duration_s,
                chain.surprise(session.path) / (steps + 1),
            ]
        )
    return np.asarray(rows, float)


def _oddity(model: _SegmentModel, sessions: list[Behaviour]) -> Floats:
    assert model.usual is not None  # noqa: S101 -- callers look at `usual` or `calibration` first
    assert model.chain is not None  # noqa: S101 -- fitted together
    assert model.scale is not None  # noqa: S101 -- fitted together
    odd: Floats = np.asarray(model.usual.mahalanobis(_features(sessions, model.chain) / model.scale), float)
    return odd
