"""A memory leak that shows in memory hours before people notice: called before memory is full?"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from analysis.forecast.exhaustion import POINT_S, ResourceWatch
from analysis.guard import BREACH_TICKS, exhausts
from benchmarks.contest.intervals import rate
from benchmarks.goal_table import Row

Floats = npt.NDArray[np.float64]
Job = Callable[[], Row]

SEED, LIMIT, START = 20_263, 1_000.0, 400.0
HORIZON_S, FALSE = 7_200.0, 0.01
SAW, SAW_S, NOISE = 0.1, 300.0, 0.01  # garbage collection: a saw tooth of a tenth of the limit; noise of a report
REPORT_S = 30.0


@lru_cache(maxsize=4)
def _called_h(leak_h: float, n: int, hours: float) -> Floats:
    """(n,) hours until a leak that fills memory in `leak_h` hours is called; 0: no leak. inf: never."""
    found = np.full(n, np.inf)
    for run, rng in enumerate(np.random.default_rng((SEED, int(leak_h))).spawn(n)):
        watch, phases, ticks = ResourceWatch("memory", LIMIT, horizon_s=HORIZON_S), rng.random(2), 0
        for at_s in np.arange(0.0, hours * 3_600, REPORT_S):
            for arm, leaks in ((0, 0.0), (1, float(leak_h > 0))):
                leak = leaks * (LIMIT - START) * at_s / 3_600 / max(leak_h, 1e-9)
                saw = SAW * LIMIT * ((at_s / SAW_S + phases[arm]) % 1.0)
                watch.measure(arm, START + leak + saw + NOISE * LIMIT * rng.normal())
            if at_s % POINT_S:
                continue
            watch.tick(at_s)
            ticks = ticks + 1 if exhausts(watch.forecast, FALSE) else 0
            if ticks >= BREACH_TICKS:
                found[run] = at_s / 3_600
                break
    return found


def _leak(leak_h: float, n: int) -> Row:
    found = _called_h(leak_h, n, leak_h)
    before, lead = rate(found < leak_h), leak_h - found
    return Row(
        measure="a memory leak is called before memory is full; median", setting=f"full in {leak_h:g} h",
        measured=f"{before.value:.1%} [{before.low:.1%}, {before.high:.1%}], {np.median(lead) * 60:.0f} min ahead",
        n=n, goal="≥ 95 %", met=before.value >= 0.95,
    )  # fmt: skip


def _none(n: int) -> Row:
    hits = rate(np.isfinite(_called_h(0.0, n, 12.0)))
    return Row(
        measure="called where nothing leaks", setting="12 h",
        measured=f"{hits.value:.1%} [{hits.low:.1%}, {hits.high:.1%}]", n=n, goal="≤ 1 %", met=hits.value <= 0.01,
    )  # fmt: skip


def leaks(share: float) -> list[Job]:
    n = max(round(100 * share), 4)
    return [*(partial(_leak, hours, n) for hours in (4.0, 6.0, 12.0)), partial(_none, n)]
