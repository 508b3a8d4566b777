"""What it costs to keep what a rollout is given: bytes a tick, packing, and the write beside the engine's state."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from analysis.engine import Rollout, ServiceEngine
from analysis.session import NS
from analysis.simulation.people import LABELS, People
from analysis.simulation.scenario import Group, Must, Scenario
from analysis.spec import KpiKind, KpiSpec, RolloutSpec, SegmentSpec, ServiceSpec
from analysis.tape import Tape
from xds_server.store.history import HistoryStore
from xds_server.store.journal import Journal
from xds_server.store.records import EventRow
from xds_server.tape_form import encode, kind_of

KPIS = (
    KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=60, tolerance=0.005),
    KpiSpec(kind=KpiKind.LATENCY, judge_after_s=60, tolerance=0.02),
    KpiSpec(kind=KpiKind.ANOMALY, judge_after_s=600, tolerance=0.1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one rollout. Bytes are of a tick's event; times in ms: median and 99th percentile of a tick."""

    segments: int
    sessions_per_s: float
    ticks: int
    bytes: float
    bytes_p99: float
    tick_ms: tuple[float, float]
    pack_ms: tuple[float, float]
    write_state_ms: tuple[float, float]
    write_both_ms: tuple[float, float]


def measured(n_segments: int, rate: float, ticks: int, seed: int) -> Cost:
    """A healthy rollout at the default interval."""
    names = [*(f"segment-{i}" for i in range(1, n_segments)), "default"]
    spec = ServiceSpec(
        name="shop", baseline="v1", versions=("v1", "v2"), segments=tuple(SegmentSpec(name=name) for name in names),
        kpis=KPIS, rollout=RolloutSpec(),
    )  # fmt: skip
    groups = tuple(Group(name=name, share=1 / n_segments) for name in names)
    scenario = Scenario(name="shop", title="a shop", must=Must.PROMOTE, groups=groups, effects=())
    people = People(scenario, spec, load=rate, rng=np.random.default_rng(seed))
    engine = ServiceEngine(spec, seed=seed, tape=Tape())
    arms = dict.fromkeys(names, ("v1", "v2"))
    engine.start(Rollout(rollout="r", canary="v2", started_ns=0, arms=arms))
    split: dict[int, int] = {}
    tick_s, pack_s, packed = [], [], []
    for i in range(1, ticks + 1):
        at_s = i * spec.rollout.interval_s
        rows = people.advance(at_s, split)
        rows["bucket"] = rows["user"] % 10_000
        began = time.perf_counter()
        engine.observe(rows, LABELS)
        engine.tick(int(at_s * NS))
        ticked = time.perf_counter()
        assert engine.tape is not None
        packed.append([
            EventRow(at_unix_ns=e.at_ns, kind=kind_of(e), payload=encode(e, spec)) for e in engine.tape.take()
        ])  # fmt: skip
        pack_s.append(time.perf_counter() - ticked)
        tick_s.append(ticked - began)
        for s, name in enumerate(names):
            engine.confirm(name, int(at_s * NS))
            split[s] = engine.ramp.segments[name].split_bp if engine.ramp is not None else 0
    sizes = [len(row.payload) for rows in packed for row in rows if row.kind == "ticked"]
    state = engine.to_bytes(int(ticks * spec.rollout.interval_s * NS))
    return Cost(
        segments=n_segments, sessions_per_s=rate, ticks=ticks, bytes=float(np.mean(sizes)),
        bytes_p99=float(np.quantile(sizes, 0.99)), tick_ms=_ms(tick_s), pack_ms=_ms(pack_s),
        write_state_ms=_ms(_writes(state, [[] for _ in packed])), write_both_ms=_ms(_writes(state, packed)),
    )  # fmt: skip


def _writes(state: bytes, packed: Sequence[Sequence[EventRow]]) -> list[float]:
    """Seconds of each write of the engine's state, with these events."""
    seconds = []
    with TemporaryDirectory() as directory, closing(Journal(Path(directory))) as journal:
        store = HistoryStore(journal)
        for i, rows in enumerate(packed):
            began = time.perf_counter()
            with journal.atomically(durably=False):
                journal.save_state("r", state, i)
                store.append("r", 0, rows)
            seconds.append(time.perf_counter() - began)
    return seconds


def _ms(seconds: Sequence[float]) -> tuple[float, float]:
    return round(float(np.median(seconds)) * 1e3, 3), round(float(np.quantile(seconds, 0.99)) * 1e3, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("build/bench-history.json"))
    options = parser.parse_args()
    costs = [measured(n, rate, options.ticks, options.seed) for n, rate in ((1, 10.0), (4, 40.0), (20, 40.0))]
    print("segments  sessions/s  ticks  bytes a tick (p99)   tick ms (p99)   pack ms (p99)   state ms   with tape ms")
    for c in costs:
        print(
            f"{c.segments:8d}  {c.sessions_per_s:10g}  {c.ticks:5d}  {c.bytes:7.0f} ({c.bytes_p99:.0f})"
            f"   {c.tick_ms[0]:7.1f} ({c.tick_ms[1]:.1f})   {c.pack_ms[0]:7.2f} ({c.pack_ms[1]:.2f})"
            f"   {c.write_state_ms[0]:8.2f}   {c.write_both_ms[0]:8.2f}"
        )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2))


if __name__ == "__main__":
    main()
