"""What is usual in each segment and who is alike, learnt beside the loop: on a schedule, on drift, and when asked for.

Profiles and clusters stand still while a rollout runs: both of its versions are judged by the same ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from analysis.anomaly.behaviour import BehaviourModel, Lesson
from analysis.errors import StateError
from analysis.profile.persons import Clustering, PersonTable, cluster_persons, persons_to_bytes
from analysis.profile.profile import Profile
from xds_server.errors import JournalError, RefusedError
from xds_server.learnt.memberships import Proposal, Proposals
from xds_server.rollout.fleet import Fleet
from xds_server.rollout.learnt import LearnedSegments
from xds_server.rollout.steered import SERINUS, SteeredService
from xds_server.store.profiles import PeopleRow, ProfileRow, ProfileStore

log = logging.getLogger(__name__)

LOOK_S: Final = 30.0
SAVE_S: Final = 600.0  # what is remembered of people; a crash costs as much
GONE_KEPT_S: Final = 90 * 86_400.0  # people of a service that has left the mesh, should it come back
FIRST_N: Final = 200  # sessions of a segment before its first profile is trained without a rollout
GROWN: Final = 4  # times as many new sessions as a profile was trained on, and it is trained anew
ENOUGH_N: Final = 4_000  # … unless it was trained on so many
SAME_SHARE: Final = 0.5  # of people that an adopted name and a new cluster must share to be the same (Jaccard)
_S: Final = 1_000_000_000

_P = ParamSpec("_P")
_R = TypeVar("_R")

Rows = npt.NDArray[np.void]
Users = npt.NDArray[np.uint64]


class Why(StrEnum):
    """Why a profile was trained."""

    FIRST = "first"
    SCHEDULE = "schedule"
    DRIFT = "drift"
    GROWN = "more sessions"


@dataclass(slots=True)
class Learnt:
    """What is kept of one service. `rows`: the newest profile of each segment, without its payload."""

    rows: dict[str, ProfileRow] = field(default_factory=dict)
    clustering: Clustering | None = None
    saved_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What one training is made of, and then what it has come to."""

    lessons: Mapping[str, Lesson]
    whys: Mapping[str, str]
    people: Rows
    now_ns: int


