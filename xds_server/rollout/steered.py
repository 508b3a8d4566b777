"""One service under the controller: its engine, its splits, its rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from analysis.decision import SegmentDecision, verdict_name
from analysis.engine import ServiceEngine
from analysis.sample import SAMPLE_DTYPE
from analysis.spec import TOTAL_BP
from xds_server.mesh import SegmentSplit, Service, ServiceSplits
from xds_server.store.records import RolloutRow


@dataclass(slots=True, kw_only=True)
class SteeredService:
    """The mutable state of one service. `lock` guards the engine, which one tick at a time runs in a thread.

    `waiting_for`: nodes that have not acknowledged the newest generation; `in_force`: none is missing.
    """

    service: Service
    engine: ServiceEngine
    splits: ServiceSplits
    row: RolloutRow | None = None
    in_force: bool = True
    waiting_for: tuple[str, ...] = ()
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    inbox: list[npt.NDArray[np.void]] = field(default_factory=list)
    said: dict[str, tuple[str, str, int]] = field(default_factory=dict)  # segment to the verdict journalled last
    saved_s: float = 0.0  # monotonic time of the last stored engine state
    held: str = ""  # why the rollout is held until a person resumes it

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def is_running(self) -> bool:
        return self.row is not None and self.row.finished_unix_ns is None

    def take_rows(self) -> npt.NDArray[np.void]:
        """All rows that have come since the last call."""
        rows = np.concatenate(self.inbox) if self.inbox else np.empty(0, SAMPLE_DTYPE)
        self.inbox.clear()
        return rows

    def news(self, decisions: Iterable[SegmentDecision], *, observed_only: bool) -> list[SegmentDecision]:
        """Those decisions that are worth a line: the split changes, or what is said of the segment has changed."""
        fresh = []
        for decision in decisions:
            split_bp = decision.split_after_bp if observed_only else decision.split_before_bp
            said = (verdict_name(decision.verdict), decision.verdict.reasons[0].code, split_bp)
            if (decision.changes_split and not observed_only) or self.said.get(decision.segment) != said:
                fresh.append(decision)
            self.said[decision.segment] = said
        return fresh

    def splits_after(self, decisions: Iterable[SegmentDecision]) -> ServiceSplits:
        """The splits, one generation on, once these decisions are carried out."""
        segments = dict(self.splits.segments)
        for decision in decisions:
            split = segments[decision.segment]
            segments[decision.segment] = SegmentSplit(
                baseline=split.baseline, canary=split.canary, canary_bp=decision.split_after_bp
            )
        return ServiceSplits(rollout=self.splits.rollout, generation=self.splits.generation + 1, segments=segments)

    def serving(self) -> Mapping[str, str]:
        """The version that each segment is on for good: the canary of a promoted segment, else its baseline."""
        return {
            name: split.canary if split.canary is not None and split.canary_bp == TOTAL_BP else split.baseline
            for name, split in self.splits.segments.items()
        }


def resting_splits(service: Service) -> ServiceSplits:
    """The splits of a service that has never had a rollout: everybody on the baseline, pinned segments on their pin."""
    segments = {
        segment.name: SegmentSplit(baseline=segment.pin if segment.pin is not None else service.spec.baseline)
        for segment in service.spec.segments
    }
    return ServiceSplits(rollout="", generation=0, segments=segments)


def reconciled(service: Service, stored: ServiceSplits | None) -> ServiceSplits:
    """Stored splits as far as the mesh file still knows their segments and versions; the rest at rest."""
    resting = resting_splits(service)
    if stored is None:
        return resting
    versions = set(service.spec.versions)
    segments = {}
    for name, split in resting.segments.items():
        old = stored.segments.get(name)
        known = old is not None and old.baseline in versions and (old.canary is None or old.canary in versions)
        segments[name] = old if known and old is not None else split
    return ServiceSplits(rollout=stored.rollout, generation=stored.generation, segments=segments)
