"""Deployments as they are recorded, from the count simulator: half of them bad, in many sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from analysis.engine import policy_named
from analysis.history.record import Label, RecordedDecision, RolloutRecord, Verdict
from analysis.ramps import Ramps
from analysis.simulation.counts import CountSimulator
from analysis.spec import ServiceSpec
from analysis.window import BASELINE
from benchmarks.decisions.plans import ERRORS_ALONE, ONE, plan
from xds_server.scenario_file import ScenarioFile

SIZES = np.geomspace(0.0075, 0.5, 10)  # excess shares of people with an error
LOAD = 20.0  # sessions a second
STARTED_UNIX_S = 1_700_000_000.0


def records(n: int, *, ticks: int, seed: int, policy: str = "fixed") -> list[RolloutRecord]:
    """`n` deployments of at most `ticks` ticks of 10 s, until they had ended; steered by `policy` while recorded."""
    good = plan("good", ONE, ERRORS_ALONE, must="promote")
    found = _played(good, n - n // 2, ticks, seed, policy, Verdict.GOOD)
    for i, size in enumerate(SIZES):
        share = (n // 2) // len(SIZES) + (i < (n // 2) % len(SIZES))
        bad = plan("bad", ONE, ERRORS_ALONE, must="rollback", effects=f"{{kpi: errors, plus: {100 * size:.3f}pp}}")
        found += _played(bad, share, ticks, seed + 1 + i, policy, Verdict.BAD)
    return found


def _played(file: ScenarioFile, n: int, ticks: int, seed: int, policy: str, label: Verdict) -> list[RolloutRecord]:
    if not n:
        return []
    spec = file.spec
    people, *chances = np.random.SeedSequence(seed).spawn(1 + n)
    world = CountSimulator(spec, file.scenario, load=LOAD, n_runs=n, rng=np.random.default_rng(people))
    ramps = Ramps(spec, [policy_named(policy) for _ in range(n)], {each.name: ("v1", "v2") for each in spec.segments})
    rngs = [np.random.default_rng(chance) for chance in chances]
    seen, decisions = [], [[] for _ in range(n)]
    lasted = np.zeros(n, np.int64)
    for _ in range(ticks):
        lasted += ~ramps.is_finished
        if ramps.is_finished.all():
            break
        split_bp = ramps.split_bp
        window = (told := world.advance(split_bp)).window
        decided = ramps.step(window, told.newcomers, now_s=world.now_s, rngs=rngs)
        n_judged, bad = window.n.copy(), window.bad.copy()
        n_judged[..., BASELINE] += window.unexposed_n
        bad[..., BASELINE] += window.unexposed_bad
        seen.append((n_judged, bad, window.exposed, window.arrived, split_bp))
        for b, mine in enumerate(decided):
            decisions[b] += [
                RecordedDecision(
                    at_s=world.now_s, segment=each.segment, verdict=type(each.verdict).__name__.lower(), tier="",
                    split_before_bp=each.split_before_bp, split_after_bp=each.split_after_bp, reason="",
                )
                for each in mine if each.split_after_bp != each.split_before_bp
            ]  # fmt: skip
    arrays = [np.stack(each) for each in zip(*seen, strict=True)]
    return [
        _record(
            f"{label}-{seed}-{b}",
            spec,
            [each[: lasted[b], b] for each in arrays],
            decisions[b],
            label,
            seed * 1e6 + b * 1e4,
        )
        for b in range(n)
    ]


def _record(
    name: str, spec: ServiceSpec, arrays: Sequence[npt.NDArray[np.int64]], decisions: list[RecordedDecision],
    label: Verdict, started_s: float,
) -> RolloutRecord:  # fmt: skip
    n, bad, exposed, arrived, split_bp = arrays
    nothing, interval_s = np.full(exposed.shape, np.nan), spec.rollout.interval_s
    return RolloutRecord(
        rollout=name, service="shop", baseline="v1", canary="v2", started_unix_s=STARTED_UNIX_S + started_s,
        interval_s=interval_s, segments=tuple(each.name for each in spec.segments),
        kpis=tuple(each.name for each in spec.kpis), at_s=(np.arange(len(n)) + 1) * interval_s, n=n, bad=bad,
        exposed=exposed.astype(float), arrived=arrived.astype(float), split_bp=split_bp.astype(float),
        suspicion=nothing, log_e=nothing, decisions=tuple(decisions), label=Label(verdict=label),
    )  # fmt: skip
