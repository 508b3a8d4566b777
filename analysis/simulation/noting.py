"""What both ways to play a rollout do to each segment at each tick: note how it stands, and move its split."""

from __future__ import annotations

import numpy as np

from analysis.decision import Action, Order, Phase, Rollback, SegmentDecision
from analysis.ramp import Ramp
from analysis.segment import SegmentState
from analysis.simulation.outcome import End

LOWEST_SHARE = 0.5  # of a split, to which somebody lowers it at the most in a scenario of moving splits


def note(end: End, state: SegmentState, decision: SegmentDecision, now_s: float) -> None:
    """Note in `end` where a segment stands after its decision at a time after the rollout's start."""
    if end.first_exposure_s is None and state.split_bp > 0:
        end.first_exposure_s = now_s
    if state.phase.is_final and end.ended_s is None:
        end.ended_s = now_s
        end.tier = str(decision.verdict.tier) if isinstance(decision.verdict, Rollback) else None
    end.phase = state.phase


def lowered(segment: str, state: SegmentState, chance: np.random.Generator) -> Order | None:
    """The order of somebody who lowers a split that rises, by chance; None where there is nothing to lower."""
    if state.phase is not Phase.RAMPING or state.split_bp <= 1:
        return None
    split_bp = max(round(state.split_bp * chance.uniform(LOWEST_SHARE, 1.0)), 1)
    return Order(action=Action.SET, who="chance", segment=segment, split_bp=split_bp)


def lower(ramp: Ramp, chance: np.random.Generator) -> None:
    """Carry such orders out on every segment of a rollout; they are in force at once."""
    for name, state in ramp.segments.items():
        order = lowered(name, state, chance)
        if order is not None:
            ramp.command(order)
            ramp.confirm(name)
