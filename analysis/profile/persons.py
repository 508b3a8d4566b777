"""People by what they did in all their visits so far, and kinds of people that an operator can name and adopt.

A person is a keyed hash with decayed sums of closed sessions. Clusters are k-means on robustly scaled logarithms of
rates, as many as are stable and apart; each is told in words by what its people have more or less of than others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.columns import NEVER
from analysis.errors import StateError
from analysis.profile.archive import DAMAGE, pack, unpack
from analysis.profile.chains import MAX_CLUSTERS
from analysis.profile.clusters import count_clusters, k_means
from analysis.profile.paths import Ints, Rows
from analysis.user_index import UserIndex

Floats = npt.NDArray[np.float64]

FORMAT = 1
PERSONS_MAX = 500_000  # at 140 bytes each, index included; beyond it those who were away longest are forgotten
FORGOTTEN_SHARE = 0.1  # forgotten at once, so that it is seldom
HALF_LIFE_DAYS = 30.0
DAY_NS = 86_400_000_000_000
SECONDS_MAX = 86_400.0
OUTERMOST = 4.0  # scaled features are cut there: one odd person must not be a cluster
CLUSTERS_MAX = 8
PERSONS_MIN = 100  # below, nobody is told apart
TOLD = 3  # features that describe a cluster
REMARKABLE = 0.5  # distance of a cluster's median from the others', in robust deviations, at which it is told

SUMS = ("sessions", "pages", "calls", "clicks", "features", "seconds", "goals")
PERSON_DTYPE = np.dtype(
    [
        ("user", np.uint64),  # keyed hash
        ("first_unix_ns", np.int64),  # start of the first session
        ("last_unix_ns", np.int64),  # start of the newest one, at which the sums are decayed
        *((name, np.float32) for name in SUMS),
        ("kinds", np.float32, (MAX_CLUSTERS,)),  # sessions by their cluster in the segment's profile
    ]
)
FEATURES = (
    "sessions a week",
    "weeks known",
    "weeks away",
    *(f"{name} a session" for name in SUMS[1:]),
)


class PersonTable:
    """Who was there, and how much of what they did. `forgotten_n`: people dropped because `limit` was reached."""

    def __init__(self, limit: int = PERSONS_MAX) -> None:
        self._limit = limit
        self._rows = np.zeros(min(limit, 1024), PERSON_DTYPE)
        self._n = 0
        self._index = UserIndex()
        self.forgotten_n = 0

    def __len__(self) -> int:
        return self._n

    @property
    def persons(self) -> Rows:
        """(n,) of PERSON_DTYPE, in no order."""
        return self._rows[: self._n]

    def update(self, sessions: Rows, vocabulary: Sequence[str], kinds: Ints | None = None) -> None:
        """Add closed sessions (SESSION_DTYPE), each once. `kinds`: (n,) cluster of each; None: not known.

        Bots and sessions of nobody are left out.
        """
        mine = ~sessions["bot"] & (sessions["user"] != 0)
        order = np.flatnonzero(mine)[np.argsort(sessions["start_unix_ns"][mine], kind="stable")]
        sessions, kinds = sessions[order], None if kinds is None else kinds[order]
        while len(sessions):  # one session of each person at a time
            _, first = np.unique(sessions["user"], return_index=True)
            for part in np.array_split(first, -(-len(first) // max(self._limit // 2, 1))):
                self._add(sessions[part], vocabulary, None if kinds is None else kinds[part])
            rest = np.ones(len(sessions), np.bool_)
            rest[first] = False
            sessions, kinds = sessions[rest], None if kinds is None else kinds[rest]

    def _add(self, sessions: Rows, vocabulary: Sequence[str], kinds: Ints | None) -> None:
        rows = self._rows_of(sessions["user"], sessions["start_unix_ns"])
        start = sessions["start_unix_ns"]
        person = self._rows[rows]
        away_days = np.maximum(start - person["last_unix_ns"], 0) / DAY_NS
        keep = 0.5 ** (away_days / HALF_LIFE_DAYS)
        for name, values in _sums(sessions, vocabulary).items():
            person[name] = keep * person[name] + values
        person["kinds"] *= keep[:, None]
        if kinds is not None:
            person["kinds"][np.arange(len(rows)), np.minimum(kinds, MAX_CLUSTERS - 1)] += 1
        person["first_unix_ns"] = np.minimum(person["first_unix_ns"], start)
        person["last_unix_ns"] = np.maximum(person["last_unix_ns"], start)
        self._rows[rows] = person

    def _rows_of(self, users: npt.NDArray[np.uint64], start_ns: Ints) -> npt.NDArray[np.signedinteger]:
        """Where each of these distinct people is; who is not there yet is made room for."""
        unknown_n = int((self._index.find(users) < 0).sum())
        if self._n + unknown_n > self._limit:
            self._forget(self._n + unknown_n - self._limit, users)
        rows = self._index.find(users)
        unknown = np.flatnonzero(rows < 0)
        end = self._n + len(unknown)
        if end > len(self._rows):
            self._rows = np.resize(self._rows, min(max(2 * len(self._rows), end), self._limit))
        fresh = np.arange(self._n, end, dtype=np.int32)
        self._rows[fresh] = np.zeros(1, PERSON_DTYPE)
        self._rows["user"][fresh] = users[unknown]
        self._rows["first_unix_ns"][fresh] = self._rows["last_unix_ns"][fresh] = start_ns[unknown]
        self._index.put(users[unknown], fresh)
        self._n = end
        rows[unknown] = fresh
        return rows

    def forget_before(self, unix_ns: int) -> int:
        """Drop who has not been there since; returns how many."""
        stay = np.flatnonzero(self.persons["last_unix_ns"] >= unix_ns)
        gone = self._n - len(stay)
        if gone:
            self._keep(stay)
        return gone

    def _keep(self, stay: npt.NDArray[np.signedinteger]) -> None:
        self._n = len(stay)
        self._rows[: self._n] = self._rows[stay]
        self._index = UserIndex()
        self._index.put(self.persons["user"], np.arange(self._n, dtype=np.int32))

    def _forget(self, n: int, present: npt.NDArray[np.uint64]) -> None:
        """Drop at least n of the people who were away longest, none of those who are present."""
        last = np.where(np.isin(self.persons["user"], present), np.iinfo(np.int64).max, self.persons["last_unix_ns"])
        n = min(max(n, int(FORGOTTEN_SHARE * self._limit)), self._n)
        stay = np.sort(np.argsort(last, kind="stable")[n:])
        self.forgotten_n += self._n - len(stay)
        self._keep(stay)

    def to_bytes(self) -> bytes:
        return persons_to_bytes(self.persons)

    @classmethod
    def from_bytes(cls, data: bytes, limit: int = PERSONS_MAX) -> PersonTable:
        """The table of `to_bytes`. Raises StateError where the data are damaged or of another format."""
        _, arrays = unpack(data, "people", FORMAT)
        table = cls(limit)
        try:
            rows = np.zeros(len(arrays["user"]), PERSON_DTYPE)
            for name in PERSON_DTYPE.names or ():
                rows[name] = arrays[name]
        except DAMAGE as error:
            raise StateError(f"people cannot be read: {error!r}") from error
        rows = rows[np.argsort(-rows["last_unix_ns"], kind="stable")][:limit]
        table._rows, table._n = rows, len(rows)
        table._index.put(rows["user"], np.arange(len(rows), dtype=np.int32))
        return table


def persons_to_bytes(persons: Rows) -> bytes:
    """People (PERSON_DTYPE) as `PersonTable.from_bytes` reads them."""
    return pack("people", FORMAT, {}, {name: persons[name] for name in PERSON_DTYPE.names or ()})


def _sums(sessions: Rows, vocabulary: Sequence[str]) -> Mapping[str, Floats]:
    is_feature = np.array([label.startswith("feature ") for label in vocabulary] + [False])
    kept = np.arange(sessions["path"].shape[1]) < sessions["n_path"][:, None]
    used = is_feature[np.minimum(sessions["path"], len(vocabulary))] & kept
    seconds = (sessions["last_unix_ns"] - sessions["start_unix_ns"]) / 1e9
    return {
        "sessions": np.ones(len(sessions)),
        "pages": sessions["n_pages"].astype(float),
        "calls": sessions["n_calls"].astype(float),
        "clicks": sessions["n_clicks"].astype(float),
        "features": used.sum(axis=1).astype(float),
        "seconds": np.clip(seconds, 0.0, SECONDS_MAX),
        "goals": (sessions["goal_ms"] != NEVER).astype(float),
    }


def person_features(persons: Rows, unix_ns: int) -> Floats:
    """(n, len(FEATURES)) of PERSON_DTYPE rows as of a time."""
    known = np.maximum(unix_ns - persons["first_unix_ns"], 0) / (7 * DAY_NS)
    away = np.maximum(unix_ns - persons["last_unix_ns"], 0) / (7 * DAY_NS)
    half_life = HALF_LIFE_DAYS / 7
    decayed = persons["sessions"] * 0.5 ** (away / half_life)
    mean_life = half_life / np.log(2)
    seen_weeks = mean_life * -np.expm1(-np.maximum(known, 1.0) / mean_life)
    sessions = np.maximum(persons["sessions"], 1e-6).astype(float)
    by_session = [persons[name] / sessions for name in SUMS[1:]]
    return np.column_stack([decayed / seen_weeks, known, away, *by_session])


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustering:
    """k kinds of people, the largest first. `centre`, `scale`: of log(1 + feature); `centres`: (k, d) of points.

    `medians`, `others`: (k, len(FEATURES)) of each cluster's people, and of everybody else; `sizes`: (k,) people of
    each when it was made. `agreement`: stability of each number of clusters that was tried.
    """

    centre: Floats
    scale: Floats
    centres: Floats
    medians: Floats
    others: Floats
    sizes: Ints
    agreement: Mapping[int, float]
    made_unix_ns: int

    @property
    def n_clusters(self) -> int:
        return len(self.centres)

    def assign(self, persons: Rows, unix_ns: int | None = None) -> Ints:
        """(n,) cluster of each person (PERSON_DTYPE) as of a time; None: when the clustering was made."""
        as_of_ns = self.made_unix_ns if unix_ns is None else unix_ns
        points = _scaled(persons, person_features(persons, as_of_ns), self.centre, self.scale)
        distance = (self.centres**2).sum(axis=1) - 2 * points @ self.centres.T  # less what all have in common
        nearest: Ints = np.argmin(distance, axis=1)
        return nearest

    def describe(self) -> tuple[str, ...]:
        """Each cluster in words: how many people, and what they have more or less of than others."""
        return tuple(self._described(cluster) for cluster in range(self.n_clusters))

    def _described(self, cluster: int) -> str:
        share = f"{100 * self.sizes[cluster] / self.sizes.sum():.0f} % of people"
        own, others = self.medians[cluster], self.others[cluster]
        off = (np.log1p(own) - np.log1p(others)) / self.scale
        told = [i for i in np.argsort(-np.abs(off), kind="stable") if abs(off[i]) >= REMARKABLE][:TOLD]
        words = [
            f"{'more' if off[i] > 0 else 'fewer'} {FEATURES[i]} ({own[i]:.3g}, others {others[i]:.3g})" for i in told
        ]
        return f"{share}: {', '.join(words) if words else 'like everybody'}"

    def to_bytes(self) -> bytes:
        header = {
            "features": FEATURES,
            "agreement": {str(k): value for k, value in self.agreement.items()},
            "made_unix_ns": self.made_unix_ns,
        }
        return pack("clustering", FORMAT, header, {name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def from_bytes(cls, data: bytes) -> Clustering:
        """The clustering of `to_bytes`. Raises StateError where the data are damaged or of another format."""
        head, arrays = unpack(data, "clustering", FORMAT)
        try:
            if tuple(head["features"]) != FEATURES:
                raise StateError(f"clustering is by other features: {head['features']}")
            agreement = {int(k): float(value) for k, value in head["agreement"].items()}
            made_unix_ns = int(head["made_unix_ns"])
            if arrays["centres"].shape[1:] != (len(FEATURES) + MAX_CLUSTERS,):
                raise StateError(f"clustering is of points in {arrays['centres'].shape[1:]} dimensions")
            return cls(agreement=agreement, made_unix_ns=made_unix_ns, **{name: arrays[name] for name in _ARRAYS})
        except DAMAGE as error:
            raise StateError(f"clustering cannot be read: {error!r}") from error


_ARRAYS = ("centre", "scale", "centres", "medians", "others", "sizes")


def cluster_persons(
    persons: Rows, unix_ns: int, rng: np.random.Generator, *, most: int = CLUSTERS_MAX
) -> Clustering | None:
    """The stable kinds of these people (PERSON_DTYPE) as of a time; None below PERSONS_MIN people."""
    if len(persons) < PERSONS_MIN:
        return None
    told = person_features(persons, unix_ns)
    logged = np.log1p(told)
    low, centre, high = np.quantile(logged, [0.25, 0.5, 0.75], axis=0)
    scale = np.maximum((high - low) / 1.35, np.maximum(logged.std(axis=0), 0.05) * 0.5)
    points = _scaled(persons, told, centre, scale)
    stability = count_clusters(points, rng, most=most, apart=True)
    found = k_means(points, stability.n_clusters, rng)
    order = np.argsort(-np.bincount(found.labels_, minlength=stability.n_clusters), kind="stable")
    cluster = np.argsort(order)[found.labels_]
    return Clustering(
        centre=centre,
        scale=scale,
        centres=found.cluster_centers_[order],
        medians=np.stack([np.median(told[cluster == k], axis=0) for k in range(stability.n_clusters)]),
        others=np.stack([np.median(told[cluster != k], axis=0) for k in range(stability.n_clusters)])
        if stability.n_clusters > 1
        else np.median(told, axis=0)[None],
        sizes=np.bincount(cluster, minlength=stability.n_clusters).astype(np.int64),
        agreement=stability.agreement,
        made_unix_ns=unix_ns,
    )


def _scaled(persons: Rows, told: Floats, centre: Floats, scale: Floats) -> Floats:
    """(n, d) the points that are clustered: scaled features, and the roots of the shares of each kind of visit."""
    kinds = persons["kinds"].astype(float)
    shares = np.sqrt(kinds / np.maximum(kinds.sum(axis=1, keepdims=True), 1e-6))
    return np.column_stack([np.clip((np.log1p(told) - centre) / scale, -OUTERMOST, OUTERMOST), shares])
