"""The contest's Markdown: losses first, then what was shown by load, then every cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.contest import intervals
from benchmarks.contest.intervals import NONE, Figure
from benchmarks.contest.losses import CHAMPION, ORACLE, Loss, is_peer, losses, show, times_min
from benchmarks.contest.outcome import MEASURES, Cell
from benchmarks.contest.tuning import Tuned

TUNED = " (tuned)"
HARM_GOALS = ((False, 0.5, "the best documented plan"), (True, 0.75, "the best tuned peer"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One contestant at one load, over all scenarios.

    `harm`, `delay_min`: mean of the bad scenarios' means, median of their medians. `harm_ratio`: median over the bad
    scenarios of its harm over Serinus's, of those where Serinus did any. `false_rollback`: of releases that
    must be promoted. `fired`: of those that must be kept or held.
    """

    contestant: str
    load: float
    harm: float
    harm_ratio: float
    delay_min: float
    full_min: Figure
    false_rollback: Figure
    fired: Figure
    missed: Figure
    undecided: Figure
    most_min: float


def lines(cells: Sequence[Cell]) -> list[Line]:
    """By load, then by harm. Only scenarios that every contestant played at this load."""
    times = times_min(cells)
    keys = sorted({(cell.load, cell.contestant) for cell in cells})
    made = [_line(load, name, times.get((load, name), NONE), cells) for load, name in keys]
    return sorted(made, key=lambda line: (line.load, line.harm))


def _line(load: float, name: str, time_min: Figure, cells: Sequence[Cell]) -> Line:
    own = [cell for cell in cells if (cell.load, cell.contestant) == (load, name)]
    bad, good = ([cell for cell in own if cell.must == must] for must in ("rollback", "promote"))
    kept = [cell for cell in own if cell.must in {"keep", "hold"}]
    return Line(
        contestant=name,
        load=load,
        harm=float(np.mean([cell.figures["harm"].value for cell in bad])) if bad else math.nan,
        harm_ratio=_harm_ratio(bad, cells),
        delay_min=float(np.median([cell.figures["delay_min"].value for cell in bad])) if bad else math.nan,
        full_min=time_min,
        false_rollback=_pooled("false_rollback", good),
        fired=_pooled("false_rollback", kept),
        missed=_pooled("missed", bad),
        undecided=_pooled("undecided", good),
        most_min=float(np.median([cell.figures["most_min"].value for cell in good])) if good else math.nan,
    )


def _harm_ratio(bad: Sequence[Cell], cells: Sequence[Cell]) -> float:
    own = {(c.scenario, c.load): c.figures["harm"].value for c in cells if c.contestant == CHAMPION}
    ratios = [c.figures["harm"].value / own[c.scenario, c.load] for c in bad if own.get((c.scenario, c.load))]
    return float(np.median(ratios)) if ratios else math.nan


def _pooled(measure: str, cells: Iterable[Cell]) -> Figure:
    """A rate over the runs of several cells."""
    shown = [cell.figures[measure] for cell in cells if measure in cell.figures]
    n = sum(figure.n for figure in shown)
    bad = round(sum(figure.value * figure.n for figure in shown))
    return intervals.rate(np.arange(n) < bad)


def goals(cells: Sequence[Cell]) -> list[str]:
    """Harm against the best peer that is no faster, by load; and whether anybody is better on both axes.

    Who never has a good release at 100 % is no measure for harm: nothing harms less than nothing.
    """
    said = []
    by_load: dict[float, list[Line]] = {}
    for line in lines(cells):
        by_load.setdefault(line.load, []).append(line)
    for load, here in by_load.items():
        own = next((line for line in here if line.contestant == CHAMPION), None)
        if own is None or math.isnan(own.harm):
            continue
        for is_tuned, limit, title in HARM_GOALS:
            peers = [line for line in here if is_peer(line.contestant) and (TUNED in line.contestant) is is_tuned]
            no_faster = [line for line in peers if own.full_min.value <= line.full_min.value < math.inf]
            if not no_faster:
                continue
            best = min(no_faster, key=lambda line: line.harm)
            share = own.harm / best.harm if best.harm else math.inf
            said.append(
                f"{_verdict(share <= limit)} {load:g}/s: harm {own.harm:.1f} is {share:.2f} of {title}'s"
                f" ({best.contestant}, {best.harm:.1f}; it may be {limit})"
            )
        both = [line.contestant for line in here if is_peer(line.contestant) and _is_better_on_both(line, own)]
        said.append(f"{_verdict(not both)} {load:g}/s: better on both axes: {', '.join(both) or 'nobody'}")
        said += [_against(line, own) for line in here if line.contestant.startswith(CHAMPION) and line is not own]
        said += [_against(line, own) for line in here if line.contestant == ORACLE]
    return said


