"""Anomaly scores of sessions: conformal p-values against their segment's usual sessions, and what drove them.

A p-value of p says: a share p of usual sessions looks at least as odd. The segment's profile learns from baseline
sessions from before the exposure; canary and baseline sessions are then scored by the same profile.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.profile.drift import Drift, drift
from analysis.profile.features import NAMES, Visits
from analysis.profile.hours import WEEK_H, HourOfWeek
from analysis.profile.oddity import CIRCLES, FEW, SIGNALS, TOGETHER, WAY
from analysis.profile.paths import Rows
from analysis.profile.profile import Profile, train
from analysis.profile.reservoir import Reservoir

Floats = npt.NDArray[np.float64]

UNUSUAL = 0.05  # a conformal p-value below this makes a session unusual
TRAIN_N = 60  # sessions of a segment before anything is scored
PROTECT = 0.005  # a session below this p-value teaches nothing to a profile that is trained anew
DRIVERS = 3  # features that are named for a score
DRIVER_SHARE = 0.05  # of the score, below which a feature is not named


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """One feature's part in a session's score.

    `value`, `usual`: of this session, and the median of its segment's usual ones; of a step the chance that it is
    taken, and that of the commonest step from there. `weight`: share of the score in [0, 1].
    """

    name: str
    value: float
    usual: float
    weight: float

    def __str__(self) -> str:
        return f"{self.name}: {self.value:.3g}, usually {self.usual:.3g}"


@dataclass(slots=True)
class _Segment:
    reservoir: Reservoir = field(default_factory=Reservoir)
    hours: HourOfWeek = field(default_factory=HourOfWeek)
    profile: Profile | None = None
    kept: str | None = None  # profile or sample, as `state` tells it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """Usual sessions of a segment, and the labels that they are told in; to be learnt from anywhere."""

    sessions: Rows
    labels: tuple[str, ...]
    hours: Floats
    age_s: float

    def learn(self, rng: np.random.Generator, *, trained_unix_ns: int = 0) -> Profile:
        """The profile of these sessions."""
        return train(
            self.sessions, self.labels, age_s=self.age_s, rng=rng, trained_unix_ns=trained_unix_ns, hours=self.hours
        )


class BehaviourModel:
    """Scores sessions of S segments by what they had done `age_s` after their start.

    Learns only from what it is given: the caller keeps exposed sessions out. It leaves out bots by itself, and, once it
    has a profile, what is as odd by that as one usual session in two hundred. Bounded: a sample of sessions a segment.
    """

    def __init__(self, n_segments: int, *, age_s: float) -> None:
        self.age_s = age_s
        self._segments = [_Segment() for _ in range(n_segments)]

    def learn(self, segment: int, sessions: Rows, labels: Sequence[str]) -> None:
        """Take usual sessions (SESSION_DTYPE) into the sample that the segment's next profile is trained on."""
        model = self._segments[segment]
        usual = sessions[~sessions["bot"]]
        if model.profile is not None and len(usual):
            usual = usual[self.p_values(segment, usual, labels) >= PROTECT]
        model.reservoir.offer(usual, labels)
        if model.profile is None and len(usual):
            model.kept = None

    def count(self, segment: int, sessions: Rows) -> None:
        """Count sessions of people in their hours of the week: on either version, usual or not."""
        self._segments[segment].hours.observe(sessions["start_unix_ns"])

    def hours(self) -> Floats:
        """(S, 168) sessions an hour by hour of the week (see HourOfWeek), by the profiles in force; NaN: not known."""
        profiles = [model.profile for model in self._segments]
        return np.array([np.full(WEEK_H, np.nan) if each is None else each.hours for each in profiles])

    def is_fitted(self, segment: int) -> bool:
        return self._segments[segment].profile is not None

    def fit(self, rng: np.random.Generator) -> None:
        """Train a profile for every segment that has none and has TRAIN_N sessions."""
        for segment, model in enumerate(self._segments):
            if model.profile is None:
                self.retrain(segment, rng)

    def retrain(self, segment: int, rng: np.random.Generator, *, trained_unix_ns: int = 0) -> bool:
        """Train the segment's profile anew on the sessions since the last time; False where they are too few."""
        lesson = self.lesson(segment)
        if lesson is None:
            return False
        self.take(segment, lesson.learn(rng, trained_unix_ns=trained_unix_ns))
        return True

    def lesson(self, segment: int) -> Lesson | None:
        """What the segment's next profile is to be trained on, as it is now; None where that is too little."""
        model = self._segments[segment]
        if len(model.reservoir) < TRAIN_N:
            return None
        return Lesson(
            sessions=model.reservoir.sessions,
            labels=model.reservoir.labels,
            hours=model.hours.rates(),
            age_s=self.age_s,
        )

    def take(self, segment: int, profile: Profile) -> None:
        """Score by a profile that was just trained; what comes from now on is for the next one."""
        model = self._segments[segment]
        self._set(model, profile)
        model.reservoir = Reservoir()

    def waiting_n(self, segment: int) -> int:
        """Sessions seen since the last training."""
        return self._segments[segment].reservoir.seen_n

    def false_alarms(self, segment: int) -> tuple[int, int]:
        """Of how many usual sessions since the training how many were called unusual. (0, 0) without a profile."""
        model = self._segments[segment]
        if model.profile is None or not len(model.reservoir):
            return 0, 0
        p = model.profile.p_values(model.profile.visits(model.reservoir.sessions, model.reservoir.labels))
        return len(p), int((p < UNUSUAL).sum())

    def drift(self, segment: int) -> Drift | None:
        """How far the sessions since the training are from it; None while there is no profile, or are too few."""
        model = self._segments[segment]
        if model.profile is None:
            return None
        return drift(model.profile, model.profile.visits(model.reservoir.sessions, model.reservoir.labels))

    def adopt(self, segment: int, profile: bytes) -> None:
        """Score by a profile that was kept (`Profile.to_bytes`). Raises StateError where it cannot be read."""
        self._set(self._segments[segment], Profile.from_bytes(profile))

    def profile(self, segment: int) -> Profile | None:
        return self._segments[segment].profile

    @staticmethod
    def _set(model: _Segment, profile: Profile) -> None:
        model.profile, model.kept = profile, None
        if model.hours.hour is None:  # after a restart
            model.hours = HourOfWeek.going_on(profile.hours)

    def p_values(self, segment: int, sessions: Rows, labels: Sequence[str]) -> Floats:
        """Conformal p-values in (0, 1], one a session; NaN for all of them while the segment has no profile."""
        profile = self._segments[segment].profile
        if profile is None or len(sessions) == 0:
            return np.full(len(sessions), np.nan)
        return profile.p_values(profile.visits(sessions, labels))

    def drivers(self, segment: int, sessions: Rows, labels: Sequence[str]) -> tuple[tuple[Driver, ...], ...]:
        """What made each session's score, largest part first, at most DRIVERS; none while there is no profile."""
        profile = self._segments[segment].profile
        if profile is None or len(sessions) == 0:
            return ((),) * len(sessions)
        return drivers(profile, profile.visits(sessions, labels))

    def state(self) -> list[Mapping[str, str]]:
        """For JSON: each segment's profile, or, before it has one, the sample that it will be trained on."""
        return [self._kept(model) for model in self._segments]

    @staticmethod
    def _kept(model: _Segment) -> Mapping[str, str]:
        name, kept = ("sample", model.reservoir) if model.profile is None else ("profile", model.profile)
        if model.kept is None:
            model.kept = base64.b64encode(kept.to_bytes()).decode()
        return {name: model.kept}

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take a state that `state` gave: the same scores. Raises StateError, or ValueError and its like, on damage."""
        restored = []
        for kept in state:
            if "profile" in kept:
                restored.append(_Segment())
                self._set(restored[-1], Profile.from_bytes(base64.b64decode(kept["profile"])))
            else:
                restored.append(_Segment(reservoir=Reservoir.from_bytes(base64.b64decode(kept["sample"]))))
        if len(restored) != len(self._segments):
            raise ValueError(f"behaviour of {len(restored)} segments, not of {len(self._segments)}")
        self._segments = restored


_FEATURE_OF = {f"few {name}": name for name in FEW}


def drivers(profile: Profile, visits: Visits) -> tuple[tuple[Driver, ...], ...]:
    """What made the score of each visit, largest part first, at most DRIVERS of them."""
    oddity = profile.oddity
    signals = oddity.signals(visits)
    parts = oddity.parts(signals)
    shares = np.exp(parts - np.logaddexp.reduce(parts, axis=1)[:, None])
    steps = _rarest_steps(profile, visits)
    counts = signals[:, [SIGNALS.index(name) for name in NAMES]]
    repeats = counts[:, NAMES.index("most repeats")] > oddity.medians[SIGNALS.index("most repeats")]
    oddest = np.argmax(oddity.usual.contributions(counts), axis=1)

    def told(feature: str, part: float, row: int) -> Driver:
        if feature == WAY:
            name, value, usual = steps[row]
            return Driver(name=name, value=value, usual=usual, weight=part)
        column = SIGNALS.index(feature)
        value, usual = float(signals[row, column]), float(oddity.medians[column])
        return Driver(name=feature, value=value, usual=usual, weight=part)

    named = []
    for row, share in enumerate(shares):
        parts_of: dict[str, float] = {}
        for name, part in zip(SIGNALS, share.tolist(), strict=True):
            feature = _FEATURE_OF.get(name, name)
            if name == TOGETHER:
                feature = NAMES[oddest[row]]
            elif name == CIRCLES:  # a way that is rare, and that foretells itself only if it repeats itself
                feature = "most repeats" if repeats[row] else WAY
            parts_of[feature] = parts_of.get(feature, 0.0) + part
        largest = sorted(parts_of.items(), key=lambda item: -item[1])[:DRIVERS]
        named.append(tuple(told(feature, part, row) for feature, part in largest if part >= DRIVER_SHARE))
    return tuple(named)


def _rarest_steps(profile: Profile, visits: Visits) -> list[tuple[str, float, float]]:
    """The least likely step of each visit: its name, its chance, and the chance of the commonest step from there."""
    mixture = profile.oddity.mixture
    before, after, chance = mixture.rarest_steps(visits.paths)
    commonest = (mixture.shares @ mixture.rows.max(axis=2))[before]
    texts = (*profile.labels, None)
    return [
        (f"{texts[a] or 'start'} → {texts[b] or 'end'}", float(value), float(usual))
        for a, b, value, usual in zip(before, after, chance, commonest, strict=True)
    ]
