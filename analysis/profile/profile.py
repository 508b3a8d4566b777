"""What is usual for the people of one segment, learnt from its sessions and kept as bytes.

One half of the sessions trains the score, the other half calibrates it (split conformal: Vovk, Gammerman & Shafer 2005,
chapter 4), so that p-values are right whatever the training has made of its half.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.errors import StateError
from analysis.profile.archive import DAMAGE, pack, unpack
from analysis.profile.chains import ChainMixture
from analysis.profile.features import Visits, label_counts_of
from analysis.profile.hours import WEEK_H
from analysis.profile.oddity import SIGNALS, Oddity, Usual
from analysis.profile.paths import LabelTable, Rows, label_counts
from analysis.profile.tails import UpperTail

Floats = npt.NDArray[np.float64]

FORMAT = 1
MIN_N = 20  # sessions below which there is nothing to learn from


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A segment's usual sessions, as far as they had come `age_s` after their start.

    `calibration`: ascending scores of the calibration sessions. `use`: (L,) share of sessions with each label.
    `hours`: (168,) sessions an hour by hour of the week (see HourOfWeek), NaN where not known. `agreement`: stability
    of each number of clusters that was tried. `fingerprint`: of the sessions that it was taught.
    """

    age_s: float
    oddity: Oddity
    calibration: Floats
    use: Floats
    hours: Floats
    agreement: Mapping[int, float]
    n_sessions: int
    trained_unix_ns: int
    fingerprint: str

    @property
    def labels(self) -> tuple[str, ...]:
        return self.oddity.table.labels

    def visits(self, sessions: Rows, vocabulary: Sequence[str]) -> Visits:
        """Sessions (SESSION_DTYPE) told by `vocabulary`, as this profile sees them."""
        return Visits.of(sessions, vocabulary, self.oddity.table, age_s=self.age_s)

    def p_values(self, visits: Visits) -> Floats:
        """(n,) in (0, 1]: the share of usual sessions that look at least as odd."""
        n = len(self.calibration)
        at_least = n - np.searchsorted(self.calibration, self.oddity.scores(visits), side="left")
        return np.asarray((1.0 + at_least) / (1.0 + n), np.float64)

    def to_bytes(self) -> bytes:
        """The same profile gives the same bytes."""
        oddity, mixture = self.oddity, self.oddity.mixture
        header = {
            "signals": SIGNALS,
            "labels": self.labels,
            "age_s": self.age_s,
            "exits": mixture.exits,
            "strengths": mixture.strengths,
            "slopes": [tail.slope for tail in oddity.tails],
            "agreement": {str(k): value for k, value in self.agreement.items()},
            "n_sessions": self.n_sessions,
            "trained_unix_ns": self.trained_unix_ns,
            "fingerprint": self.fingerprint,
        }
        arrays = {
            "tail_values": np.concatenate([tail.values for tail in oddity.tails]),
            "tail_depths": np.concatenate([tail.depths for tail in oddity.tails]),
            "knots": np.array([len(tail.values) for tail in oddity.tails], np.int64),
            "medians": oddity.medians,
            **{name: getattr(self, name) for name in _OWN},
            **{name: getattr(oddity.usual, name) for name in _OF_USUAL},
            **{name: getattr(mixture, name) for name in _OF_MIXTURE},
        }
        return pack("profile", FORMAT, header, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Profile:
        """The profile of `to_bytes`. Raises StateError where the data are damaged or of another format."""
        head, arrays = unpack(data, "profile", FORMAT)
        try:
            return _restored(head, arrays)
        except DAMAGE as error:
            raise StateError(f"profile cannot be read: {error!r}") from error


_OWN = ("calibration", "use", "hours")
_OF_USUAL = ("centre", "scale", "location", "precision")
_OF_MIXTURE = ("shares", "rows", "trigrams", "chances", "contexts", "backoff")


def _restored(head: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Profile:
    ends = np.cumsum(arrays["knots"])[:-1]
    curves = zip(
        np.split(arrays["tail_values"], ends), np.split(arrays["tail_depths"], ends), head["slopes"], strict=True
    )
    table = LabelTable(tuple(str(label) for label in head["labels"]))
    first, second = head["strengths"]
    mixture = ChainMixture(
        n_labels=len(table),
        exits=bool(head["exits"]),
        strengths=(float(first), float(second)),
        **{name: arrays[name] for name in _OF_MIXTURE},
    )
    oddity = Oddity(
        table=table,
        mixture=mixture,
        usual=Usual(**{name: arrays[name] for name in _OF_USUAL}),
        tails=tuple(UpperTail(values=values, depths=depths, slope=float(slope)) for values, depths, slope in curves),
        medians=arrays["medians"],
    )
    if tuple(head["signals"]) != SIGNALS or mixture.rows.shape[1:] != (len(table) + 1, len(table) + 1):
        raise ValueError("its arrays do not fit together")
    return Profile(
        age_s=float(head["age_s"]),
        oddity=oddity,
        agreement={int(k): float(value) for k, value in head["agreement"].items()},
        n_sessions=int(head["n_sessions"]),
        trained_unix_ns=int(head["trained_unix_ns"]),
        fingerprint=str(head["fingerprint"]),
        **{name: arrays[name] for name in _OWN},
    )


def train(
    sessions: Rows,
    vocabulary: Sequence[str],
    *,
    age_s: float,
    rng: np.random.Generator,
    trained_unix_ns: int = 0,
    hours: Floats | None = None,
) -> Profile:
    """The profile of these usual sessions (SESSION_DTYPE, MIN_N of them or more), from before anybody's exposure."""
    table = LabelTable.of(label_counts(sessions, vocabulary, age_s=age_s))
    visits = Visits.of(sessions, vocabulary, table, age_s=age_s)
    return train_on(visits, table, age_s=age_s, rng=rng, trained_unix_ns=trained_unix_ns, hours=hours)


def train_on(
    visits: Visits,
    table: LabelTable,
    *,
    age_s: float,
    rng: np.random.Generator,
    trained_unix_ns: int = 0,
    hours: Floats | None = None,
) -> Profile:
    """The profile of visits that are told in the labels of `table`. Raises ValueError below MIN_N visits."""
    if len(visits) < MIN_N:
        raise ValueError(f"a profile needs at least {MIN_N} sessions, not {len(visits)}")
    order = rng.permutation(len(visits))
    learning, calibrating = visits.take(order[::2]), visits.take(order[1::2])
    oddity, agreement = Oddity.learn(learning, table, rng)
    return Profile(
        age_s=float(age_s),
        oddity=oddity,
        calibration=np.sort(oddity.scores(calibrating)),
        use=(label_counts_of(visits.paths, len(table)) > 0).mean(axis=0),
        hours=np.full(WEEK_H, np.nan) if hours is None else hours,
        agreement=agreement,
        n_sessions=len(visits),
        trained_unix_ns=trained_unix_ns,
        fingerprint=_fingerprint(visits, table),
    )


def _fingerprint(visits: Visits, table: LabelTable) -> str:
    digest = hashlib.blake2b("\n".join(table.labels).encode(), digest_size=16)
    for array in (visits.paths.lengths, visits.paths.steps, visits.seconds):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
