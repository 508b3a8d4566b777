"""A canary that says nothing while the baseline speaks: one that never serves fails, whatever it would have said."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analysis.change.looks import FALSE_ALARM, corrected
from analysis.change.series import Flags, Floats

SURE = 0.9  # chance to be heard of the surest instance in a tick: logs and metrics get lost too
ALIVE = 3  # newest ticks in which an instance must have spoken to count: others have gone
USUAL = 5  # newest ticks over which the baseline must have spoken as it does now: calls that come in bursts say little


class Silence(NamedTuple):
    """`tick`: index after the beginning at which the silence was beyond chance; `ticks`: how long it had lasted."""

    tick: int
    p: float
    ticks: int


def silence(
    baseline: Floats,
    canary: Floats,
    start: int,
    *,
    settle_ticks: int,
    n_places: int,
    counts: Flags | None = None,
    weight: float = 1.0,
) -> Silence | None:
    """The first tick at which the canary has been silent for longer than an instance of the baseline would be, or None.

    `baseline`, `canary` : (instances, ticks); NaN: nothing was said. The release begins at column `start`; the first
    `settle_ticks` are not counted, since a version that starts has nothing to say yet. `counts` : (ticks,) false where
    there was nothing to say: whoever calls it was not called either. `weight` in (0, 1]: of a tick, as a share of one
    that is independent of its neighbours.

    Each tick without a word of the canary has the probability that a living instance of the baseline is silent in it:
    the share of those that are, now or over the newest USUAL ticks, whichever is more. Their product since the canary
    was last heard is compared with what that look may use.
    """
    heard: Flags = np.asarray(np.isfinite(canary).any(axis=0))
    spoke = _speaking(np.isfinite(baseline))
    log_p, since = 0.0, 0
    for tick in range(start + settle_ticks, baseline.shape[1]):
        if heard[tick]:
            log_p, since = 0.0, 0
            continue
        if counts is not None and not counts[tick]:
            continue
        log_p += weight * float(np.log1p(-min(float(spoke[tick]), SURE)))
        since += 1
        p = corrected(log_p, n_places=n_places, look=tick - start + 1)
        if p <= FALSE_ALARM:
            return Silence(tick - start, p, since)
    return None


def _speaking(heard: Flags) -> Floats:
    """(ticks,) share of the living instances that speak, now or of late, whichever is less."""
    alive = np.zeros_like(heard)
    for ago in range(min(ALIVE, heard.shape[1])):
        alive[:, ago:] |= heard[:, : heard.shape[1] - ago]
    share = heard.sum(axis=0) / np.maximum(alive.sum(axis=0), 1)
    total = np.concatenate([[0.0], np.cumsum(share)])
    ticks = np.arange(1, len(share) + 1)
    first = np.maximum(ticks - USUAL, 0)
    usual = (total[ticks] - total[first]) / (ticks - first)
    least: Floats = np.minimum(share, usual)
    return least
