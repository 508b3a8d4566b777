"""Past deployments of a running control plane: read, labelled, taken in from others, and kept within bounds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final

from analysis.errors import RecordError
from analysis.history import archive
from analysis.history.record import RolloutRecord, Verdict
from xds_server.errors import BadRequestError, HistoryError, JournalError, RefusedError, UnknownNameError
from xds_server.mesh import HistoryBounds
from xds_server.rollout.fleet import Fleet
from xds_server.store.assembling import Deployments
from xds_server.store.history import HistoryStore, Kept
from xds_server.store.records import EventRow, ImportedRow, LabelRow

log = logging.getLogger(__name__)

PRUNE_EVERY_S: Final = 3_600.0
SHOWN: Final = 20  # names in a message
SKEW_S: Final = 86_400.0  # by which another machine's clock may be ahead of this one's


class PastDeployments:
    """Belongs to one event loop; what may take long is done in threads. `kept`: as of the last look.

    `on_news` is told when deployments have come from others, or a person has said something of one.
    """

    def __init__(self, fleet: Fleet, store: HistoryStore) -> None:
        self._fleet = fleet
        self._store = store
        self._deployments = Deployments(fleet.journal, store)
        self.kept = Kept(rollouts=0, bytes=0, began_unix_ns=None)
        self.on_news: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Keep it within its bounds until cancelled."""
        while True:
            await self.prune()
            await self._fleet.clock.sleep(PRUNE_EVERY_S)

    async def prune(self) -> None:
        """Forget the oldest beyond the bounds. Never raises."""
        try:
            gone = await asyncio.to_thread(self._store.prune, self._fleet.clock.now_unix_ns())
            self.kept = await asyncio.to_thread(self._store.kept)
        except JournalError as error:
            log.error("the history is not kept within its bounds: %s", error)  # noqa: TRY400 -- one line
            return
        if gone:
            more = f" and {len(gone) - SHOWN} more" if len(gone) > SHOWN else ""
            log.info("forgotten, beyond the bounds of the history: %s%s", ", ".join(gone[:SHOWN]), more)

    def bound(self, bounds: HistoryBounds) -> None:
        """Keep so much from now on."""
        if bounds != self._store.bounds:
            self._store.bounds = bounds
            self._fleet.spawn(self.prune())

    async def service_of(self, rollout: str) -> str:
        """The service of a deployment. Raises UnknownNameError."""
        services = await asyncio.to_thread(self._deployments.services)
        if rollout not in services:
            raise UnknownNameError("rollout", rollout, sorted(services)[-SHOWN:])
        return services[rollout]

    async def label(self, *, rollout: str, verdict: str, who: str, reason: str) -> str:
        """Keep what an operator says; see `PastSteering.label`."""
        if verdict not in list(Verdict):
            raise BadRequestError(f"verdict '{verdict}' is unknown; legal: {', '.join(Verdict)}")
        await self.service_of(rollout)
        row = LabelRow(
            rollout=rollout, at_unix_ns=self._fleet.clock.now_unix_ns(), verdict=verdict, who=who, reason=reason
        )  # fmt: skip
        await asyncio.to_thread(self._store.put_label, row)
        self.on_news()
        log.info("%s is %s, says %s: %s", rollout, verdict, who, reason or "no reason given")
        return f"{rollout} is {verdict}"

    async def labels(self) -> dict[str, LabelRow]:
        """What operators say, by rollout."""
        return await asyncio.to_thread(self._store.labels)

    async def names(self, service: str | None) -> dict[str, str]:
        """Deployments that are over, in order, with their services."""
        return await asyncio.to_thread(self._deployments.names, service)

    async def record(self, rollout: str) -> bytes:
        """One deployment, as `analysis.history.archive` has it. Raises HistoryError where it cannot be read."""
        return await asyncio.to_thread(lambda: archive.to_bytes(self._deployments.record(rollout)))

    async def tape(self, rollout: str) -> AsyncIterator[Sequence[EventRow]]:
        """What a rollout was given, many events at a time. Raises HistoryError where that is not kept."""
        await self.service_of(rollout)
        last, found = 0, await asyncio.to_thread(self._store.some_events, rollout, 0)
        if not found:
            raise HistoryError(f"what {rollout} was given is not kept")
        while found:
            yield [row for _, row in found]
            last = found[-1][0]
            found = await asyncio.to_thread(self._store.some_events, rollout, last)

    async def take_in(self, records: Iterable[bytes], *, who: str) -> str:
        """Keep records that others have made; see `PastSteering.take_in`."""
        rows = await asyncio.to_thread(self._rows, tuple(records), who)
        bounds, kept = self._store.bounds, await asyncio.to_thread(self._store.kept)
        size = kept.bytes + sum(len(row.payload) for row in rows)
        if kept.rollouts + len(rows) > bounds.rollouts or size > bounds.bytes:
            raise RefusedError(
                f"{len(rows)} more deployments do not fit: {kept.rollouts} of {bounds.rollouts} are kept, with them it "
                f"would be {size:,} of {bounds.bytes:,} bytes; raise `history` in the mesh file"
            )
        try:
            await asyncio.to_thread(self._store.put_imported, rows)
        except ValueError as error:
            raise RefusedError(f"rollout {error} is known already; nothing is imported") from error
        self.kept = await asyncio.to_thread(self._store.kept)
        self.on_news()
        return f"{len(rows)} deployments imported"

    def _rows(self, records: Iterable[bytes], who: str) -> list[ImportedRow]:
        now_ns = self._fleet.clock.now_unix_ns()
        try:
            return [_imported(archive.from_bytes(data), data, now_ns, who) for data in records]
        except RecordError as error:
            raise BadRequestError(f"nothing is imported: {error}") from error


def _imported(record: RolloutRecord, data: bytes, now_ns: int, who: str) -> ImportedRow:
    """Raises RecordError for what is to come: a model that has seen it would never again see anything newer."""
    if record.started_unix_s > now_ns / 1e9 + SKEW_S:
        raise RecordError(f"rollout {record.rollout!r} starts at {record.started_unix_s:.0f}, which is to come")
    return ImportedRow(rollout=record.rollout, service=record.service, at_unix_ns=now_ns, who=who, payload=data)
