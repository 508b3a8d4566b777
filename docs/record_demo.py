"""Draw docs/demo.svg anew: play `serinus demo --fault all` for real and keep one frame of its live view.

    .venv/bin/python docs/record_demo.py [SEED]

The frame is the first one with both faulty segments rolled back and another one baking; in a run without it, the last.
"""

from __future__ import annotations

import re
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.table import Table

from xds_server.demo import runner
from xds_server.demo.view import live_table
from xds_server.pb import control_pb2 as pb

OUTPUT = Path(__file__).with_name("demo.svg")
FAULTY = {"power", "eu"}
WIDTH = 168

frames: list[Table] = []


class Recorder(runner.PlainScreen):
    """Prints what the plain demo prints, and keeps the frame worth showing as the last of `frames`."""

    _found = False

    def show(self, status: pb.Status, *, fault: str, elapsed_s: float) -> None:
        super().show(status, fault=fault, elapsed_s=elapsed_s)
        if not self._found:
            frames.append(live_table(status, fault=fault, elapsed_s=elapsed_s))
            self._found = _is_worth_showing(status)


def _is_worth_showing(status: pb.Status) -> bool:
    phases = {each.segment: each.phase for each in status.services[0].segments}
    return all(phases[name] == "rolled_back" for name in FAULTY) and "baking" in phases.values()


def _svg(frame: Table) -> str:
    console = Console(record=True, file=StringIO(), width=WIDTH, force_terminal=True, color_system="truecolor")
    console.print(frame, markup=False, highlight=False)
    svg = console.export_svg(title="serinus demo --fault all")
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # a picture must not fetch anything


def main(seed: int) -> int:
    """Play the demo; if it ended as it should, write the picture. Return the demo's exit code."""
    runner.PlainScreen = Recorder  # type: ignore[misc]  # the one place where the demo shows its frames
    exit_code = runner.run_demo(runner.DemoOptions(fault="all", seed=seed, plain=True))
    if exit_code == 0:
        OUTPUT.write_text(_svg(frames[-1]))
    return exit_code


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if sys.argv[1:] else 1))
