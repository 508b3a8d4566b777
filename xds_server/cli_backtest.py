"""The verb `serinus backtest`: what would have been said of deployments that are over, and how often that is right."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.backtest.parts import Split, part
from analysis.errors import RecordError
from xds_server.errors import HistoryTableError

if TYPE_CHECKING:
    from rich.table import Table

    from analysis.backtest.outcome import Figures, Outcome
    from analysis.backtest.rates import Rate, Spread
    from analysis.history.record import RolloutRecord
    from analysis.spec import ServiceSpec

PATIENCE_S = 2.0  # so long it goes without a progress bar

Tables = Annotated[
    list[Path],
    typer.Argument(
        metavar="TABLES…", help="Tables of deployments, CSV or Parquet, or folders of them.", show_default=False
    ),
]


def backtest(
    tables: Tables,
    *,
    policy: Annotated[
        str, typer.Option(help="Who would have chosen the splits: budget, fixed, learned or thompson.")
    ] = "budget",
    mesh: Annotated[
        Path | None,
        typer.Option(
            metavar="MESH", help="Take budgets, tolerances and ages from this mesh file's services.", show_default=False
        ),
    ] = None,
    split: Annotated[
        Split, typer.Option(help="Give the figures by half (by hash of the case) or by day too.")
    ] = Split.NONE,
    seed: Annotated[int, typer.Option(min=0, help="Of the people who are drawn from those recorded.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Judge recorded deployments again and count the errors, with exact 95 % intervals."""
    from analysis.engine import POLICIES

    if policy not in POLICIES:
        raise typer.BadParameter(f"{policy!r} is unknown; legal: {', '.join(POLICIES)}", param_hint="--policy")
    from analysis.backtest.backtest import backtest as judge_again
    from analysis.backtest.outcome import figures, parts

    records, specs = _read(tables), _specs(mesh)
    begin_s = time.monotonic()
    try:
        with _progress(len(records)) as progress:
            outcomes = judge_again(records, policy=policy, specs=specs, seed=seed, progress=progress)
    except RecordError as error:
        typer.echo(f"serinus: {error}", err=True)
        raise typer.Exit(2) from None
    took_s = time.monotonic() - begin_s
    found = {"all": figures(outcomes)} | (dict(parts(outcomes, split)) if split is not Split.NONE else {})
    if as_json:
        typer.echo(json.dumps(_as_json(policy, split, found, outcomes, took_s), indent=1, allow_nan=False))
        return
    _tell(found, outcomes)


def _read(tables: Sequence[Path]) -> list[RolloutRecord]:
    from xds_server.history_table import read_tables

    try:
        records = read_tables(tables)
    except HistoryTableError as error:
        typer.echo(f"serinus: {error}", err=True)
        raise typer.Exit(2) from None
    if not records:
        typer.echo("serinus: the tables hold no deployment: there is nothing to judge", err=True)
        raise typer.Exit(2)
    return records


def _specs(mesh: Path | None) -> Mapping[str, ServiceSpec]:
    if mesh is None:
        return {}
    from xds_server.settings import MeshError, load_mesh

    try:
        return {name: service.spec for name, service in load_mesh(mesh).services.items()}
    except MeshError as error:
        for problem in error.problems:
            typer.echo(f"serinus: {problem}", err=True)
        raise typer.Exit(2) from None


@contextmanager
def _progress(total: float) -> Iterator[Callable[[float], None]]:
    """A bar on stderr, where that is a terminal and it takes long enough to be worth one."""
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task("deployments", total=total)
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


# -- what is printed ---------------------------------------------------------------------------------------------------


def _tell(found: Mapping[str, Figures], outcomes: Sequence[Outcome]) -> None:
    from xds_server.console import show

    show(_figures_table(found))
    for line in _remarks(found["all"]):
        typer.echo(line)
    wrong = [each for each in outcomes if each.is_error]
    if wrong:
        show(_errors_table(wrong))


def _figures_table(found: Mapping[str, Figures]) -> Table:
    from rich.table import Table

    table = Table(title="deployments judged again, exact 95 % intervals", title_justify="left")
    for name in ("", "deployments", "precision", "recall", "F1", "false positives", "minutes to verdict", "named"):
        table.add_column(name, justify="left" if not name else "right")
    for name, each in found.items():
        table.add_row(
            name, str(each.records), _rate(each.precision), _rate(each.recall), _rate(each.f1),
            _rate(each.false_positive_rate), _spread(each.verdict_min), _rate(each.named),
        )  # fmt: skip
    return table


def _remarks(each: Figures) -> Iterator[str]:
    """What the figures lack, and what they have besides."""
    if each.unlabelled:
        yield f"{each.unlabelled} of {each.records} are neither known to be bad nor good: they count for nothing."
    if each.recall.n == 0:
        yield "No deployment is known to be bad: recall, F1 and minutes to verdict say nothing."
    if each.false_positive_rate.n == 0:
        yield "No deployment is known to be good: false positives say nothing."
    if each.held:
        yield f"{each.held} were held: not enough is known of them to roll back or to keep. That counts as kept."
    if each.lead_min.n:
        yield f"Taken back before they were in truth by {_spread(each.lead_min)} minutes ({each.lead_min.n} of them)."
    for name, harm in (("bad", each.harm_bad), ("good", each.harm_good)):
        if harm.n:
            yield f"Harm of {name} ones: {_spread(harm)} people beyond the baseline's, as expected ({harm.n} replayed)."


def _errors_table(wrong: Sequence[Outcome]) -> Table:
    from rich.table import Table

    table = Table(title=f"{len(wrong)} errors", title_justify="left")
    for name in ("deployment", "known", "said", "after", "why"):
        table.add_column(name, overflow="fold")
    for each in wrong:
        after = "" if each.taken_back_s is None else f"{each.taken_back_s / 60:.1f} min"
        table.add_row(each.rollout, "bad" if each.bad else "good", str(each.verdict), after, each.reason)
    return table


def _rate(rate: Rate) -> str:
    return "-" if math.isnan(rate.value) else f"{rate.value:.3f} [{rate.lower:.3f}, {rate.upper:.3f}]"


def _spread(spread: Spread) -> str:
    if not spread.n:
        return "-"
    return f"{spread.median:.1f} [{spread.quarter:.1f}, {spread.three_quarters:.1f}]"


def _as_json(
    policy: str, split: Split, found: Mapping[str, Figures], outcomes: Sequence[Outcome], took_s: float
) -> dict[str, Any]:
    deployments = [{"part": part(each.case, each.started_unix_s, split), **asdict(each)} for each in outcomes]
    plain: dict[str, Any] = _plain(
        {"policy": policy, "seconds": round(took_s, 2), "figures": found, "deployments": deployments}
    )
    return plain


def _plain(value: Any) -> Any:
    """What JSON knows: no NaN, and dataclasses as objects."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
