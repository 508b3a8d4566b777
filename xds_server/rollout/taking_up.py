"""A service as the journal left it."""

from __future__ import annotations

import logging

from analysis.decision import Action, Order
from analysis.engine import Rollout, ServiceEngine
from analysis.errors import StateError
from analysis.failure.foresight import Foresight
from analysis.tape import Tape
from xds_server.clock import Clock
from xds_server.mesh import Service, ServiceSplits
from xds_server.rollout.steered import SERINUS, SteeredService, held_because, reconciled
from xds_server.store.journal import Journal
from xds_server.store.policies import PolicyStore
from xds_server.store.records import RolloutRow

log = logging.getLogger(__name__)


def take_up(
    service: Service, stored: ServiceSplits | None, row: RolloutRow | None, *, journal: Journal, clock: Clock
) -> SteeredService:
    """The service at exactly the splits that are stored; `row`: its newest rollout."""
    engine = ServiceEngine(service.spec, seed=_seed(service.name), tape=Tape())
    steered = SteeredService(service=service, engine=engine, splits=reconciled(service, stored))
    steered.row, steered.good, steered.ticked_s = row, steered.splits, clock.monotonic()
    lost = _take_learnt(engine, journal)
    if row is not None:
        _resume(steered, row, journal, clock.now_unix_ns())
        steered.follow_watch()
    if lost := lost or engine.unlearnt:
        log.warning("the policy of %s begins as shipped: %s", service.name, lost)
    return steered


def _take_learnt(engine: ServiceEngine, journal: Journal) -> str:
    """Let a policy go on from what earlier rollouts have taught; why it does not, if it does not."""
    store, service = PolicyStore(journal), engine.spec.name
    if engine.learnt is None or (kept := store.load(service)) is None:
        return ""
    try:
        engine.take_learnt(kept)
    except StateError as error:
        store.forget(service)
        return str(error)
    return ""


def begin(steered: SteeredService, row: RolloutRow, foresight: Foresight | None = None) -> None:
    """Let the engine steer this rollout, in the segments whose splits have its canary.

    `foresight`: what the failure model thinks of it; None: nothing.
    """
    arms = {
        name: (split.baseline, split.canary)
        for name, split in steered.splits.segments.items()
        if split.canary == row.canary and split.canary is not None
    }
    rollout = Rollout(rollout=row.rollout, canary=row.canary, started_ns=row.started_unix_ns, arms=arms)
    steered.engine.start(rollout, foresight)


def _resume(steered: SteeredService, row: RolloutRow, journal: Journal, now_ns: int) -> None:
    """Go on with a rollout; where its state cannot be read, keep its splits and wait for a person."""
    try:
        steered.engine.from_bytes(_stored_state(row, journal), now_ns)
    except StateError as error:
        if not steered.is_running:
            return
        steered.held = held_because(f"{error}; resume or roll back")
        log.warning("rollout %s is held: %s", row.rollout, error)
        begin(steered, row)
        steered.engine.command(Order(action=Action.FREEZE, who=SERINUS, reason=str(error)), now_ns)
        steered.set_state("frozen", journal)
    if steered.is_running and steered.row is not None and steered.row.state != "running" and not steered.held:
        steered.held = _held_before(row, journal)
    _match_splits(steered, now_ns)


def _stored_state(row: RolloutRow, journal: Journal) -> bytes:
    state = journal.load_state(row.rollout)
    if state is None:
        raise StateError("no state of it was stored")
    return state.payload


def _held_before(row: RolloutRow, journal: Journal) -> str:
    """Why Serinus itself holds a rollout, if it was not a person who stopped it last."""
    verbs = {str(Action.PAUSE), str(Action.FREEZE)}
    stops = [d for d in journal.history(row.service, row.rollout) if d.verdict in verbs]
    return stops[-1].reason.partition(": ")[2] if stops and stops[-1].who == SERINUS else ""


def _match_splits(steered: SteeredService, now_ns: int) -> None:
    """The journal's splits are what Envoys have: the engine goes on from those, whatever it remembers."""
    ramp = steered.engine.ramp
    if ramp is None:
        return
    for name, split in steered.splits.segments.items():
        if name in ramp.arms:
            steered.engine.adopt(name, split.canary_bp, now_ns)


def _seed(name: str) -> int:
    """A service's own seed: the same service draws the same numbers in every run, and no two services the same ones."""
    return int.from_bytes(name.encode()[-8:].rjust(8, b"\0"), "big") & 0x7FFFFFFF
