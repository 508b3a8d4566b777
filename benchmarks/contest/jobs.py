"""The contest as jobs for processes: tuning a peer at a load, and playing a scenario at a load."""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from analysis.simulation.scenario import Scenario
from benchmarks.contest.contestants import PEERS, PEERS_BY_NAME, Entry
from benchmarks.contest.heat import Contestant, Peers, World, play
from benchmarks.contest.kept import Kept
from benchmarks.contest.outcome import Cell, cell_of
from benchmarks.contest.report import TUNED
from benchmarks.contest.tuning import Tuned, documented, tune

SEED, TUNING_SEED = 5_006, 5_007
ALLOWED = 0.01  # false rollbacks of a tuned peer: what Serinus promises

Rng = np.random.Generator
Job = TypeVar("Job")
Made = TypeVar("Made")


class Arena(Protocol):
    """What the simulator and Serinus bring; it goes to other processes, so it can be pickled."""

    def scenarios(self) -> Sequence[Scenario]: ...

    def world(self, scenario: Scenario, load: float, n_runs: int, rng: Rng, *, with_durations: bool) -> World: ...

    def own(self) -> Sequence[str]:
        """Names of Serinus's contestants and of the oracle."""

    def contestant(self, name: str, scenario: Scenario, load: float, world: World, seed: int) -> Contestant:
        """One of them, in all rows of the world, which is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is played.

    `horizon_s`: of a scenario, after its last onset. `loads`, `scenarios`, `peers`, `own`: None: all there are.
    """

    name: str
    n: int
    n_tuning: int
    horizon_s: float
    loads: tuple[float, ...] | None = None
    scenarios: tuple[str, ...] | None = None
    peers: tuple[str, ...] | None = None
    own: tuple[str, ...] | None = None
    reference: str = "good"  # whose releases are good: for tuning

    def entries(self) -> list[Entry]:
        return [entry for entry in PEERS if self.peers is None or entry.name in self.peers]

    def horizon_of(self, scenario: Scenario) -> float:
        """Cut, but never before what a scenario is about has begun, and `horizon_s` have passed since."""
        latest_s = max((effect.at_s for effect in scenario.effects), default=0.0)
        return min(latest_s + self.horizon_s, scenario.horizon_s)

    def cells(self, scenarios: Sequence[Scenario]) -> list[tuple[Scenario, float]]:
        return [
            (scenario, load)
            for scenario in scenarios
            if self.scenarios is None or scenario.name in self.scenarios
            for load in scenario.loads
            if self.loads is None or load in self.loads
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    cells: list[Cell]
    tuned: list[Tuned]


def run(
    arena: Arena, extent: Extent, *, processes: int, say: Callable[[str], None], kept: Kept | None = None
) -> Result:
    """Tune, then play. The same arena and extent give the same result, whatever the number of processes.

    `kept`: where results are read that are there already, and left as soon as there are more.
    """
    played = extent.cells(arena.scenarios())
    reference = next(scenario for scenario in arena.scenarios() if scenario.name == extent.reference)
    nearest = {load: min(reference.loads, key=lambda at: abs(math.log(at / load))) for _, load in played}
    loads = sorted(set(nearest.values()))
    tuning = [(arena, extent, e.name, load) for load in loads for e in extent.entries() if e.knobs]
    tuned, unplayed = _known(tuning, kept.tuned if kept else None)
    for job, made in _all(_tune_one, unplayed, processes, say):
        tuned.append(made)
        if kept:
            kept.keep(_named(job), made)
    values = {(t.contestant, t.load): t.values for t in tuned}
    jobs: list[_PlayJob] = []
    for scenario, load in played:
        peers = {name: v for (name, at), v in values.items() if at == nearest[load]}
        heats = dict.fromkeys(entry.heat for entry in extent.entries())
        own = [name for name in arena.own() if extent.own is None or name in extent.own]
        jobs += [(arena, extent, scenario, load, name, None) for name in own]
        jobs += [(arena, extent, scenario, load, heat, peers) for heat in heats]
    known, unplayed_heats = _known(jobs, kept.cells if kept else None)
    for heat_job, heat in _all(_play_one, unplayed_heats, processes, say):
        known.append(heat)
        if kept:
            kept.keep(_named(heat_job), heat)
    cells = [cell for heat in known for cell in heat]
    return Result(cells=sorted(cells, key=lambda c: (c.scenario, c.load, c.contestant)), tuned=sorted_tuned(tuned))


def _known(jobs: Sequence[Job], read: Callable[[str], Made | None] | None) -> tuple[list[Made], list[Job]]:
    """What is kept of these jobs, and the jobs that are still to be played."""
    if read is None:
        return [], list(jobs)
    found = [(job, read(_named(job))) for job in jobs]
    return [made for _, made in found if made is not None], [job for job, made in found if made is None]


def sorted_tuned(tuned: Sequence[Tuned]) -> list[Tuned]:
    return sorted(tuned, key=lambda t: (t.load, t.contestant))


def seed_of(base: int, *names: object) -> int:
    """One seed for what has these names, in every process and on every machine."""
    return int(np.random.SeedSequence([base, *(zlib.crc32(str(name).encode()) for name in names)]).generate_state(1)[0])


def _all(
    do: Callable[[Job], Made], jobs: Sequence[Job], processes: int, say: Callable[[str], None]
) -> Iterator[tuple[Job, Made]]:
    if processes <= 1:
        yield from ((job, do(job)) for job in jobs)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(processes) as pool:
        waiting = {pool.submit(_timed, do, job): job for job in jobs}
        for done, future in enumerate(as_completed(waiting), 1):
            made, cpu_s = future.result()
            say(f"{done} of {len(jobs)}: {_named(waiting[future])} took {cpu_s:.1f} s")
            yield waiting[future], made


def _timed(do: Callable[[Job], Made], job: Job) -> tuple[Made, float]:
    begin_s = time.process_time()
    return do(job), time.process_time() - begin_s


def _named(job: object) -> str:
    assert isinstance(job, tuple)
    return " ".join(str(getattr(part, "name", part)) for part in job if isinstance(part, (str, float, Scenario)))


def _tune_one(job: tuple[Arena, Extent, str, float]) -> Tuned:
    arena, extent, name, load = job
    entry = PEERS_BY_NAME[name]
    scenario = next(s for s in arena.scenarios() if s.name == extent.reference)
    seed = seed_of(TUNING_SEED, name, load)

    def rolled_back(settings: Sequence[Mapping[str, float]]) -> list[list[bool]]:
        rng, n = np.random.default_rng(seed), extent.n_tuning
        world = arena.world(scenario, load, n * len(settings), rng, with_durations=entry.sees_durations)
        peers = [make_peers(entry, entry.name, values, world, n, seed) for values in settings]
        records = play(world, peers, horizon_s=min(extent.horizon_s, scenario.horizon_s), may_harm=False)
        return [[any(times) for times in np.isfinite(record.back_at_s).tolist()] for record in records]

    return tune(entry, load, ALLOWED, rolled_back)


def make_peers(entry: Entry, name: str, values: Mapping[str, float], world: World, n: int, seed: int) -> Peers:
    rngs = [np.random.default_rng([seed, zlib.crc32(name.encode()), run]) for run in range(n)]
    made = [entry.make(rng, values) for rng in rngs]
    return Peers(name, made, n_segments=world.n_segments, edges_ms=world.edges_ms)


_PlayJob = tuple[Arena, Extent, Scenario, float, str, Mapping[str, Mapping[str, float]] | None]


def _play_one(job: _PlayJob) -> list[Cell]:
    """A heat of peers in one world, or (no tuned values) one of Serinus's own contestants in a world of its own."""
    arena, extent, scenario, load, who, tuned = job
    seed = seed_of(SEED, scenario.name, load)
    if tuned is None:
        world = arena.world(scenario, load, extent.n, np.random.default_rng(seed), with_durations=False)
        contestants: list[Contestant] = [arena.contestant(who, scenario, load, world, seed)]
    else:
        heat = [entry for entry in extent.entries() if entry.heat == who]
        line_up = [(entry, entry.name, documented(entry)) for entry in heat]
        line_up += [(entry, entry.name + TUNED, dict(tuned[entry.name])) for entry in heat if entry.name in tuned]
        rng, sees = np.random.default_rng(seed), any(entry.sees_durations for entry in heat)
        world = arena.world(scenario, load, extent.n * len(line_up), rng, with_durations=sees)
        contestants = [make_peers(entry, name, values, world, extent.n, seed) for entry, name, values in line_up]
    may_harm = any(scenario.harms(group.name) for group in scenario.groups)
    horizon_s = extent.horizon_of(scenario)
    return [
        cell_of(scenario, load, record) for record in play(world, contestants, horizon_s=horizon_s, may_harm=may_harm)
    ]
