"""Facts as numbers: what of a release the two stages of the model see, and what each number is about.

What is not known is a column of its own, and 0 in the column that would hold it, which is the mean of those that are
known. A name that was too rare in training, or absent, has no column, and so nothing is added for it.

Each column brings what is thought of its coefficient before any release has been seen, as a normal distribution. Means
that are not zero rest on what is known elsewhere: larger changes fail more often (Kamei et al. 2013, "A large-scale
empirical study of just-in-time quality assurance", IEEE TSE 39(6)), a service's own record counts for what it says
(partial pooling: Gelman & Hill 2007, section 12.2), and a Bayes factor's logarithm is worth itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from analysis.failure.facts import FIRST_MINUTES_S, FirstMinutes, ReleaseFacts

Floats = npt.NDArray[np.float64]

MOST_SERVICES, MOST_VALUES = 64, 8  # names that have a column, the most frequent ones
LEAST_SEEN = 3  # times, for a name to have one
FARTHEST = 4.0  # standard deviations that a number may be from the mean
RECORD_PRIOR_N = 20.0  # releases that the fleet's rate counts as in a service's record
EFFECT_SCALE, SLOPE_SCALE = 3.0, 1.5  # standard errors that a failure's KPI is usually off by, and grows by
SHOWING = 0.5  # share of failures that show in the first minutes at all
MOST_EFFECT = 8.0  # standard errors beyond which an effect counts for no more
SILENCE_UNIT = 0.25

SERVICE_SD, NAME_SD, NUMBER_SD = 0.4, 0.15, 0.15  # prior widths of coefficients, in log-odds
FIRST_SD = 0.3
SIZE_MEAN, TIMING_MEAN = 0.3, 0.1  # for a standard deviation of log size, and of the night, of overlaps, of haste
SILENCE_MEAN, ANOMALY_MEAN = 0.5, 0.3

MISSING: Final = "?"
"""As a column's `value`: the number or name is not known. Names that are known begin with '='."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """`about`: the feature that it is a part of; `value`: the name it is 1 for, or MISSING; empty: a number.

    A number x becomes (x - mean) / sd. `prior_mean`, `prior_sd`: of its coefficient, in log-odds.
    """

    about: str
    value: str = ""
    mean: float = 0.0
    sd: float = 1.0
    prior_mean: float = 0.0
    prior_sd: float = NUMBER_SD

    def cell(self, numbers: Mapping[str, float], names: Mapping[str, str]) -> float:
        """What a release has there."""
        if self.value == MISSING:
            return float(self.about not in numbers and self.about not in names)
        if self.value:
            return float(names.get(self.about) == self.value[1:])
        number = numbers.get(self.about)
        return 0.0 if number is None else min(max((number - self.mean) / self.sd, -FARTHEST), FARTHEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What is known before there is traffic, as learnt from past releases. `rate`: share that failed, in (0, 1)."""

    columns: tuple[Column, ...]
    rate: float

    def row(self, facts: ReleaseFacts) -> Floats:
        """(D,) without the intercept."""
        numbers, names = _numbers(facts, self.rate), _names(facts)
        return np.array([column.cell(numbers, names) for column in self.columns])


def first_row(columns: Sequence[Column], first: FirstMinutes) -> Floats:
    """(D,) what the first minutes show; all 0 at the first exposure, when nothing has been seen.

    What is no Bayes factor counts by the share of the time that has been seen, as the log-likelihood ratio of a drift
    grows in proportion to time.
    """
    numbers, share = _first_numbers(first), first.seen_s / FIRST_MINUTES_S
    return np.array([c.cell(numbers, {}) * (1.0 if c.about == "shown" else share) for c in columns])


# -- learning ----------------------------------------------------------------------------------------------------------


def learn_columns(facts: Sequence[ReleaseFacts], *, failures: int) -> Columns:
    """Columns for these past releases, of which so many failed; the same for the same releases."""
    rate = (failures + 1) / (len(facts) + 2)
    numbers = [_numbers(each, rate) for each in facts]
    names = [_names(each) for each in facts]
    columns = [*_of_names(names, "service", MOST_SERVICES, prior_sd=SERVICE_SD, least=1), *_of_record(numbers)]
    for about, mean in (
        ("size", SIZE_MEAN), ("night", TIMING_MEAN), ("morning", 0.0), ("overlapping", TIMING_MEAN),
        ("pause", -TIMING_MEAN),
    ):  # fmt: skip
        columns += _of_numbers(numbers, about, prior_mean=mean)
    for about in ("kind", "weekday"):
        columns += _of_names(names, about, MOST_VALUES)
    for about in sorted({_attribute(name) for each in facts for name in each.attributes}):
        columns += _of_numbers(numbers, about, others=names)
        columns += _of_names(names, about, MOST_VALUES, others=numbers)
    return Columns(columns=tuple(columns), rate=rate)


def learn_first_columns(firsts: Iterable[FirstMinutes]) -> tuple[Column, ...]:
    """Columns of what past releases' first minutes showed; none if nothing was recorded of any."""
    rows = [_first_numbers(first) for first in firsts]
    if not rows:
        return ()
    columns = [Column(about="seen", prior_sd=FIRST_SD)]
    if any("shown" in row for row in rows):
        columns.append(Column(about="shown", prior_mean=1.0, prior_sd=FIRST_SD))
    columns += _of_numbers(rows, "anomaly", prior_mean=ANOMALY_MEAN, prior_sd=FIRST_SD)
    if any("silence" in row for row in rows):
        columns.append(Column(about="silence", sd=SILENCE_UNIT, prior_mean=SILENCE_MEAN, prior_sd=FIRST_SD))
    return tuple(columns)


