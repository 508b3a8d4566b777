"""Simulated people of whom a fifth more than usual leave, with no error: the page where they are stuck is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from analysis.anomaly.contrast import contrast
from analysis.session import NS, SessionTracker
from analysis.simulation.people import LABELS
from analysis.simulation.scenario import Effect, Kpi
from analysis.spec import SegmentSpec
from tests.simulated import SHOPPERS, shop
from tests.unit.analysis.rows import small_spec

RUNS = 10
AGE_S = 30.0
WORSE = 0.02  # lifts abandonment from 10 % to 12 %


def _sessions(seed: int) -> npt.NDArray[np.void]:
    spec = small_spec(segments=(SegmentSpec(name="default"),))
    habits = replace(SHOPPERS, abandoned=0.10, errors=0.0)
    people = shop(spec, (Effect(kpi=Kpi.ABANDONMENT, plus=WORSE),), rates=[150.0], habits=habits, seed=seed)
    tracker = SessionTracker(spec)
    tracker.observe(people.advance(60.0, {0: 5_000}, epoch_ns=NS), LABELS)
    judged = next(judged for judged in tracker.judge(2_000 * NS) if len(judged.slots))
    return tracker.columns.rows(judged.slots)


def test_the_page_where_people_are_stuck_is_named() -> None:
    right = 0
    for seed in range(RUNS):
        sessions = _sessions(seed)
        canary = sessions["version"] == 1
        found = contrast(sessions[~canary], sessions[canary], LABELS, age_s=AGE_S)
        right += bool(found) and found[0].name in {"left after page checkout", "page done", "page checkout → page done"}
    assert right >= 9
