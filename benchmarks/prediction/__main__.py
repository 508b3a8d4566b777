"""`python -m benchmarks.prediction`: the goals of the predictions, each measured. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from benchmarks.prediction import goals
from benchmarks.prediction.goals import Row

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prediction", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    parser.add_argument("--only", nargs="+", choices=sorted(goals.MEASURES), help="some of the measures")
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "prediction" / "prediction.json", metavar="FILE")
    asked = parser.parse_args()
    begin = time.monotonic()
    chosen = {name: jobs for name, jobs in goals.MEASURES.items() if asked.only is None or name in asked.only}
    jobs = [job for made in chosen.values() for job in made(0.1 if asked.quick else 1.0)]
    rows = [row for found in _played(jobs, asked.processes) for row in found]
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    text = markdown(rows)
    asked.json.with_suffix(".md").write_text(text)
    print(text)
    print(f"{(time.monotonic() - begin) / 60:.1f} minutes")


def _played(jobs: list[Callable[[], list[Row]]], processes: int) -> Iterable[list[Row]]:
    if processes <= 1:
        yield from (job() for job in jobs)
        return
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(job) for job in jobs]
        for done, _ in enumerate(as_completed(futures), 1):
            print(f"{done} of {len(jobs)}", file=sys.stderr, flush=True)
        yield from (future.result() for future in futures)


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a table, what is missed first."""
    lines = ["| measure | setting | measured | n | goal | |", "|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: row.met is not False):
        verdict = "" if row.met is None else "met" if row.met else "**missed**"
        lines.append(f"| {row.measure} | {row.setting} | {row.measured} | {row.n} | {row.goal} | {verdict} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
