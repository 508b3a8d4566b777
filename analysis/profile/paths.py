"""Click paths of many sessions as two flat arrays, in a profile's own numbering of labels.

A vocabulary's indices are those of one process; what lasts is the label's text. `LabelTable` goes between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.sample import NO_STEP

OTHER = "other"
MAX_LABELS = 64
"""Labels of a profile, `other` included: the commonest of what it was taught. The rest is `other`."""

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """n click paths. `steps`: (total,) label numbers, path after path; `lengths`: (n,) steps of each."""

    steps: Ints
    lengths: Ints

    @classmethod
    def of(cls, paths: Iterable[Sequence[int]]) -> Paths:
        kept = [np.asarray(path, np.int64) for path in paths]
        steps = np.concatenate([np.empty(0, np.int64), *kept])
        return cls(steps=steps, lengths=np.array([len(path) for path in kept], np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def owner(self) -> Ints:
        """(total,) the path that each step belongs to."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def starts(self) -> Ints:
        """(n,) where each path begins in `steps`."""
        return np.cumsum(self.lengths) - self.lengths

    def take(self, which: Ints) -> Paths:
        """The paths of these numbers, in this order; a number may come more than once."""
        lengths = self.lengths[which]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return Paths(steps=self.steps[np.repeat(self.starts[which], lengths) + within], lengths=lengths)


@dataclass(frozen=True, slots=True)
class LabelTable:
    """The labels that a profile tells apart, by text. Number 0 is `other`."""

    labels: tuple[str, ...] = (OTHER,)

    @classmethod
    def of(cls, counts: dict[str, int], limit: int = MAX_LABELS) -> LabelTable:
        """The commonest labels; among equals the one that comes first in the alphabet."""
        ranked = sorted((-count, label) for label, count in counts.items() if label != OTHER and count > 0)
        return cls((OTHER, *(label for _, label in ranked[: limit - 1])))

    def __len__(self) -> int:
        return len(self.labels)

    def renumber(self, vocabulary: Sequence[str]) -> Ints:
        """(len(vocabulary) + 1,) this table's number of each of the vocabulary's; the last is for what is beyond it."""
        own = {label: number for number, label in enumerate(self.labels)}
        return np.array([*(own.get(label, 0) for label in vocabulary), 0], np.int64)

    def paths(self, sessions: Rows, vocabulary: Sequence[str], within: npt.NDArray[np.bool_]) -> Paths:
        """Those steps of each session (SESSION_DTYPE) that `steps_within` says, in this table's numbers."""
        steps = np.minimum(sessions["path"][within].astype(np.int64), len(vocabulary))
        return Paths(steps=self.renumber(vocabulary)[steps], lengths=within.sum(axis=1))


def steps_within(sessions: Rows, age_s: float) -> npt.NDArray[np.bool_]:
    """(n, PATH_STEPS) which of the kept steps were taken within `age_s` of the session's start."""
    path, when = sessions["path"], sessions["path_ds"]
    kept = np.arange(path.shape[1]) < sessions["n_path"][:, None]
    inside: npt.NDArray[np.bool_] = kept & (when <= np.uint16(min(age_s * 10, 0xFFFF))) & (path != NO_STEP)
    return inside


def label_counts(sessions: Rows, vocabulary: Sequence[str], *, age_s: float) -> dict[str, int]:
    """How often each label was a step of these sessions within `age_s`."""
    steps = sessions["path"][steps_within(sessions, age_s)]
    counts = np.bincount(steps[steps < len(vocabulary)], minlength=len(vocabulary))
    return {label: int(count) for label, count in zip(vocabulary, counts, strict=True) if count}
