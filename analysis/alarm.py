"""The hard tier: what needs no patience. It may act on unfinished sessions.

Two alarms: *crash* (most people on the canary meet failures right now, and the baseline's do not) and *silence* (the
canary should be seen in the access logs and is not, while the baseline is).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from analysis.window import BASELINE, CANARY, Window

CRASH_SHARE = 0.5  # more failing people than this is a crash, whatever the service
CRASH_RISK = 1e-5  # chance that people of whom half fail look like this at one look
WORLD_SHARE = 0.25  # if as many fail on the baseline, the world is bad, not the canary
SILENCE_SEEN = 30.0  # canary people expected, none seen: silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Which of S segments show it; `everywhere`: all people taken together do, so the whole canary is bad."""

    crash: npt.NDArray[np.bool_]
    everywhere: bool
    silent: npt.NDArray[np.bool_]
    world: bool


def raise_alarms(window: Window, *, expected_people: npt.NDArray[np.float64]) -> Alarm:
    """Alarms from the people of the last seconds.

    `expected_people` (S,): on the canary, by its split and the baseline.
    """
    people, failing = window.people, window.failing
    total, total_failing = people.sum(axis=0), failing.sum(axis=0)
    world = bool(total[BASELINE] > 0 and total_failing[BASELINE] > WORLD_SHARE * total[BASELINE])
    silent = (expected_people >= SILENCE_SEEN) & (people[:, CANARY] == 0) & (people[:, BASELINE] > 0)
    return Alarm(
        crash=_crashing(people[:, CANARY], failing[:, CANARY]),
        everywhere=bool(_crashing(total[CANARY], total_failing[CANARY])),
        silent=silent,
        world=world,
    )


def _crashing(people: npt.ArrayLike, failing: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether so many failing people would be a 1-in-100,000 surprise if half of all failed (exact binomial tail)."""
    tail = binom.sf(np.asarray(failing) - 1, np.asarray(people), CRASH_SHARE)
    result: npt.NDArray[np.bool_] = (np.asarray(people) > 0) & (tail < CRASH_RISK)
    return result
