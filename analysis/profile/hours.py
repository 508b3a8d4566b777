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


def _week() -> Floats:
    return np.zeros(WEEK_H)


@dataclass(slots=True)
class HourOfWeek:
    """Events by hour of the week (UTC; hour 0 is Thursday's first, as the Unix epoch has it).

    `events`, `weeks`: (168,) decayed events of each hour's past, and the decayed number of such hours. `hour`: the hour
    since 1970 that is still open, None before the first event; `open_n`: its events so far.
    """

    events: Floats = field(default_factory=_week)
    weeks: Floats = field(default_factory=_week)
    hour: int | None = None
    open_n: float = 0.0

    def observe(self, unix_ns: Ints) -> None:
        """Count events; those of an hour that is closed count in the open one."""
        if len(unix_ns) == 0:
            return
        hours, counts = np.unique(unix_ns // HOUR_NS, return_counts=True)
        for hour, count in zip(hours.tolist(), counts.tolist(), strict=True):
            self.advance(hour)
            self.open_n += count

    def advance(self, hour: int) -> None:
        """Close every hour before `hour`. Hours without an event count, with none."""
        if self.hour is None or hour - self.hour > 52 * WEEK_H:  # a year of nothing: begin anew
            self.events[:], self.weeks[:], self.open_n, self.hour = 0.0, 0.0, 0.0, hour
        keep = 0.5 ** (1 / HALF_LIFE_WEEKS)
        while self.hour < hour:
            place = self.hour % WEEK_H
            self.events[place] = keep * self.events[place] + self.open_n
            self.weeks[place] = keep * self.weeks[place] + 1.0
            self.hour, self.open_n = self.hour + 1, 0.0

    def rates(self) -> Floats:
        """(168,) events to be expected in each hour of the week; NaN before an hour has passed."""
        if self.weeks.sum() == 0:
            return np.full(WEEK_H, np.nan)
        mean = self.events.sum() / self.weeks.sum()
        rates: Floats = (self.events + PRIOR_WEEKS * mean) / (self.weeks + PRIOR_WEEKS)
        return rates
