"""What people do in their sessions: pages, calls, clicks and features, as steps of a click path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from analysis.columns import NEVER, PATH_STEPS, Columns, Slots
from analysis.sample import NO_STEP
from analysis.spec import KpiKind, ServiceSpec

SEEN_AGAIN_DS = 100
"""A page that a browser tells of within so many tenths of a second of its request is the same view."""

_NONE, _PAGE, _CALL, _CLICK = range(4)
_KINDS = {"page": _PAGE, "screen": _PAGE, "call": _CALL, "click": _CLICK}
_DS_MAX = 0xFFFF


class Steps:
    """Adds steps to the click paths of a tracker's sessions."""

    def __init__(self, spec: ServiceSpec, columns: Columns) -> None:
        self._columns = columns
        self._guarded = [
            (f"feature {kpi.feature}", index, int(kpi.judge_after_s * 1e3))
            for index, kpi in enumerate(spec.kpis)
            if kpi.kind is KpiKind.FEATURE
        ]
        self._labels_n = 0
        self._kind = np.zeros(NO_STEP + 1, np.uint8)
        self._bits: list[tuple[int, int, int]] = []  # (label, bit, age in ms) of each guarded feature that is known

    def learn(self, labels: Sequence[str]) -> None:
        """Take up labels that the vocabulary has gained; `labels` is all of it."""
        for index in range(self._labels_n, len(labels)):
            self._kind[index] = _KINDS.get(labels[index].partition(" ")[0], _NONE)
            for bit, (name, _, age_ms) in enumerate(self._guarded):
                if labels[index] == name:
                    self._bits.append((index, bit, age_ms))
        self._labels_n = max(self._labels_n, len(labels))

    def bit(self, kpi: int) -> int:
        """Place of a guarded feature in the column `features`, by the index of its KPI."""
        return next(bit for bit, (_, index, _) in enumerate(self._guarded) if index == kpi)

    def add(
        self,
        slots: Slots,
        labels: npt.NDArray[np.uint16],
        offset_ms: npt.NDArray[np.int64],
        counted: npt.NDArray[np.bool_],
        *,
        seen_again: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Add (n,) steps, those of one session together and in order of time; only those that are `counted`.

        `seen_again`: those that are no step if the path's nearest page in time is the same one, a moment apart.
        """
        steps = counted & (labels != NO_STEP)
        if seen_again is not None:
            told = np.flatnonzero(steps & seen_again)
            steps[told[self._just_seen(slots[told], labels[told], offset_ms[told])]] = False
        slots, labels, offset_ms = slots[steps], labels[steps], offset_ms[steps]
        if not len(slots):
            return
        c = self._columns
        first = np.flatnonzero(np.append(True, slots[1:] != slots[:-1]))
        lengths = np.diff(np.append(first, len(slots)))
        kinds = self._kind[labels]
        for name, kind in (("n_pages", _PAGE), ("n_calls", _CALL), ("n_clicks", _CLICK)):
            c.count(name, slots[first], np.add.reduceat((kinds == kind).astype(np.int64), first))
        for label, bit, age_ms in self._bits:
            used = slots[(labels == label) & (offset_ms <= age_ms)]
            c["features"][used] |= np.uint64(1 << bit)
        place = c["n_path"][slots] + np.arange(len(slots)) - np.repeat(first, lengths)
        kept = place < PATH_STEPS
        c["path"][slots[kept], place[kept]] = labels[kept]
        c["path_ds"][slots[kept], place[kept]] = np.minimum(offset_ms[kept] // 100, _DS_MAX)
        c["n_path"][slots[first]] = np.minimum(c["n_path"][slots[first]] + lengths, PATH_STEPS)

    def _just_seen(
        self, slots: Slots, labels: npt.NDArray[np.uint16], offset_ms: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Whether the page of each path that is nearest in time is this one; calls and clicks may lie between."""
        c = self._columns
        path, of_each = c["path"][slots], np.arange(len(slots))
        pages = (self._kind[path] == _PAGE) | (path == labels[:, None])
        pages &= np.arange(PATH_STEPS) < c["n_path"][slots][:, None]
        apart_ds = np.abs(offset_ms[:, None] // 100 - c["path_ds"][slots])
        nearest = np.argmin(np.where(pages, apart_ds, NEVER), axis=1)
        same = pages[of_each, nearest] & (path[of_each, nearest] == labels)
        result: npt.NDArray[np.bool_] = same & (apart_ds[of_each, nearest] <= SEEN_AGAIN_DS)
        return result
