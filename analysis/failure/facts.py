"""What the risk of a release is told from: facts before it has traffic, and what its first minutes show.

What is not known is None, or missing from a mapping. It is never taken for zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

Attribute = str | float

PRIOR_RISK = 0.1
"""Probability that a release fails of which nothing is known."""

FIRST_MINUTES_S = 300.0  # after the first exposure; what comes later is the evidence's alone
MOST_ATTRIBUTES = 16  # of a release that are looked at, the first ones by name
LONGEST_TEXT = 200  # characters of a name or a value
HOURS, WEEKDAYS = 24.0, 7


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFacts:
    """What is known of a release before it has traffic.

    `releases`, `failures`: earlier releases of this service that are known to have gone well or failed, and the failed
    ones among them. `size`: of the change, in lines or whatever unit the releases are told in, >= 0. `hour` in [0, 24)
    and `weekday` 0 (Monday) to 6, UTC. `overlapping`: other rollouts that ran when it began. `since_last_h`: hours
    since the service's last release began. `attributes`: all else that was told, numbers finite.

    Raises ValueError where a value is out of its range.
    """

    service: str
    releases: int = 0
    failures: int = 0
    size: float | None = None
    kind: str | None = None
    hour: float | None = None
    weekday: int | None = None
    overlapping: int | None = None
    since_last_h: float | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.failures <= self.releases:
            raise ValueError(f"{self.failures} failures of {self.releases} releases")
        for name, value, top in (
            ("size", self.size, math.inf), ("hour", self.hour, HOURS), ("weekday", self.weekday, WEEKDAYS),
            ("overlapping", self.overlapping, math.inf), ("since_last_h", self.since_last_h, math.inf),
        ):  # fmt: skip
            if value is not None and not 0 <= value < top:
                raise ValueError(f"{name} {value} is out of range; legal: 0 <= {name} < {top}")
        if len(self.attributes) > MOST_ATTRIBUTES:
            raise ValueError(f"{len(self.attributes)} attributes; at most {MOST_ATTRIBUTES} are looked at")
        for name, attribute in self.attributes.items():
            if not isinstance(attribute, str) and not math.isfinite(attribute):
                raise ValueError(f"attribute {name} is {attribute}, no finite number")
            if max(len(name), len(attribute) if isinstance(attribute, str) else 0) > LONGEST_TEXT:
                raise ValueError(f"attribute {name[:LONGEST_TEXT]}: at most {LONGEST_TEXT} characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstMinutes:
    """What a release's first minutes show. KPIs by name; a KPI that nothing is known of is missing.

    `seen_s`: seconds since the first exposure, in [0, FIRST_MINUTES_S]. `effects`: excess of the share of bad sessions
    on the canary, pooled over segments, in its standard errors; `slopes`: the same of its growth from the first half of
    the time to the second. `anomaly`: excess share of unusual sessions, in [-1, 1]. `silence`: share of the canary's
    expected sessions that did not come, in [0, 1].
    """

    seen_s: float
    effects: Mapping[str, float] = field(default_factory=dict)
    slopes: Mapping[str, float] = field(default_factory=dict)
    anomaly: float | None = None
    silence: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seen_s <= FIRST_MINUTES_S:
            raise ValueError(f"{self.seen_s} s are out of range; legal: 0 to {FIRST_MINUTES_S:g}")
        values = [*self.effects.values(), *self.slopes.values(), self.anomaly, self.silence]
        if not all(value is None or math.isfinite(value) for value in values):
            raise ValueError("what is not known must be missing, and no NaN")


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRelease:
    """A release of which it is known whether it failed. `began_s`: when, in seconds since 1970.

    `first`: None where nothing of its traffic was recorded.
    """

    facts: ReleaseFacts
    failed: bool
    began_s: float
    first: FirstMinutes | None = None
