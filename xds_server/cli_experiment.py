"""The verbs `serinus experiment …`: what came of an A/B test, from a table of its counts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from xds_server.arguments import writable

if TYPE_CHECKING:
    from rich.table import Table

    from xds_server.experiment_table import Told

experiment_app = typer.Typer(
    help="A/B tests.", pretty_exceptions_enable=False, no_args_is_help=True, add_completion=False
)
SEED: Final = 0  # of the draws behind 'is best'; the same table gives the same report


@experiment_app.callback()
def _experiment() -> None:
    """A/B tests."""


@experiment_app.command()
def analyse(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="Counts and moments (CSV, or .parquet).", show_default=False)
    ],
    *,
    totals: Annotated[
        bool, typer.Option("--totals", help="Each row is all that was known by then, not what a tick added.")
    ] = False,
    control: Annotated[str, typer.Option(metavar="VARIANT", help="The first in the table.", show_default=False)] = "",
    primary: Annotated[
        str, typer.Option(metavar="METRIC", help="That decides who wins; the first in the table.", show_default=False)
    ] = "",
    lower: Annotated[
        list[str] | None, typer.Option(metavar="METRIC", help="Lower is better.", show_default=False)
    ] = None,
    guardrail: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=MARGIN", help="May worsen by as much at most.", show_default=False),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Chance of a wrong conclusion, ever.")] = 0.05,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", callback=writable, help="Write everything.", show_default=False),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", callback=writable, help="Write a page with plots.", show_default=False),
    ] = None,
) -> None:
    """Analyse finished or running experiments: effects that are valid at every look, checks, and who has won."""
    from xds_server.experiment_page import page
    from xds_server.experiment_table import Asked, TableError, read_table

    asked = Asked(
        control=control, primary=primary, lower=frozenset(lower or ()), margins=_margins(guardrail or ()), alpha=alpha
    )
    try:
        told = read_table(table, asked)
    except TableError as error:
        typer.echo(f"serinus: {error}", err=True)
        raise typer.Exit(2) from None
    reports = list(_reports(told, totals=totals))
    if json_file is not None:
        document = {"table": table.name, "totals": totals, "experiments": reports}
        json_file.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if html is not None:
        html.write_text(page(reports), encoding="utf-8")
    _show(reports)


def _margins(texts: Iterable[str]) -> dict[str, float]:
    margins = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            margins[name] = float(number)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise typer.BadParameter(f"'{text}' is not METRIC=MARGIN", param_hint="--guardrail")
    return margins


def _reports(told: list[Told], *, totals: bool) -> Iterable[dict[str, Any]]:
    import numpy as np
    from rich.console import Console
    from rich.progress import Progress

    from analysis.experiment.report import analyse as analyse_one

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        for each in progress.track(told, description="experiments"):
            rng = np.random.default_rng(SEED)
            yield analyse_one(each.experiment, each.ticks, shares=each.shares, totals=totals, rng=rng)


def _show(reports: list[dict[str, Any]]) -> None:
    from xds_server.console import show

    for report in reports:
        show(_effects(report))
        for line in _said(report):
            typer.echo(line)


def _effects(report: Mapping[str, Any]) -> Table:
    from rich.table import Table

    level = 1 - report["experiment"]["alpha"]
    shown = Table(title=f"{report['experiment']['name']} against {report['experiment']['variants'][0]['name']}")
    for name in ("segment", "metric", "variant", "people", "effect", f"{level:.4g}, always", "p", "adjusted", "beats"):
        shown.add_column(name)
    beats = {
        (row["segment"], row["metric"], row["variant"]): row["chance_to_beat_control"] for row in report["bayesian"]
    }
    for row in report["effects"]:
        key = row["segment"], row["metric"], row["variant"]
        ends = "too few yet" if row["effect"] is None else f"{row['low']:+.4g} to {row['high']:+.4g}"
        effect = "" if row["effect"] is None else f"{row['effect']:+.4g}"
        adjusted = "" if row["p_adjusted"] is None else f"{row['p_adjusted']:.3g}{' *' if row['discovery'] else ''}"
        shown.add_row(
            *key, f"{row['n'] + row['n_control']:,}", effect, ends, f"{row['p']:.3g}",
            adjusted, f"{beats[key]:.3f}",
        )  # fmt: skip
    return shown


def _said(report: Mapping[str, Any]) -> Iterable[str]:
    for segment, verdict in report["verdicts"].items():
        winner = "" if verdict["winner"] is None else f", {verdict['winner']} is ahead of all others"
        yield f"{segment}: {verdict['standing']}{winner}"
        yield from (f"  {name} is out: {why}" for name, why in verdict["withdrawn"].items())
    ratio = report["checks"]["sample_ratio"]
    if ratio["p_value"] is not None:
        flag = "MISMATCH" if ratio["mismatch"] else "fine"
        also = "proven" if ratio["proven"] else "not proven"
        observed, expected = (" : ".join(f"{n:.0f}" for n in ratio[key]) for key in ("observed", "expected"))
        yield (
            f"sample ratio: {flag}, {observed} for {expected}, p = {ratio['p_value']:.2g} at one look; "
            f"at every look log e = {ratio['log_e']:.2f} ({also})"
        )
    if ratio["strays"]:
        yield f"{ratio['strays']} people on variants that nobody was sent to: left out of the sample ratio"
    multiple = report["checks"]["multiple_exposure"]
    if multiple["people"]:
        flag = "TOO MANY" if multiple["too_many"] else "few"
        yield f"several variants: {multiple['people']} people ({multiple['share']:.2%}), {flag}; left out"
