"""What a mesh file cannot know: a service's people and their traffic, and the truth about its canary, as a timeline.

A scenario says nothing about how a rollout is decided. Units: times in seconds (`_s`) after the rollout's start, rates
in sessions a second, shares in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

Floats = npt.NDArray[np.float64]


class Must(StrEnum):
    """What a rollout of this scenario must come to."""

    PROMOTE = "promote"  # the canary is as good as the baseline, or better
    ROLLBACK = "rollback"  # the canary is worse than is tolerated: it must not stay
    KEEP = "keep"  # nothing is wrong with the canary, whatever it looks like: no rollback; it may wait
    HOLD = "hold"  # it cannot be judged: nothing rises above where it stands, nothing is rolled back as harmful


class Shape(StrEnum):
    """How an effect comes."""

    STEP = "step"  # at once
    RAMP = "ramp"  # grows evenly over `over_s`
    PERIODIC = "periodic"  # for `active_s` in every `period_s`
    LOAD = "load"  # grows with the canary's split: from none at split `above` to all of it at 1


class On(StrEnum):
    """Whom an effect hits."""

    CANARY = "canary"
    BOTH = "both"  # the world gets worse: a dependency, a promotion


class Kpi(StrEnum):
    """What an effect changes."""

    ERRORS = "errors"  # share of sessions that meet an error
    LATENCY = "latency"  # `times`: the median; `tail_times`: the slowest `TAIL_SHARE` of requests
    ABANDONMENT = "abandonment"  # share of sessions that leave before their goal
    FEATURE = "feature"  # share of sessions that use the feature
    LOGS = "logs"  # share of sessions that the access logs tell of
    ROUTING = "routing"  # share of the canary's people who get the canary; the others get the baseline


TAIL_SHARE = 0.03
"""Share of requests that is the tail: the 99th percentile lies in it, the 95th below it."""

TAIL_Z = float(ndtri(1 - TAIL_SHARE))
"""Standard score of a request's logarithm above which it is in the tail."""


