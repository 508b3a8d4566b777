"""What one cell shows: a scenario at a load, a contestant, n runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.simulation.scenario import Must, On, Scenario
from benchmarks.contest import intervals
from benchmarks.contest.heat import Record
from benchmarks.contest.intervals import Figure

Floats = npt.NDArray[np.float64]

MEASURES = ("false_rollback", "missed", "harm", "exposure", "delay_min", "full_min", "most_min", "undecided")
MOST = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """`figures`, by measure, those that the scenario's truth makes sense of:

    `false_rollback`: share of runs in which any segment was taken back, though none had to be. `missed`: share of bad
    releases that a harmed segment has in full at the end. `harm`: mean expected excess of bad sessions. `exposure`:
    share of the sessions that were on the canary. `delay_min`: median minutes from the harm's onset (or the segment's
    first exposure, if later) until every harmed segment was routed away for good. `full_min`: median minutes until all
    segments had the whole split, and kept it; `most_min`: until segments with nine tenths of the sessions had.
    `undecided`: share of runs in which a segment is neither in full nor taken back at the end, though nothing is wrong
    (one that was withdrawn, as it could not be judged within the budget, is undecided). `times_min`, `harms`: the runs'
    own, behind `full_min` and `harm`.
    """

    scenario: str
    load: float
    contestant: str
    must: str
    held_out: bool
    n: int
    figures: dict[str, Figure]
    times_min: tuple[float, ...] = ()
    harms: tuple[float, ...] = ()

    def as_data(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario, "load": self.load, "contestant": self.contestant, "must": self.must,
            "held_out": self.held_out, "n": self.n, "figures": {k: v.as_data() for k, v in self.figures.items()},
        }  # fmt: skip


def cell_of(scenario: Scenario, load: float, record: Record) -> Cell:
    figures, times = _figures(scenario, record)
    return Cell(
        scenario=scenario.name, load=load, contestant=record.contestant, must=str(scenario.must),
        held_out=scenario.held_out, n=len(record.harm), figures=figures, times_min=tuple(times.tolist()),
        harms=tuple(record.harm.tolist()),
    )  # fmt: skip


def _figures(scenario: Scenario, record: Record) -> tuple[dict[str, Figure], Floats]:
    times_min = record.full_since_s.max(axis=1) / 60
    is_back = np.isfinite(record.back_at_s)
    decided = np.isfinite(record.full_since_s) | is_back
    figures = {
        "harm": intervals.mean(record.harm),
        "exposure": intervals.mean(record.canary_sessions / np.maximum(record.sessions, 1)),
    }
    if scenario.must is Must.ROLLBACK:
        harmed = np.array([scenario.harms(group.name) for group in scenario.groups])
        figures["missed"] = intervals.rate(np.isfinite(record.full_since_s[:, harmed]).any(axis=1))
        figures["delay_min"] = intervals.quantile(_delays_min(scenario, record, harmed))
    else:
        figures["false_rollback"] = intervals.rate(is_back.any(axis=1))
        figures["undecided"] = intervals.rate(~decided.all(axis=1))
    if scenario.must is Must.PROMOTE:
        figures["full_min"] = intervals.quantile(times_min)
        figures["most_min"] = intervals.quantile(_most_min(scenario, record))
    return figures, times_min


def _most_min(scenario: Scenario, record: Record) -> Floats:
    """(n,) minutes until segments with `MOST` of the sessions are full."""
    shares = np.array([group.share for group in scenario.groups])
    order = np.argsort(record.full_since_s, axis=1)
    reached = np.cumsum(shares[order], axis=1) >= MOST - 1e-9
    last = order[np.arange(len(order)), reached.argmax(axis=1)]
    most: Floats = record.full_since_s[np.arange(len(order)), last] / 60
    return most


def _delays_min(scenario: Scenario, record: Record, harmed: npt.NDArray[np.bool_]) -> Floats:
    """(n,) A segment that was never exposed is away from the start; one taken back before the onset, at it."""
    first, away = record.first_s[:, harmed], record.none_since_s[:, harmed]
    onsets = np.array(
        [_onset_s(scenario, group.name) for group in scenario.groups if scenario.harms(group.name)], dtype=float
    )
    begin = np.maximum(first, onsets)
    delays = np.where(np.isinf(first), 0.0, np.maximum(away - np.where(np.isinf(begin), 0.0, begin), 0.0))
    return delays.max(axis=1) / 60 if delays.shape[1] else np.full(len(delays), math.inf)


def _onset_s(scenario: Scenario, group: str) -> float:
    """When the canary first makes something worse for a segment; effects that count from the exposure: at it."""
    at = [
        0.0 if effect.since_exposure else effect.at_s
        for effect in scenario.effects
        if effect.on is On.CANARY and effect.segment in (None, group)
    ]
    return min(at, default=math.inf)
