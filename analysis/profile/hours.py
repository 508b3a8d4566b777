"""How much goes on in each hour of the week, older weeks counting less."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WEEK_H = 168
HOUR_NS = 3_600_000_000_000
HALF_LIFE_WEEKS = 3.0
PRIOR_WEEKS = 0.5  # weeks of the mean hour that each hour of the week starts from
ENOUGH_N = 60.0  # events in two hours below which nothing is said of one beside the other
MOST_AHEAD = 10.0  # times as many in the next hour as in the last one, or as few


def _week() -> Floats:
    return np.zeros(WEEK_H)


@dataclass(slots=True)
class HourOfWeek:
    """Events by hour of the week (UTC; hour 0 is Thursday's first, as the Unix epoch has it).

    `events`, `weeks`: (168,) decayed events of each hour's past, and the decayed number of such hours. `hour`: the hour
    since 1970 that is still open, None before the first event; `open_n`: its events so far, and `open_share`: of the
    hour that is watched, less than 1 for the first one.
    """

    events: Floats = field(default_factory=_week)
    weeks: Floats = field(default_factory=_week)
    hour: int | None = None
    open_n: float = 0.0
    open_share: float = 1.0

    @classmethod
    def going_on(cls, rates: Floats) -> HourOfWeek:
        """What is told by rates (168,) that were kept, as if they had been seen for a week; nothing where NaN."""
        known = np.isfinite(rates)
        return cls(events=np.where(known, rates, 0.0), weeks=known.astype(float))

    def observe(self, unix_ns: Ints) -> None:
        """Count events; those of an hour that is closed count in the open one."""
        if len(unix_ns) == 0:
            return
        if self.hour is None:
            self.hour, self.open_share = int(unix_ns.min() // HOUR_NS), 1.0 - float(unix_ns.min() % HOUR_NS) / HOUR_NS
        hours, counts = np.unique(unix_ns // HOUR_NS, return_counts=True)
        for hour, count in zip(hours.tolist(), counts.tolist(), strict=True):
            self.advance(hour)
            self.open_n += count

    def advance(self, hour: int) -> None:
        """Close every hour before `hour`. Hours without an event count, with none."""
        if self.hour is None:
            self.hour = hour
        if hour - self.hour > 52 * WEEK_H:  # a year of nothing: begin anew
            self.events[:], self.weeks[:], self.open_n, self.open_share, self.hour = 0.0, 0.0, 0.0, 1.0, hour
        keep = 0.5 ** (1 / HALF_LIFE_WEEKS)
        while self.hour < hour:
            place = self.hour % WEEK_H
            self.events[place] = keep * self.events[place] + self.open_n
            self.weeks[place] = keep * self.weeks[place] + self.open_share
            self.hour, self.open_n, self.open_share = self.hour + 1, 0.0, 1.0

    def rates(self) -> Floats:
        """(168,) events to be expected in each hour of the week; NaN of those that have never passed."""
        if self.weeks.sum() == 0:
            return np.full(WEEK_H, np.nan)
        mean = self.events.sum() / self.weeks.sum()
        rates = (self.events + PRIOR_WEEKS * mean) / (self.weeks + PRIOR_WEEKS)
        return np.where(self.weeks > 0, rates, np.nan)


def ahead(rates: Floats, unix_ns: int) -> float:
    """Events to be expected in the next hour over those of the last one, by rates (n, 168) of n parts together.

    As HourOfWeek has them; parts of which an hour is not known that this hangs on are left out. 1.0 where nothing is
    left, or too few events. In [1 / MOST_AHEAD, MOST_AHEAD].
    """
    hour, gone = unix_ns // HOUR_NS, (unix_ns % HOUR_NS) / HOUR_NS
    here = rates[:, [(hour + k) % WEEK_H for k in (-1, 0, 1)]]
    before, now, after = here[np.isfinite(here).all(axis=1)].sum(axis=0).tolist()
    last, following = (1 - gone) * before + gone * now, (1 - gone) * now + gone * after
    if last + following < ENOUGH_N:
        return 1.0
    return float(min(max(following / max(last, 1e-9), 1 / MOST_AHEAD), MOST_AHEAD))
