"""What is kept of people: counts and moments of each tick, by segment, variant and metric. Never a person.

Tallies of a tick add up: those of two processes that saw different people give that of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.experiment.design import Experiment, Kind

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

N, SUM, SUM_SQ, PRIOR, PRIOR_SQ, CROSS = range(6)
"""Columns of a cell: people judged; sum and sum of squares of their outcomes; the same of the pre-exposure covariate;
and the sum of products of both."""


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """One tick of one experiment.

    `cells` (S, V, M, 6): the moments above of people by their first exposure. `exposed` (S, V): people first exposed,
    judged or not. `multiple` (S,): people who met more than one variant; they are in no cell and not in `exposed`.
    """

    cells: Floats
    exposed: Ints
    multiple: Ints

    @classmethod
    def empty(cls, experiment: Experiment) -> Tally:
        s, v, m = experiment.shape
        return cls(np.zeros((s, v, m, 6)), np.zeros((s, v), np.int64), np.zeros(s, np.int64))

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.cells + other.cells, self.exposed + other.exposed, self.multiple + other.multiple)


Tallies = Mapping[int, Tally]
"""By tick of first exposure."""


def merge(tallies: Iterable[Tallies]) -> dict[int, Tally]:
    """The tallies of all, added up tick by tick, oldest first. Grouping and order make no difference."""
    merged: dict[int, Tally] = {}
    for each in tallies:
        for tick, tally in each.items():
            merged[tick] = merged[tick] + tally if tick in merged else tally
    return dict(sorted(merged.items()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exposures:
    """Rows of exposures, (R,) each, in any order: who met which variant, in which segment, when (event time).

    `person`: any whole number that stands for a person. `outcomes`, `prior` (R, M): what the person did in the metric's
    window after the *first* exposure, and the covariate from before it; only the rows of first exposures are read. NaN
    in an outcome: not judged (yet). NaN in a covariate: no history; it counts as 0, which is known beforehand too.
    """

    person: Ints
    segment: Ints
    variant: Ints
    at_s: Floats
    outcomes: Floats
    prior: Floats


def tally_people(experiment: Experiment, rows: Exposures, *, tick_s: float) -> dict[int, Tally]:
    """The tallies by tick (index of `tick_s` seconds) of these people.

    A person is counted once, where and when first exposed. Who met several variants is counted in `multiple` of the
    segment and tick of the first exposure and nowhere else. Exposures from before start or after end are not read.
    Outcomes that are not finite, or not 0 or 1 for a rate, count as not judged.
    """
    within = (rows.at_s >= experiment.start_s) & (rows.at_s < experiment.end_s)
    order = np.flatnonzero(within)
    order = order[np.lexsort((rows.variant[order], rows.at_s[order]))]
    _, first, back = np.unique(rows.person[order], return_index=True, return_inverse=True)
    begun = order[first]
    is_other = rows.variant[order] != rows.variant[begun][back]
    is_multiple = np.zeros(len(begun), bool)
    is_multiple[back[is_other]] = True
    ticks = np.floor_divide(rows.at_s[begun], tick_s).astype(np.int64)
    return {
        int(tick): _tally(experiment, rows, begun[ticks == tick], is_multiple[ticks == tick])
        for tick in np.unique(ticks)
    }


def _tally(experiment: Experiment, rows: Exposures, begun: Ints, is_multiple: npt.NDArray[np.bool_]) -> Tally:
    tally = Tally.empty(experiment)
    np.add.at(tally.multiple, rows.segment[begun[is_multiple]], 1)
    once = begun[~is_multiple]
    where = rows.segment[once], rows.variant[once]
    np.add.at(tally.exposed, where, 1)
    outcomes, prior = rows.outcomes[once], np.nan_to_num(rows.prior[once], nan=0.0, posinf=0.0, neginf=0.0)
    legal = np.isfinite(outcomes)
    is_rate = np.array([metric.kind is Kind.RATE for metric in experiment.metrics])
    legal &= ~is_rate | (outcomes == 0) | (outcomes == 1)
    y, x = np.where(legal, outcomes, 0.0), np.where(legal, prior, 0.0)
    np.add.at(tally.cells, where, np.stack([legal.astype(float), y, y * y, x, x * x, x * y], axis=-1))
    return tally
