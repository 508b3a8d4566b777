"""The loop: what has been seen goes to the engines, and what they decide is carried out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from analysis.decision import SegmentDecision
from analysis.engine import ServiceEngine
from analysis.evidence.log_loss import LogCheck
from analysis.segment import SegmentState
from analysis.spec import Mode
from xds_server.errors import JournalError
from xds_server.ingest.ingest import Ingest
from xds_server.ingest.rows import Gauged
from xds_server.rollout.coverage import seen_in
from xds_server.rollout.execution import Execution
from xds_server.rollout.fleet import Fleet
from xds_server.rollout.steered import SteeredService, held_because
from xds_server.snapshot import InconsistentSnapshotError

log = logging.getLogger(__name__)

SAVE_EVERY_S: Final = 2.0  # engine state; what was seen since the last save is charged as exposed after a crash


class Ticks:
    """Ticks each service at its own interval. An engine ticks in a thread, under the service's lock."""

    def __init__(self, fleet: Fleet, execution: Execution, ingest: Ingest) -> None:
        self._fleet = fleet
        self._execution = execution
        self._ingest = ingest
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Tick until cancelled; then what has been seen is stored."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for steered in self._fleet.services.values():
                    self.start(steered)
                await asyncio.Event().wait()  # services come and go
        finally:
            self._collect()
            for steered in self._fleet.services.values():
                try:
                    # No decision: nobody would wait for its ACKs.
                    steered.engine.observe(steered.take_rows(), self._labels(steered))
                    self._execution.save(steered)
                except JournalError as error:
                    log.error("the state of %s is not saved: %s", steered.name, error)  # noqa: TRY400 -- one line
                except Exception:  # of one service's engine; the others are saved
                    log.exception("the state of %s is not saved", steered.name)

    def start(self, steered: SteeredService) -> None:
        """Tick one more service, from when `run` runs."""
        if self._tasks is not None:
            steered.ticking = self._tasks.create_task(self._tick_forever(steered), name=f"ticks of {steered.name}")

    async def _tick_forever(self, steered: SteeredService) -> None:
        due = self._fleet.clock.monotonic() + steered.tick_s
        while True:
            await self._fleet.clock.sleep(max(due - self._fleet.clock.monotonic(), 0.0))
            tick = asyncio.create_task(self._tick(steered))
            try:
                await asyncio.shield(tick)
            except asyncio.CancelledError:
                await tick  # what its thread decides is carried out, or engine and splits would differ ever after
                raise
            # Which this tick may have changed; after a stall no burst of ticks.
            due = max(due + steered.tick_s, self._fleet.clock.monotonic())

    async def _tick(self, steered: SteeredService) -> None:
        """Tick one service. Whatever fails in it holds this service, and never the loop or another service."""
        started = time.perf_counter()
        self._collect()
        async with steered.lock:
            before = steered.positions()
            try:
                await self._decide(steered, before)
                self._measure(steered, time.perf_counter() - started)
                steered.ticked_s = self._fleet.clock.monotonic()
            except JournalError as error:
                self._execution.hold(steered, str(error))
                steered.ticked_s = self._fleet.clock.monotonic()  # what must fall has fallen
            except InconsistentSnapshotError as error:
                steered.put_back(before, self._fleet.clock.now_unix_ns())
                self._execution.hold(steered, f"the next splits cannot be published: {error}")
            except Exception as error:
                reason = f"the engine failed ({type(error).__name__}: {error})"
                if steered.held != held_because(reason):  # not the same stack at each tick
                    log.exception("a tick of %s failed", steered.name)
                # What it decided before it failed was not done.
                steered.put_back(before, self._fleet.clock.now_unix_ns())
                self._execution.hold(steered, reason)
        self._fleet.tell()

    async def _decide(self, steered: SteeredService, before: Mapping[str, SegmentState]) -> None:
        now_ns = self._fleet.clock.now_unix_ns()
        rows, labels, gauged = steered.take_rows(), self._labels(steered), steered.take_gauged()
        logs = self._ingest.log_check(steered.name)
        seen = await asyncio.to_thread(seen_in, rows, len(steered.service.spec.segments))
        steered.coverage.add(seen, self._fleet.clock.monotonic())
        decisions = await asyncio.to_thread(_advance, steered.engine, rows, now_ns, labels, logs, gauged)
        await asyncio.to_thread(steered.take_tape)  # packing it takes about as long as a small tick
        if steered.held:  # it may have come to be held while the engine was at it
            decisions = self._execution.without_rises(steered, decisions, before, now_ns)
        self._carry_out(steered, decisions, before, now_ns)

    def _collect(self) -> None:
        for name, batch in self._ingest.drain().items():
            if len(batch.rows) and name in self._fleet.services:
                self._fleet.services[name].put_rows(batch.rows)
        for name, gauged in self._ingest.drain_gauged().items():
            if name in self._fleet.services:
                self._fleet.services[name].put_gauged(gauged)

    def _labels(self, steered: SteeredService) -> Sequence[str]:
        return self._ingest.vocabulary(steered.name).labels

    def _carry_out(
        self,
        steered: SteeredService,
        decisions: Sequence[SegmentDecision],
        before: Mapping[str, SegmentState],
        now_ns: int,
    ) -> None:
        if steered.row is None or not (steered.is_running or any(each.changes_split for each in decisions)):
            return  # of a finished rollout there is nothing more to tell
        observed = steered.service.spec.rollout.mode is Mode.OBSERVE
        changed = [] if observed else [decision for decision in decisions if decision.changes_split]
        self._execution.follow_watch(steered, changed)
        fresh = steered.news(decisions, observed_only=observed)
        if steered.is_running:
            for decision in decisions:
                self._fleet.telemetry.decided(steered.name, decision)
        if changed or fresh:
            self._execution.commit(steered, changed, fresh, now_ns, before=before, observed_only=observed)
        elif self._fleet.clock.monotonic() - steered.saved_s > SAVE_EVERY_S:
            self._execution.save(steered)
        self._execution.finish_if_over(steered, now_ns)

    def _measure(self, steered: SteeredService, seconds: float) -> None:
        self._fleet.telemetry.ticked(steered.name, seconds)
        ramp = steered.engine.ramp
        if ramp is None:
            return
        self._fleet.telemetry.harm(steered.name, float(ramp.reading.harm.upper[0]))
        if np.isfinite(log_e := float(ramp.reading.sample_ratio.log_e[0])):
            self._fleet.telemetry.sample_ratio(steered.name, log_e)
        for segment in ramp.arms:
            for kpi in ramp.wording.kpi_views(ramp.spec.segment_index[segment]):
                if np.isfinite(kpi.log_e):
                    self._fleet.telemetry.evidence(steered.name, segment, kpi.kpi, kpi.log_e)


def _advance(
    engine: ServiceEngine,
    rows: npt.NDArray[np.void],
    now_ns: int,
    labels: Sequence[str],
    logs: LogCheck,
    gauged: Sequence[Gauged] = (),
) -> tuple[SegmentDecision, ...]:
    engine.observe(rows, labels)
    for each in gauged:
        engine.measure(each.metric, each.version, each.value)
    decisions = engine.tick(now_ns, logs)
    if engine.is_running:
        engine.observer.behaviour.state()  # it remembers what takes long, and the loop stores it without a delay
    return decisions
