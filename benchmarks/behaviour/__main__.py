"""`python -m benchmarks.behaviour`: what the profiler is worth on data that nobody here made.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.behaviour import msnbc, nab

ROOT = Path(__file__).parents[2]
PLANTED = ROOT / "tests" / "data" / "planted"
GOALS = "goals: at most 2.10 bits an event, false alarms .04 to .06, at least .60 of the planted visits found"


def main() -> int:
    arguments = _arguments()
    result: dict[str, Any] = {"seed": arguments.seed, "python": platform.python_version(), "cores": os.cpu_count()}
    missed = False
    for name, file, run in (
        ("msnbc", "msnbc_first_200000.seq.xz", lambda path: _msnbc(path, arguments.seed)),
        ("nab", "nab.tar.xz", _nab),
    ):
        path = arguments.data / file
        if not path.exists():
            print(f"{name}: SKIPPED, no {file} in {arguments.data} (set SERINUS_DATA)")
            missed = missed or "SERINUS_DATA" in os.environ
            continue
        result[name] = _timed(run, path)
        print(f"{name}:", json.dumps(result[name], indent=2))
    if "msnbc" in result:
        met = _meets(result["msnbc"])
        print(f"{'PASS' if met else 'MISS'}: {GOALS}")
        missed = missed or not met
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(missed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.behaviour", description=__doc__)
    data = Path(os.environ.get("SERINUS_DATA") or ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=data, help="folder of the real data (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("build/bench-behaviour.json"), help="(default: %(default)s)")
    return parser.parse_args()


def _timed(run: Callable[[Path], dict[str, Any]], path: Path) -> dict[str, Any]:
    began = time.perf_counter()
    return {**run(path), "seconds": round(time.perf_counter() - began, 1)}


def _msnbc(path: Path, seed: int) -> dict[str, Any]:
    split = msnbc.read(path)
    profile = msnbc.train(split, seed)
    thousand = msnbc.visits(split.test.take(msnbc.first(1_000)))
    began = time.perf_counter()
    for _ in range(10):
        profile.p_values(thousand)
    scoring_ms = (time.perf_counter() - began) * 1e3 / 10
    return {
        "train_n": len(split.train),
        "test_n": len(split.test),
        **msnbc.bits(split, seed),
        "stable_agreement_with_chains": round(msnbc.agreement_of_chains(split, seed), 3),
        **msnbc.alarms(profile, split, msnbc.read_planted(PLANTED)),
        "scoring_ms_per_1000": round(scoring_ms, 1),
        "profile_bytes": len(profile.to_bytes()),
    }


def _nab(path: Path) -> dict[str, Any]:
    return nab.evaluate(list(nab.read(path)))


def _meets(result: dict[str, Any]) -> bool:
    return (
        result["stable_bits_an_event"] <= 2.10
        and 0.04 <= result["false_alarm_rate"] <= 0.06
        and min(result["found"].values()) >= 0.6
    )


if __name__ == "__main__":
    sys.exit(main())
