"""`python -m benchmarks.contest`: Serinus against its peers, in the simulator. See benchmarks/contest/README.md."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.contest import jobs, plots, report
from benchmarks.contest.contestants import PEERS_BY_NAME
from benchmarks.contest.jobs import Extent, Result
from benchmarks.contest.kept import Kept
from benchmarks.contest.losses import losses

ROOT = Path(__file__).parents[2]

QUICK = Extent(name="quick", n=10, n_tuning=50, horizon_s=14_400.0, loads=(20.0,), own=("serinus", "oracle"))
USUAL = Extent(name="usual", n=6, n_tuning=30, horizon_s=11_700.0, own=("serinus", "oracle"))
FULL = Extent(name="full", n=20, n_tuning=200, horizon_s=100_000.0)


def main() -> None:
    from benchmarks.contest.arena import SimulatedArena

    asked = _arguments()
    extent = _extent(asked)
    begin = time.monotonic()
    kept = Kept(asked.kept, f"{_commit()}\n{extent}") if asked.kept else None
    result = jobs.run(SimulatedArena(), extent, processes=asked.processes, say=_say(begin), kept=kept)
    text = report.markdown(result.cells, result.tuned, title=f"Contest ({extent.name})")
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(as_data(result, extent), indent=1) + "\n")
    asked.json.with_suffix(".md").write_text(text)
    drawn = plots.draw(result.cells, asked.json.parent)
    print(text.split("## Tuned peers", maxsplit=1)[0])
    print(f"{(time.monotonic() - begin) / 60:.1f} minutes; all is in {asked.json}, its .md, and {len(drawn)} plots")


def as_data(result: Result, extent: Extent) -> dict[str, Any]:
    """What goes to the file: nothing of the machine, so that the same commit and extent write the same."""
    return {
        "commit": _commit(),
        "seeds": {"contest": jobs.SEED, "tuning": jobs.TUNING_SEED},
        "extent": dataclasses.asdict(extent),
        "losses": [loss.as_data() for loss in losses(result.cells)],
        "goals": report.goals(result.cells),
        "tuned": [tuned.as_data() for tuned in result.tuned],
        "cells": [cell.as_data() for cell in result.cells],
    }


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "HEAD") + (" and changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def _say(begin: float) -> Any:
    def say(words: str) -> None:
        print(f"{(time.monotonic() - begin) / 60:5.1f} min  {words}", file=sys.stderr, flush=True)

    return say


def _extent(asked: argparse.Namespace) -> Extent:
    extent: Extent = FULL if asked.full else QUICK if asked.quick else USUAL
    changes = {
        "n": asked.runs,
        "loads": tuple(asked.loads) if asked.loads else None,
        "scenarios": tuple(asked.scenarios) if asked.scenarios else None,
        "peers": tuple(asked.peers) if asked.peers else None,
        "own": tuple(asked.own) if asked.own else None,
    }
    return dataclasses.replace(extent, **{k: v for k, v in changes.items() if v is not None})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contest", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="few runs, one load: a few minutes")
    size.add_argument("--full", action="store_true", help="more runs, horizons of more than a day: hours")
    parser.add_argument("--runs", type=int, metavar="N", help="of each cell")
    parser.add_argument("--loads", type=float, nargs="+", metavar="PER_S", help="of those that a scenario has")
    parser.add_argument("--scenarios", nargs="+", metavar="NAME", help="as their files are called, without .yaml")
    parser.add_argument("--peers", nargs="+", metavar="NAME", choices=sorted(PEERS_BY_NAME), help="default: all")
    parser.add_argument("--own", nargs="+", metavar="NAME", help="of Serinus's policies and the oracle (README)")
    parser.add_argument("--kept", type=Path, metavar="DIRECTORY", help="go on where a contest of this commit was")
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "contest" / "contest.json", metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
