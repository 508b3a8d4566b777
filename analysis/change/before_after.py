"""After the change beside before it, where no other version ran: is its jump larger than those at other times."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from analysis.change.kpis import KpiKind
from analysis.change.series import Flags, Floats

REACTION = 15  # ticks after a change within which it must show: later ones have other causes as well
REFERENCE = 30  # ticks before it that give the level
SPELLS = (1, 5)  # ticks that a departure lasts: a spike, or a new level
LEVEL = 0.02  # chance of a finding where nothing changes, over all spells
DAYS, NEAR_S = 3, 3 * 3_600.0  # earlier days that are looked at, and how far around the same time of day
DAY_S = 86_400.0
PLACEBOS_MIN = math.ceil(len(SPELLS) / LEVEL)  # with fewer, no jump can be rare enough


class Jump(NamedTuple):
    """`tick`: index after the change at which it was beyond what is usual; `p`: over all spells, in [0, 1].

    `effect`: the level of the spell less that before, in the KPI's own unit; `usual`: the jump that is as large as the
    median one at other times.
    """

    tick: int
    p: float
    effect: float
    usual: float


class TooShort(NamedTuple):
    """There is not enough before the change to say what is usual; `ticks` more would do."""

    ticks: int


def jump(values: Floats, start: int, kind: KpiKind, *, interval_s: float) -> Jump | TooShort | None:
    """The first tick at which the change stands out, None where it does not.

    `values` : (ticks,) the KPI; NaN where it was not measured. The change is at column `start`.

    A jump is the farthest median of a spell of 1 or 5 ticks, within REACTION ticks, from the median of the REFERENCE
    ticks before. The same is taken at every other time of the last DAYS days within three hours of the same time of
    day (of all times, where those are too few), as if the change had been then: placebos in time. `p` is the share of
    placebos with a jump at least as large, times the number of spells. Placebos are taken over the whole reaction
    time and the change over the ticks seen so far, so that looking at every tick costs nothing.

    Source: placebo tests in time of synthetic control, Abadie, Diamond and Hainmueller 2015, section 4. Limits: a fault
    that grows slower than REACTION ticks is not seen, and must be seen by what runs beside it.
    """
    oldest = max(start - int(DAYS * DAY_S / interval_s), 0)
    past, after = values[oldest:start], values[start : start + REACTION]
    jumps = {spell: _placebos(past, spell, kind) for spell in SPELLS}
    near = _near(past, interval_s)
    usual = {
        spell: each[near] if np.isfinite(each[near]).sum() >= PLACEBOS_MIN else each for spell, each in jumps.items()
    }
    fewest = min(int(np.isfinite(each).sum()) for each in usual.values())
    if fewest < PLACEBOS_MIN:
        return TooShort(PLACEBOS_MIN - fewest)
    level = past[-REFERENCE:]
    if not np.isfinite(level).any():
        return TooShort(REFERENCE)
    for tick in range(len(after)):
        for spell in SPELLS:
            if tick + 1 < spell or not np.isfinite(after[tick + 1 - spell : tick + 1]).any():
                continue
            effect = float(np.nanmedian(after[tick + 1 - spell : tick + 1]) - np.nanmedian(level))
            size = _worse(np.array([effect]), kind)[0]
            placebos = usual[spell][np.isfinite(usual[spell])]
            p = len(SPELLS) * float((placebos >= size).mean())
            if p <= LEVEL and size > 0:
                return Jump(tick, p, effect, float(np.median(placebos)))
    return None


def _worse(effect: Floats, kind: KpiKind) -> Floats:
    """How far in the direction that is worse, never below 0."""
    worst: Floats = np.maximum.reduce([sign * effect for sign in kind.signs] + [np.zeros_like(effect)])
    return worst


def _placebos(past: Floats, spell: int, kind: KpiKind) -> Floats:
    """(ticks,) the jump had the change been at that tick; NaN where too little is around it."""
    jumps = np.full(len(past), np.nan)
    n = len(past) - REFERENCE - REACTION + 1
    if n <= 0:
        return jumps
    level = _medians(past, REFERENCE)[:n]
    spells = sliding_window_view(_medians(past, spell)[REFERENCE:], REACTION - spell + 1)[:n]
    effects = _worse(spells - level[:, None], kind)
    known = np.isfinite(effects).any(axis=1)
    jumps[REFERENCE : REFERENCE + n][known] = np.nanmax(effects[known], axis=1)
    return jumps


def _medians(values: Floats, width: int) -> Floats:
    """Medians of what was measured in each window; NaN where nothing was."""
    windows = sliding_window_view(values, width)
    medians = np.full(len(windows), np.nan)
    known = np.isfinite(windows).any(axis=1)
    medians[known] = np.nanmedian(windows[known], axis=1)
    return medians


def _near(past: Floats, interval_s: float) -> Flags:
    """(ticks,) whether a tick lies near the change's time of day."""
    before_s = (len(past) - np.arange(len(past))) * interval_s
    apart_s = (before_s + DAY_S / 2) % DAY_S - DAY_S / 2
    near: Flags = np.abs(apart_s) <= NEAR_S
    return near
