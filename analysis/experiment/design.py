"""What an experiment compares, what it is judged by, and how its people are shared out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from analysis.errors import SpecError

MAX_VARIANTS, MAX_METRICS, MAX_SEGMENTS = 10, 50, 1_000
FLOOR = 0.05
"""Least share of a variant that is not withdrawn: below it nothing more is learnt of a variant that began unluckily."""
_NEAR = 1e-6  # sums of shares that differ from 1 by less are 1


class Kind(StrEnum):
    """What a metric measures of a person."""

    RATE = "rate"  # yes or no: 0 or 1
    MEAN = "mean"  # a number, such as the revenue of a session


class Better(StrEnum):
    """Which way a metric ought to go."""

    UP = "up"
    DOWN = "down"

    @property
    def sign(self) -> int:
        return 1 if self is Better.UP else -1


class Allocation(StrEnum):
    """How newcomers are shared out."""

    FIXED = "fixed"  # as the variants' shares say
    THOMPSON = "thompson"  # as often as a variant is likely to be the best: fewest people on the worse ones
    BEST_ARM = "best-arm"  # top-two: soonest sure of which one is the best


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure of a person's behaviour, in its own unit; the first that is no guardrail decides who wins.

    `margin`: of a guardrail, by how much (absolute, >= 0) it may get worse; None for a goal.
    """

    name: str
    kind: Kind = Kind.RATE
    better: Better = Better.UP
    margin: float | None = None

    def __post_init__(self) -> None:
        _named(self.name, "a metric")
        if self.margin is not None and not (math.isfinite(self.margin) and self.margin >= 0):
            raise SpecError(f"metric {self.name}: margin is {self.margin}; legal: a number from 0 on")

    @property
    def is_guardrail(self) -> bool:
        return self.margin is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """`version`: what its people are routed to. `share`: of the newcomers at first, in (0, 1]."""

    name: str
    version: str
    share: float

    def __post_init__(self) -> None:
        _named(self.name, "a variant")
        _named(self.version, f"variant {self.name}: its version")
        if not 0 < self.share <= 1:
            raise SpecError(f"variant {self.name}: share is {self.share}; legal: above 0, at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment; the first of its variants is the control.

    `alpha`: chance, at most, that any conclusion about winners and losers is ever wrong. `start_s`, `end_s`: seconds of
    event time; whoever is exposed first outside of them is not in it. `floor`: least share of a variant in play.
    Raises SpecError.
    """

    name: str
    variants: tuple[Variant, ...]
    metrics: tuple[Metric, ...]
    segments: tuple[str, ...] = ("default",)
    allocation: Allocation = Allocation.FIXED
    floor: float = FLOOR
    start_s: float = -math.inf
    end_s: float = math.inf
    alpha: float = 0.05

    def __post_init__(self) -> None:
        _named(self.name, "an experiment")
        for what, names, least, most in (
            ("variants", [variant.name for variant in self.variants], 2, MAX_VARIANTS),
            ("metrics", [metric.name for metric in self.metrics], 1, MAX_METRICS),
            ("segments", list(self.segments), 1, MAX_SEGMENTS),
        ):
            if not least <= len(names) <= most:
                raise SpecError(f"experiment {self.name}: {len(names)} {what}; legal: {least} to {most}")
            if len(set(names)) != len(names):
                raise SpecError(f"experiment {self.name}: {what} {', '.join(names)}; legal: each name once")
        self._check_numbers()

    def _check_numbers(self) -> None:
        if all(metric.is_guardrail for metric in self.metrics):
            raise SpecError(f"experiment {self.name}: every metric has a margin; legal: at least one goal without")
        total = math.fsum(variant.share for variant in self.variants)
        if abs(total - 1) > _NEAR:
            raise SpecError(f"experiment {self.name}: shares add up to {total:.6g}; legal: 1")
        if not 0 < self.alpha < 0.5:
            raise SpecError(f"experiment {self.name}: alpha is {self.alpha}; legal: above 0, below 0.5")
        if not FLOOR <= self.floor <= 1 / len(self.variants):
            raise SpecError(
                f"experiment {self.name}: floor is {self.floor}; legal: {FLOOR} to {1 / len(self.variants):.4g}, "
                "one over the number of variants"
            )
        if not self.start_s < self.end_s:
            raise SpecError(f"experiment {self.name}: ends at {self.end_s}, starts at {self.start_s}; legal: later")

    @property
    def control(self) -> Variant:
        return self.variants[0]

    @property
    def primary(self) -> int:
        """Index of the metric that decides: the first goal."""
        return next(i for i, metric in enumerate(self.metrics) if not metric.is_guardrail)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(segments, variants, metrics)."""
        return len(self.segments), len(self.variants), len(self.metrics)

    def row_alpha(self, row: int) -> float:
        """The part of alpha that row `row` of the results may use: a segment, or last (S) all of them together.

        With several segments half of it is for all together and half is spread over them: a union bound.
        """
        n = len(self.segments)
        return self.alpha if n == 1 else self.alpha / 2 if row == n else self.alpha / (2 * n)


def _named(name: str, what: str) -> None:
    if not name.strip():
        raise SpecError(f"{what} has no name; legal: a text that is not empty")