def _against(line: Line, own: Line) -> str:
    """One of Serinus's other policies, or the oracle, beside the default policy."""
    return (
        f"{line.load:g}/s: {line.contestant} harms {line.harm:.1f} in {line.full_min.value:.1f} minutes to 100 %,"
        f" {CHAMPION} {own.harm:.1f} in {own.full_min.value:.1f}"
    )


def _verdict(passed: bool) -> str:
    return "PASS" if passed else "MISS"


def _is_better_on_both(line: Line, own: Line) -> bool:
    return line.harm < own.harm and line.full_min.value < own.full_min.value


def markdown(cells: Sequence[Cell], tuned: Sequence[Tuned], *, title: str) -> str:
    parts = (
        [f"# {title}", ""],
        ["## Where Serinus loses", "", *_losses(losses(cells)), ""],
        ["## Goals", "", *(f"- {goal}" for goal in goals(cells)), ""],
        ["## By load", "", *_summary(lines(cells)), ""],
        ["## Tuned peers", "", *_tuned(tuned), ""],
        ["## Every cell", "", *_cells(cells)],
    )
    return "\n".join(line for part in parts for line in part) + "\n"


def _losses(found: Sequence[Loss]) -> Iterator[str]:
    if not found:
        yield "Nowhere is a peer better on harm at equal or shorter time, on time at equal harm, or surely on a rate."
        return
    yield f"{sum(loss.sure for loss in found)} sure ones (intervals do not overlap) of {len(found)}."
    yield ""
    yield from _table(
        ("scenario", "load", "peer", "better at", "peer", "Serinus", "sure"),
        [
            (x.scenario, f"{x.load:g}", x.peer, x.axis, x.peer_shows, x.serinus_shows, "yes" if x.sure else "no")
            for x in found
        ],
    )


def _summary(shown: Sequence[Line]) -> Iterator[str]:
    yield "Harm: mean over the bad scenarios of expected excess bad sessions; × Serinus's: median over these scenarios"
    yield "of harm over Serinus's, so that none counts more than another. Time: median minutes until 100 % of good"
    yield "releases, reached and kept. False rollbacks: of good releases; fired: of those that must be kept or held."
    yield ""
    yield from _table(
        (
            "load", "who", "harm", "× Serinus's", "time to 100 %, min", "of 90 %", "delay, min", "false rollbacks",
            "fired", "missed", "undecided",
        ),
        [
            (
                f"{line.load:g}", line.contestant, f"{line.harm:.1f}", f"{line.harm_ratio:.2f}",
                show(line.full_min, "full_min"), f"{line.most_min:.3g}", f"{line.delay_min:.3g}",
                show(line.false_rollback, "false_rollback"), show(line.fired, "false_rollback"),
                show(line.missed, "missed"), show(line.undecided, "undecided"),
            )
            for line in shown
        ],
    )  # fmt: skip


def _tuned(tuned: Sequence[Tuned]) -> Iterator[str]:
    yield from _table(
        ("contestant", "load", "documented", "tuned", "false rollbacks on its own A/A runs"),
        [
            (
                t.contestant,
                f"{t.load:g}",
                ", ".join(f"{k} {v:.4g}" for k, v in t.documented.items()),
                ", ".join(f"{k} {v:.4g}" for k, v in t.values.items()),
                show(t.false_rollback, "false_rollback"),
            )
            for t in tuned
        ],
    )


def _cells(cells: Sequence[Cell]) -> Iterator[str]:
    yield from _table(
        ("scenario", "must", "load", "contestant", "n", *MEASURES),
        [
            (
                cell.scenario + (" (held out)" if cell.held_out else ""),
                cell.must,
                f"{cell.load:g}",
                cell.contestant,
                str(cell.n),
                *(show(cell.figures.get(measure, NONE), measure) for measure in MEASURES),
            )
            for cell in sorted(cells, key=lambda c: (c.scenario, c.load, c.figures["harm"].value))
        ],
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
