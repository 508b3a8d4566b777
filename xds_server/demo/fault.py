"""What can be wrong with a version of the shop, for whom, how much harm it is meant to do, and how it is told.

Shared by the shop (which suffers a fault), the people (who install it) and the summary (which knows what it calls for).
Serinus itself never imports this.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

SEGMENTS = ("power", "eu", "newcomers", "default")
"""The shop's people, in the order in which the mesh matches them: the first match wins."""

EVERYBODY = "*"
NEWCOMER_VISITS = 3
"""Who has been here fewer times than this is a newcomer (`x-visits`)."""

VERSION_HEADER = "x-shop-version"  # on each answer of a shop
CAUSE_HEADER = "x-demo-cause"  # on each faulty answer: `fault` or `chance`
DRAW_HEADER = "x-demo-draw"  # on the request of a person whose luck it is to meet a chance error
USER_HEADER = "x-user-id"

BASELINE, CANARY = "v1", "v2"
ONSET_S = 15.0
"""When a chosen fault starts, in seconds after the people's first arrival."""

REQUESTS_COMPLETE, REQUESTS_ABANDONED = 6.35, 3.2  # a session's requests on average; people.py makes them
P_ABANDONED, P_CHANCE_ERROR, P_REACHES_PRODUCT, P_WISHLIST = 0.10, 0.005, 0.96, 0.35


class FaultKind(StrEnum):
    ERRORS = "errors"  # `size`: share of requests answered 503
    LATENCY = "latency"  # `size`: share of requests that take `delay_ms` longer
    ABANDONMENT = "abandonment"  # `size`: share of people whose checkout leads nowhere; nothing errs or slows
    CRASH = "crash"  # every request is answered 503
    FEATURE = "feature"  # `size`: share of people whose wishlist answers 200 and does nothing


CHOICES = ("none", *FaultKind, "random", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong with `version` of the shop for the people of `segment` (or `EVERYBODY`)."""

    version: str
    segment: str
    kind: FaultKind
    size: float = 1.0
    delay_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.segment not in (*SEGMENTS, EVERYBODY):
            raise ValueError(f"segment {self.segment!r} is none of {[*SEGMENTS, EVERYBODY]}")
        if not 0 < self.size <= 1:
            raise ValueError(f"size {self.size} must lie in (0, 1]")

    def concerns(self, segment: str) -> bool:
        return self.segment in (segment, EVERYBODY)

    def excess(self) -> float:
        """Share of the segment's sessions that this fault is expected to turn bad, in [0, 1]."""
        match self.kind:
            case FaultKind.ERRORS | FaultKind.LATENCY | FaultKind.CRASH:
                spared = math.pow(1 - self.size, REQUESTS_COMPLETE)
                spared_early = math.pow(1 - self.size, REQUESTS_ABANDONED)
                return 1 - (1 - P_ABANDONED) * spared - P_ABANDONED * spared_early
            case FaultKind.ABANDONMENT:
                return (1 - P_ABANDONED) * self.size
            case FaultKind.FEATURE:
                return P_REACHES_PRODUCT * P_WISHLIST * self.size

    def usual(self) -> float:
        """Share of healthy sessions that look bad on the KPI that tells this fault: what it must stand out from."""
        match self.kind:
            case FaultKind.ERRORS | FaultKind.CRASH:
                return P_CHANCE_ERROR
            case FaultKind.LATENCY:
                return 0.0
            case FaultKind.ABANDONMENT:
                return P_ABANDONED
            case FaultKind.FEATURE:
                return 1 - P_REACHES_PRODUCT * P_WISHLIST

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, object]) -> Fault:
        """Read what `as_dict` wrote; raises ValueError when `raw` does not describe a fault."""
        try:
            return cls(
                version=str(raw["version"]),
                segment=str(raw["segment"]),
                kind=FaultKind(str(raw["kind"])),
                size=float(str(raw.get("size", 1.0))),
                delay_ms=float(str(raw.get("delay_ms", 0.0))),
            )
        except KeyError as missing:
            raise ValueError(f"a fault needs {missing}") from missing


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """The faults of one run of the demo and when they start, in seconds after the people's first arrival."""

    onset_s: float
    faults: tuple[Fault, ...]


CHOSEN: Mapping[str, tuple[Fault, ...]] = {
    "none": (),
    "errors": (Fault(version=CANARY, segment="power", kind=FaultKind.ERRORS, size=0.08),),
    "latency": (Fault(version=CANARY, segment="newcomers", kind=FaultKind.LATENCY, size=0.25, delay_ms=1_000),),
    "abandonment": (Fault(version=CANARY, segment="eu", kind=FaultKind.ABANDONMENT),),
    "crash": (Fault(version=CANARY, segment=EVERYBODY, kind=FaultKind.CRASH),),
    "feature": (Fault(version=CANARY, segment="default", kind=FaultKind.FEATURE),),
    "all": (
        Fault(version=CANARY, segment="power", kind=FaultKind.ERRORS, size=0.08),
        Fault(version=CANARY, segment="eu", kind=FaultKind.ABANDONMENT),
    ),
}

# From an excess of about a tenth of the sessions (which one minute's people cannot tell from chance on a KPI that is
# bad for many anyway) to what nobody can miss; drawn evenly on a log scale.
RANDOM_SIZES: Mapping[FaultKind, tuple[float, float]] = {
    FaultKind.ERRORS: (0.015, 0.15),
    FaultKind.LATENCY: (0.015, 0.5),
    FaultKind.ABANDONMENT: (0.12, 1.0),
    FaultKind.CRASH: (1.0, 1.0),
    FaultKind.FEATURE: (0.4, 1.0),
}


def plan_faults(choice: str, seed: int, onset_s: float = ONSET_S) -> FaultPlan:
    """Return the faults that `choice` stands for; `random` draws segment, version, kind, size and onset from `seed`."""
    if choice != "random":
        return FaultPlan(onset_s=onset_s, faults=CHOSEN[choice])
    rng = random.Random(f"fault:{seed}")
    kind = rng.choice(tuple(FaultKind))
    low, high = RANDOM_SIZES[kind]
    fault = Fault(
        segment=rng.choice(SEGMENTS),
        version=CANARY if rng.random() < 0.8 else BASELINE,
        kind=kind,
        size=min(1.0, math.exp(rng.uniform(math.log(low), math.log(high)))),
        delay_ms=rng.uniform(800, 1_200) if kind is FaultKind.LATENCY else 0.0,
    )
    return FaultPlan(onset_s=rng.uniform(10, 30), faults=(fault,))


def segment_of(headers: Mapping[str, str]) -> str:
    """Return the segment that the mesh puts a request with these headers in."""
    if headers.get("x-plan") == "pro":
        return "power"
    if headers.get("x-region") == "eu":
        return "eu"
    visits = headers.get("x-visits", "")
    if visits.isdecimal() and int(visits) < NEWCOMER_VISITS:
        return "newcomers"
    return "default"
