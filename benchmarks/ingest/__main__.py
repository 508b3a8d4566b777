"""`python -m benchmarks.ingest`: what access logs cost, and what happens when there are too many.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.ingest import speed
from benchmarks.ingest.overload import Overload, overload

GOAL_PER_S = 200_000
GOAL_SHARE = 0.5
GOAL_PUSH_MS = 100.0
GOAL_GROWTH = 1.1


def main() -> None:
    asked = _arguments()
    core = max(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    costs = speed.measure(seconds=asked.seconds, repetitions=asked.repetitions)
    os.sched_setaffinity(0, before)
    _show_costs(costs)
    result: dict[str, Any] = {
        "python": platform.python_version(),
        "protobuf": version("protobuf"),
        "processor": platform.processor() or platform.machine(),
        "cores": len(before),
        "costs": [{"name": cost.name, "us": cost.us, "per_s": cost.per_s} for cost in costs],
    }
    goals = _speed_goals({cost.name: cost for cost in costs})
    if not asked.no_overload:
        with tempfile.TemporaryDirectory(prefix="bench-ingest-") as folder:
            over = overload(Path(folder), seconds=asked.overload_seconds)
        _show_overload(over)
        result["overload"] = over.as_dict()
        goals += _overload_goals(over)
    print()
    for goal, passed, measured in goals:
        print(f"{'PASS' if passed else 'MISS'}  {goal}: {measured}")
    result["goals"] = [{"goal": goal, "passed": passed, "measured": measured} for goal, passed, measured in goals]
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{asked.json}", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest")
    parser.add_argument("--seconds", type=int, default=12, help="of the log, at 30,000 requests a second")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--overload-seconds", type=float, default=15.0)
    parser.add_argument("--no-overload", action="store_true")
    parser.add_argument("--json", type=Path, default=Path("build/bench-ingest.json"))
    return parser.parse_args()


def _show_costs(costs: list[speed.Cost]) -> None:
    print(f"{'on one core':<26} {'µs/entry (best–worst)':>24} {'entries/s':>11}   what it is")
    for cost in costs:
        spread = f"{cost.best_us:.2f} ({cost.best_us:.2f}–{max(cost.us):.2f})"
        print(f"{cost.name:<26} {spread:>24} {cost.per_s:>11,.0f}   {speed.MEANING[cost.name]}")


def _show_overload(over: Overload) -> None:
    print()
    head = ("offered/s", "decoded/s", "given up/s")
    print(f"{'load':<14}", *(f"{each:>11}" for each in head), f"{'push ms p50 / p99 / max':>26} {'RSS MB':>14}")
    for phase in over.phases:
        push = f"{phase.push_ms(0.5):.1f} / {phase.push_ms(0.99):.1f} / {phase.push_ms(1.0):.1f}"
        memory = f"{phase.rss_mb[0]:.0f}–{max(phase.rss_mb):.0f}"
        per_s = (phase.offered_per_s, phase.decoded_per_s, phase.given_up_per_s)
        print(f"{phase.name:<14}", *(f"{each:>11,.0f}" for each in per_s), f"{push:>26} {memory:>14}")


Goals = list[tuple[str, bool, str]]


def _speed_goals(costs: dict[str, speed.Cost]) -> Goals:
    whole, touched = costs[speed.WHOLE], costs[speed.TOUCHED]
    share = whole.per_s / touched.per_s
    return [
        (f"the whole way takes {GOAL_PER_S:,} entries a second", whole.per_s >= GOAL_PER_S, f"{whole.per_s:,.0f}"),
        (f"and at least {GOAL_SHARE:.0%} of (b)", share >= GOAL_SHARE, f"{share:.0%}"),
    ]


def _overload_goals(over: Overload) -> Goals:
    worst = over.phases[-1]
    half = len(worst.rss_mb) // 2
    growth = max(worst.rss_mb[half:]) / max(worst.rss_mb[:half])
    unexplained = worst.offered_n - worst.decoded_n - worst.given_up_n - worst.waiting_n
    return [
        ("three times the load is offered", worst.offered_per_s >= 2.9 * over.carried_per_s,
         f"{worst.offered_per_s / over.carried_per_s:.1f} times"),
        ("what is too much is counted, to the entry", unexplained == 0, f"{unexplained:,} entries unexplained"),
        ("memory is flat", growth <= GOAL_GROWTH, f"second half {growth:.2f} times the first"),
        (f"xDS pushes are acknowledged within {GOAL_PUSH_MS:.0f} ms (p99)", worst.push_ms(0.99) < GOAL_PUSH_MS,
         f"{worst.push_ms(0.99):.1f} ms"),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
