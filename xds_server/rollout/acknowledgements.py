"""What Envoys answer: whether a split is in force where the traffic is, and what they refuse."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from xds_server.ads.cache import AdsCache, Rejection
from xds_server.errors import JournalError, UnknownNameError
from xds_server.ingest.ingest import Ingest
from xds_server.rollout.execution import Execution
from xds_server.rollout.fleet import Fleet
from xds_server.rollout.steered import SteeredService, held_because
from xds_server.store.records import ExcludedNode

log = logging.getLogger(__name__)

ACK_TIMEOUT_S: Final = 30.0  # an increase that waits longer for acknowledgements is worth a warning
ACK_POLL_S: Final = 1.0  # laggards are named this soon, and who carries the traffic is looked up again
ACK_PAUSE_S: Final = 0.2  # between two looks, when the first has nothing to wait for
TRAFFIC_WINDOW_S: Final = 60.0  # nodes that carried the service's traffic so lately must acknowledge an increase


class Acknowledgements:
    """Waits for ACKs and acts on NACKs. `excluded`: Envoys that nothing waits for."""

    def __init__(self, fleet: Fleet, execution: Execution, cache: AdsCache, ingest: Ingest) -> None:
        self._fleet = fleet
        self._execution = execution
        self._cache = cache
        self._ingest = ingest
        self.excluded: Mapping[str, ExcludedNode] = fleet.journal.excluded_nodes()
        cache.on_rejection = self.rejected

    # --- ACKs

    def wait_for(self, steered: SteeredService) -> None:
        """The service's splits are new: they are in force once those that carry its traffic have them."""
        if steered.in_force:
            steered.decided_s = self._fleet.clock.monotonic()
        steered.in_force, steered.waiting_for = False, ()
        self._fleet.spawn(self._confirm(steered, steered.splits.generation))

    async def _confirm(self, steered: SteeredService, generation: int) -> None:
        """Wait until a generation is in force where the traffic is; while it is not, nothing of it rises further."""
        started = self._fleet.clock.monotonic()
        warned: tuple[str, ...] = ()
        while steered.splits.generation == generation and self._fleet.services.get(steered.name) is steered:
            carriers = self._ingest.traffic_nodes(steered.name, TRAFFIC_WINDOW_S, self._fleet.clock.now_unix_ns() / 1e9)
            laggards = await self._cache.in_force(
                steered.name, generation, carriers or None, ACK_POLL_S, excluded=self.excluded
            )
            if steered.splits.generation != generation:
                return
            if laggards != steered.waiting_for:
                steered.waiting_for = laggards
                self._fleet.tell()
            waited_s = self._fleet.clock.monotonic() - started
            # Without any Envoy there is nothing that could be in force: after a restart they come back one by one.
            if not laggards and self._cache.connected_n():
                await self._in_force(steered, generation, waited_s)
                return
            if laggards != warned and waited_s >= ACK_TIMEOUT_S:
                warned = laggards
                log.warning("%s waits for %s to take its splits %d", steered.name, ", ".join(laggards), generation)
            await self._fleet.clock.sleep(ACK_PAUSE_S)

    async def _in_force(self, steered: SteeredService, generation: int, seconds: float) -> None:
        async with steered.lock:  # the engine may be about to decide a newer one
            if steered.splits.generation != generation:
                return
            steered.in_force, steered.good = True, steered.splits
            if steered.engine.ramp is not None:
                for name in steered.engine.ramp.arms:
                    steered.engine.confirm(name, self._fleet.clock.now_unix_ns())
            self._fleet.telemetry.in_force(steered.name, seconds)
            try:
                self._fleet.journal.mark_in_force(steered.name, generation, self._fleet.clock.now_unix_ns())
            except JournalError as error:
                self._execution.hold(steered, str(error))
        self._fleet.tell()

    # --- NACKs

    def rejected(self, rejection: Rejection) -> None:
        """An Envoy refused a configuration: its last good one stays in force there, and the rollout is held."""
        what = f"{rejection.type} {', '.join(rejection.resources)}".rstrip()
        log.error("%s rejected %s, version %s: %s", rejection.node, what, rejection.version, rejection.message)
        for name in rejection.services:
            steered = self._fleet.services.get(name)
            if steered is not None and steered.is_running:
                reason = f"{rejection.node} rejected {rejection.type}: {rejection.message}"
                if name in rejection.rolled_back:
                    reason = self._rollback_rejected(rejection, name)
                steered.held = held_because(reason)  # from now on nothing rises, be a tick under way or not
                self._fleet.spawn(self._execution.go_back(steered, reason))
        try:
            message = f"{what}: {rejection.message}" if rejection.resources else rejection.message
            self._fleet.journal.append_rejection(
                rejection.node, rejection.type, rejection.version, message, rejection.at_unix_ns
            )
        except JournalError as error:
            log.error("a rejection is not journalled: %s", error)  # noqa: TRY400 -- one line
        self._fleet.tell()

    def _rollback_rejected(self, rejection: Rejection, service: str) -> str:
        """The worst that an Envoy can refuse: say so where it will be heard."""
        now = "it was given its newest routes without the canary" if rejection.fell_back else "ITS CANARY GOES ON THERE"
        log.critical("%s rejected the ROLLBACK of %s; %s: %s", rejection.node, service, now, rejection.message)
        self._fleet.telemetry.rollback_rejected(service, fell_back=rejection.fell_back)
        return f"{rejection.node} rejected a rollback, {now}: {rejection.message}"

    # --- Envoys that are left out

    def exclude(self, node: str, *, excluded: bool, who: str, reason: str) -> None:
        """Let increases go on without an Envoy's ACK, or wait for it again. Raises UnknownNameError, JournalError."""
        known = {view.node for view in self._cache.nodes()} | self.excluded.keys()
        if node not in known:
            raise UnknownNameError("node", node, known)
        if excluded:
            self._fleet.journal.exclude_node(node, at_unix_ns=self._fleet.clock.now_unix_ns(), who=who, reason=reason)
        else:
            self._fleet.journal.include_node(node)
        self.excluded = self._fleet.journal.excluded_nodes()
        what = "excluded" if excluded else "included"
        log.warning("%s is %s by %s: %s", node, what, who, reason or "no reason given")
        self._fleet.tell()
