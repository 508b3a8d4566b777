"""What has been played is kept, so that a contest of hours can be interrupted and goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.contest.intervals import Figure
from benchmarks.contest.outcome import Cell
from benchmarks.contest.tuning import Tuned


@dataclass(frozen=True, slots=True)
class Kept:
    """Results of jobs as files in `directory`, by what they depend on: commit, extent and the job's name.

    A file that cannot be read counts as not played.
    """

    directory: Path
    of: str

    def tuned(self, job: str) -> Tuned | None:
        found = self._read(job)
        return None if found is None else _tuned(found)

    def cells(self, job: str) -> list[Cell] | None:
        found = self._read(job)
        return None if found is None else [_cell(each) for each in found]

    def keep(self, job: str, made: Tuned | Sequence[Cell]) -> None:
        """Whole or not at all: an interrupted write leaves nothing that is read later."""
        path = self._path(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = asdict(made) if isinstance(made, Tuned) else [asdict(cell) for cell in made]
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(data))
        unfinished.replace(path)

    def _path(self, job: str) -> Path:
        name = hashlib.sha256(f"{self.of}\n{job}".encode()).hexdigest()[:32]
        return self.directory / f"{name}.json"

    def _read(self, job: str) -> Any:
        try:
            return json.loads(self._path(job).read_text())
        except (OSError, ValueError):
            return None


def _tuned(data: Mapping[str, Any]) -> Tuned:
    return Tuned(**{**data, "false_rollback": Figure(**data["false_rollback"])})


def _cell(data: Mapping[str, Any]) -> Cell:
    figures = {name: Figure(**figure) for name, figure in data["figures"].items()}
    own = {name: tuple(data[name]) for name in ("times_min", "harms")}
    return Cell(**{**data, "figures": figures, **own})