RETRY_S = 0.5
"""Mean time until a failed request is tried again."""
QUIET_S = 60.0
"""People come again so much later than a session's gap at the least: it is another session, surely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One change of what is true. A share p becomes `p * times + plus`, clipped to [0, 1].

    `at_s`, `until_s`: when it begins and ends, after the rollout's start; `since_exposure`: counted from the segment's
    first exposure instead. `segment`: None: every one. `people`: share of people whom it can hit at all, always the
    same ones (a flag's other arm). `first_session`: only the first session of a person on the canary (novelty).
    """

    kpi: Kpi
    on: On = On.CANARY
    segment: str | None = None
    times: float = 1.0
    plus: float = 0.0
    tail_times: float = 1.0
    at_s: float = 0.0
    until_s: float = math.inf
    since_exposure: bool = False
    shape: Shape = Shape.STEP
    over_s: float = 0.0
    period_s: float = 0.0
    active_s: float = 0.0
    above: float = 0.0
    people: float = 1.0
    first_session: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """The people of a segment on a healthy version.

    `requests`: mean number of requests of a complete session; those who abandon make fewer. `abandoned`, `errors`,
    `feature`: shares of sessions that leave before their goal, that meet an error by chance, and that use the feature.
    `errors_in_a_row`: mean number of failed requests in a session that meets any (retries and reloads among them).
    `latency_ms`, `latency_sigma`: median of a request's duration, and the standard deviation of its logarithm.
    `visits`: mean number of sessions of a person; `again_s`: mean time from the end of one to the next.
    `think_s`: mean time between two requests.
    """

    requests: float = 5.0
    abandoned: float = 0.30
    errors: float = 0.005
    errors_in_a_row: float = 2.0
    feature: float = 0.35
    latency_ms: float = 40.0
    latency_sigma: float = 0.5
    visits: float = 1.5
    again_s: float = 3_600.0
    think_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One segment's people. `share`: of all sessions."""

    name: str
    share: float
    habits: Habits = field(default_factory=Habits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """How sessions arrive.

    `daily`: amplitude of the day's wave in [0, 1), highest at `peak_s` after the rollout's start. `spike_times`:
    the arrival rate is that many times as high from `spike_at_s` for `spike_s`. `bots`: share of sessions by
    machines that do not say so. `bursts_per_h`: stalls of something that both versions need, each of which fails
    every request that starts within `burst_s`, in either version alike. `unlucky`: share of people with a
    persistently bad device, who meet an error in every session, and have `unlucky_visits` of them. `drift_per_h`:
    by how much the errors of both versions grow in an hour, as a share of what they were at the start.
    `carry_over`: of those whom a fault hit, the share who meet an error in their next session too, whichever
    version serves it (a broken cart is still there).
    """

    daily: float = 0.0
    peak_s: float = 0.0
    spike_times: float = 1.0
    spike_at_s: float = 0.0
    spike_s: float = 0.0
    bots: float = 0.0
    bursts_per_h: float = 0.0
    burst_s: float = 1.0
    unlucky: float = 0.0
    unlucky_visits: float = 20.0
    drift_per_h: float = 0.0
    carry_over: float = 0.0

    def rate_times(self, at_s: npt.ArrayLike) -> Floats:
        """By how much more than on average sessions arrive at a time, or at many of them."""
        at = np.asarray(at_s, float)
        wave = 1.0 + self.daily * np.cos(2 * np.pi * (at - self.peak_s) / 86_400)
        in_spike = (at >= self.spike_at_s) & (at < self.spike_at_s + self.spike_s)
        times: Floats = wave * np.where(in_spike, self.spike_times, 1.0)
        return times

    def drifted(self, errors: Floats, at_s: npt.ArrayLike) -> Floats:
        """What shares of sessions with errors have become by a time."""
        grown: Floats = np.clip(errors * (1 + self.drift_per_h * np.asarray(at_s, float) / 3_600), 0.0, 1.0)
        return grown


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """People, traffic and truth. `loads`: sessions a second at which it is played, all segments together."""

    name: str
    title: str
    must: Must
    groups: tuple[Group, ...]
    effects: tuple[Effect, ...] = ()
    traffic: Traffic = field(default_factory=Traffic)
    loads: tuple[float, ...] = (2.0, 20.0, 200.0)
    horizon_s: float = 21_600.0
    moving_splits: bool = False
    held_out: bool = False

    def harms(self, group: str) -> bool:
        """Whether an effect on the canary alone makes something worse for a segment's people."""
        return any(
            effect.on is On.CANARY and effect.segment in (None, group) and is_worse(effect) for effect in self.effects
        )


def is_worse(effect: Effect) -> bool:
    """Whether it makes something worse for people; lost logs and wrong routes by themselves do not."""
    match effect.kpi:
        case Kpi.FEATURE:
            return effect.times < 1 or effect.plus < 0
        case Kpi.LOGS | Kpi.ROUTING:
            return False
        case Kpi.ERRORS | Kpi.LATENCY | Kpi.ABANDONMENT:
            return effect.times > 1 or effect.plus > 0 or effect.tail_times > 1


def changed(share: Floats, effect: Effect, weight: Floats) -> Floats:
    """What an effect makes of a share, of which there is so much (`weight`, as of `strength`); arguments broadcast."""
    result: Floats = share + weight * (np.clip(share * effect.times + effect.plus, 0.0, 1.0) - share)
    return result


def strength(effect: Effect, *, at_s: npt.ArrayLike, exposed_s: npt.ArrayLike, split: npt.ArrayLike) -> Floats:
    """How much of an effect is there, in [0, 1]: `at_s` after the start, `exposed_s` after the first exposure.

    Arguments broadcast. `split`: the canary's share now. Before the first exposure `exposed_s` is negative.
    """
    at, exposed, share = np.broadcast_arrays(*(np.asarray(x, float) for x in (at_s, exposed_s, split)))
    since_s = (exposed if effect.since_exposure else at) - effect.at_s
    there = (since_s >= 0) & (since_s < effect.until_s - effect.at_s)
    return np.where(there, _course(effect, since_s, share), 0.0)


def _course(effect: Effect, since_s: Floats, split: Floats) -> Floats:
    match effect.shape:
        case Shape.STEP:
            return np.ones_like(since_s)
        case Shape.RAMP:
            return np.clip(since_s / effect.over_s, 0.0, 1.0) if effect.over_s > 0 else np.ones_like(since_s)
        case Shape.PERIODIC:
            return np.where(np.mod(since_s, effect.period_s) < effect.active_s, 1.0, 0.0)
        case Shape.LOAD:
            return np.clip((split - effect.above) / max(1 - effect.above, 1e-9), 0.0, 1.0)