class Profiling:
    """Trains, keeps and takes up the profiles of all services, and proposes clusters of their people."""

    def __init__(self, fleet: Fleet, store: ProfileStore, learnt: LearnedSegments) -> None:
        self._fleet = fleet
        self._store = store
        self._learnt = learnt
        self.services: dict[str, Learnt] = {}

    # --- life

    def take_up(self, steered: SteeredService, before: SteeredService | None = None) -> None:
        """Let a service go on with what was learnt before. What cannot be read is learnt anew.

        `before`: what was steered in its place until now; its people are newer than those that are stored.
        """
        learnt = Learnt(saved_s=self._fleet.clock.monotonic())
        known, self.services[steered.name] = self.services.get(steered.name), learnt
        is_known = before is not None and known is not None
        if before is not None and known is not None:
            steered.engine.people, before.engine.people = before.engine.people, PersonTable()  # never in two engines
            learnt.clustering, learnt.saved_s = known.clustering, known.saved_s
        try:
            rows = self._store.newest(steered.name)
            people = None if is_known else self._store.people(steered.name)
        except JournalError as error:
            log.error("nothing is known of the people of %s: %s", steered.name, error)  # noqa: TRY400 -- one line
            return
        behaviour = steered.engine.observer.behaviour
        for segment, index in steered.service.spec.segment_index.items():
            row = rows.get(segment)
            if row is not None:
                _adopt(behaviour, index, row, in_any_case=not steered.is_running)
                learnt.rows[segment] = _without_payload(row)
        if people is not None:
            self._take_up_people(steered, learnt, people)

    def leave(self, steered: SteeredService) -> None:
        """Keep what is remembered of a service that goes."""
        people = steered.engine.people.persons.copy()
        self._fleet.spawn(asyncio.to_thread(self._save_people, steered.name, people))

    def _forget_services(self) -> None:
        before_ns = self._fleet.clock.now_unix_ns() - int(GONE_KEPT_S * _S)
        try:
            self._store.forget_services(self._fleet.services.keys(), before_unix_ns=before_ns)
        except JournalError as error:
            log.warning("services that are gone are not forgotten: %s", error)

    def _take_up_people(self, steered: SteeredService, learnt: Learnt, row: PeopleRow) -> None:
        try:
            steered.engine.people = PersonTable.from_bytes(row.payload)
            learnt.clustering = Clustering.from_bytes(row.clustering) if row.clustering else None
        except StateError as error:
            log.warning("people of %s are learnt anew: %s", steered.name, error)
        if learnt.clustering is not None:
            proposals = _proposals(learnt.clustering, steered.engine.people.persons)
            self._learnt.proposals[steered.name] = proposals

    async def run(self) -> None:
        """Look again and again which profiles are due, until cancelled; then people are kept."""
        self._forget_services()
        try:
            while True:
                await self._fleet.clock.sleep(LOOK_S)
                for steered in list(self._fleet.services.values()):
                    await self._look(steered)
        finally:
            for steered in self._fleet.services.values():
                self._save_people(steered.name, steered.engine.people.persons.copy())

    async def _look(self, steered: SteeredService) -> None:
        try:
            if not steered.is_running and self._is_there(steered):
                await self.train(steered)
            await self._save_people_if_due(steered)
        except (JournalError, RefusedError) as error:
            log.warning("profiles of %s: %s", steered.name, error)
        except Exception:  # of one service's data; the others are looked at
            log.exception("profiles of %s are not trained", steered.name)

    def _is_there(self, steered: SteeredService) -> bool:
        return self._fleet.services.get(steered.name) is steered

    # --- looking

    def sessions(self) -> dict[tuple[str, str], int]:
        """How many sessions each profile in force was learnt from, by service and segment."""
        found = {}
        for name, steered in self._fleet.services.items():
            for segment, index in steered.service.spec.segment_index.items():
                profile = steered.engine.observer.behaviour.profile(index)
                if profile is not None:
                    found[name, segment] = profile.n_sessions
        return found

    def people(self) -> dict[str, int]:
        """How many people of each service are remembered."""
        return {name: len(steered.engine.people) for name, steered in self._fleet.services.items()}

    # --- training

    async def train(self, steered: SteeredService, *, who: str = "") -> list[ProfileRow]:
        """Train what is due, or, where somebody asks for it, all that there are sessions for; the new versions.

        Raises RefusedError while a rollout runs, and JournalError.
        """
        async with steered.lock:
            _refuse_running(steered)
            work = await _to_its_end(self._work, steered, who)
        if not work.lessons:
            return []
        profiles = await asyncio.to_thread(_learn, work)
        clustering = await asyncio.to_thread(cluster_persons, work.people, work.now_ns, _rng(steered.name, work.now_ns))
        proposals = None if clustering is None else await asyncio.to_thread(_proposals, clustering, work.people)
        async with steered.lock:
            if not self._is_there(steered):
                return []
            _refuse_running(steered)
            rows = await _to_its_end(self._take_all, steered, profiles, work)
            if clustering is not None and proposals is not None:
                await self._take_clustering(steered, clustering, proposals)
        await self._save_people_now(steered)
        self._fleet.tell()
        return rows

    def _work(self, steered: SteeredService, who: str) -> _Work:
        """What is due; in a thread, the service's lock is held."""
        behaviour, now_ns = steered.engine.observer.behaviour, self._fleet.clock.now_unix_ns()
        self._forget(steered, now_ns)
        lessons: dict[str, Lesson] = {}
        whys: dict[str, str] = {}
        for segment, index in steered.service.spec.segment_index.items():
            lesson = behaviour.lesson(index)
            why = who or self._why(steered, segment, index, now_ns)
            if lesson is not None and why:
                lessons[segment], whys[segment] = lesson, why
        people = steered.engine.people.persons
        people = people.copy() if lessons else people[:0]
        return _Work(lessons=lessons, whys=whys, people=people, now_ns=now_ns)

    def _why(self, steered: SteeredService, segment: str, index: int, now_ns: int) -> str:
        """Why a segment's profile is due; empty: it is not."""
        behaviour = steered.engine.observer.behaviour
        profile, waiting_n = behaviour.profile(index), behaviour.waiting_n(index)
        if profile is None:
            return Why.FIRST if waiting_n >= FIRST_N else ""
        row = self.services[steered.name].rows.get(segment)
        if row is None or now_ns - row.trained_unix_ns >= steered.service.retrain_s * _S:
            return Why.SCHEDULE
        if profile.n_sessions < ENOUGH_N and waiting_n >= GROWN * profile.n_sessions:
            return Why.GROWN
        drift = behaviour.drift(index)
        return Why.DRIFT if drift is not None and drift.calls_for_training else ""

    def _take_all(self, steered: SteeredService, profiles: Mapping[str, Profile], work: _Work) -> list[ProfileRow]:
        """Keep and score by new profiles; in a thread, the service's lock is held."""
        return [self._take(steered, segment, profile, work) for segment, profile in profiles.items()]

    def _take(self, steered: SteeredService, segment: str, profile: Profile, work: _Work) -> ProfileRow:
        learnt = self.services[steered.name]
        before = learnt.rows.get(segment)
        row = ProfileRow(
            service=steered.name, segment=segment, version=1 if before is None else before.version + 1,
            trained_unix_ns=work.now_ns, sessions=profile.n_sessions, why=work.whys[segment],
            payload=profile.to_bytes(),
        )  # fmt: skip
        self._store.save(row)
        steered.engine.observer.behaviour.take(steered.service.spec.segment_index[segment], profile)
        learnt.rows[segment] = _without_payload(row)
        log.info("profile %d of %s, %s: of %d sessions (%s)", row.version, row.service, segment, row.sessions, row.why)
        return row

    # --- people

    async def _take_clustering(self, steered: SteeredService, clustering: Clustering, proposals: Proposals) -> None:
        """Propose new clusters; names that were adopted go on with the cluster that is most alike."""
        self.services[steered.name].clustering = clustering
        self._learnt.proposals[steered.name] = proposals
        adopted = self._learnt.adopted(steered.name)
        people = {}
        for name, users in adopted.items():
            shared = await asyncio.to_thread(_all_shared, users, proposals)
            if shared and max(shared) >= SAME_SHARE:
                people[name] = proposals.people(int(np.argmax(shared)))
            else:
                log.warning(
                    "no cluster of %s is like the people of %s any more: they stay as they are", steered.name, name
                )
        if people:
            await self._learnt.renew(steered, people, who=SERINUS)

    async def _save_people_if_due(self, steered: SteeredService) -> None:
        learnt = self.services.get(steered.name)
        if learnt is not None and self._fleet.clock.monotonic() - learnt.saved_s >= SAVE_S:
            await self._save_people_now(steered)

    async def _save_people_now(self, steered: SteeredService) -> None:
        """Keep people; what takes long is done beside the loop, and without the lock."""
        async with steered.lock:
            if not self._is_there(steered):
                return
            people = await _to_its_end(self._present, steered)
        await asyncio.to_thread(self._save_people, steered.name, people)

    def _present(self, steered: SteeredService) -> Rows:
        self._forget(steered, self._fleet.clock.now_unix_ns())
        return steered.engine.people.persons.copy()

    def _forget(self, steered: SteeredService, now_ns: int) -> None:
        steered.engine.people.forget_before(now_ns - int(steered.service.keep_s * _S))

    def _save_people(self, service: str, people: Rows) -> None:
        learnt = self.services.get(service)
        if learnt is None:
            return
        clustering = learnt.clustering
        row = PeopleRow(
            payload=persons_to_bytes(people), clustering=b"" if clustering is None else clustering.to_bytes()
        )
        try:
            self._store.save_people(service, row, at_unix_ns=self._fleet.clock.now_unix_ns())
            learnt.saved_s = self._fleet.clock.monotonic()
        except JournalError as error:
            log.error("people of %s are not kept: %s", service, error)  # noqa: TRY400 -- one line


