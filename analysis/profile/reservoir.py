"""A bounded sample of a segment's usual sessions, from which its profile is trained.

Kept are those whose hash is smallest: a uniform sample, the same whatever the order in which sessions came.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from analysis.columns import PATH_STEPS
from analysis.errors import StateError
from analysis.profile.archive import DAMAGE, pack, unpack
from analysis.profile.paths import OTHER, Rows
from analysis.sample import NO_STEP

FORMAT = 1
LIMIT = 4_000  # sessions
LABELS_MAX = 1_024  # labels whose text is kept; the rest is `other`

KEPT_DTYPE = np.dtype(
    [
        ("key", np.uint64),  # hash of person and start
        ("n_path", np.uint8),
        ("path", np.uint16, (PATH_STEPS,)),  # into the reservoir's own labels
        ("path_ds", np.uint16, (PATH_STEPS,)),
    ]
)


class Reservoir:
    """At most `limit` sessions, told by label texts of its own. `seen_n`: sessions offered so far."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._kept = np.empty(0, KEPT_DTYPE)
        self._labels: dict[str, int] = {OTHER: 0}
        self.seen_n = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def sessions(self) -> Rows:
        """The sample, with the columns of SESSION_DTYPE that a profile reads, in an order that means nothing."""
        return self._kept

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self._labels)

    def offer(self, sessions: Rows, vocabulary: Sequence[str]) -> None:
        """Take what falls into the sample of these sessions (SESSION_DTYPE)."""
        self.seen_n += len(sessions)
        keys = _keys(sessions)
        if len(self._kept) >= self._limit:
            sessions, keys = sessions[keys < self._kept["key"][-1]], keys[keys < self._kept["key"][-1]]
        if len(sessions) == 0:
            return
        offered = np.zeros(len(sessions), KEPT_DTYPE)
        offered["key"], offered["n_path"], offered["path_ds"] = keys, sessions["n_path"], sessions["path_ds"]
        offered["path"] = self._renumbered(sessions, vocabulary)
        together = np.concatenate([self._kept, offered])
        self._kept = together[np.argsort(together["key"], kind="stable")[: self._limit]]

    def _renumbered(self, sessions: Rows, vocabulary: Sequence[str]) -> npt.NDArray[np.uint16]:
        kept = np.arange(PATH_STEPS) < sessions["n_path"][:, None]
        steps = np.where(kept, sessions["path"], NO_STEP)
        number = np.zeros(NO_STEP + 1, np.uint16)
        number[NO_STEP] = NO_STEP
        for label in np.unique(steps).tolist():
            if label < len(vocabulary):
                number[label] = self._number(vocabulary[label])
        return number[steps]

    def _number(self, label: str) -> int:
        if label not in self._labels and len(self._labels) < LABELS_MAX:
            self._labels[label] = len(self._labels)
        return self._labels.get(label, 0)

    def to_bytes(self) -> bytes:
        header = {"labels": self.labels, "seen_n": self.seen_n}
        return pack("sample of sessions", FORMAT, header, {name: self._kept[name] for name in KEPT_DTYPE.names or ()})

    @classmethod
    def from_bytes(cls, data: bytes, limit: int = LIMIT) -> Reservoir:
        """The reservoir of `to_bytes`. Raises StateError where the data are damaged or of another format."""
        head, arrays = unpack(data, "sample of sessions", FORMAT)
        reservoir = cls(limit)
        try:
            kept = np.zeros(len(arrays["key"]), KEPT_DTYPE)
            for name in KEPT_DTYPE.names or ():
                kept[name] = arrays[name]
            reservoir._kept = kept[:limit]
            reservoir._labels = {str(label): number for number, label in enumerate(head["labels"])}
            reservoir.seen_n = int(head["seen_n"])
        except DAMAGE as error:
            raise StateError(f"sample of sessions cannot be read: {error!r}") from error
        return reservoir


def _keys(sessions: Rows) -> npt.NDArray[np.uint64]:
    """(n,) a hash of person and start (the finaliser of SplitMix64), unrelated to the buckets of any rollout."""
    key = sessions["user"].astype(np.uint64) ^ (
        sessions["start_unix_ns"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    )
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = key ^ (key >> np.uint64(31))
    return mixed
