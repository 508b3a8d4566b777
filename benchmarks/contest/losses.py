"""Where Serinus loses: cells in which somebody does better on one axis without being worse on the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.contest import intervals
from benchmarks.contest.intervals import Figure
from benchmarks.contest.outcome import Cell

CHAMPION = "serinus"
ORACLE = "oracle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """`sure`: the intervals do not overlap. `axis`: what the peer is better at."""

    scenario: str
    load: float
    peer: str
    axis: str
    peer_shows: str
    serinus_shows: str
    sure: bool

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


def is_peer(name: str) -> bool:
    """Serinus's other policies and the oracle are none."""
    return not name.startswith(CHAMPION) and name != ORACLE


def times_min(cells: Sequence[Cell]) -> dict[tuple[float, str], Figure]:
    """By load and contestant: median minutes to 100 % over all runs of releases that must be promoted."""
    runs: dict[tuple[float, str], list[float]] = {}
    for cell in cells:
        if cell.must == "promote":
            runs.setdefault((cell.load, cell.contestant), []).extend(cell.times_min)
    return {key: intervals.quantile(np.array(times)) for key, times in runs.items()}


def losses(cells: Sequence[Cell]) -> list[Loss]:
    """Sure ones first."""
    times = times_min(cells)
    champion = {(cell.scenario, cell.load): cell for cell in cells if cell.contestant == CHAMPION}
    found: list[Loss] = []
    for cell in cells:
        own = champion.get((cell.scenario, cell.load))
        if own is None or not is_peer(cell.contestant):
            continue
        found += _worse_rates(cell, own)
        if cell.must == "rollback":
            found += _frontier(cell, own, times.get((cell.load, cell.contestant)), times.get((cell.load, CHAMPION)))
    return sorted(found, key=lambda loss: (not loss.sure, loss.axis, loss.scenario, loss.load, loss.peer))


def _frontier(peer: Cell, own: Cell, peer_time: Figure | None, own_time: Figure | None) -> list[Loss]:
    """Less harm in no more time, or less time at no more harm; less harm alone where no good release was played."""
    harm, own_harm = peer.figures["harm"], own.figures["harm"]
    if peer_time is None or own_time is None:
        return [_loss(peer, "harm (no good release at this load)", harm, own_harm)] * (harm.value < own_harm.value)
    if not math.isfinite(peer_time.value):
        return []
    if harm.value < own_harm.value and peer_time.value <= own_time.value:
        return [_loss(peer, "harm at equal or shorter time", harm, own_harm)]
    if peer_time.value < own_time.value and harm.value <= own_harm.high:
        return [_loss(peer, "time at equal harm", peer_time, own_time)]
    return []


def _worse_rates(peer: Cell, own: Cell) -> list[Loss]:
    return [
        _loss(peer, measure, peer.figures[measure], own.figures[measure])
        for measure in ("false_rollback", "missed")
        if measure in own.figures and peer.figures[measure].surely_below(own.figures[measure])
    ]


def _loss(peer: Cell, axis: str, theirs: Figure, ours: Figure) -> Loss:
    return Loss(
        scenario=peer.scenario, load=peer.load, peer=peer.contestant, axis=axis, peer_shows=show(theirs, axis),
        serinus_shows=show(ours, axis), sure=theirs.surely_below(ours),
    )  # fmt: skip


def show(figure: Figure, measure: str) -> str:
    """`12.3 [10.1, 15.0]`; rates in percent."""
    if not figure.n:
        return "–"
    is_rate = measure in {"false_rollback", "missed", "undecided", "exposure"}
    low, value, high = (_number(v * (100 if is_rate else 1)) for v in (figure.low, figure.value, figure.high))
    return f"{value}{' %' if is_rate else ''} [{low}, {high}]"


def _number(value: float) -> str:
    if math.isinf(value):
        return "never" if value > 0 else "?"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
