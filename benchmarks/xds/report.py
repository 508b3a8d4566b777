"""Tables, goals and JSON of one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any

from benchmarks.xds.columns import GCP, TITLES, Key, Push
from benchmarks.xds.pushes import Cell
from benchmarks.xds.storm import Storm

CLIENT_BOUND = 0.7
"""A client that is at work for more of the time than this may hold the server back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """`passed` None: not shown, since something that belongs to it was skipped or not asked for."""

    goal: str
    passed: bool | None
    measured: str

    def __str__(self) -> str:
        word = {True: "PASS", False: "MISS", None: "SKIPPED"}[self.passed]
        return f"{word:7}  {self.goal}: {self.measured}"


# --- Tables ---

_PUSH_HEAD = (
    f"{'streams':>7}  {'column':<27} {'last ACK, ms (min–max)':>26} {'call, ms':>9} {'server µs':>9} {'client µs':>9}"
    f" {'kB/stream':>9} {'bytes':>8} {'×floor':>7} {'×gcp':>6}"
)


def push_table(cells: Sequence[Cell]) -> Iterator[str]:
    for (variant, workload), group in groupby(cells, key=lambda cell: (cell.variant, cell.workload)):
        yield ""
        yield f"Push of one segment's split: {variant}, {_services(workload.services)}, {workload.shape}"
        yield _PUSH_HEAD
        here = list(group)
        for cell in here:
            peers = [other for other in here if other.streams == cell.streams]
            yield _push_line(cell, peers)


def _push_line(cell: Cell, peers: Sequence[Cell]) -> str:
    start = f"{cell.streams:>7,}  {TITLES[cell.key]:<27}"
    if cell.skipped:
        return f"{start} SKIPPED: {cell.skipped}"
    seen = [push.seen_ms for push in cell.pushes]
    time = f"{cell.seen_ms:.1f} ({min(seen):.1f}–{max(seen):.1f})"
    mark = "*" if _of(cell, "client_busy") > CLIENT_BOUND else " "
    client = f"{_of(cell, 'client_us'):.1f}{mark}"
    return (
        f"{start} {time:>26} {_of(cell, 'publish_ms'):>9.1f} {cell.server_us:>9.1f} {client:>9}"
        f" {cell.kb_per_stream or 0.0:>9.1f} {_of(cell, 'bytes'):>8,.0f}"
        f" {_times(_ratio(cell, _find(peers, ('floor',)))):>7} {_times(_ratio(cell, _find(peers, GCP))):>6}"
    )


_STORM_HEAD = (
    f"{'column':<27} {'p50, s':>7} {'p99, s (min–max)':>20} {'max, s':>7} {'served':>12} {'refused':>8}"
    f" {'stall, ms':>9} {'server µs':>9} {'client µs':>9}"
)


def storm_table(storms: Sequence[Storm]) -> Iterator[str]:
    for (variant, workload, streams), group in groupby(storms, key=lambda s: (s.variant, s.workload, s.streams)):
        yield ""
        yield f"Storm: {streams:,} streams at once: {variant}, {_services(workload.services)}, {workload.shape}"
        yield _STORM_HEAD
        yield from map(_storm_line, group)


def _storm_line(storm: Storm) -> str:
    start = f"{TITLES[storm.key]:<27}"
    if storm.skipped or not storm.runs:
        return f"{start} SKIPPED: {storm.skipped}"

    def ready(quantile: str) -> list[float]:
        return [run["ready_s"].get(quantile, float("inf")) for run in storm.runs]

    p99 = f"{median(ready('p99')):.2f} ({min(ready('p99')):.2f}–{max(ready('p99')):.2f})"
    stall = _worst_stall(storm)
    spent = [median(run[name] for run in storm.runs) for name in ("server_us", "client_us")]
    served = f"{min(run['served'] for run in storm.runs):,} of {storm.streams:,}"
    return (
        f"{start} {median(ready('p50')):>7.2f} {p99:>20} {max(ready('max')):>7.2f} {served:>12}"
        f" {max(run['refused'] for run in storm.runs):>8,} {'–' if stall is None else f'{stall:.0f}':>9}"
        f" {spent[0]:>9,.0f} {spent[1]:>9,.0f}"
    )


# --- Goals ---


