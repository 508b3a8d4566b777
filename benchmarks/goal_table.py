"""Goals that are measured: a row each, jobs that measure them, and the table in which what is missed comes first."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`met`: None where there is no goal, only a figure; and where the data are not there."""

    measure: str
    setting: str
    measured: str
    n: int
    goal: str = ""
    met: bool | None = None


Job = Callable[[], Row | list[Row]]
Measures = Mapping[str, Callable[[float], Sequence[Job]]]
"""By name, the jobs of a measure for a share in (0, 1] of its full size."""


def run(name: str, description: str | None, measures: Measures) -> None:
    """Measure what the command line asks for, as `python -m benchmarks.NAME`; print the table and keep it."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    parser.add_argument("--only", nargs="+", choices=sorted(measures), help="some of the measures")
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / name / f"{name}.json", metavar="FILE")
    asked = parser.parse_args()
    begin = time.monotonic()
    chosen = {each: jobs for each, jobs in measures.items() if asked.only is None or each in asked.only}
    jobs = [job for made in chosen.values() for job in made(0.1 if asked.quick else 1.0)]
    rows = [row for found in _played(jobs, asked.processes) for row in (found if isinstance(found, list) else [found])]
    keep(rows, asked.json)
    print(f"{(time.monotonic() - begin) / 60:.1f} minutes")


def keep(rows: Sequence[Row], path: Path) -> None:
    """Print the rows as a table, and write them as JSON and, beside it, as Markdown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    text = markdown(rows)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def _played(jobs: Sequence[Job], processes: int) -> Iterable[Row | list[Row]]:
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
