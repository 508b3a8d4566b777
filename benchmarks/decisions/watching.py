"""What the evidence says of splits that nobody steers: the very reading of a live rollout, many at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from analysis.reading import Reading, Standing
from analysis.simulation.counts import CountSimulator
from analysis.spec import TOTAL_BP
from xds_server.scenario_file import ScenarioFile

Floats = npt.NDArray[np.float64]

Splits = Callable[[np.random.Generator, tuple[int, int]], Floats]
"""Splits (B, S) in [0, 1] of the next tick."""


def steady(split: float) -> Splits:
    return lambda _, shape: np.full(shape, split)


def moving(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Another split at each tick, 1 to 50 %."""
    return np.exp(rng.uniform(np.log(0.01), np.log(0.5), shape))


def first_proof_s(
    file: ScenarioFile, *, load: float, n: int, seconds: float, splits: Splits, seed: int, since_s: float = 0.0
) -> Floats:
    """(n, S) seconds from `since_s` after the exposure until harm is proven in a segment; inf: never.

    A proof before `since_s` counts as a negative time. Times are those at which sessions have been judged, less the age
    at which they are.
    """
    spec = file.spec
    people, chance = np.random.default_rng(seed).spawn(2)
    world = CountSimulator(spec, file.scenario, load=load, n_runs=n, rng=people)
    shape = (n, len(spec.segments))
    reading, tick_s = Reading(spec, n), spec.rollout.interval_s
    found = np.full(shape, np.inf)
    warm = round(spec.rollout.warmup_s / tick_s)
    age_s = min(kpi.judge_after_s for kpi in spec.kpis)
    nobody, live = np.zeros(shape), np.ones(shape, np.bool_)
    for tick in range(warm + round((since_s + seconds + age_s) / tick_s)):
        split = nobody if tick < warm else splits(chance, shape)
        told = world.advance(np.round(split * TOTAL_BP))
        at_s = max(tick + 1 - warm, 0) * tick_s
        standing = Standing(split=split, live=live, rising=~live, cleared=~live)
        reading.learn(
            told.window, told.newcomers, standing,
            since_s=np.full(n, at_s), elapsed_s=np.full(n, tick_s), blind=np.zeros(n, np.bool_),
        )  # fmt: skip
        found = np.where(reading.now.proven & np.isinf(found), at_s - age_s - since_s, found)
        if np.isfinite(found).any(axis=1).all():
            break
    return found
