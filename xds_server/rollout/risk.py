"""The risk of releases: the failure model that serves, trained beside the loop, and what it thinks of those that begin.

Whatever fails here, a release begins at the prior, and no rollout waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from analysis.errors import StateError
from analysis.failure.artefact import KIND, from_json, scores_of, to_json
from analysis.failure.fitting import Progress
from analysis.failure.foresight import Foresight
from analysis.failure.history import Past, PastRollout, releases_of
from analysis.failure.model import LEAST_RELEASES
from analysis.failure.training import Champion, Trained, drift, lacking, train
from xds_server.errors import JournalError, RefusedError, UnknownNameError
from xds_server.rollout.fleet import Fleet
from xds_server.rollout.imported_past import ImportedPast
from xds_server.rollout.steered import SteeredService
from xds_server.store.artefacts import ArtefactRow, ArtefactStore
from xds_server.store.records import RolloutRow

log = logging.getLogger(__name__)

KINDS: Final = (KIND,)
LOOK_S: Final = 60.0
RETRAIN_AFTER: Final = 10  # releases whose end is known, since the last training
TELL_S: Final = 0.1  # between two words of how far a training is
SCHEDULE, DRIFT = "schedule", "drift"
_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Serving:
    """The model that serves, and its version. `refused`: why there is none, where one should be."""

    champion: Champion | None = None
    version: int = 0
    refused: str = ""


class ReleaseRisk:
    """Belongs to one event loop; what takes long is done in threads, one training at a time.

    `look_s`: seconds between two looks whether a training is due.
    """

    def __init__(self, fleet: Fleet, store: ArtefactStore, imported: ImportedPast) -> None:
        self._fleet = fleet
        self._store = store
        self._imported = imported
        self._serving = _Serving()
        self._is_training = False
        self._has_news = True  # a rollout has ended since the last look
        self.look_s = LOOK_S
        self._trained_s = 0.0  # when a training was begun last, in seconds since 1970; 0: never
        self._known = 0  # releases whose end is known

    # --- life

    def restore(self) -> None:
        """Take up the model that served. What cannot be read does not serve; the prior does."""
        try:
            rows = self._store.rows(KIND)
            self._serving = _read(rows)
            self._trained_s = max((row.trained_unix_ns for row in rows), default=0) / _S
            self._known = len(releases_of(self._store.past()))  # those of others are read at the first look
        except JournalError as error:
            log.error("no failure model serves: %s", error)  # noqa: TRY400 -- one line
        if self._serving.refused:
            log.warning("no failure model serves: %s", self._serving.refused)

    async def run(self) -> None:
        """Look again and again whether a training is due, until cancelled."""
        while True:
            await self._fleet.clock.sleep(self.look_s)
            if not self._has_news:
                continue
            self._has_news = False
            try:
                if why := await asyncio.to_thread(self._why):
                    async for _ in self.train(KIND, who=why):
                        pass
            except (JournalError, RefusedError) as error:
                log.warning("the failure model is not trained: %s", error)
            except Exception:  # the next look may find better data
                log.exception("the failure model is not trained")

    def _why(self) -> str:
        """Why a training is due; empty: it is not. In a thread."""
        own = self._store.past()
        releases = releases_of((*own, *self._imported.past()))
        self._known = len(releases)
        new = sum(each.failed is not None and (each.ended_s or 0.0) > self._trained_s for each in own)
        new += self._imported.since(self._trained_s)
        new = max(new, self._imported.labelled_since(self._trained_s))  # a label is news of what ended long ago as well
        if lacking(releases) or not new:
            return ""
        champion = self._serving.champion
        if champion is not None and drift(champion, releases).calls_for_training:
            return DRIFT
        return SCHEDULE if new >= RETRAIN_AFTER or not self._trained_s else ""

    def _past(self) -> tuple[PastRollout, ...]:
        """All deployments, own ones and those of others. In a thread."""
        return (*self._store.past(), *self._imported.past())

    def look_again(self) -> None:
        """There is news of past deployments: let the next look see whether a training is due."""
        self._has_news = True

    # --- releases

    @property
    def source(self) -> str:
        """What the risk of a release that begins now comes from, for people."""
        if self._serving.champion is not None:
            return f"{KIND} {self._serving.version}"
        if self._serving.refused:
            return f"prior: {self._serving.refused}"
        if self._known < LEAST_RELEASES:
            return f"prior: no model yet ({self._known} of {LEAST_RELEASES} releases)"
        return "prior: no model has been better yet" if self._trained_s else "prior: no model yet"

    async def foresee(self, row: RolloutRow) -> Foresight | None:
        """What the model thinks of a release that is about to begin; None: nothing. Never raises."""
        serving = self._serving
        try:
            return await asyncio.to_thread(self._foresee, serving, row)
        except Exception:
            log.exception("the risk of %s is the prior", row.rollout)
            return None

    def _foresee(self, serving: _Serving, row: RolloutRow) -> Foresight | None:
        if serving.champion is None:
            return None
        began_s = row.started_unix_ns / _S
        past = Past(each for each in self._past() if each.began_s <= began_s)
        facts = past.facts(row.service, row.attributes, began_s)
        return Foresight.of(serving.champion.model, facts, version=f"{KIND} {serving.version}")

    def ended(self, steered: SteeredService) -> None:
        """Keep what a release's first minutes showed. Never raises: without it they are unknown."""
        self.look_again()
        ramp, row = steered.engine.ramp, steered.row
        if ramp is None or row is None:
            return
        try:
            self._store.end(row.rollout, ramp.first_minutes.first_minutes())
        except JournalError as error:
            log.error("the first minutes of %s are not kept: %s", row.rollout, error)  # noqa: TRY400 -- one line

    # --- training (the training API's Trainer)

    async def train(self, kind: str, *, who: str) -> AsyncIterator[float | ArtefactRow]:
        """Train now; see `Trainer.train`. `who`: a person, or why it is due."""
        _refuse_unknown(kind)
        if self._is_training:
            raise RefusedError(f"the {kind} model is being trained already")
        self._is_training = True
        done = 0.0

        def progress(share: float) -> None:
            nonlocal done
            done = share

        work = asyncio.ensure_future(asyncio.to_thread(self._train, progress))
        try:
            while not work.done():
                await asyncio.wait([work], timeout=TELL_S)
                if not work.done():
                    yield done
            trained = work.result()
            row = await asyncio.to_thread(self._keep, trained, who)
        except ValueError as error:
            raise RefusedError(f"the {kind} model cannot be trained yet: {error}") from error
        finally:
            if not work.done():
                await asyncio.wait([work])
            self._is_training = False
        self._take(row)
        yield row

    def _train(self, progress: Progress) -> Trained:
        self._trained_s = self._fleet.clock.now_unix_ns() / _S
        releases = releases_of(self._past())
        self._known = len(releases)
        return train(releases, self._serving.champion, progress=progress)

    def _keep(self, trained: Trained, who: str) -> ArtefactRow:
        compared = trained.comparison
        verdict = "serves" if compared.serves else "does not serve"
        gain = f": {compared.gain:+.4f} ± {compared.noise:.4f} of log loss gained" if compared.n else ""
        return self._store.add(
            ArtefactRow(
                kind=KIND, version=0, trained_unix_ns=self._fleet.clock.now_unix_ns(), fingerprint=trained.fingerprint,
                scores=scores_of(trained), payload=to_json(trained).encode(), is_serving=compared.serves,
                why=f"{who}; {verdict}, {compared.why}{gain}",
            )
        )  # fmt: skip

    def _take(self, row: ArtefactRow) -> None:
        log.info("failure model %d: %s", row.version, row.why)
        if row.is_serving:
            self._serving = _read([row])
        self._fleet.tell()

    async def artefacts(self, kind: str) -> Sequence[ArtefactRow]:
        """All versions of a kind; see `Trainer.artefacts`."""
        if kind:
            _refuse_unknown(kind)
        found = [await asyncio.to_thread(self._store.rows, each) for each in (KINDS if not kind else (kind,))]
        return [row for rows in found for row in rows]

    async def serve(self, kind: str, version: int, *, who: str) -> str:
        """Let a version serve; see `Trainer.serve`. Running rollouts keep what they began with."""
        _refuse_unknown(kind)
        rows = await asyncio.to_thread(self._store.rows, kind)
        kept = {row.version: row for row in rows if row.payload}
        before = sorted((row for row in kept.values() if row.served_unix_ns and not row.is_serving),
                        key=lambda row: row.served_unix_ns)  # fmt: skip
        if not version and not before:
            raise RefusedError(f"no {kind} model has served before the one in use")
        row = kept.get(version or before[-1].version)
        if row is None:
            raise UnknownNameError(f"{kind} model", str(version), [str(each) for each in kept])
        read = _read([row], whether_serving=False)
        if read.champion is None:
            raise RefusedError(f"{kind} {row.version} cannot serve: {read.refused}")
        now_ns = self._fleet.clock.now_unix_ns()
        await asyncio.to_thread(self._store.serve, kind, row.version, at_unix_ns=now_ns)
        self._serving = read
        log.info("%s %d serves, says %s", kind, row.version, who)
        self._fleet.tell()
        return f"{kind} {row.version} serves; rollouts that run keep what they began with"


def _refuse_unknown(kind: str) -> None:
    if kind not in KINDS:
        raise UnknownNameError("kind of model", kind, KINDS)


def _read(rows: Sequence[ArtefactRow], *, whether_serving: bool = True) -> _Serving:
    """The model that serves among these."""
    row = next((row for row in rows if row.is_serving or not whether_serving), None)
    if row is None:
        return _Serving()
    try:
        return _Serving(champion=from_json(row.payload), version=row.version)
    except StateError as error:
        return _Serving(version=row.version, refused=f"{row.kind} {row.version} cannot be read: {error}")
