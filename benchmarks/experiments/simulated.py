"""Experiments whose truth is known, many at once: each run is a segment of its own, at its own full alpha."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from analysis.experiment.allocation import next_shares
from analysis.experiment.design import Allocation, Experiment, Kind, Metric, Variant
from analysis.experiment.effects import Effects
from analysis.experiment.multiplicity import closed, e_bh
from analysis.experiment.posterior import posterior
from analysis.experiment.tally import Tally
from analysis.experiment.verdict import Standing, judge

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Outcomes = Callable[[float, Ints, np.random.Generator], Floats]
"""Of the course in [0, 1) and people (runs, V): the cells (runs, V, 1, 6) of a tick."""

ALPHA = 0.05
EQUAL = (0.5, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """`truth`: the second variant minus the first. `shares`: by tick, where nothing adapts; each lasts a batch."""

    outcomes: Outcomes
    truth: float
    kind: Kind = Kind.RATE
    per_tick: int = 100
    ticks: int = 200
    shares: Callable[[int], tuple[float, ...]] = field(default=lambda _: EQUAL)
    allocation: Allocation = Allocation.FIXED
    batch: int = 5  # ticks


def rates(first: float, second: float, *, drift: float = 0.0) -> World:
    """Two conversion rates; both rise by `drift` over the course."""
    return World(outcomes=partial(_rates, np.array([first, second]), drift), truth=second - first)


def _rates(p: Floats, drift: float, course: float, n: Ints, rng: np.random.Generator) -> Floats:
    yes = rng.binomial(n, p + drift * course).astype(float)
    zero = np.zeros_like(yes)
    return np.stack([n, yes, yes, zero, zero, zero], axis=-1)[:, :, None]


def revenue(*, buy: float, spread: float, known: float, lift: float = 0.0) -> World:
    """What people spend: `buy` of them something log-normal, and the past tells the share `known` of the variance."""
    outcomes = partial(_revenue, buy, spread, known, lift)
    return World(outcomes=outcomes, truth=lift, kind=Kind.MEAN, ticks=100)


def _revenue(
    buy: float, spread: float, known: float, lift: float, _: float, n: Ints, rng: np.random.Generator
) -> Floats:
    """The covariate is an earlier visit's spending; it varies as the outcome does."""
    runs, per_tick = len(n), int(n[0].sum())
    past, now = (
        np.where(rng.random((runs, per_tick)) < buy, rng.lognormal(3.0, spread, (runs, per_tick)), 0.0)
        for _ in range(2)
    )
    is_second = np.arange(per_tick) >= n[:, :1]
    y = np.sqrt(known) * past + np.sqrt(1 - known) * now + lift * is_second
    x = past if known else np.zeros_like(past)
    cells = [
        np.stack([n[:, v], *((values * member).sum(axis=1) for values in (y, y * y, x, x * x, x * y))], axis=-1)
        for v, member in enumerate((~is_second, is_second))
    ]
    return np.stack(cells, axis=1)[:, :, None]


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """(runs,) each: whether the truth was ever left out of an interval, and whether `no difference` was ever excluded;
    the winner (-1: none yet), `people` (runs, V), and the last interval's length.
    """

    missed: npt.NDArray[np.bool_]
    excluded: npt.NDArray[np.bool_]
    winner: Ints
    people: Ints
    length: Floats


def experiment(runs: int, world: World, n_variants: int = 2, n_metrics: int = 1) -> Experiment:
    return Experiment(
        name="simulated",
        variants=tuple(Variant(name=str(v), version=str(v), share=1 / n_variants) for v in range(n_variants)),
        metrics=tuple(Metric(name=f"m{m}", kind=world.kind) for m in range(n_metrics)),
        segments=tuple(map(str, range(runs))),
        allocation=world.allocation,
        alpha=ALPHA,
    )


def play(world: World, runs: int, seed: int) -> Played:
    """A look after each tick. Adaptive worlds move their shares after each batch, and stop once there is a winner."""
    rng = np.random.default_rng(seed)
    plan = experiment(runs, world)
    effects = Effects(plan)
    missed, excluded = np.zeros(runs, bool), np.zeros(runs, bool)
    winner, people = np.full(runs, -1), np.zeros((runs, 2), np.int64)
    adapts = world.allocation is not Allocation.FIXED
    shares = np.full((runs, 2), 0.5)
    for tick in range(world.ticks):
        if not adapts:
            shares = np.broadcast_to(np.array(world.shares(tick)), (runs, 2))
        n = _assigned(world.per_tick, shares, rng)
        people += n
        effects.update(_tally(world.outcomes(tick / world.ticks, n, rng), n), shares)
        pairs = effects.pairs(ALPHA)
        low, high = pairs.low[:-1, 0, 1, 0], pairs.high[:-1, 0, 1, 0]
        missed |= (low > world.truth) | (high < world.truth)
        excluded |= (low > 0) | (high < 0)
        if adapts and (tick + 1) % world.batch == 0:
            winner = _winners(effects, winner)
            shares = _follow(effects, winner, rng)
    return Played(missed, excluded, _winners(effects, winner), people, high - low)


def _assigned(per_tick: int, shares: Floats, rng: np.random.Generator) -> Ints:
    first = rng.binomial(per_tick, shares[:, 0])
    return np.stack([first, per_tick - first], axis=1)


def _tally(cells: Floats, n: Ints) -> Tally:
    return Tally(cells, n, np.zeros(len(n), np.int64))


def _winners(effects: Effects, before: Ints) -> Ints:
    verdicts = judge(effects, now_s=0.0, pairs=effects.pairs(ALPHA))[:-1]  # of two variants, one pair
    found = [int(each.winner or -1) if each.standing is Standing.WINNER else -1 for each in verdicts]
    return np.where(before >= 0, before, found)


def _follow(effects: Effects, winner: Ints, rng: np.random.Generator) -> Floats:
    runs = len(winner)
    free = np.ones((runs, 2))
    shares = next_shares(effects.experiment, posterior(effects), np.zeros((runs, 2), bool), free, rng) / 10_000
    decided = winner >= 0
    shares[decided] = np.eye(2)[winner[decided]]
    return shares


def family(runs: int, seed: int, *, n_variants: int = 3, n_metrics: int = 4, ticks: int = 100) -> tuple[Floats, Floats]:
    """A/A with many questions: runs in which closed testing ever, and e-BH at the last look, kept anything."""
    rng = np.random.default_rng(seed)
    world = World(outcomes=partial(_rates, np.full(n_variants, 0.1), 0.0), truth=0.0)
    effects = Effects(experiment(runs, world, n_variants, n_metrics))
    ever, last = np.zeros(runs), np.zeros(runs)
    for _ in range(ticks):
        n = rng.multinomial(world.per_tick, [1 / n_variants] * n_variants, runs)
        cells = np.concatenate([world.outcomes(0.0, n, rng) for _ in range(n_metrics)], axis=2)
        effects.update(_tally(cells, n), [1 / n_variants] * n_variants)
        logs = effects.pairs().log_e[:-1, :, 1:, 0].reshape(runs, -1)
        ever = np.maximum(ever, [closed(row).max() >= -np.log(ALPHA) for row in logs])
        last = np.array([float(e_bh(row, ALPHA).any()) for row in logs])
    return ever, last
