"""Each goal of the decisions as jobs that measure it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from analysis.decision import Phase
from analysis.policy import BudgetPolicy
from analysis.ramp import Ramp
from analysis.simulation.counts import CountSimulator
from analysis.simulation.outcome import ENDINGS
from analysis.spec import KpiKind, KpiSpec, SegmentSpec, ServiceSpec
from benchmarks.contest.arena import FOLDER
from benchmarks.contest.intervals import rate
from benchmarks.decisions.knowing import first_alarm_s
from benchmarks.decisions.plans import ERRORS_ALONE, LOADS, NOISE, ONE, TEN, plan
from benchmarks.decisions.rolling import rollouts
from benchmarks.decisions.watching import Splits, first_proof_s, moving, steady
from benchmarks.goal_table import Measures, Row
from xds_server.scenario_file import ScenarioFile, load_scenario

Floats = npt.NDArray[np.float64]

DAY_S, HOUR_S = 86_400.0, 3_600.0
SEED = 20_261
SPLIT = 0.05
PROMOTED, ROLLED_BACK = (ENDINGS[phase] for phase in (Phase.PROMOTED, Phase.ROLLED_BACK))


Job = Callable[[], Row]


def _few(n: int, share: float) -> int:
    return max(round(n * share), 4)


def _share_row(
    measure: str, setting: str, hits: Sequence[bool] | Floats, goal: float | None, *, least: bool = False
) -> Row:
    found = rate(np.asarray(hits, bool))
    word = "" if goal is None else f"{'≥' if least else '≤'} {goal:.3g}"
    met = None if goal is None else bool(found.value >= goal if least else found.value <= goal)
    shown = f"{found.value:.2%} [{found.low:.2%}, {found.high:.2%}]"
    return Row(measure=measure, setting=setting, measured=shown, n=found.n, goal=word, met=met)


def _minutes_row(measure: str, setting: str, seconds: Floats, goals: Mapping[float, float]) -> Row:
    values = {q: float(np.quantile(seconds, q, method="higher")) / 60 for q in goals}
    shown = ", ".join(f"{'median' if q == 0.5 else f'p{q:.0%}'[:-1]} {v:.1f} min" for q, v in values.items())
    word = ", ".join(f"≤ {goal:g}" for goal in goals.values())
    met = all(values[q] <= goal for q, goal in goals.items())
    return Row(measure=measure, setting=setting, measured=shown, n=len(seconds), goal=word + " min", met=met)


# -- false rollbacks ---------------------------------------------------------------------------------------------------


def _false(setting: str, file: ScenarioFile, load: float, n: int, splits: Splits) -> Row:
    found = first_proof_s(file, load=load, n=n, seconds=DAY_S, splits=splits, seed=SEED)
    return _share_row("false rollbacks in 24 h, a look each 10 s", setting, np.isfinite(found).any(axis=1), 0.01)


def false_rollbacks(share: float) -> list[Job]:
    quiet = plan("A/A", TEN, NOISE)
    trend = plan("A/A, errors grow", TEN, "traffic: {drift_per_h: 0.1, unlucky: 1%}\n")
    edge = plan("excess of the tolerance", ONE, "traffic: {drift_per_h: 0.1}\n", effects="{kpi: errors, plus: 0.5pp}")
    n = _few(200, share)
    jobs: list[Job] = []
    for load in LOADS:
        jobs.append(
            partial(_false, f"A/A, 50 streams, bursts, broken devices; {load:g}/s", quiet, load, n, steady(SPLIT))
        )
        jobs.append(partial(_false, f"A/A, 50 streams, splits move, trend; {load:g}/s", trend, load, n, moving))
        jobs.append(partial(_false, f"excess of exactly .5 pp, splits move, trend; {load:g}/s", edge, load, n, moving))
    return jobs


# -- steered rollouts --------------------------------------------------------------------------------------------------


def _overrun(setting: str, late: str, load: float, n: int, goal: float | None) -> Row:
    """Bad releases of all sizes: errors more frequent by .75 to 95 percentage points, evenly in the logarithm."""
    sizes = np.geomspace(0.0075, 0.95, 20)
    over: list[bool] = []
    for i, size in enumerate(sizes):
        file = plan(
            "bad", ONE, ERRORS_ALONE, must="rollback", effects=f"{{kpi: errors, plus: {100 * size:.3f}pp{late}}}"
        )
        ends = rollouts(file, load=load, n=max(n // len(sizes), 1), seconds=6 * HOUR_S, seed=SEED + i)
        allowed = file.spec.rollout.harm.budget + file.spec.rollout.harm.tolerance * ends.exposed.sum(axis=1)
        over += (ends.harm.sum(axis=1) > allowed).tolist()
    return _share_row("harm above the budget", f"{setting}; {load:g}/s", over, goal)


def budgets(share: float) -> list[Job]:
    n = _few(2_000, share)
    jobs: list[Job] = []
    for load in LOADS:
        jobs.append(partial(_overrun, "bad releases of all sizes, from the start", "", load, n, 0.05))
        jobs.append(partial(_overrun, "the same, from 8 min on", ", at: 8m", load, n // 4, None))
        jobs.append(
            partial(_overrun, "the same, growing with load above 30 %", ", shape: load, above: 30%", load, n // 4, None)
        )
    return jobs


def _undecided(setting: str, file: ScenarioFile, load: float, n: int) -> Row:
    ends = rollouts(file, load=load, n=n, seconds=DAY_S, seed=SEED)
    undecided = (ends.outcome != PROMOTED).any(axis=1)
    return _share_row("good releases not at 100 % after 24 h", f"{setting}; {load:g}/s", undecided, 0.01)


def good_releases(share: float) -> list[Job]:
    one, eight = (
        plan("good", ONE, ERRORS_ALONE, must="promote"),
        plan("good", "people: {visits: 1}\n", ERRORS_ALONE, must="promote"),
    )
    n = _few(200, share)
    jobs: list[Job] = [partial(_undecided, "one segment", one, load, n) for load in LOADS]
    jobs += [partial(_undecided, "eight segments, 40 to 1 %", eight, load, n // 2) for load in LOADS]
    return [*jobs, partial(_time_to_full, _few(400, share)), *(partial(_half, load, n) for load in LOADS)]


def _time_to_full(n: int) -> Row:
    file = plan("good", ONE.replace("visits: 1", "visits: 1, errors: 1%"), ERRORS_ALONE, must="promote")
    ends = rollouts(file, load=10.0, n=n, seconds=6 * HOUR_S, seed=SEED)
    return _minutes_row(
        "time to 100 %, reached and kept", "10/s, base 1 %, budget 50, ε .5 pp", ends.full_s[:, 0], {0.5: 15}
    )


def _half(load: float, n: int) -> Row:
    file = plan("half", ONE, ERRORS_ALONE, effects="{kpi: errors, plus: 0.25pp}")
    ends = rollouts(file, load=load, n=n, seconds=DAY_S, seed=SEED)
    return _share_row("worse by half of the tolerance: rolled back", f"{load:g}/s", ends.share(ROLLED_BACK), 0.01)


# -- delays ------------------------------------------------------------------------------------------------------------

ZERO = "kpis: {error_rate: {max_regression: 0pp}}\n"


def _delay(
    setting: str, *, load: float, times: float, zero: bool, n: int, goals: Mapping[float, float], late_s: float = 0.0
) -> Row:
    at = f", at: {late_s + 60:g}s" if late_s else ""
    file = plan("bad", ONE, ZERO if zero else "", must="rollback", effects=f"{{kpi: errors, times: {times:g}{at}}}")
    found = first_proof_s(file, load=load, n=n, seconds=10 * HOUR_S, splits=steady(SPLIT), seed=SEED, since_s=late_s)
    return _minutes_row(f"delay, ×{times:g} errors", setting, np.maximum(found.min(axis=1), 0.0), goals)


def _against_knowing(tolerance: float, n: int) -> Row:
    """Of ×4 at 20/s: the mean delay beside that of a test that knows the effect."""
    own, knowing = first_alarm_s(load=20.0, base=0.005, times=4.0, tolerance=tolerance, split=SPLIT, n=n, seed=SEED)
    ratio = float(own.mean() / knowing.mean())
    medians = float(np.median(own) / np.median(knowing))
    shown = f"{ratio:.2f} (of medians {medians:.2f})"
    against = "zero" if tolerance == 0 else ".5 pp"
    return Row(
        measure="mean delay over that of a Shiryaev–Roberts test that knows the effect",
        setting=f"×4, 20/s, against {against}", measured=shown, n=n, goal="≤ 1.2", met=max(ratio, medians) <= 1.2,
    )  # fmt: skip


def delays(share: float) -> list[Job]:
    n = _few(400, share)
    return [
        partial(_delay, "20/s, 5 %, against zero", load=20.0, times=4.0, zero=True, n=n, goals={0.5: 20, 0.9: 32}),
        partial(_delay, "20/s, 5 %, against .5 pp", load=20.0, times=4.0, zero=False, n=n, goals={0.5: 65, 0.9: 105}),
        partial(_delay, "100/s, 5 %, against zero", load=100.0, times=10.0, zero=True, n=n, goals={0.5: 1}),
        partial(_delay, "100/s, 5 %, against .5 pp", load=100.0, times=10.0, zero=False, n=n, goals={0.5: 2}),
        partial(_delay, "20/s, 5 %, against zero, after 25 quiet hours", load=20.0, times=4.0, zero=True, n=n // 2,
                goals={0.5: 21}, late_s=25 * HOUR_S),
        partial(_against_knowing, 0.0, n), partial(_against_knowing, 0.005, n),
        partial(_tail, n),
    ]  # fmt: skip


def _tail(n: int) -> Row:
    file = plan("tail", ONE, must="rollback", effects="{kpi: latency, tail_times: 3}")
    found = first_proof_s(file, load=20.0, n=n, seconds=6 * HOUR_S, splits=steady(SPLIT), seed=SEED)
    return _minutes_row("delay, slowest 3 % of requests three times as slow", "20/s, 5 %", found.min(axis=1), {0.5: 20})


# -- scenarios ---------------------------------------------------------------------------------------------------------


def _one_segment(n: int, *, others: bool) -> Row:
    """`s04a`: errors ×20 in the segment with 1 % of the traffic."""
    file = load_scenario(FOLDER / "s04a.yaml")
    ends = rollouts(file, load=50.0, n=n, seconds=DAY_S, seed=SEED)
    names = [segment.name for segment in file.spec.segments]
    staff = names.index("staff")
    if others:
        rest = np.delete(ends.outcome, staff, axis=1) == PROMOTED
        return _share_row("… and the other segments go on to 100 %", "50/s", rest.all(axis=1), 0.9, least=True)
    found = (ends.outcome[:, staff] != PROMOTED) & (ends.ended_s[:, staff] <= 2 * HOUR_S)
    return _share_row("one 1 % segment ×20: taken back within 2 h", "50/s", found, 0.9, least=True)


QUIET = {
    "s08": "promotion spike",
    "s11b": "cold caches",
    "s14": "both versions worse",
    "s16": "improvement",
    "s20": "novelty",
}


def _must_not_fire(name: str, load: float, n: int) -> Row:
    file = load_scenario(FOLDER / f"{name}.yaml")
    ends = rollouts(file, load=load, n=n, seconds=min(file.scenario.horizon_s, DAY_S), seed=SEED)
    setting = f"{QUIET[name]} ({name}); {load:g}/s"
    return _share_row("rolled back where nothing is wrong", setting, ends.share(ROLLED_BACK), 0.01)


def scenarios(share: float) -> list[Job]:
    n = _few(100, share)
    quiet = [partial(_must_not_fire, name, load, n) for name in QUIET for load in LOADS]
    return [partial(_one_segment, n, others=False), partial(_one_segment, n, others=True), *quiet]


# -- cost --------------------------------------------------------------------------------------------------------------


def _cost(n_segments: int, goal_ms: float) -> Row:
    """A tick of one rollout with ten KPIs, from the window to the decisions: median of many."""
    from analysis.simulation.scenario import Group, Must, Scenario

    spec = _wide(n_segments)
    groups = tuple(Group(name=segment.name, share=1 / n_segments) for segment in spec.segments)
    scenario = Scenario(name="wide", title="wide", must=Must.PROMOTE, groups=groups)
    world = CountSimulator(spec, scenario, load=20.0 * n_segments, n_runs=1, rng=np.random.default_rng(SEED))
    ramp = Ramp(spec, BudgetPolicy(), {segment.name: ("v1", "v2") for segment in spec.segments})
    took, chance = [], np.random.default_rng(SEED)
    for tick in range(60):
        told = world.advance([[state.split_bp for state in ramp.segments.values()]])
        window = told.window.row(0, told.newcomers)
        begin = time.process_time()
        ramp.step(window, now_s=world.now_s, rng=chance)
        took.append(time.process_time() - begin)
        for name in ramp.segments:
            ramp.confirm(name)
        if tick == 8:  # from here on people are judged
            took.clear()
    ms = float(np.median(took)) * 1e3
    setting = f"{n_segments} segments × 10 KPIs"
    return Row(
        measure="cost of a tick",
        setting=setting,
        measured=f"{ms:.1f} ms",
        n=len(took),
        goal=f"≤ {goal_ms:g} ms",
        met=ms <= goal_ms,
    )


def _wide(n_segments: int) -> ServiceSpec:
    kinds = [KpiKind.ERROR_RATE, KpiKind.LATENCY, KpiKind.ABANDONMENT, *[KpiKind.FEATURE] * 6, KpiKind.ANOMALY]
    kpis = tuple(
        KpiSpec(kind=kind, judge_after_s=60, tolerance=0.02, feature=f"f{i}" if kind is KpiKind.FEATURE else None)
        for i, kind in enumerate(kinds)
    )
    names = [f"s{i}" for i in range(n_segments - 1)] + ["default"]
    return ServiceSpec(
        name="wide", baseline="v1", versions=("v1", "v2"), segments=tuple(SegmentSpec(name=name) for name in names),
        kpis=kpis,
    )  # fmt: skip


def cost(_: float) -> list[Job]:
    return [partial(_cost, 50, 10.0), partial(_cost, 1_000, 200.0)]


MEASURES: Measures = {
    "false-rollbacks": false_rollbacks, "budgets": budgets, "good-releases": good_releases, "delays": delays,
    "scenarios": scenarios, "cost": cost,
}  # fmt: skip
