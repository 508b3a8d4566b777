"""`python -m benchmarks.experiments`: what the analysis of experiments promises, measured, beside its goals.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.experiment.design import Allocation
from benchmarks.contest.intervals import Figure, mean, rate
from benchmarks.experiments import simulated, tables
from benchmarks.experiments.simulated import World, play, rates, revenue
from benchmarks.goal_table import Row, keep

ROOT = Path(__file__).parents[2]
SEED = 20_262
RUNS = 500  # in a simulated row


def main() -> int:
    arguments = _arguments()
    began = time.monotonic()
    runs = RUNS // 10 if arguments.quick else RUNS
    folder = arguments.json.parent
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    missed = False
    for name, read in (("asos_digital_experiments.parquet", _asos), ("cookie_cats.csv.xz", _cookie_cats)):
        path = arguments.data / name
        lacks = _lacks(path)
        if lacks:
            print(f"{name}: SKIPPED, {lacks}")
            missed = missed or "SERINUS_DATA" in os.environ
        else:
            rows += read(path, folder)
    rows += _simulated(runs)
    keep(rows, arguments.json)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return int(missed or any(row.met is False for row in rows))


def _lacks(path: Path) -> str:
    if not path.exists():
        return f"it is not in {path.parent} (set SERINUS_DATA)"
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        return "reading it needs pyarrow: install serinus[experiment]"
    return ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    data = Path(os.environ.get("SERINUS_DATA") or ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=data, help="folder of the real data (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the simulated runs")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "experiments" / "experiments.json")
    return parser.parse_args()


def _percent(figure: Figure) -> str:
    return f"{figure.value:.1%} [{figure.low:.1%}, {figure.high:.1%}]"


# -- real data -------------------------------------------------------------------------------------------------------


def _asos(path: Path, folder: Path) -> Iterator[Row]:
    found = tables.asos(path, folder)
    for setting, chosen in (("all", [0, 1]), ("even experiments", [0]), ("odd experiments", [1])):
        yield from _asos_rows(setting, {name: values[np.isin(found["half"], chosen)] for name, values in found.items()})


def _asos_rows(setting: str, found: Mapping[str, np.ndarray]) -> Iterator[Row]:
    called, kept = rate(found["ours"]), rate(found["ours"][found["last"]])
    has_goal = setting == "all"
    yield Row(
        measure="ASOS: streams called by the sequential test, at any look", setting=setting, measured=_percent(called),
        n=called.n, goal="15 to 30 %" if has_goal else "", met=0.15 <= called.value <= 0.30 if has_goal else None,
    )  # fmt: skip
    yield Row(
        measure="ASOS: of what a plain test calls at the last look, called too", setting=setting,
        measured=_percent(kept), n=kept.n, goal="≥ 60 %" if has_goal else "",
        met=kept.value >= 0.60 if has_goal else None,
    )  # fmt: skip
    if not has_goal:
        return
    for measure, key in (
        ("… called after correction for the metrics beside it", "corrected"),
        ("… called by a plain test at the last look", "last"),
        ("… called by a plain test at any look", "peeking"),
    ):
        yield Row(measure=measure, setting=setting, measured=_percent(rate(found[key])), n=len(found[key]))


def _cookie_cats(path: Path, folder: Path) -> Iterator[Row]:
    report = tables.cookie_cats(path, folder)
    ratio = report["checks"]["sample_ratio"]
    n = sum(ratio["observed"])
    yield Row(
        measure="Cookie Cats: sample-ratio mismatch", setting=" : ".join(map(str, ratio["observed"])),
        measured=f"p = {ratio['p_value']:.4f}, flagged: {ratio['mismatch']}; e-value {math.exp(ratio['log_e']):.2f}, "
        f"proven at every look: {ratio['proven']}",
        n=n, goal="flagged, p = .0086", met=ratio["mismatch"] and round(ratio["p_value"], 4) == 0.0086,
    )  # fmt: skip
    for row in report["effects"]:
        yield Row(
            measure=f"Cookie Cats: {row['metric']}, {row['variant']}",
            setting="one look",
            measured=f"{row['effect']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}], p = {row['p']:.3f}",
            n=row["n"] + row["n_control"],
        )


# -- simulation ------------------------------------------------------------------------------------------------------


def _swinging(tick: int) -> tuple[float, float]:
    """Shares that move each ten ticks, and with the rate's drift: Simpson's trap."""
    b = 0.9 - 0.8 * (tick // 10) / 20
    return 1 - b, b


LONG = {"per_tick": 5_000, "ticks": 400}
WORLDS: Mapping[str, World] = {
    "10 %, halves, 20,000 people": rates(0.10, 0.10),
    "10 %, halves, 2,000,000 people": replace(rates(0.10, 0.10), **LONG),
    "1 %, nine to one": replace(rates(0.01, 0.01), shares=lambda _: (0.9, 0.1), ticks=400),
    "2 %, one to nineteen": replace(rates(0.02, 0.02), shares=lambda _: (0.05, 0.95), ticks=400),
    "10 to 30 %, shares move against it": replace(rates(0.10, 0.10, drift=0.2), shares=_swinging),
    "10 to 30 %, Thompson sampling": replace(rates(0.10, 0.10, drift=0.2), allocation=Allocation.THOMPSON),
    "revenue, 10 % buy, heavy tail": revenue(buy=0.10, spread=1.2, known=0.0),
    "revenue, covariate tells half": revenue(buy=0.10, spread=1.0, known=0.5),
}
LIFTED: Mapping[str, World] = {
    "10 and 12 %, halves": rates(0.10, 0.12),
    "10 and 12 %, halves, 2,000,000 people": replace(rates(0.10, 0.12), **LONG),
    "2 and 5 %, one to nineteen": replace(rates(0.02, 0.05), shares=lambda _: (0.05, 0.95)),
    "10 and 12 %, rising by 20, shares move against it": replace(rates(0.10, 0.12, drift=0.2), shares=_swinging),
    "10 and 12 %, Thompson sampling": replace(rates(0.10, 0.12), allocation=Allocation.THOMPSON),
    "10 and 12 %, rising by 20, Thompson sampling": replace(
        rates(0.10, 0.12, drift=0.2), allocation=Allocation.THOMPSON
    ),
    "revenue +0.5, covariate tells half": revenue(buy=0.10, spread=1.0, known=0.5, lift=0.5),
}


def _simulated(runs: int) -> Iterator[Row]:
    for setting, world in WORLDS.items():
        found = rate(play(world, runs, SEED).excluded)
        yield Row(
            measure="A/A: false positive at any look", setting=setting, measured=_percent(found), n=found.n,
            goal="≤ 5 %", met=found.value <= 0.05,
        )  # fmt: skip
    yield from _family(runs // 2)
    for setting, world in LIFTED.items():
        found = rate(~play(world, runs, SEED + 1).missed)
        yield Row(
            measure="interval holds the truth at all looks at once", setting=setting, measured=_percent(found),
            n=found.n, goal="≥ 95 %", met=found.value >= 0.95,
        )  # fmt: skip
    yield _narrower(runs // 4)
    yield from _adaptive(runs)


def _family(runs: int) -> Iterator[Row]:
    ever, last = simulated.family(runs, SEED)
    for measure, found in (
        ("A/A, 3 variants × 4 metrics: closed testing keeps any at any look", rate(ever)),
        ("A/A, 3 variants × 4 metrics: e-BH keeps any at the last look", rate(last)),
    ):
        yield Row(
            measure=measure, setting="10 %", measured=_percent(found), n=found.n, goal="≤ 5 %", met=found.value <= 0.05
        )


def _narrower(runs: int) -> Row:
    plain, reduced = (play(revenue(buy=0.1, spread=1.0, known=known), runs, SEED).length for known in (0.0, 0.5))
    found = mean(reduced / np.nanmean(plain))
    return Row(
        measure="length of the interval with the covariate over that without", setting="it tells half of the variance",
        measured=f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]", n=found.n, goal="≈ √½ = .71",
        met=abs(found.value - math.sqrt(0.5)) < 0.03,
    )  # fmt: skip


def _adaptive(runs: int) -> Iterator[Row]:
    for pair in ((0.10, 0.12), (0.12, 0.10)):
        setting = f"{pair[0]:.0%} and {pair[1]:.0%}, 20,000 people"
        costs = {}
        for allocation in Allocation:
            played = play(replace(rates(*pair), allocation=allocation), runs, SEED + 2)
            worse = int(np.argmin(pair))
            costs[allocation] = 0.02 * played.people[:, worse]
            yield from _winners(setting, allocation, played.winner, best=1 - worse)
        equal = float(costs[Allocation.FIXED].mean())
        for allocation in (Allocation.THOMPSON, Allocation.BEST_ARM):
            ratio = mean(costs[allocation] / equal)
            is_goal = allocation is Allocation.THOMPSON
            yield Row(
                measure=f"regret of {allocation} over that of equal shares ({equal:.0f} conversions)", setting=setting,
                measured=f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]", n=ratio.n,
                goal="≤ .5" if is_goal else "", met=ratio.value <= 0.5 if is_goal else None,
            )  # fmt: skip
    for allocation in (Allocation.THOMPSON, Allocation.BEST_ARM):
        played = play(replace(rates(0.1, 0.1), allocation=allocation), runs, SEED + 3)
        found = rate(played.winner >= 0)
        yield Row(
            measure=f"{allocation}: a winner where there is none", setting="10 and 10 %", measured=_percent(found),
            n=found.n, goal="≤ 5 %", met=found.value <= 0.05,
        )  # fmt: skip


def _winners(setting: str, allocation: Allocation, winner: np.ndarray, best: int) -> Iterator[Row]:
    wrong, right = rate((winner >= 0) & (winner != best)), rate(winner == best)
    yield Row(
        measure=f"{allocation}: the worse one wins", setting=setting, measured=_percent(wrong), n=wrong.n, goal="≤ 5 %",
        met=wrong.value <= 0.05,
    )  # fmt: skip
    yield Row(
        measure=f"{allocation}: the better one has won by then", setting=setting, measured=_percent(right), n=right.n
    )


if __name__ == "__main__":
    sys.exit(main())
