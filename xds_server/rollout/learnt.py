"""Learned segments under the controller: people adopt clusters, tables wait for rollouts, Envoys are told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from xds_server.errors import BadRequestError, JournalError, RefusedError, UnknownNameError
from xds_server.learnt.memberships import MAX_NAMES, MAX_PEOPLE, Adopted, Memberships, Proposals, Table, moved
from xds_server.learnt.resolver import Resolver, Served
from xds_server.mesh import LearnedTable, Service
from xds_server.pb import control_pb2 as pb
from xds_server.rollout.fleet import Fleet
from xds_server.rollout.steered import SteeredService
from xds_server.store.learned import LearnedStore
from xds_server.units import NAME, WrongValueError

log = logging.getLogger(__name__)

_WAITS: Final = "waits until the rollout has ended: nobody changes segment while it runs"


class LearnedSegments:
    """The memberships of all services. Whoever changes those of one holds its lock; tables are made in threads.

    `proposals`: by service, what the profiler proposes now; whoever trains it puts it there. `on_table`: called when
    another table is in force, to be published.
    """

    def __init__(self, fleet: Fleet, store: LearnedStore, resolver: Resolver) -> None:
        self.proposals: dict[str, Proposals] = {}
        self.on_table: Callable[[], None] = lambda: None
        self._fleet = fleet
        self._store = store
        self._resolver = resolver
        self._memberships = store.load()

    # --- what Envoys are told

    def serve(self, services: Mapping[str, Service], running: Iterable[str]) -> None:
        """Answer for these services from now on, and for no others. `running`: those whose rollouts run."""
        rolling = set(running)
        for name, memberships in self._memberships.items():
            if name not in rolling and memberships.waiting is not None:  # the rollout ended when nobody was there
                self._take_up(name, memberships)
        self._resolver.services = {
            name: Served(memberships=self._of(name), learned=service.learned, gap_s=service.spec.session.gap_s)
            for name, service in services.items()
            if service.learned
        }

    def table(self, service: str) -> LearnedTable | None:
        """What the routes of a service say; None: nobody is in a learned segment of it, so that nobody is asked for."""
        table = self._of(service).current
        if service not in self._resolver.services or not len(table.people):
            return None
        return LearnedTable(version=table.version, public_key=self._resolver.signer.public_key)

    def rollout_ended(self, steered: SteeredService) -> None:
        """Take up what has waited for it."""
        memberships = self._memberships.get(steered.name)
        if memberships is not None and memberships.waiting is not None and self._take_up(steered.name, memberships):
            self.on_table()

    def _take_up(self, name: str, memberships: Memberships) -> bool:
        assert memberships.waiting is not None  # noqa: S101 -- callers have looked
        try:
            self._store.take_up(name, memberships.waiting.version)
        except JournalError as error:
            log.error("learned segments of %s go on waiting: %s", name, error)  # noqa: TRY400 -- one line
            return False
        memberships.take_up()
        log.info("learned segments of %s: table %d is in force", name, memberships.current.version)
        return True

    def adopted(self, service: str) -> dict[str, npt.NDArray[np.uint64]]:
        """The people of each adopted name, as they will be when nothing waits any more."""
        table = self._of(service).newest
        return {adopted.name: table.people[table.places == place] for place, adopted in enumerate(table.names)}

    def _of(self, service: str) -> Memberships:
        return self._memberships.setdefault(service, Memberships())

    # --- people's commands

    async def adopt(self, steered: SteeredService, *, cluster: int, name: str, who: str, reason: str) -> str:
        """Give a cluster's people a name; return what was done, in one line. Raises a SteeringError or JournalError."""
        try:
            NAME(name)
        except WrongValueError as wrong:
            raise BadRequestError(f"'{name[:70]}': {wrong.message}; legal: {wrong.legal}") from wrong
        proposals = self.proposals.get(steered.name, Proposals())
        known = {str(each.cluster): each for each in proposals.clusters}
        proposal = known.get(str(cluster))
        if proposal is None:
            raise UnknownNameError(f"cluster of {steered.name}", str(cluster), known)
        adopted = Adopted(
            name=name, description=proposal.description, at_unix_ns=self._fleet.clock.now_unix_ns(), who=who,
            reason=reason,
        )  # fmt: skip
        people = await asyncio.to_thread(proposals.people, cluster)
        return await self._name(steered, adopted, people, what=f"adopted cluster {cluster} as {name}")

    async def renew(self, steered: SteeredService, people: Mapping[str, Iterable[int]], *, who: str) -> str:
        """Let each of these names, as far as they are adopted, have just these people: after a new clustering.

        Return what was done, in one line. Raises JournalError.
        """
        before = self._of(steered.name).newest
        table = await asyncio.to_thread(before.renewed, people)
        if table is before:
            return "nobody has changed segment"
        sizes = table.sizes()
        what = "renewed " + ", ".join(f"{name}: {sizes[name]} people" for name in people if name in sizes)
        if not self._put(steered, table, who=who, what=what):
            what += f"; {_WAITS}"
        return what

    async def _name(self, steered: SteeredService, adopted: Adopted, people: Iterable[int], *, what: str) -> str:
        before = self._of(steered.name).newest
        others = [each for each in before.names if each.name != adopted.name]
        if len(others) >= MAX_NAMES:
            raise RefusedError(f"{steered.name} has {MAX_NAMES} learned segments already; drop one first")
        table = await asyncio.to_thread(before.adopting, adopted, people)
        is_in_force = self._put(steered, table, who=adopted.who, what=what)
        parts = [f"{what}, {table.sizes()[adopted.name]} people"]
        left = await asyncio.to_thread(moved, before, table)
        parts += [f"{n} of them were in {name} before" for name, n in sorted(left.items())]
        if not is_in_force:
            parts.append(_WAITS)
        if adopted.name not in steered.service.learned.values():
            parts.append(f"no segment of the mesh file is theirs yet (segments: {{NAME: {{learned: {adopted.name}}}}})")
        return "; ".join(parts)

    def drop(self, steered: SteeredService, *, name: str, who: str) -> str:
        """Forget a name; return what was done, in one line. Raises a SteeringError or JournalError."""
        before = self._of(steered.name).newest
        known = [adopted.name for adopted in before.names]
        if name not in known:
            raise UnknownNameError(f"adopted segment of {steered.name}", name, known)
        what = f"dropped {name}, {before.sizes()[name]} people"
        if not self._put(steered, before.dropping(name), who=who, what=what):
            what += f"; {_WAITS}"
        if name in steered.service.learned.values():
            what += "; a segment of the mesh file is theirs, and matches nobody then"
        return what

    def _put(self, steered: SteeredService, table: Table, *, who: str, what: str) -> bool:
        """Keep a table, and return whether it is in force. In one go: whoever gave the command may hang up."""
        if len(table.people) > MAX_PEOPLE:
            raise RefusedError(f"{len(table.people)} people in learned segments are too many; legal: {MAX_PEOPLE}")
        is_running, now_ns = steered.is_running, self._fleet.clock.now_unix_ns()
        self._store.save(steered.name, table, is_waiting=is_running, at_unix_ns=now_ns, who=who, what=what)
        if not self._of(steered.name).put(table, is_running=is_running):
            return False
        self.on_table()
        return True

    # --- looking

    def listing(self, service: Service) -> pb.ListSegmentsReply:
        """What is proposed for a service and what has been adopted."""
        memberships = self._of(service.name)
        segments = {name: segment for segment, name in service.learned.items()}
        now, later = memberships.current, memberships.newest
        names = {adopted.name: adopted for adopted in (*now.names, *later.names)}
        adopted = [
            pb.AdoptedSegment(
                name=name,
                people=now.sizes().get(name, 0),
                people_later=later.sizes().get(name, 0),
                segment=segments.get(name, ""),
                description=names[name].description if name in names else "",
                adopted_unix_ns=names[name].at_unix_ns if name in names else 0,
                who=names[name].who if name in names else "",
            )
            for name in dict.fromkeys((*names, *segments))
        ]
        proposals = self.proposals.get(service.name, Proposals()).clusters
        return pb.ListSegmentsReply(
            proposals=[
                pb.SegmentProposal(cluster=each.cluster, people=each.size, description=each.description)
                for each in proposals
            ],
            adopted=adopted,
            table=now.version,
            waiting=memberships.waiting.version if memberships.waiting is not None else 0,
        )

    def notes(self, service: Service) -> list[str]:
        """What a person should know of a service's learned segments, a line each."""
        if service.name not in self._resolver.services:
            return []
        memberships = self._of(service.name)
        now, later = ({adopted.name for adopted in t.names} for t in (memberships.current, memberships.newest))
        lines = [
            f"segment {segment}: nobody has adopted {name}, so it matches nobody"
            if name not in later
            else f"segment {segment}: {name} has been adopted while the rollout runs, so it matches nobody yet"
            for segment, name in service.learned.items()
            if name not in now
        ]
        if memberships.waiting is not None:
            lines.append("learned segments change when the rollout has ended")
        return lines
