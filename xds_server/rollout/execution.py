"""What has been decided or ordered is done: journal, engine and Envoys stay of one mind, also when one fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from analysis.decision import Action, Order, Rollback, SegmentDecision
from analysis.segment import SegmentState
from xds_server.errors import JournalError
from xds_server.mesh import ServiceSplits
from xds_server.rollout.fleet import Fleet
from xds_server.rollout.publisher import Publisher
from xds_server.rollout.rows import decision_row
from xds_server.rollout.steered import SERINUS, SteeredService, held_because
from xds_server.snapshot import InconsistentSnapshotError
from xds_server.store.history import HistoryStore
from xds_server.store.policies import PolicyStore
from xds_server.store.records import DecisionRow, EngineState, RolloutRow

log = logging.getLogger(__name__)

MAX_UNWRITTEN: Final = 1_000  # decisions that wait for a journal that works again


class Execution:
    """Carries out. Whoever calls it holds the service's lock, but for `hold_soon`.

    `on_splits` is told of a service whose splits are new, `on_end` of one whose rollout has ended.
    """

    def __init__(self, fleet: Fleet, publisher: Publisher) -> None:
        self._fleet = fleet
        self.history = HistoryStore(fleet.journal)
        self._publisher = publisher
        self._policies = PolicyStore(fleet.journal)
        self.on_splits: Callable[[SteeredService], None] = lambda _: None
        self.on_end: Callable[[SteeredService], None] = lambda _: None

    # --- decisions and orders

    def order(self, steered: SteeredService, order: Order) -> None:
        """Let the engine obey, and do what it decides; raises as `commit` does, and SpecError."""
        now_ns, before = self._fleet.clock.now_unix_ns(), steered.positions()
        decisions = steered.engine.command(order, now_ns)
        changed = [decision for decision in decisions if decision.changes_split]
        self.follow_watch(steered, changed)
        try:
            self.commit(steered, changed, decisions, now_ns, before=before, order=order)
        except InconsistentSnapshotError:
            steered.put_back(before, now_ns)
            raise
        for decision in changed:
            self._fleet.telemetry.split(steered.name, decision.segment, decision.split_after_bp)

    def commit(
        self,
        steered: SteeredService,
        changed: Sequence[SegmentDecision],
        fresh: Sequence[SegmentDecision],
        now_ns: int,
        *,
        before: Mapping[str, SegmentState],
        observed_only: bool = False,
        order: Order | None = None,
    ) -> None:
        """Journal decisions and splits in one transaction, then publish: what is in force can always be explained.

        Raises JournalError where the journal cannot take them. Then no split has risen; those that fall have fallen all
        the same, and are journalled as soon as that is possible again. Raises InconsistentSnapshotError where Envoy
        would reject splits of which some rise; then nothing has been done.
        """
        assert steered.row is not None  # noqa: S101 -- there are no decisions without a rollout
        splits = steered.splits_after(changed) if changed else steered.splits
        if any(decision.split_after_bp > decision.split_before_bp for decision in changed):
            self._publisher.prepare(steered.name, [splits])
        rows = [
            decision_row(
                decision,
                at_unix_ns=now_ns,
                service=steered.name,
                rollout=steered.row.rollout,
                generation=splits.generation,
                observed_only=observed_only,
                watched=decision.segment in steered.watched,
                who=order.who if order is not None else "",
                verb=str(order.action) if order is not None else None,
            )
            for decision in fresh
        ]
        try:
            self._write(steered, splits, rows, now_ns)
        except JournalError:
            falling = self.without_rises(steered, changed, before, now_ns)
            untrue = {decision.segment for decision in changed} - {decision.segment for decision in falling}
            steered.unwritten += [row for row in rows if row.segment not in untrue]
            del steered.unwritten[:-MAX_UNWRITTEN]
            self._adopt(steered, falling)
            raise
        self._fleet.telemetry.journal_written("decision")
        self._adopt(steered, changed)

    def follow_watch(self, steered: SteeredService, changed: Sequence[SegmentDecision]) -> None:
        """Let Envoys look more closely where the engine does; with the new splits if some are about to be published."""
        before = steered.watched
        if not steered.follow_watch():
            return
        for name in sorted(before ^ steered.watched):
            self._fleet.telemetry.watched(steered.name, name, watched=name in steered.watched)
            log.info("%s: closer watch of segment %s %s", steered.name, name, "ends" if name in before else "begins")
        if not changed:
            try:
                self.publish(urgent=False)
            except InconsistentSnapshotError as error:
                self.hold_soon(steered, f"its closer watch is not published: {error}")
            asyncio.get_running_loop().call_soon(self.prepare_rollbacks, steered)

    def without_rises(
        self,
        steered: SteeredService,
        decisions: Sequence[SegmentDecision],
        before: Mapping[str, SegmentState],
        now_ns: int,
    ) -> tuple[SegmentDecision, ...]:
        """Take back every decision that raises a split, in the engine too; return the others."""
        risen = {each.segment for each in decisions if each.split_after_bp > each.split_before_bp}
        steered.put_back({name: before[name] for name in risen}, now_ns)
        return tuple(each for each in decisions if each.segment not in risen)

    def _write(self, steered: SteeredService, splits: ServiceSplits, rows: Sequence[DecisionRow], now_ns: int) -> None:
        """Journal all that a restart must know, and what could not be journalled before."""
        assert steered.row is not None  # noqa: S101 -- as above
        state = EngineState(rollout=steered.row.rollout, payload=steered.engine.to_bytes(now_ns), at_unix_ns=now_ns)
        with self._fleet.journal.atomically():
            self._fleet.journal.commit(steered.name, splits, [*steered.unwritten, *rows], state=state)
            if steered.unwritten:
                self._fleet.journal.set_state(steered.row.rollout, steered.row.state)
            self._append_tape(steered, steered.row)
        steered.taped.clear()
        steered.unwritten, steered.saved_s = [], self._fleet.clock.monotonic()

    def _append_tape(self, steered: SteeredService, row: RolloutRow) -> None:
        """Store what the engine was given, with the state that it led to: a crash loses both or neither."""
        steered.take_tape()
        self.history.append(row.rollout, row.started_unix_ns, steered.taped)

    def _adopt(self, steered: SteeredService, changed: Sequence[SegmentDecision]) -> None:
        """Put changed splits before the Envoys."""
        if changed:
            steered.splits = steered.splits_after(changed)
            try:
                self.publish(urgent=any(isinstance(decision.verdict, Rollback) for decision in changed))
            except InconsistentSnapshotError as error:  # engine and journal are at the new splits, and stay there
                self.hold_soon(steered, f"its splits are not published: {error}")
            self.on_splits(steered)
            asyncio.get_running_loop().call_soon(self.prepare_rollbacks, steered)

    def publish(self, *, urgent: bool) -> None:
        """Put the splits of all services before the Envoys. Raises InconsistentSnapshotError; then nothing changes."""
        self._publisher.publish({s.name: s.splits for s in self._fleet.services.values()}, urgent=urgent)

    def prepare_rollbacks(self, steered: SteeredService) -> None:
        """Have the bytes ready that a rollback will need; a split that could not be taken back must not stand."""
        try:
            self._publisher.prepare(steered.name, steered.rollbacks())
        except (InconsistentSnapshotError, KeyError) as error:
            self.hold_soon(steered, f"its splits could not be taken back: {error}")

    # --- what a restart must know

    def save(self, steered: SteeredService) -> None:
        """Store the engine's state. Raises JournalError."""
        now_ns = self._fleet.clock.now_unix_ns()
        if steered.row is None or not (payload := steered.engine.to_bytes(now_ns)):
            return
        if steered.unwritten:
            self._write(steered, steered.splits, (), now_ns)
        else:
            with self._fleet.journal.atomically(durably=False):
                self._fleet.journal.save_state(steered.row.rollout, payload, now_ns)
                self._append_tape(steered, steered.row)
            steered.taped.clear()
            steered.saved_s = self._fleet.clock.monotonic()
        self._fleet.telemetry.journal_written("state")

    def finish_if_over(self, steered: SteeredService, now_ns: int) -> None:
        """End a rollout of which no segment has anything left to decide. Raises JournalError."""
        ramp, row = steered.engine.ramp, steered.row
        if ramp is None or row is None or not steered.is_running or not ramp.is_finished:
            return
        outcome = {name: str(state.phase) for name, state in ramp.segments.items()}
        learnt = steered.engine.learnt
        with self._fleet.journal.atomically():
            self._append_tape(steered, row)
            self._fleet.journal.finish_rollout(row.rollout, now_ns, outcome, "finished")
            if learnt is not None:
                self._policies.save(steered.name, learnt.to_json(), at_unix_ns=now_ns)
        steered.taped.clear()
        steered.row, steered.held = replace(row, state="finished", finished_unix_ns=now_ns, outcome=outcome), ""
        self.save(steered)
        log.info("rollout %s finished: %s", row.rollout, outcome)
        self.on_end(steered)

    # --- holding

    async def go_back(self, steered: SteeredService, reason: str) -> None:
        """Hold, and take back what has risen since everybody had the same: a NACK leaves Envoys apart."""
        async with steered.lock:
            self.hold(steered, reason)
            risen = steered.risen() if steered.is_running else {}
            for segment, split_bp in risen.items():
                order = Order(action=Action.SET, who=SERINUS, reason=reason, segment=segment, split_bp=split_bp)
                try:
                    self.order(steered, order)
                except JournalError as error:
                    log.error("the way back of %s is not journalled: %s", steered.name, error)  # noqa: TRY400
        self._fleet.tell()

    def hold_soon(self, steered: SteeredService, reason: str) -> None:
        """Hold as soon as the lock is free; nothing rises from now on."""
        steered.held = held_because(reason)
        self._fleet.spawn(self._hold_in_turn(steered, reason))

    async def _hold_in_turn(self, steered: SteeredService, reason: str) -> None:
        async with steered.lock:
            self.hold(steered, reason)
        self._fleet.tell()

    def hold(self, steered: SteeredService, reason: str) -> None:
        """Let nothing of a rollout rise until a person resumes it; what must fall still does. Never raises."""
        ramp = steered.engine.ramp
        if ramp is None or not steered.is_running:
            log.error("%s: %s", steered.name, reason)
            return
        if steered.held != held_because(reason):
            log.error("%s is %s", steered.name, held_because(reason))
        steered.held = held_because(reason)
        now_ns, before = self._fleet.clock.now_unix_ns(), steered.positions()
        order = Order(action=Action.PAUSE, who=SERINUS, reason=steered.held)
        stopped: list[SegmentDecision] = []
        for name in ramp.arms:
            segment = ramp.segments[name]
            if not (segment.phase.is_final or segment.paused or segment.frozen):
                stopped += steered.engine.command(replace(order, segment=name), now_ns)
        try:
            if stopped:
                self.commit(steered, (), stopped, now_ns, before=before, order=order)
            if steered.row is not None and steered.row.state == "running":
                steered.set_state("paused", self._fleet.journal)
        except JournalError as error:
            log.error("that %s is held is not journalled: %s", steered.name, error)  # noqa: TRY400 -- one line
        except Exception:  # what is wrong with one service's engine ends no other's
            log.exception("that %s is held is not journalled", steered.name)
