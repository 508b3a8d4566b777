"""Two plots, as SVG: harm against time to 100 %, and delay against false rollbacks."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contest.losses import CHAMPION
from benchmarks.contest.outcome import Cell
from benchmarks.contest.report import TUNED, Line, lines


def draw(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Nothing where matplotlib is not installed (extra `contest`)."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    shown = lines(cells)
    return [
        _scatter(
            folder / "harm-time.svg",
            [(line, line.full_min.value, line.harm) for line in shown],
            ("minutes to 100 % of good releases, median", "expected excess bad sessions on bad releases, mean"),
        ),
        _scatter(
            folder / "delay-false-rollbacks.svg",
            [(line, 100 * line.false_rollback.value, line.delay_min) for line in shown],
            ("false rollbacks, %", "minutes from onset until routed away, median of the scenarios' medians"),
        ),
    ]


def _scatter(path: Path, points: Sequence[tuple[Line, float, float]], axes: tuple[str, str]) -> Path:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "serinus", "font.size": 8})
    from matplotlib import pyplot as plt

    loads = sorted({line.load for line, _, _ in points})
    figure, panels = plt.subplots(1, len(loads), figsize=(6 * len(loads), 5), squeeze=False)
    for load, panel in zip(loads, panels[0], strict=True):
        here = [(line, x, y) for line, x, y in points if line.load == load]
        limit = 1.15 * max((x for _, x, _ in here if math.isfinite(x)), default=1.0)
        for line, x, y in here:
            if not math.isfinite(y):
                continue
            colour = "C3" if line.contestant.startswith(CHAMPION) else "C0" if TUNED in line.contestant else "C7"
            marker = "o" if math.isfinite(x) else ">"
            panel.plot(min(x, limit), y, marker, color=colour)
            panel.annotate(line.contestant, (min(x, limit), y), xytext=(4, 2), textcoords="offset points")
        panel.set(title=f"{load:g} sessions a second", xlabel=axes[0], ylabel=axes[1], yscale="symlog")
        panel.grid(visible=True, alpha=0.3)
    figure.text(
        0.01, 0.01, "red: Serinus; blue: tuned; grey: as documented; an arrow: never, in the median", fontsize=7
    )
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path