def goals(cells: Sequence[Cell], storms: Sequence[Storm]) -> list[Goal]:
    serinus = [cell for cell in cells if cell.key == "serinus" and cell.pushes]

    def ratios(keys: Iterable[Key], wanted: Callable[[Cell], bool]) -> list[tuple[float, str]]:
        pairs = ((cell, _find(_peers(cell, cells), keys)) for cell in serinus if wanted(cell))
        found = ((_ratio(cell, peer), _where(cell)) for cell, peer in pairs)
        return [(ratio, where) for ratio, where in found if ratio is not None]

    most = {(c.variant, c.workload): max(o.streams for o in serinus if o.workload == c.workload) for c in serinus}
    memory = [
        (c.kb_per_stream, _where(c)) for c in serinus if c.kb_per_stream and c.streams == most[c.variant, c.workload]
    ]
    stormed = [storm for storm in storms if storm.key == "serinus" and storm.runs]
    no_push = [_where(cell) for cell in cells if cell.key == "serinus" and cell.skipped]
    no_storm = [f"{s.variant}, {_services(s.workload.services)}" for s in storms if s.key == "serinus" and s.skipped]
    found = [
        _at_most("Serinus / floor ≤ 1.3, time to the last ACK", ratios(("floor",), lambda _: True), 1.3, "×"),
        _at_most(
            "Serinus / go-control-plane ≤ 1 with 500 services, time to the last ACK",
            ratios(GCP, lambda cell: cell.workload.services >= 500),
            1.0,
            "×",
        ),
        _at_most("at most 60 kB a stream", memory, 60.0, " kB"),
        _at_most("delta push with 500 services / with 1 ≤ 1.25, server CPU", _by_services(serinus), 1.25, "×"),
        _at_most("storm: p99 < 5 s", _storm_values(stormed, lambda run: run["ready_s"].get("p99", 1e9)), 5.0, " s"),
        _at_most(
            "storm: everybody served (streams left out)",
            _storm_values(stormed, lambda run: float(run["streams"] - run["served"])),
            0.0,
            "",
        ),
        _at_most("storm: no stall > 100 ms", _storm_values(stormed, lambda run: run["stall_ms"] or 0.0), 100.0, " ms"),
    ]
    return [_without(goal, no_storm if goal.goal.startswith("storm") else no_push) for goal in found]


def _without(goal: Goal, skipped: Sequence[str]) -> Goal:
    """Take back a PASS of which a part is missing."""
    if not skipped:
        return goal
    measured = f"{goal.measured}; SKIPPED: {len(skipped)}, such as {skipped[0]}"
    return dataclasses.replace(goal, passed=goal.passed and None, measured=measured)


def _at_most(goal: str, values: Sequence[tuple[float, str]], limit: float, unit: str) -> Goal:
    """Judge by the worst of the values, each of which is named."""
    if not values:
        return Goal(goal=goal, passed=None, measured="not measured here")
    worst, best = max(values), min(values)
    measured = f"worst {worst[0]:.2f}{unit} ({worst[1]}), best {best[0]:.2f}{unit} ({best[1]})"
    return Goal(goal=goal, passed=worst[0] <= limit, measured=measured)


def _by_services(serinus: Sequence[Cell]) -> list[tuple[float, str]]:
    """Server time of a delta push among many services, as a multiple of the same among one."""
    delta = [cell for cell in serinus if cell.variant == "delta" and cell.workload.shape == "sidecar"]
    alone = {cell.streams: cell for cell in delta if cell.workload.services == 1}
    return [
        (cell.server_us / alone[cell.streams].server_us, _where(cell))
        for cell in delta
        if cell.workload.services > 1 and cell.streams in alone
    ]


def _storm_values(storms: Sequence[Storm], of: Callable[[dict[str, Any]], float]) -> list[tuple[float, str]]:
    return [
        (of(run), f"{storm.variant}, {_services(storm.workload.services)}") for storm in storms for run in storm.runs
    ]


# --- JSON ---


def as_data(cells: Sequence[Cell], storms: Sequence[Storm]) -> dict[str, Any]:
    return {
        "pushes": [_cell_data(cell, cells) for cell in cells],
        "storms": [
            {
                "variant": storm.variant,
                **dataclasses.asdict(storm.workload),
                "streams": storm.streams,
                "column": storm.key,
                "skipped": storm.skipped,
                "runs": list(storm.runs),
            }
            for storm in storms
        ],
        "goals": [dataclasses.asdict(goal) for goal in goals(cells, storms)],
    }


def _cell_data(cell: Cell, cells: Sequence[Cell]) -> dict[str, Any]:
    peers = _peers(cell, cells)
    spread = {
        field.name: _spread([getattr(push, field.name) for push in cell.pushes])
        for field in dataclasses.fields(Push)
        if cell.pushes
    }
    return {
        "variant": cell.variant,
        **dataclasses.asdict(cell.workload),
        "streams": cell.streams,
        "column": cell.key,
        "skipped": cell.skipped,
        "kb_per_stream": cell.kb_per_stream,
        **spread,
        "over_floor": _ratio(cell, _find(peers, ("floor",))),
        "over_gcp": _ratio(cell, _find(peers, GCP)),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


# --- Cells ---


def _peers(cell: Cell, cells: Sequence[Cell]) -> list[Cell]:
    return [
        other
        for other in cells
        if (other.variant, other.workload, other.streams) == (cell.variant, cell.workload, cell.streams)
    ]


def _find(cells: Iterable[Cell], keys: Iterable[Key]) -> Cell | None:
    """Find the fastest of these columns."""
    shown = [cell for cell in cells if cell.key in keys and cell.pushes]
    return min(shown, key=lambda cell: cell.seen_ms, default=None)


def _ratio(cell: Cell, peer: Cell | None) -> float | None:
    return None if peer is None or peer is cell or not cell.pushes else cell.seen_ms / peer.seen_ms


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _of(cell: Cell, name: str) -> float:
    return float(median(getattr(push, name) for push in cell.pushes))


def _worst_stall(storm: Storm) -> float | None:
    stalls = [run["stall_ms"] for run in storm.runs if run["stall_ms"] is not None]
    return max(stalls, default=None)


def _where(cell: Cell) -> str:
    return f"{cell.variant}, {_services(cell.workload.services)}, {cell.workload.shape}, {cell.streams:,} streams"


def _services(n: int) -> str:
    return "1 service" if n == 1 else f"{n} services"
