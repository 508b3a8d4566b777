"""The verb `serinus simulate`: what would come of a rollout, with these people, this traffic and this truth."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xds_server.arguments import writable

if TYPE_CHECKING:
    from rich.table import Table

    from analysis.simulation.outcome import Run, Summary
    from xds_server.scenario_file import ScenarioFile

PATIENCE_S = 2.0  # so long it goes without a progress bar
SECONDS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "m"))


class Level(StrEnum):
    COUNTS = "counts"  # what single people would come to is drawn at once, for many runs in step
    PEOPLE = "people"  # single people and requests, and the whole of what watches them live


ScenarioArgument = Annotated[
    Path, typer.Argument(metavar="SCENARIO", help="The scenario file (YAML).", show_default=False)
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", callback=writable, help="Write all runs as JSON.", show_default=False),
]


def simulate(
    scenario: ScenarioArgument,
    *,
    policy: Annotated[
        str, typer.Option(help="Who chooses the splits: budget, fixed or learned; as in the file.", show_default=False)
    ] = "",
    runs: Annotated[int, typer.Option(min=1, max=100_000, help="Rollouts at each load.")] = 20,
    load: Annotated[
        float | None,
        typer.Option(min=0.001, max=100_000, help="Sessions a second; each of the file's.", show_default=False),
    ] = None,
    level: Annotated[
        Level, typer.Option(help="Counts of people, many runs in step; or single people and requests, which is slow.")
    ] = Level.COUNTS,
    seed: Annotated[int, typer.Option(min=0, help="The first run's; the others count up.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Play a scenario many times against the engine as it runs live, and show what comes of it."""
    from analysis.simulation.outcome import summarise

    file = _read(scenario, policy)
    loads = file.scenario.loads if load is None else (load,)
    told = []
    with _progress(runs * len(loads)) as progress:
        for i, each in enumerate(loads):
            played = _play(file, each, level, range(seed, seed + runs), _from(i * runs, progress))
            told.append((each, played, summarise(played)))
    for each, _, summaries in told:
        _show(_table(file, each, summaries))
    if json_file is not None:
        json_file.write_text(json.dumps({**_about(file, level), "loads": _as_json(told)}, indent=2) + "\n")


def _read(path: Path, policy: str) -> ScenarioFile:
    from dataclasses import replace

    from analysis.engine import POLICIES
    from xds_server.scenario_file import MeshError, load_scenario

    if policy and policy not in POLICIES:
        raise typer.BadParameter(f"{policy!r} is unknown; legal: {', '.join(POLICIES)}", param_hint="--policy")
    try:
        file = load_scenario(path)
    except MeshError as error:
        for problem in error.problems:
            typer.echo(f"serinus: {problem}", err=True)
        raise typer.Exit(2) from None
    if not policy:
        return file
    spec = replace(file.spec, rollout=replace(file.spec.rollout, policy=policy))
    return replace(file, spec=spec)


def _play(
    file: ScenarioFile, load: float, level: Level, seeds: Sequence[int], progress: Callable[[float], None]
) -> list[Run]:
    """Play a run for each seed; `progress` is told how many are done, with the part of those that are on."""
    from analysis.simulation.playing import play
    from analysis.simulation.playing_counts import play_counts

    if level is Level.COUNTS:
        return play_counts(file.scenario, file.spec, load=load, seeds=seeds, progress=progress)
    return [
        play(file.scenario, file.spec, load=load, seed=seed, progress=_from(i, progress))
        for i, seed in enumerate(seeds)
    ]


def _from(first: int, progress: Callable[[float], None]) -> Callable[[float], None]:
    """Progress that goes on where `first` runs are done."""
    return lambda done: progress(first + done)


@contextmanager
def _progress(total: float) -> Iterator[Callable[[float], None]]:
    """A bar on stderr, where that is a terminal and it takes long enough to be worth one."""
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task("runs", total=total)
    begin_s = time.monotonic()

    def tell(done: float) -> None:
        bar.update(task, completed=done)
        if not bar.live.is_started and sys.stderr.isatty() and time.monotonic() - begin_s > PATIENCE_S:
            bar.start()

    try:
        yield tell
    finally:
        if bar.live.is_started:
            bar.stop()


def _table(file: ScenarioFile, load: float, summaries: Sequence[Summary]) -> Table:
    from rich.table import Table

    runs, policy = summaries[0].runs, file.spec.rollout.policy
    table = Table(
        title=f"{file.scenario.title}\n{load:g} sessions/s, policy {policy}, {runs} runs; must: {file.scenario.must}",
        title_justify="left",
    )
    table.add_column("segment")
    table.add_column("canary")
    for name in ("promoted", "rolled back", "withdrawn", "undecided", "to 100 %", "delay", "harm", "exposed"):
        table.add_column(name, justify="right")
    for each in summaries:
        table.add_row(
            each.segment, "bad" if each.is_bad else "good", *(f"{share:.0%}" for share in each.shares.values()),
            _time(each.full_s), _time(each.delay_s), f"{each.harm:,.1f}", f"{each.exposed:,.0f}",
        )  # fmt: skip
    return table


def _show(table: Table) -> None:
    from xds_server.console import show

    show(table)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return next((f"{seconds / size:.1f}{unit}" for size, unit in SECONDS if seconds >= size), f"{seconds:.0f}s")


def _about(file: ScenarioFile, level: Level) -> dict[str, Any]:
    scenario = file.scenario
    return {
        "scenario": scenario.name, "title": scenario.title, "must": scenario.must, "horizon_s": scenario.horizon_s,
        "policy": file.spec.rollout.policy, "level": level,
    }  # fmt: skip


def _as_json(told: Sequence[tuple[float, list[Run], tuple[Summary, ...]]]) -> list[dict[str, Any]]:
    return [
        {
            "sessions_per_s": load,
            "summary": [asdict(summary) for summary in summaries],
            "runs": [asdict(run) for run in runs],
        }
        for load, runs, summaries in told
    ]
