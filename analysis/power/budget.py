"""Harm budgets that are too small: those that freeze good releases, and those that let none begin."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from analysis.harm import HarmLedger
from analysis.power.detection import Traffic, participating
from analysis.power.world import harm_rates
from analysis.reading import ROLLBACK_LATENCY_S
from analysis.spec import TOTAL_BP, ServiceSpec
from analysis.splits import SMALLEST_BP

Floats = npt.NDArray[np.float64]

FREEZE_C = 6.5
"""Standard deviations of the excess that are at stake: its upper bound lies some 4 above what is seen, and what is seen
strays by 2 or 3 somewhere on the way. Measured on simulated rollouts whose only KPI is errors, at a tolerance of .5 pp:
of good releases 2 to 28 % are withdrawn with c = 5.5, 0 to 10 % with 6.5 and 0 to 7 % with 7.5, more of them the denser
the traffic. So this rules out what surely fails, and the rest is played (`good_release`)."""
_LARGEST = 1e9  # no mesh file may ask for more
_BISECTIONS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetCheck:
    """A budget beside what it takes. All budgets in sessions, `needed_` inf where none would do.

    `base`: share of bad sessions on the baseline, over all segments by traffic. `needed_not_to_freeze`: below it a good
    release tends to freeze; `tolerance_not_to_freeze`: what harm.tolerance would do instead. `needed_to_begin`: below
    it the first step, at its worst, is not affordable in some segment.
    """

    budget: float
    base: float
    needed_not_to_freeze: float
    tolerance_not_to_freeze: float
    needed_to_begin: float

    @property
    def is_enough(self) -> bool:
        return self.budget >= max(self.needed_not_to_freeze, self.needed_to_begin)


def check_budget(spec: ServiceSpec, traffic: Traffic) -> BudgetCheck:
    """Hold a service's budget against its base rate and its traffic.

    After n sessions a good release's excess is -g·n, and its bound about c·sqrt(n·v) above that; what is allowed is
    budget + ε·n. The two never meet where budget >= c²·v/(4(ε + g)); v = p(1 - p), weighted as harm is. g: by how much
    less often than on the baseline a session on an equal canary counts as bad (see `world.harm_rates`).
    """
    rows = participating(spec)
    rate = np.array([traffic.sessions_per_s[i] for i in rows])
    weight = np.array([spec.segments[i].weight for i in rows])
    p, p_canary = harm_rates(spec, traffic)[rows].T
    budget, tolerance = spec.rollout.harm.budget, spec.rollout.harm.tolerance
    exposed = float(np.sum(rate * weight))
    variance = float(np.sum(rate * weight**2 * p * (1 - p))) / exposed if exposed > 0 else 0.0
    gain = float(np.sum(rate * weight * (p - p_canary))) / exposed if exposed > 0 else 0.0
    stake = FREEZE_C**2 * variance / 4
    return BudgetCheck(
        budget=budget,
        base=float(np.average(p, weights=rate if rate.sum() > 0 else None)),
        needed_not_to_freeze=stake / (tolerance + gain) if tolerance + gain > 0 else float("inf"),
        tolerance_not_to_freeze=max(stake / budget - gain, 0.0),
        needed_to_begin=_needed_to_begin(spec, traffic),
    )


def _needed_to_begin(spec: ServiceSpec, traffic: Traffic) -> float:
    """The smallest budget, by the ledger itself, that lets every segment take the smallest step.

    Before anything is known each session of one reaction time may be a bad one.
    """
    low, high = 0.0, 1.0
    while not _begins(spec, traffic, high):
        low, high = high, 2 * high
        if high > _LARGEST:
            return float("inf")
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if _begins(spec, traffic, middle) else (middle, high)
    return high


def _begins(spec: ServiceSpec, traffic: Traffic, budget: float) -> bool:
    """Whether those that start together, and whoever waits for them by itself, can take a first step."""
    rows = participating(spec)
    first = [i for i in rows if not spec.segments[i].after]
    waves = [first, *([i] for i in rows if spec.segments[i].after)]
    harm = replace(spec.rollout.harm, budget=budget)
    ledger = HarmLedger(replace(spec, rollout=replace(spec.rollout, harm=harm)))
    ledger.rate[:] = traffic.sessions_per_s
    return all(_wave_begins(ledger, wave) for wave in waves if wave)


def _wave_begins(ledger: HarmLedger, wave: list[int]) -> bool:
    live = np.isin(np.arange(ledger.rate.shape[1]), wave)[None]
    caps = ledger.caps(np.zeros(live.shape), live, live, latency_s=ROLLBACK_LATENCY_S)
    return bool(np.all(caps[0, wave] >= SMALLEST_BP / TOTAL_BP))
