"""What a session did up to a fixed age, as numbers whose names an operator can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.profile.paths import Ints, LabelTable, Paths, Rows, steps_within

Floats = npt.NDArray[np.float64]

NAMES = ("steps", "different steps", "most repeats", "seconds", "pages", "calls", "clicks", "features")
_KIND_OF = {"page": "pages", "screen": "pages", "call": "calls", "click": "clicks", "feature": "features"}
REPEATING = 0.3
"""Pseudo-counts, spread over all labels, of a visit that goes by its own earlier steps alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visits:
    """n sessions as far as they had come at the age. `seconds`: (n,) from the start to the last step."""

    paths: Paths
    seconds: Floats

    @classmethod
    def of(cls, sessions: Rows, vocabulary: Sequence[str], table: LabelTable, *, age_s: float) -> Visits:
        """Of SESSION_DTYPE rows; steps that came after `age_s` are left out."""
        within = steps_within(sessions, age_s)
        last_ds = np.where(within, sessions["path_ds"], 0).max(axis=1, initial=0)
        return cls(paths=table.paths(sessions, vocabulary, within), seconds=last_ds / 10)

    def __len__(self) -> int:
        return len(self.seconds)

    def take(self, which: Ints) -> Visits:
        """The visits of these numbers, in this order."""
        return Visits(paths=self.paths.take(which), seconds=self.seconds[which])


def features(visits: Visits, table: LabelTable) -> Floats:
    """(n, len(NAMES)) the features of each visit."""
    counts = label_counts_of(visits.paths, len(table))
    kinds = np.array([_KIND_OF.get(label.partition(" ")[0], "") for label in table.labels])
    by_kind = [counts[:, kinds == kind].sum(axis=1) for kind in NAMES[4:]]
    return np.column_stack(
        [
            visits.paths.lengths.astype(float),
            np.count_nonzero(counts, axis=1).astype(float),
            counts.max(axis=1, initial=0.0),
            visits.seconds,
            *by_kind,
        ]
    )


def label_counts_of(paths: Paths, n_labels: int) -> Floats:
    """(n, n_labels) how often each path has each label."""
    flat = np.bincount(paths.owner * n_labels + paths.steps, minlength=len(paths) * n_labels)
    return flat.reshape(len(paths), n_labels).astype(float)


def log_chance_of_repeating(paths: Paths, n_labels: int) -> Floats:
    """(n,) log of the chance (nats) of each path for somebody who goes by what they did earlier in it.

    A step is foretold by how often it followed the same step before, with REPEATING pseudo-counts over all labels: high
    for whoever goes round in circles, whatever the circle.
    """
    if len(paths.steps) == 0:
        return np.zeros(len(paths))
    last = np.where(np.isin(np.arange(len(paths.steps)), paths.starts), n_labels, np.roll(paths.steps, 1))
    row = paths.owner * (n_labels + 1) + last
    chance = (_earlier(row * (n_labels + 1) + paths.steps) + REPEATING / n_labels) / (_earlier(row) + REPEATING)
    return np.asarray(np.bincount(paths.owner, weights=np.log(chance), minlength=len(paths)), np.float64)


def _earlier(codes: Ints) -> Ints:
    """(total,) how often each code came before."""
    order = np.argsort(codes, kind="stable")
    ascending = codes[order]
    first = np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1]))
    rank = np.arange(len(codes)) - np.repeat(first, np.diff(np.append(first, len(codes))))
    earlier = np.empty(len(codes), np.int64)
    earlier[order] = rank
    return earlier
