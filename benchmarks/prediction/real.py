"""`serinus backtest` on deployments that nobody here made, and on a thousand that were simulated.

The verdicts are those of the command with its defaults: here data are converted, and what it says is held against the
goals. Defaults were chosen on the half `train` by hash of each data set; `test` is what they are worth.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.goal_table import Row
from benchmarks.prediction import changerca, kontrast, tables
from benchmarks.prediction.recorded import records
from xds_server.history_table import write_tables

ROOT = Path(__file__).parents[2]
CONVERT: Mapping[str, Callable[[Path], tuple[tables.Rows, tables.Rows]]] = MappingProxyType(
    {"changerca": changerca.tables, "kontrast": kontrast.tables}
)
N_RECORDED, TICKS, LONGEST_S = 1_000, 360, 120.0
SEED = 20_261

Said = Mapping[str, Any]
Job = Callable[[], Row]


def command(folder: Path, *options: str) -> Said:
    """What `serinus backtest --json` says of the tables in a folder. Raises RuntimeError where it refuses."""
    done = subprocess.run(
        [sys.executable, "-m", "xds_server", "backtest", str(folder), "--json", *options],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"serinus backtest {folder}: {done.stderr.strip()}")
    said: Said = json.loads(done.stdout)
    return said


def archive(name: str) -> Path:
    """Where a data set lies, or would. Raises FileNotFoundError where SERINUS_DATA says that it must be there."""
    told = os.environ.get("SERINUS_DATA")
    path = (Path(told) if told else ROOT.parent / "shared" / "data") / f"{name}.tar.xz"
    if told and not path.exists():
        raise FileNotFoundError(f"SERINUS_DATA is set, and {path} is not there")
    return path


@cache
def said_of(name: str, split: str) -> Said:
    """What the command says of a data set, once in a process."""
    with tempfile.TemporaryDirectory() as folder:
        tables.write(Path(folder), *CONVERT[name](archive(name)))
        return command(Path(folder), "--split", split)


# -- rows --------------------------------------------------------------------------------------------------------------


def _rate(measure: str, key: str, name: str, split: str, part: str, goal: float | None, *, least: bool) -> Row:
    if not archive(name).exists():
        return _skipped(measure, name, split, part)
    each = said_of(name, split)["figures"][part]
    found = each[key]
    met = None if goal is None else bool(found["value"] >= goal if least else found["value"] <= goal)
    return Row(
        measure=measure, setting=f"{name}, {part}: {each['records']} releases", measured=_shown(found), n=found["n"],
        goal="" if goal is None else f"{'≥' if least else '≤'} {goal:g}", met=met,
    )  # fmt: skip


def _minutes(name: str, split: str, part: str) -> Row:
    measure = "minutes to verdict on bad releases"
    if not archive(name).exists():
        return _skipped(measure, name, split, part)
    each = said_of(name, split)["figures"][part]
    found = each["verdict_min"]
    shown = f"median {found['median']:.1f}, quartiles {found['quarter']:.1f} and {found['three_quarters']:.1f}"
    setting = f"{name}, {part}: {each['records']} releases"
    return Row(measure=measure, setting=setting, measured=shown, n=found["n"], goal="", met=None)


def _errors(name: str, split: str, part: str) -> Row:
    """What was missed, and why."""
    if not archive(name).exists():
        return _skipped("errors", name, split, part)
    told = [
        f"{each['rollout']} ({_known(each)}): {each['verdict']}, {each['reason']}"
        for each in said_of(name, split)["deployments"]
        if part in (each["part"], "all") and each["bad"] is not None and (each["verdict"] == "rollback") != each["bad"]
    ]
    return Row(
        measure="errors", setting=f"{name}, {part}", measured="; ".join(told) or "none", n=len(told), goal="", met=None
    )


def _known(each: Said) -> str:
    return f"bad, {each['label_reason']}" if each["bad"] and each["label_reason"] else "bad" if each["bad"] else "good"


def _skipped(measure: str, name: str, split: str, part: str) -> Row:
    told = f"SKIPPED: {archive(name)} is not there (set SERINUS_DATA)"
    return Row(measure=measure, setting=f"{name}, {split}, {part}", measured=told, n=0, goal="", met=None)


def _shown(rate: Said) -> str:
    if rate["value"] is None:
        return "-"
    return f"{rate['value']:.3f} [{rate['lower']:.3f}, {rate['upper']:.3f}]"


def _part(name: str, split: str, part: str, *, f1: float | None = None, false: float | None = None) -> list[Job]:
    at = {"name": name, "split": split, "part": part}
    return [
        partial(_rate, "F1 of rollbacks", "f1", goal=f1, least=True, **at),
        partial(_rate, "good releases rolled back", "false_positive_rate", goal=false, least=False, **at),
        partial(_rate, "precision", "precision", goal=None, least=True, **at),
        partial(_rate, "recall", "recall", goal=None, least=True, **at),
    ]


def judged(share: float) -> list[Job]:  # noqa: ARG001 -- real data is judged whole
    """ChangeRCA by half and by day, Kontrast by half.

    Nothing is fitted to other days, so a day that is left out is a day judged by itself.
    """
    jobs: list[Job] = []
    for part in ("all", "test", "train"):
        aim = {} if part == "train" else {"f1": 0.88, "false": 0.03}
        jobs += _part("changerca", "hash", part, **aim)
    jobs += [
        partial(_minutes, "changerca", "hash", "all"), partial(_errors, "changerca", "hash", "all"),
        partial(_rate, "failing service named first", "named", "changerca", "hash", "all", None, least=True),
    ]  # fmt: skip
    for day in ("2023-09-22", "2023-09-23", "2023-09-24"):
        jobs += _part("changerca", "day", day)[:2]
    jobs += [*_part("kontrast", "hash", "test", f1=0.93), *_part("kontrast", "hash", "train")]
    return [*jobs, partial(_minutes, "kontrast", "hash", "test"), partial(_errors, "kontrast", "hash", "test")]


def _thousand(n: int, ticks: int, policy: str) -> Row:
    made = records(n, ticks=ticks, seed=SEED)
    with tempfile.TemporaryDirectory() as folder:
        write_tables(made, Path(folder), "csv")
        begin, before = time.monotonic(), os.times()
        said = command(Path(folder), "--policy", policy)
        took_s, after = time.monotonic() - begin, os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    each = said["figures"]["all"]
    right = f"F1 {_shown(each['f1'])}, good ones rolled back {_shown(each['false_positive_rate'])}"
    shown = f"{took_s:.0f} s, {cpu_s:.0f} s of CPU time; {right}"
    return Row(
        measure="time to backtest, from tables to figures", setting=f"{n} rollouts of {ticks} ticks, policy {policy}",
        measured=shown, n=n, goal=f"≤ {LONGEST_S:g} s", met=took_s <= LONGEST_S,
    )  # fmt: skip


def thousand(share: float) -> list[Job]:
    """Recorded rollouts, half of them bad, replayed through a policy."""
    return [partial(_thousand, max(round(N_RECORDED * share), 20), TICKS, "budget")]
