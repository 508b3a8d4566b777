"""The risk of one running release, from before its traffic to the end of its first minutes.

It keeps what it needs of the model that served when the release began, so that neither a new model nor a restart
changes what is thought of a release that runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from analysis.errors import StateError
from analysis.failure.artefact import first_stage_from, first_stage_to
from analysis.failure.facts import FirstMinutes, ReleaseFacts
from analysis.failure.model import OUTSET, FailureModel, FirstStage, Prediction, Standpoint

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WORTH_TELLING = 0.05  # log-odds


class Foresight:
    """`version`: of the model, for people. `words`: what each feature is about, by its name."""

    def __init__(self, standpoint: Standpoint, first: FirstStage, *, version: str, words: Mapping[str, str]) -> None:
        self.version = version
        self._standpoint, self._first, self._words = standpoint, first, dict(words)
        self._seen: FirstMinutes | None = None
        self.prediction: Prediction = standpoint.predict()

    @classmethod
    def of(cls, model: FailureModel, facts: ReleaseFacts, *, version: str) -> Foresight:
        """What this model thinks of a release that is about to begin."""
        return cls(model.standpoint(facts), model.first, version=version, words=in_words(facts))

    @property
    def risk(self) -> float:
        return self.prediction.risk

    def learn(self, first: FirstMinutes | None) -> None:
        """Take what the first minutes show by now; None: nobody was exposed yet."""
        if first != self._seen:
            self._seen, self.prediction = first, self._standpoint.predict(first, self._first)

    def told(self, most: int = 3) -> tuple[str, ...]:
        """What drove the risk, the largest first, with log-odds: 'change of 1,200 (+0.4)'."""
        words = self._words | first_in_words(self._seen)
        parts = [each for each in self.prediction.contributions if each.about != OUTSET]
        parts.sort(key=lambda each: -abs(each.log_odds))
        return tuple(
            f"{words.get(part.about, part.about)} ({part.log_odds:+.1f})"
            for part in parts[:most]
            if abs(part.log_odds) >= WORTH_TELLING
        )

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as JSON-able values."""
        return {
            "version": self.version,
            "parts": [list(part) for part in self._standpoint.parts],
            "variance": self._standpoint.variance,
            "weight": self._standpoint.weight,
            "first": first_stage_to(self._first),
            "words": self._words,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Foresight:
        """Take a state that `state` gave; what has been seen must be learnt again. Raises StateError where damaged."""
        try:
            parts = tuple((str(about), float(log_odds)) for about, log_odds in state["parts"])
            variance, weight = float(state["variance"]), float(state["weight"])
            is_sound = parts and all(math.isfinite(log_odds) for _, log_odds in parts) and variance >= 0
            if not (is_sound and math.isfinite(variance) and 0 <= weight <= 1):
                raise ValueError("what was known of the release is damaged")  # noqa: TRY301 -- told as all else below
            return cls(
                Standpoint(parts=parts, variance=variance, weight=weight),
                first_stage_from(state["first"]),
                version=str(state["version"]),
                words={str(about): str(text) for about, text in state["words"].items()},
            )
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise StateError(f"the stored risk of a release cannot be read: {error!r}") from error


def in_words(facts: ReleaseFacts) -> dict[str, str]:
    """What each feature is about, for people."""
    of_service = f"{facts.failures} of {facts.releases} earlier releases of {facts.service} failed"
    words = {
        "service": f"what {facts.service} is like otherwise",
        "record": of_service,
        "size": "size of the change unknown" if facts.size is None else f"change of {facts.size:,.0f}",
        "kind": "kind of the change unknown" if facts.kind is None else f"a change of kind {facts.kind}",
        "overlapping": f"{facts.overlapping} other rollouts running",
        "pause": f"the first known release of {facts.service}",
    }
    if facts.hour is not None:
        words["night"] = words["morning"] = f"the time of day, {int(facts.hour):02d}:{int(facts.hour % 1 * 60):02d} UTC"
    if facts.weekday is not None:
        words["weekday"] = WEEKDAYS[facts.weekday]
    if facts.since_last_h is not None:
        words["pause"] = f"{_pause(facts.since_last_h)} since its last release"
    told = {f"attribute {name}": f"{name} {value if isinstance(value, str) else f'{value:g}'}"
            for name, value in facts.attributes.items()}  # fmt: skip
    return words | told


def _pause(hours: float) -> str:
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} d"


def first_in_words(first: FirstMinutes | None) -> dict[str, str]:
    """What each feature of the first minutes is about, for people."""
    if first is None:
        return {}
    words = {"seen": f"nothing worse in {first.seen_s:.0f} s"}
    if first.effects:
        kpi, z = max(first.effects.items(), key=lambda each: each[1])
        words["shown"] = f"{kpi} {abs(z):.1f} standard errors {'worse' if z > 0 else 'better'} on the canary"
    if first.anomaly is not None:
        words["anomaly"] = f"{first.anomaly:+.1%} unusual sessions on the canary"
    if first.silence is not None:
        words["silence"] = f"{first.silence:.0%} of the canary's sessions missing"
    return words
