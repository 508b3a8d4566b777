"""Deployments as they are recorded, from the count simulator: half of them bad, in many sizes."""

from __future__ import annotations

import numpy as np

from analysis.engine import policy_named
from analysis.history.record import Label, RecordedDecision, RolloutRecord, Verdict
from analysis.ramps import Ramps
from analysis.simulation.counts import CountSimulator
from analysis.window import BASELINE
from benchmarks.decisions.plans import ERRORS_ALONE, ONE, plan
from xds_server.scenario_file import ScenarioFile

SIZES = np.geomspace(0.0075, 0.5, 10)  # excess shares of people with an error
LOAD = 20.0  # sessions a second
STARTED_UNIX_S = 1_700_000_000.0


def records(n: int, *, ticks: int, seed: int, policy: str = "fixed") -> list[RolloutRecord]:
    """`n` deployments of at most `ticks` ticks of 10 s; steered by `policy` while they were recorded."""
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
    spec, interval_s = file.spec, file.spec.rollout.interval_s
    people, *chances = np.random.SeedSequence(seed).spawn(1 + n)
    world = CountSimulator(spec, file.scenario, load=LOAD, n_runs=n, rng=np.random.default_rng(people))
    ramps = Ramps(spec, [policy_named(policy) for _ in range(n)], {each.name: ("v1", "v2") for each in spec.segments})
    rngs = [np.random.default_rng(chance) for chance in chances]
    seen, decisions = [], [[] for _ in range(n)]
    for _ in range(ticks):
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
    nothing = np.full((ticks, len(spec.segments)), np.nan)
    return [
        RolloutRecord(
            rollout=f"{label}-{seed}-{b}", service="shop", baseline="v1", canary="v2",
            started_unix_s=STARTED_UNIX_S + seed * 1e6 + b * 1e4, interval_s=interval_s,
            segments=tuple(each.name for each in spec.segments), kpis=tuple(each.name for each in spec.kpis),
            at_s=(np.arange(ticks) + 1) * interval_s, n=arrays[0][:, b], bad=arrays[1][:, b],
            exposed=arrays[2][:, b].astype(float), arrived=arrays[3][:, b].astype(float),
            split_bp=arrays[4][:, b].astype(float), suspicion=nothing, log_e=nothing, decisions=tuple(decisions[b]),
            label=Label(verdict=label),
        )
        for b in range(n)
    ]  # fmt: skip
