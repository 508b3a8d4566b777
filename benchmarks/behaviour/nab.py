"""The Numenta Anomaly Benchmark's score (Lavin & Ahmad 2015, standard profile) of a streaming detector.

Within a labelled window the first detection counts, more the earlier it is; a window without one costs as much as the
best would have gained; a detection outside costs `FALSE_POSITIVE`, less if it comes shortly after a window. One
threshold serves all series, the one with the highest score, as the benchmark has it. 0 is a detector that never speaks,
100 one that names each window at its start and nothing else.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from analysis.anomaly.rates import LAG, RateDetector

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FALSE_POSITIVE = 0.11
PROBATION = 0.15  # share of a series that is not scored, of at most PROBATION_OF points
PROBATION_OF = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """`unix_s`, `values`: (n,). `windows`: first and last index of each labelled one."""

    name: str
    unix_s: Ints
    values: Floats
    windows: tuple[tuple[int, int], ...]

    @property
    def probation(self) -> int:
        return int(PROBATION * min(len(self.values), PROBATION_OF))


def read(archive: Path) -> Iterator[Series]:
    """The series of nab.tar.xz."""
    with tarfile.open(archive) as tar:
        files = {member.name.split("nab/", 1)[1]: tar.extractfile(member) for member in tar if member.isfile()}
        contents = {name: file.read().decode() for name, file in files.items() if file is not None}
    for name, windows in sorted(json.loads(contents["windows.json"]).items()):
        rows = [line.split(",") for line in contents[name].splitlines()[1:]]
        when = np.array([row[0] for row in rows], "datetime64[s]").astype(np.int64)
        ends = [np.array([end.split(".")[0] for end in window], "datetime64[s]").astype(np.int64) for window in windows]
        spans = [np.flatnonzero((when >= first) & (when <= last)) for first, last in ends]
        yield Series(
            name=name,
            unix_s=when,
            values=np.array([float(row[1]) for row in rows]),
            windows=tuple((int(span[0]), int(span[-1])) for span in spans),
        )


def score(series: list[Series], scores: list[Floats]) -> tuple[float, float]:
    """The normalised score at the best threshold, and that threshold. `scores`: one a point, larger is odder."""
    points: list[tuple[float, float, tuple[int, int] | None]] = []
    for number, (one, odd) in enumerate(zip(series, scores, strict=True)):
        points += [
            (float(odd[i]), weight, None if window is None else (number, window))
            for i, (weight, window) in enumerate(_weights(one))
            if i >= one.probation
        ]
    points.sort(key=lambda point: -point[0])
    windows_n = sum(len(one.windows) for one in series)
    found: dict[tuple[int, int], float] = {}
    total, best, threshold = float(-windows_n), float(-windows_n), np.inf
    for place, (odd, weight, window) in enumerate(points):
        if window is None:
            total += weight
        else:
            total += max(weight - found.get(window, -1.0), 0.0)
            found[window] = max(weight, found.get(window, -1.0))
        is_last_of_equals = place + 1 == len(points) or points[place + 1][0] < odd
        if is_last_of_equals and total > best:
            best, threshold = total, odd
    return 100 * (best + windows_n) / (2 * windows_n), threshold


def _weights(series: Series) -> Iterator[tuple[float, int | None]]:
    """What a detection at each point is worth, and the window that it is in."""
    for i in range(len(series.values)):
        inside = next((n for n, (first, last) in enumerate(series.windows) if first <= i <= last), None)
        before = [window for window in series.windows if window[1] < i]
        if inside is not None:
            first, last = series.windows[inside]
            yield _sigmoid(-(last - i + 1) / (last - first + 1)) / _sigmoid(-1.0), inside
        elif before:
            first, last = before[-1]
            yield _sigmoid((i - last) / (last - first)) * FALSE_POSITIVE, None
        else:
            yield -FALSE_POSITIVE, None


def _sigmoid(position: float) -> float:
    return -1.0 if position > 3.0 else 2 / (1 + float(np.exp(5 * position))) - 1


def evaluate(series: list[Series]) -> dict[str, object]:
    """The score of RateDetector on all series, and on the odd half, on which none of its settings was chosen."""
    scores = [_detected(one) for one in series]
    total, threshold = score(series, scores)
    return {
        "series": len(series),
        "windows": sum(len(one.windows) for one in series),
        "score": round(total, 1),
        "threshold": round(threshold, 2),
        "score_chosen_on": round(score(series[::2], scores[::2])[0], 1),
        "score_held_out": round(score(series[1::2], scores[1::2])[0], 1),
    }


def _detected(series: Series) -> Floats:
    detector = RateDetector(history=series.probation - LAG + 1)
    return np.array([detector.score(value) for value in series.values.tolist()])