def _of_record(rows: Sequence[Mapping[str, float]]) -> list[Column]:
    """A record's log-odds over the fleet's, which is shrunk already: its coefficient is thought to be 1."""
    sd = float(np.std([row["record"] for row in rows])) if rows else 0.0
    return [Column(about="record", sd=sd, prior_mean=sd, prior_sd=sd / 2)] if sd > _SAME else []


_SAME: Final = 1e-9  # standard deviation of what never differs


def _of_numbers(
    rows: Sequence[Mapping[str, float]], about: str, *, prior_mean: float = 0.0, prior_sd: float = NUMBER_SD,
    others: Sequence[Mapping[str, str]] = (),
) -> list[Column]:  # fmt: skip
    """The column of a number, and one for its absence; none for what never differs."""
    known = np.array([row[about] for row in rows if about in row])
    if len(known) < LEAST_SEEN:
        return []
    sd = float(known.std())
    columns = []
    if sd > _SAME:
        mean = float(known.mean())
        columns.append(Column(about=about, mean=mean, sd=sd, prior_mean=prior_mean, prior_sd=prior_sd))
    if len(known) + sum(about in row for row in others) < len(rows):
        columns.append(Column(about=about, value=MISSING, prior_sd=prior_sd))
    return columns


def _of_names(
    rows: Sequence[Mapping[str, str]], about: str, most: int, *, prior_sd: float = NAME_SD, least: int = LEAST_SEEN,
    others: Sequence[Mapping[str, float]] = (),
) -> list[Column]:  # fmt: skip
    """A column for each of the most frequent names, and one for no name."""
    counts = Counter(row[about] for row in rows if about in row)
    chosen = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:most]
    columns = [Column(about=about, value=f"={name}", prior_sd=prior_sd) for name, n in chosen if n >= least]
    if columns and counts.total() + sum(about in row for row in others) < len(rows):
        columns.append(Column(about=about, value=MISSING, prior_sd=prior_sd))
    return columns


# -- numbers -----------------------------------------------------------------------------------------------------------


def _attribute(name: str) -> str:
    return f"attribute {name}"


def _numbers(facts: ReleaseFacts, rate: float) -> dict[str, float]:
    """All that is a number. Night and morning: where on the clock's face the hour is."""
    good = facts.releases - facts.failures
    odds = (facts.failures + RECORD_PRIOR_N * rate) / (good + RECORD_PRIOR_N * (1 - rate))
    found = {"record": math.log(odds) - math.log(rate / (1 - rate))}
    if facts.size is not None:
        found["size"] = math.log10(1 + facts.size)
    if facts.hour is not None:
        angle = 2 * math.pi * facts.hour / 24
        found |= {"night": math.cos(angle), "morning": math.sin(angle)}
    if facts.overlapping is not None:
        found["overlapping"] = math.log1p(facts.overlapping)
    if facts.since_last_h is not None:
        found["pause"] = math.log10(0.5 + facts.since_last_h)
    told = {_attribute(name): value for name, value in facts.attributes.items() if not isinstance(value, str)}
    return found | told


def _names(facts: ReleaseFacts) -> dict[str, str]:
    named = {"service": facts.service}
    if facts.kind is not None:
        named["kind"] = facts.kind
    if facts.weekday is not None:
        named["weekday"] = str(facts.weekday)
    return named | {_attribute(name): value for name, value in facts.attributes.items() if isinstance(value, str)}


def _first_numbers(first: FirstMinutes) -> dict[str, float]:
    found = {"seen": 1.0}
    if first.effects:
        found["shown"] = shown(first)
    if first.anomaly is not None:
        found["anomaly"] = first.anomaly
    if first.silence is not None:
        found["silence"] = first.silence
    return found


def shown(first: FirstMinutes) -> float:
    """Log Bayes factor of a failure over none, by the KPIs' effects and slopes: what harm there is to be seen.

    Under none they are standard normal; a failure shows with probability SHOWING, on one KPI, whose mean effect and
    slope are half-normal with scales that grow with the root of the time seen (approximate Bayes factors of Wakefield
    2009, Genetic Epidemiology 33:79-86, one-sided). 0 where nothing has been seen, and never below log(1 - SHOWING).
    """
    share = first.seen_s / FIRST_MINUTES_S
    each = [
        _log_factor(z, EFFECT_SCALE**2 * share) + _log_factor(first.slopes.get(kpi), SLOPE_SCALE**2 * share)
        for kpi, z in first.effects.items()
    ]
    return float(np.log(1 - SHOWING + SHOWING * np.mean(np.exp(each)))) if each else 0.0


def _log_factor(z: float | None, variance: float) -> float:
    """Log of the density of z, whose mean is half-normal with that variance, over the standard normal's; 0: unknown."""
    if z is None:
        return 0.0
    z = min(max(z, -MOST_EFFECT), MOST_EFFECT)
    kept = variance / (1 + variance)
    return float(math.log(2) - 0.5 * math.log1p(variance) + 0.5 * z * z * kept + log_ndtr(z * math.sqrt(kept)))
