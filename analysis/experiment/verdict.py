"""Where an experiment stands: who has won, who is withdrawn, and whether it ends without an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from analysis.experiment.design import Experiment
from analysis.experiment.effects import Effects, Pairs

Flags = npt.NDArray[np.bool_]


class Standing(StrEnum):
    RUNNING = "running"
    WINNER = "winner"  # promote it
    WAITING = "waiting"  # it is ahead, but its guardrails are not proven yet, or the people not to be trusted
    FUTILE = "futile"  # the end has come without a winner: the control stays


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Of one row of the results. `withdrawn`: each variant with the reason, e.g. 'conversion is worse than b'."""

    standing: Standing
    winner: str | None
    withdrawn: dict[str, str]


def judge(effects: Effects, *, now_s: float, trusted: bool = True, pairs: Pairs | None = None) -> tuple[Verdict, ...]:
    """The verdict of each segment, and last of all of them together.

    A variant is withdrawn once its interval against some other one excludes zero on the worse side in the deciding
    metric, or excludes a guardrail's margin against the control. It wins once every other is behind it, or withdrawn,
    and each guardrail is proven within its margin (an intersection: needs no correction, Schultzberg, Ankargren &
    Frånberg 2024, arXiv 2402.11609). The intervals of a row are at its part of alpha over V - 1: a variant wins
    wrongly, or the best one is withdrawn for a better one, only if one of the V - 1 intervals between the best and the
    others has left out the truth at some look, so that the chance of it is at most alpha. A guardrail's withdrawals are
    wrong with that chance again, each. The control is never withdrawn: guardrails are held against it.

    `trusted`: whether people are where they were sent (`checks.py`); where not, nobody wins. `pairs`: those of
    `decisive`, if they are at hand.
    """
    pairs = decisive(effects) if pairs is None else pairs
    return tuple(_judge(effects.experiment, pairs, row, now_s, trusted=trusted) for row in range(len(pairs.low)))


def decisive(effects: Effects) -> Pairs:
    """The pairs at the level that verdicts are made at."""
    experiment = effects.experiment
    rivals = len(experiment.variants) - 1
    levels = sorted({experiment.row_alpha(row) / rivals for row in range(len(experiment.segments) + 1)})
    found = [effects.pairs(level) for level in levels]
    if len(found) == 1:
        return found[0]
    segments, together = found  # the segments' share is the smaller one, or both are one
    return Pairs(*(
        np.concatenate([getattr(segments, name)[:-1], getattr(together, name)[-1:]])
        for name in ("effect", "low", "high", "log_e")
    ))  # fmt: skip


def _judge(experiment: Experiment, pairs: Pairs, row: int, now_s: float, *, trusted: bool) -> Verdict:
    names = [variant.name for variant in experiment.variants]
    sign = experiment.metrics[experiment.primary].better.sign
    behind = _is_below(pairs, row, experiment.primary, sign, 0.0)
    withdrawn: dict[str, str] = {}
    for loser, winner in zip(*np.nonzero(behind), strict=True):
        if loser != 0:
            reason = f"{experiment.metrics[experiment.primary].name} is worse than {names[winner]}"
            withdrawn.setdefault(names[loser], reason)
    withdrawn |= dict(_breaches(experiment, pairs, row))
    winner = _winner(names, behind, withdrawn)
    if winner is None:
        standing = Standing.FUTILE if now_s >= experiment.end_s else Standing.RUNNING
    elif trusted and _is_within(experiment, pairs, row, winner):
        standing = Standing.WINNER
    else:
        standing = Standing.FUTILE if now_s >= experiment.end_s else Standing.WAITING
    return Verdict(standing=standing, winner=None if winner is None else names[winner], withdrawn=withdrawn)


def _is_below(pairs: Pairs, row: int, metric: int, sign: int, line: float) -> Flags:
    """(V, V) whether a is surely worse than b by more than `line` (>= 0)."""
    low, high = pairs.low[row, metric], pairs.high[row, metric]
    worst = high if sign > 0 else -low
    found: Flags = np.nan_to_num(worst, nan=np.inf) < -line
    return found


def _breaches(experiment: Experiment, pairs: Pairs, row: int) -> Iterator[tuple[str, str]]:
    for index, metric in enumerate(experiment.metrics):
        if metric.margin is None:
            continue
        worse = _is_below(pairs, row, index, metric.better.sign, metric.margin)[:, 0]
        for variant in np.flatnonzero(worse):
            yield experiment.variants[variant].name, f"{metric.name} is worse than the control by more than its margin"


def _winner(names: list[str], behind: Flags, withdrawn: dict[str, str]) -> int | None:
    for variant, name in enumerate(names):
        others = [other for other in range(len(names)) if other != variant]
        if name not in withdrawn and all(behind[other, variant] or names[other] in withdrawn for other in others):
            return variant
    return None


def _is_within(experiment: Experiment, pairs: Pairs, row: int, winner: int) -> bool:
    """Whether every guardrail of the winner is proven to be no worse than its margin."""
    if winner == 0:
        return True
    for index, metric in enumerate(experiment.metrics):
        if metric.margin is None:
            continue
        low, high = pairs.low[row, index, winner, 0], pairs.high[row, index, winner, 0]
        worst = low if metric.better.sign > 0 else -high
        if not worst > -metric.margin:
            return False
    return True
