"""The hard tier: what needs no patience. It may act on unfinished sessions.

Three alarms: *crash* (most people on the canary meet failures right now, and the baseline's do not), *burning* (far
more of them than the absolute limit of errors allows, and than on the baseline) and *silence* (the canary should be
seen in the access logs and is not, while the baseline is).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from analysis.window import BASELINE, CANARY, Window

CRASH_SHARE = 0.5  # more failing people than this is a crash, whatever the service
CRASH_RISK = 1e-5  # chance that people of whom half fail look like this at one look
BURNING, BURNING_RISK = 4.0, 1e-9  # times the baseline's share; chance of one look, of which there are many
WORLD_SHARE = 0.25  # if as many fail on the baseline, the world is bad, not the canary
SILENCE_RISK = 1e-9  # chance that so many people, each by the split, would all be on the baseline: silent


Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Which segments of B rollouts show it, (B, S); `everywhere` (B,): all people taken together do.

    `world` (B,): as many fail on the baseline. `burning`: at this look; one look is not enough.
    """

    crash: Flags
    burning: Flags
    everywhere: Flags
    silent: Flags
    world: Flags


def raise_alarms(window: Window, *, split: npt.NDArray[np.float64], limit: float | None = None) -> Alarm:
    """Alarms from the people of the last seconds.

    `split` (B, S) in [0, 1]: the share that should be seen on the canary; 0 where nobody need be. `limit`: of the share
    of sessions with an error, if there is one. A session in which the newest request fails is one of those.
    """
    people, failing = (x.reshape(*split.shape, 2) for x in (window.people, window.failing))
    total, total_failing = people.sum(axis=1), failing.sum(axis=1)
    world = (total[:, BASELINE] > 0) & (total_failing[:, BASELINE] > WORLD_SHARE * total[:, BASELINE])
    chance = np.power(1 - split, people[..., BASELINE])  # that nobody else came to the canary; at a split of 1: 0
    silent = (people[..., CANARY] == 0) & (people[..., BASELINE] > 0) & (chance < SILENCE_RISK) & (split < 1)
    return Alarm(
        crash=_crashing(people[..., CANARY], failing[..., CANARY]),
        burning=_burning(people, failing, limit),
        everywhere=_crashing(total[:, CANARY], total_failing[:, CANARY]),
        silent=silent,
        world=world,
    )


def _burning(people: npt.NDArray[np.int64], failing: npt.NDArray[np.int64], limit: float | None) -> Flags:
    """Whether so many failing would be a 1-in-a-billion surprise at the limit and at BURNING times the baseline.

    A stall of what both versions need makes many fail at once, but on both.
    """
    burning = np.zeros(people.shape[:2], np.bool_)
    if limit is None:
        return burning
    n, bad = people[..., CANARY], failing[..., CANARY]
    on_baseline = (failing[..., BASELINE] + 1) / np.maximum(people[..., BASELINE], 1)
    allowed = np.minimum(np.maximum(limit, BURNING * on_baseline), 1.0)
    suspect = bad > allowed * n
    if suspect.any():
        burning[suspect] = binom.sf(bad[suspect] - 1, n[suspect], allowed[suspect]) < BURNING_RISK
    return burning


def _crashing(people: npt.NDArray[np.int64], failing: npt.NDArray[np.int64]) -> Flags:
    """Whether so many failing people would be a 1-in-100,000 surprise if half of all failed (exact binomial tail)."""
    crashing = np.zeros(people.shape, np.bool_)
    suspect = failing > CRASH_SHARE * people  # who fails less often than that is no surprise
    if suspect.any():
        crashing[suspect] = binom.sf(failing[suspect] - 1, people[suspect], CRASH_SHARE) < CRASH_RISK
    return crashing
