"""What share of sessions shows each KPI's bad side at a time, by a scenario: the truth behind counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from analysis.anomaly.behaviour import UNUSUAL
from analysis.observer import SLOW_QUANTILE
from analysis.simulation.scenario import QUIET_S, TAIL_Z, Effect, Kpi, On, Scenario, changed, strength
from analysis.spec import KpiKind, ServiceSpec
from analysis.window import BASELINE, CANARY

Floats = npt.NDArray[np.float64]

UNUSUAL_IF_CUT_SHORT = 0.5  # share of those whom a fault sends away that look unusual
BOT_REQUESTS, BOT_THINK_S = 20.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """Shares in [0, 1] at one time, of B rollouts, S segments, K KPIs and two arms.

    `first`, `later` (B, S, K, 2): of a person's first session since the exposure, and of others. `single` (B, S, 2): of
    single requests that fail. `seen` (B, S): of sessions whose person has had one since the exposure. `routed`,
    `logged` (B, S): of the canary's people who get it, and of the canary's sessions that are logged. `latency_times`,
    `tail_times` (B, S, 2): by how much requests last longer than on a healthy version, at the median and in the tail.
    `raised` (B, S): of the baseline's sessions that are slower than usual, those that are slower than the raised
    threshold too, by which harm is told.
    """

    first: Floats
    later: Floats
    single: Floats
    seen: Floats
    routed: Floats
    logged: Floats
    latency_times: Floats
    tail_times: Floats
    raised: Floats


class Rates:
    """The truth of a scenario at the level of sessions."""

    def __init__(self, spec: ServiceSpec, scenario: Scenario) -> None:
        self._spec, self._traffic = spec, scenario.traffic
        self._names = [group.name for group in scenario.groups]
        self._effects = scenario.effects
        habits = [group.habits for group in scenario.groups]
        self._habits = {
            name: np.array([getattr(each, name) for each in habits])
            for name in (
                "errors",
                "abandoned",
                "feature",
                "requests",
                "latency_ms",
                "latency_sigma",
                "visits",
                "again_s",
                "think_s",
            )
        }
        traffic = scenario.traffic
        visits = self._habits["visits"]
        unlucky = traffic.unlucky * traffic.unlucky_visits
        self._unlucky = unlucky / (unlucky + (1 - traffic.unlucky) * visits)  # share of people's sessions
        self._slow = next((kpi for kpi in spec.kpis if kpi.kind is KpiKind.LATENCY), None)
        people = _requests_made(self._habits["requests"], self._habits["abandoned"])
        self._made = people
        self._made_by_bots = _requests_made(np.full(len(visits), BOT_REQUESTS), np.zeros(len(visits)))
        self._pauses = people @ np.arange(_MOST)  # (S,) of a session, between its requests, on average
        self.lasts_s = self._pauses * self._habits["think_s"]
        self._pause_s = spec.session.gap_s + QUIET_S
        self._threshold_z = self._usual_slowest_z()

    def in_sight_s(self, span_s: float) -> Floats:
        """(S,) how long a session has had a request within the last `span_s`, on average.

        Pauses are .3 of their mean, and the rest exponential.
        """
        think_s = self._habits["think_s"]
        beyond = np.maximum(span_s - 0.3 * think_s, 0.0)
        pause = np.minimum(span_s, 0.3 * think_s) + 0.7 * think_s * (1 - np.exp(-beyond / (0.7 * think_s)))
        people = span_s + self._pauses * pause
        machines = span_s + (BOT_REQUESTS - 1) * min(span_s, BOT_THINK_S)
        sight: Floats = (1 - self._traffic.bots) * people + self._traffic.bots * machines
        return sight

    def at(self, at_s: float, *, exposed_s: Floats, split: Floats) -> Now:
        """The shares at a time after the start; `exposed_s` (B, S): since the segment's first exposure; `split`."""
        clock = _Clock(at_s=at_s, exposed_s=exposed_s, split=split)
        seen, unlucky_first, unlucky_later = self._who(exposed_s)
        first = self._kpis(clock, novel=True, unlucky=unlucky_first, bots=self._traffic.bots / (1 - seen))
        later = self._kpis(clock, novel=False, unlucky=unlucky_later, bots=np.zeros_like(seen))
        errors = self._share(Kpi.ERRORS, self._traffic.drifted(self._habits["errors"], at_s), clock, novel=True)
        ones = np.ones(len(self._names))
        return Now(
            first=first,
            later=later,
            single=1 - (1 - errors) ** (1 / self._habits["requests"][:, None]),
            seen=seen,
            routed=self._share(Kpi.ROUTING, ones, clock, novel=True)[..., CANARY],
            logged=self._share(Kpi.LOGS, ones, clock, novel=True)[..., CANARY],
            latency_times=self._times(clock, "times"),
            tail_times=self._times(clock, "tail_times"),
            raised=self._raised(clock),
        )

    def fair(self, shares: Floats, now: Now) -> Floats:
        """(B, S, K, 2) `now.first` or `now.later`, with slowness told by the canary's threshold on either arm."""
        fair = shares.copy()
        for k, kpi in enumerate(self._spec.kpis):
            if kpi.kind is KpiKind.LATENCY:
                fair[:, :, k, BASELINE] *= now.raised
        return fair

    def excess_harm(self, shares: Floats, now: Now) -> Floats:
        """(B, S) by how much more of `now.first` or `now.later` are bad on the canary than would be on the baseline.

        Bad in any way that counts as harm, the ways being independent.
        """
        harmless = np.prod(1 - self.fair(shares, now)[:, :, list(self._spec.harms)], axis=2)
        excess: Floats = harmless[..., BASELINE] - harmless[..., CANARY]
        return excess

    def _who(self, exposed_s: Floats) -> tuple[Floats, Floats, Floats]:
        """Shares of sessions: of people seen before; of unlucky ones among first sessions, and among later ones."""
        bots, unlucky = self._traffic.bots, self._unlucky * (1 - self._traffic.bots)
        usual_before = self._seen_before(exposed_s, self._habits["visits"])
        unlucky_before = self._seen_before(exposed_s, self._traffic.unlucky_visits)
        seen = unlucky * unlucky_before + (1 - unlucky - bots) * usual_before
        first = unlucky * (1 - unlucky_before) / np.maximum(1 - seen, 1e-12)
        later = unlucky * unlucky_before / np.maximum(seen, 1e-12)
        return seen, first, later

    def _seen_before(self, exposed_s: Floats, visits: npt.ArrayLike) -> Floats:
        """(B, S) chance that a session's person has had one since the exposure: nobody comes again at once."""
        since_s = np.where(np.isfinite(exposed_s), exposed_s, 0.0) - self.lasts_s - self._pause_s
        away_s = np.maximum(self._habits["again_s"] - self._pause_s, 1e-9)
        before: Floats = (1 - 1 / np.asarray(visits)) * (1 - np.exp(-np.maximum(since_s, 0.0) / away_s))
        return before

    def _kpis(self, clock: _Clock, *, novel: bool, unlucky: Floats, bots: Floats) -> Floats:
        """(B, S, K, 2) shares of sessions that are bad; `unlucky`, `bots` (B, S): shares of those among them."""
        machine = bots[..., None]
        left = self._share(Kpi.ABANDONMENT, self._habits["abandoned"], clock, novel=novel)
        unused = 1 - self._share(Kpi.FEATURE, self._habits["feature"], clock, novel=novel)
        errors = self._share(Kpi.ERRORS, self._traffic.drifted(self._habits["errors"], clock.at_s), clock, novel=novel)
        columns = []
        for kpi in self._spec.kpis:
            match kpi.kind:
                case KpiKind.ERROR_RATE:
                    columns.append(unlucky[..., None] + (1 - unlucky[..., None]) * errors)
                case KpiKind.LATENCY:
                    columns.append(self._slow_sessions(clock, bots))
                case KpiKind.ABANDONMENT:
                    columns.append(machine + (1 - machine) * left)
                case KpiKind.FEATURE:
                    columns.append(machine + (1 - machine) * unused)
                case KpiKind.ANOMALY:
                    cut_short = np.clip(left - left[..., BASELINE, None], 0.0, 1.0)
                    unlike = np.clip(unused - unused[..., BASELINE, None], 0.0, 1.0)
                    more = np.maximum(cut_short, unlike)
                    columns.append(UNUSUAL + UNUSUAL_IF_CUT_SHORT * (1 - UNUSUAL) * more)
        return np.stack(columns, axis=2)

    def _share(self, kpi: Kpi, base: Floats, clock: _Clock, *, novel: bool) -> Floats:
        """(B, S, 2) a share as the world and as the canary have made it."""
        world = np.broadcast_to(base, clock.split.shape)
        canary = world
        for effect in (each for each in self._effects if each.kpi is kpi):
            weight = self._weight(effect, clock, novel=novel)
            if effect.on is On.BOTH:
                world = changed(world, effect, weight)
            canary = changed(canary, effect, weight)
        return np.stack([world, canary], axis=-1)

    def _times(self, clock: _Clock, which: str) -> Floats:
        """(B, S, 2) by how much requests last longer."""
        times = np.ones((*clock.split.shape, 2))
        for effect in (each for each in self._effects if each.kpi is Kpi.LATENCY):
            longer = 1 + self._weight(effect, clock, novel=True) * (getattr(effect, which) - 1)
            times[..., CANARY] *= longer
            if effect.on is On.BOTH:
                times[..., BASELINE] *= longer
        return times

    def _weight(self, effect: Effect, clock: _Clock, *, novel: bool) -> Floats:
        """(B, S) how much of an effect there is, in [0, 1], over all people."""
        weight = strength(effect, at_s=clock.at_s, exposed_s=clock.exposed_s, split=clock.split) * effect.people
        if effect.segment is not None:
            weight = weight * (np.array(self._names) == effect.segment)
        return weight if novel or not effect.first_session else weight * 0.0

    # -- slowness ------------------------------------------------------------------------------------------------------

    def _usual_slowest_z(self) -> Floats:
        """(S,) standard scores of a request's logarithm above which 5 % of healthy sessions have one."""
        low, high = np.zeros(len(self._names)), np.full(len(self._names), 8.0)
        for _ in range(50):
            z = (low + high) / 2
            above = self._any_of(1 - ndtr(z), self._traffic.bots) > 1 - SLOW_QUANTILE
            low, high = np.where(above, z, low), np.where(above, high, z)
        middle: Floats = (low + high) / 2
        return middle

    @property
    def slow_ms(self) -> Floats:
        """(S,) above which a request is slow: the limit, or the baseline's 95th percentile, raised."""
        z = self._thresholds_z()[1]
        slow: Floats = self._habits["latency_ms"] * np.exp(self._habits["latency_sigma"] * z)
        return slow

    def _thresholds_z(self) -> tuple[Floats, Floats]:
        """(S,) each: standard scores above which a request is slower than usual, and slow; infinite without a KPI."""
        sigma = self._habits["latency_sigma"]
        if self._slow is None:
            return np.full_like(sigma, np.inf), np.full_like(sigma, np.inf)
        if self._slow.slow_ms is not None:
            limit = np.log(self._slow.slow_ms / self._habits["latency_ms"]) / sigma
            return limit, limit
        return self._threshold_z, self._threshold_z + np.log1p(self._slow.regression) / sigma

    def _any_of(self, request: Floats, bots: npt.ArrayLike) -> Floats:
        """(…, S) share of sessions with at least one request of which there is such a share (…, S)."""
        share = np.asarray(bots)
        people, machines = (_any_of(request[..., None], made) for made in (self._made, self._made_by_bots))
        return (1 - share) * people + share * machines

    def _slow_sessions(self, clock: _Clock, bots: Floats) -> Floats:
        """(B, S, 2) sessions that count as slow, of the canary by the raised threshold if the KPI is relative."""
        usual, raised = self._thresholds_z()
        shares = (self._slower(clock, arm, z, bots) for arm, z in ((BASELINE, usual), (CANARY, raised)))
        return np.stack(list(shares), axis=-1)

    def _raised(self, clock: _Clock) -> Floats:
        usual, raised = (self._slower(clock, BASELINE, z, self._traffic.bots) for z in self._thresholds_z())
        share: Floats = raised / np.maximum(usual, 1e-300)
        return share

    def _slower(self, clock: _Clock, arm: int, z: Floats, bots: npt.ArrayLike) -> Floats:
        """(B, S) sessions of an arm with a request that would be above a standard score on a healthy version."""
        sigma = self._habits["latency_sigma"]
        without = z - np.log(self._times(clock, "times")[..., arm]) / sigma
        within = without - np.log(self._times(clock, "tail_times")[..., arm]) / sigma
        request: Floats = 1 - ndtr(np.minimum(without, np.maximum(TAIL_Z, within)))
        return self._any_of(request, bots)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clock:
    at_s: float
    exposed_s: Floats
    split: Floats


_MOST = 60


def _requests_made(mean: Floats, abandoned: Floats) -> Floats:
    """(S, _MOST) chances that a session makes 1, 2, … requests: 2 + Poisson, or where it is left, evenly fewer."""
    n = np.arange(_MOST)
    made = np.zeros((len(mean), _MOST))
    for i, (requests, share) in enumerate(zip(mean, abandoned, strict=True)):
        more = max(requests - 2, 0.0)
        logs = -more + n * np.log(max(more, 1e-300)) - np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, _MOST)))])
        complete = np.zeros(_MOST)
        complete[1:] = np.exp(logs)[:-1]  # place j: j + 1 requests
        complete /= complete.sum()
        left = np.zeros(_MOST)
        for j in range(1, _MOST):
            left[:j] += complete[j] / j
        made[i] = (1 - share) * complete + share * left
    return made


def _any_of(request: Floats, made: Floats) -> Floats:
    """(…, S) share of sessions with at least one such request; `request` (…, S, 1): its share of requests."""
    none: Floats = np.sum(made * (1 - request) ** np.arange(1, _MOST + 1), axis=-1)
    return 1 - none