async def _to_its_end(work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run in a thread; whoever is cancelled waits for its end, or the lock would be free while it changes things."""
    thread = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise


def _refuse_running(steered: SteeredService) -> None:
    if steered.is_running:
        raise RefusedError(
            f"{steered.name} has a running rollout: both of its versions are judged by the same profiles"
        )


def _learn(work: _Work) -> dict[str, Profile]:
    return {
        segment: lesson.learn(_rng(segment, work.now_ns), trained_unix_ns=work.now_ns)
        for segment, lesson in work.lessons.items()
    }


def _rng(name: str, now_ns: int) -> np.random.Generator:
    return np.random.default_rng([now_ns, *name.encode()])


def _adopt(behaviour: BehaviourModel, index: int, row: ProfileRow, *, in_any_case: bool) -> None:
    """Take up a stored profile; not one for another age, nor, unless `in_any_case`, in place of one that is there.

    A running rollout is judged by the profile of its own state; one that has ended may have left an older one.
    """
    if behaviour.is_fitted(index) and not in_any_case:
        return
    try:
        profile = Profile.from_bytes(row.payload)
    except StateError as error:
        log.warning("profile %d of %s, %s is learnt anew: %s", row.version, row.service, row.segment, error)
        return
    if profile.age_s == behaviour.age_s:
        behaviour.take(index, profile)


def _without_payload(row: ProfileRow) -> ProfileRow:
    return ProfileRow(
        service=row.service, segment=row.segment, version=row.version, trained_unix_ns=row.trained_unix_ns,
        sessions=row.sessions, why=row.why,
    )  # fmt: skip


def _proposals(clustering: Clustering, people: Rows) -> Proposals:
    """What each cluster is, and who is in it."""
    cluster_of = clustering.assign(people).astype(np.uint8)
    sizes = np.bincount(cluster_of, minlength=clustering.n_clusters)
    return Proposals(
        clusters=tuple(
            Proposal(cluster=cluster, size=int(sizes[cluster]), description=text)
            for cluster, text in enumerate(clustering.describe())
        ),
        users=people["user"].copy(),
        cluster_of=cluster_of,
    )


def _all_shared(users: Users, proposals: Proposals) -> list[float]:
    return [_shared(users, proposals.people(each.cluster)) for each in proposals.clusters]


def _shared(some: Users, others: Users) -> float:
    """Share of two groups of people who are in both (Jaccard), in [0, 1]."""
    both = len(np.intersect1d(some, others, assume_unique=True))
    return both / max(len(some) + len(others) - both, 1)
