"""Click paths of msnbc.com's visitors: bits an event, false alarms, and planted visits found.

Protocol: sessions in the order of the file, each cut after 100 events; the first 80,000 train, the next 40,000 test.
The end of a session is no event. For the scores one half of the training sessions calibrates.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from sklearn.metrics import adjusted_rand_score

from analysis.profile.chains import MAX_CLUSTERS, fit
from analysis.profile.clusters import fit_clusters
from analysis.profile.features import Visits
from analysis.profile.paths import OTHER, Ints, LabelTable, Paths
from analysis.profile.profile import Profile, train_on

TRAIN_N, TEST_N, EVENTS_MAX = 80_000, 40_000, 100
CATEGORIES = 17
TABLE = LabelTable((OTHER, *(f"page {category}" for category in range(1, CATEGORIES + 1))))
LEVEL = 0.05
KINDS = ("loops", "jumps", "cut_short")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    train: Paths
    test: Paths


def read(archive: Path) -> Split:
    """The training and test sessions of msnbc_first_200000.seq.xz, categories numbered from 1."""
    with lzma.open(archive, "rt") as file:
        sessions = [line.split()[:EVENTS_MAX] for line in file if line[:1].isdigit()]
    paths = [np.array(session, np.int64) for session in sessions[: TRAIN_N + TEST_N]]
    return Split(train=Paths.of(paths[:TRAIN_N]), test=Paths.of(paths[TRAIN_N:]))


def read_planted(folder: Path) -> dict[str, Paths]:
    """The planted visits by kind."""
    return {kind: _planted((folder / f"{kind}.txt").read_text(encoding="ascii").splitlines()) for kind in KINDS}


def _planted(lines: Sequence[str]) -> Paths:
    return Paths.of([int(category) for category in line.split()] for line in lines)


def bits(split: Split, seed: int) -> dict[str, object]:
    """Bits an event on the test sessions: of the clusters that are stable, of the likeliest, and of one chain."""
    train, test = (Paths(steps=paths.steps - 1, lengths=paths.lengths) for paths in (split.train, split.test))
    rng = np.random.default_rng(seed)
    stable, stability = fit_clusters(train, CATEGORIES, rng, exits=False)
    likeliest = fit(train, CATEGORIES, MAX_CLUSTERS, rng, exits=False)
    one = fit(train, CATEGORIES, 1, rng, exits=False)
    return {
        "stable_clusters": stable.n_clusters,
        "stable_agreement": {str(k): round(value, 3) for k, value in stability.agreement.items()},
        "stable_bits_an_event": round(stable.bits_an_event(test), 4),
        "stable_bits_an_event_in_training": round(stable.bits_an_event(train), 4),
        "likeliest_clusters": likeliest.n_clusters,
        "likeliest_bits_an_event": round(likeliest.bits_an_event(test), 4),
        "one_chain_bits_an_event": round(one.bits_an_event(test), 4),
    }


def agreement_of_chains(split: Split, seed: int, *, trainings: int = 3, reference_n: int = 10_000) -> float:
    """Mean adjusted Rand index of the final clusters of trainings on resampled sessions, chains and all."""
    rng = np.random.default_rng(seed)
    reference = split.train.take(first(reference_n))
    assigned = []
    for _ in range(trainings):
        resampled = split.train.take(rng.integers(0, len(split.train), len(split.train)))
        assigned.append(fit_clusters(resampled, len(TABLE), rng)[0].assign(reference))
    return float(np.mean([adjusted_rand_score(a, b) for a, b in combinations(assigned, 2)]))


def first(n: int) -> Ints:
    return np.arange(n)


def visits(paths: Paths) -> Visits:
    """The data have no times."""
    return Visits(paths=paths, seconds=np.zeros(len(paths)))


def train(split: Split, seed: int, n: int = TRAIN_N) -> Profile:
    """A profile of the first n training sessions."""
    return train_on(visits(split.train.take(first(n))), TABLE, age_s=60.0, rng=np.random.default_rng(seed))


def alarms(profile: Profile, split: Split, planted: dict[str, Paths]) -> dict[str, object]:
    """Share of test sessions, and of planted visits, with a p-value below LEVEL."""
    found = {kind: float((profile.p_values(visits(paths)) < LEVEL).mean()) for kind, paths in planted.items()}
    false_alarms = float((profile.p_values(visits(split.test)) < LEVEL).mean())
    return {
        "level": LEVEL,
        "false_alarm_rate": round(false_alarms, 4),
        "found": {kind: round(share, 4) for kind, share in found.items()},
        "found_in_all": round(float(np.mean(list(found.values()))), 4),
    }
