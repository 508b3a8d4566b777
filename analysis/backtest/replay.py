"""Recorded counts through the ramp with any policy, by the code that decides for a live rollout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from analysis.backtest.outcome import Replay
from analysis.backtest.people import GOES_ON_S, People, Recorded, check_length
from analysis.backtest.plan import plan
from analysis.decision import Phase, Rollback, SegmentDecision
from analysis.engine import policy_named
from analysis.history.record import RolloutRecord
from analysis.ramps import Ramps
from analysis.spec import ServiceSpec

BATCH = 64  # rollouts in step
MOST_CELLS = 4_000_000  # ticks × segments × KPIs of a batch: long records go in smaller ones
UNDECIDED = "undecided"


def replay(
    records: Sequence[RolloutRecord],
    *,
    policy: str,
    specs: Mapping[str, ServiceSpec],
    seed: int,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Replay]:
    """What the policy would have done with each record, in their order.

    `specs`: the plans of services, where they are known (`plan`). Records of the same plan go in step; the same records
    in the same order with the same seed give the same. What has not ended an hour after its record did is undecided.
    The hard tier (crash loops, silence of single seconds) is not replayed: records hold no requests.

    Raises RecordError for a record of more ticks than `people.MOST_TICKS`.
    """
    for record in records:
        check_length(record)
    plans = [plan(record, specs.get(record.service)) for record in records]
    alike: dict[ServiceSpec, list[int]] = {}
    for i, each in enumerate(plans):
        alike.setdefault(each, []).append(i)
    found: dict[int, Replay] = {}
    for spec, mine in alike.items():
        mine.sort(key=lambda i: (records[i].ends_s, i))
        size = _batch_size([records[i] for i in mine], spec)
        for first in range(0, len(mine), size):
            batch = mine[first : first + size]
            rng = np.random.default_rng([seed, batch[0]])
            played = _Batch([records[i] for i in batch], spec, policy, rng).play()
            found |= dict(zip(batch, played, strict=True))
            progress(len(found))
    return [found[i] for i in range(len(records))]


def _batch_size(records: Sequence[RolloutRecord], spec: ServiceSpec) -> int:
    """How many go in step, so that the counts of all of them can be held."""
    ticks = 1 + (max(record.ends_s for record in records) + GOES_ON_S) / spec.rollout.interval_s
    return max(min(BATCH, int(MOST_CELLS / (ticks * len(spec.segments) * max(len(spec.kpis), 1)))), 1)


class _Batch:
    """Replays in step."""

    def __init__(
        self, records: Sequence[RolloutRecord], spec: ServiceSpec, policy: str, rng: np.random.Generator
    ) -> None:
        self._spec = spec
        self._recorded = Recorded.of(records, spec)
        self._people = People(self._recorded, spec, rng)
        arms = {segment.name: ("baseline", "canary") for segment in spec.segments}
        self._ramps = Ramps(spec, [policy_named(policy) for _ in records], arms)
        self._rngs = rng.spawn(len(records))
        self._harm = np.zeros(len(records))
        self._exposed = np.zeros(len(records), np.int64)
        self._taken_back: list[tuple[float, str] | None] = [None] * len(records)
        self._full_s: list[float | None] = [None] * len(records)
        self._last = ["nothing was recorded of it after it began"] * len(records)

    def play(self) -> list[Replay]:
        """All of them, until each has ended or its record has."""
        while not self._people.is_over and not self._ramps.is_finished.all():
            running = ~self._ramps.is_finished & (self._recorded.ticks > self._people.tick)
            window, newcomers = self._people.advance(self._ramps.split_bp * running[:, None])
            now_s = self._people.tick * self._spec.rollout.interval_s
            decided = self._ramps.step(window, newcomers, now_s=now_s, rngs=self._rngs)
            for b in np.flatnonzero(running).tolist():
                self._note(b, decided[b], now_s)
        return [self._replay(b) for b in range(len(self._last))]

    def _note(self, b: int, decided: Sequence[SegmentDecision], now_s: float) -> None:
        self._harm[b] = self._people.harm[b].sum()
        self._exposed[b] = self._people.exposed[b].sum()
        for each in decided:
            if isinstance(each.verdict, Rollback) and self._taken_back[b] is None:
                self._taken_back[b] = now_s, f"{each.segment}: {each.verdict.reasons[0].text}"
        self._last[b] = decided[-1].verdict.reasons[0].text
        states = self._ramps.ramps[b].segments.values()
        if self._full_s[b] is None and all(state.phase is Phase.PROMOTED for state in states):
            self._full_s[b] = now_s

    def _replay(self, b: int) -> Replay:
        phases = {state.phase for state in self._ramps.ramps[b].segments.values()}
        ends = (Phase.ROLLED_BACK, Phase.WITHDRAWN)
        worst = next((str(phase) for phase in ends if phase in phases), None)
        taken_back = self._taken_back[b]
        outcome = worst or (str(Phase.PROMOTED) if phases == {Phase.PROMOTED} else UNDECIDED)
        return Replay(
            outcome=outcome, taken_back_s=None if taken_back is None else taken_back[0], full_s=self._full_s[b],
            harm=float(self._harm[b]), exposed=int(self._exposed[b]),
            reason=self._last[b] if taken_back is None else taken_back[1],
        )  # fmt: skip
