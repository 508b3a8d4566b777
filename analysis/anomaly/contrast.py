"""In what the sessions of a canary differ from those of its baseline, by name, for people to read.

It is no evidence: it is looked at when something has been found, and says where to look. Each difference is a test of
its own; those are told that stand out among all of them (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.stats import fisher_exact, mannwhitneyu, norm

from analysis.profile.features import NAMES, Visits, features
from analysis.profile.paths import Ints, LabelTable, Rows, label_counts

Floats = npt.NDArray[np.float64]

RISK = 0.05  # chance that anything at all is named where nothing differs
LABELS_MAX = 256
WAYS_MAX = 200  # steps from one label to another that are compared: the commonest
DID_MIN = 10  # sessions of both sides that did what is compared, and that did not, and
SEEN_MIN = 20  # sessions of each side, from which on shares are as good as normal; below, Fisher's exact test
EXACT_MIN = 4  # the same, below which nothing is said: no table so small stands out


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One feature of a segment's sessions, on either side.

    `baseline`, `canary`: shares of sessions in [0, 1], or means where `is_share` is false. `z`: how far apart they are,
    in standard deviations of chance; above 0 where the canary has more.
    """

    name: str
    baseline: float
    canary: float
    z: float
    is_share: bool

    def __str__(self) -> str:
        before, after = (f"{100 * x:.3g} %" if self.is_share else f"{x:.3g}" for x in (self.baseline, self.canary))
        return f"{self.name}: {before} → {after}"


def contrast(
    baseline: Rows, canary: Rows, labels: Sequence[str], *, age_s: float, limit: int = 5
) -> tuple[Difference, ...]:
    """What stands out between two groups of sessions (SESSION_DTYPE) `age_s` after their start, clearest first."""
    counts = label_counts(baseline, labels, age_s=age_s)
    for label, count in label_counts(canary, labels, age_s=age_s).items():
        counts[label] = counts.get(label, 0) + count
    table = LabelTable.of(counts, LABELS_MAX)
    sides = tuple(Visits.of(sessions, labels, table, age_s=age_s) for sessions in (baseline, canary))
    if min(map(len, sides)) == 0:
        return ()
    found = _standing_out([*_shares(sides[0], sides[1], table), *_numbers(sides[0], sides[1], table)])
    named: list[Difference] = []
    for difference in found:
        if not _is_told(difference, named):
            named.append(difference)
    return tuple(named[:limit])


def _standing_out(differences: list[Difference]) -> list[Difference]:
    ranked = sorted(differences, key=lambda difference: -abs(difference.z))
    for place, difference in enumerate(ranked):
        if 2 * norm.sf(abs(difference.z)) * (len(ranked) - place) > RISK:
            return ranked[:place]
    return ranked


def _is_told(difference: Difference, named: Sequence[Difference]) -> bool:
    """Whether a way from one label to another is clear from what is named: that it, or leaving, is more or less."""
    before, arrow, after = difference.name.partition(" → ")
    return bool(arrow) and any(other.name in (after, f"left after {before}") for other in named)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """How many sessions of one side saw each label, left after it, and went each way (codes a·L + b)."""

    n: int
    saw: Ints
    left: Ints
    went: dict[int, int]

    @classmethod
    def of(cls, visits: Visits, n_labels: int) -> Self:
        paths = visits.paths
        saw = np.unique(paths.owner * n_labels + paths.steps) % n_labels
        ends = np.cumsum(paths.lengths)[paths.lengths > 0] - 1
        same = paths.owner[1:] == paths.owner[:-1]
        ways = (paths.steps[:-1] * n_labels + paths.steps[1:])[same]
        once = np.unique(paths.owner[1:][same] * n_labels**2 + ways) % n_labels**2
        codes, counts = np.unique(once, return_counts=True)
        return cls(
            n=len(visits),
            saw=np.bincount(saw, minlength=n_labels),
            left=np.bincount(paths.steps[ends], minlength=n_labels),
            went=dict(zip(codes.tolist(), counts.tolist(), strict=True)),
        )


def _shares(baseline: Visits, canary: Visits, table: LabelTable) -> list[Difference]:
    n_labels = len(table)
    a, b = _Side.of(baseline, n_labels), _Side.of(canary, n_labels)
    found = []
    for number, label in enumerate(table.labels):
        found.append(_share(label, (int(a.saw[number]), a.n), (int(b.saw[number]), b.n)))
        left = ((int(side.left[number]), int(side.saw[number])) for side in (a, b))
        found.append(_share(f"left after {label}", *left))
    ways = sorted(a.went.keys() | b.went.keys(), key=lambda way: (-a.went.get(way, 0) - b.went.get(way, 0), way))
    for way in ways[:WAYS_MAX]:
        before, after = divmod(way, n_labels)
        went = ((side.went.get(way, 0), int(side.saw[before])) for side in (a, b))
        found.append(_share(f"{table.labels[before]} → {table.labels[after]}", *went))
    return [difference for difference in found if difference is not None]


def _share(name: str, baseline: tuple[int, int], canary: tuple[int, int]) -> Difference | None:
    """The difference of two shares, each (sessions that did, sessions that could)."""
    (did_a, n_a), (did_b, n_b) = baseline, canary
    did, n = did_a + did_b, n_a + n_b
    if min(n_a, n_b, did, n - did) < EXACT_MIN:
        return None
    pooled, more = did / n, did_b / n_b - did_a / n_a
    z = more / np.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    if min(n_a, n_b) < SEEN_MIN or min(did, n - did) < DID_MIN:
        two_sided = fisher_exact([[did_a, n_a - did_a], [did_b, n_b - did_b]]).pvalue
        z = np.sign(more) * norm.isf(max(float(two_sided), 1e-300) / 2)
    return Difference(name=name, baseline=did_a / n_a, canary=did_b / n_b, z=float(z), is_share=True)


def _numbers(baseline: Visits, canary: Visits, table: LabelTable) -> list[Difference]:
    found = []
    for name, a, b in zip(NAMES, features(baseline, table).T, features(canary, table).T, strict=True):
        if min(len(a), len(b)) >= SEEN_MIN and len(np.unique(np.concatenate([a, b]))) > 1:
            two_sided = float(mannwhitneyu(b, a, method="asymptotic").pvalue)
            z = float(norm.isf(max(two_sided, 1e-300) / 2) * np.sign(b.mean() - a.mean()))
            found.append(Difference(name=name, baseline=float(a.mean()), canary=float(b.mean()), z=z, is_share=False))
    return found
