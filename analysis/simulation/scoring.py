"""What policies come to on releases that chose nothing: harm of bad ones, time of good ones, at three loads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.policy import (
    BudgetPolicy,
    LearnedPolicy,
    Policy,
    PolicyView,
    Proposal,
    QValues,
    WholeCapPolicy,
)
from analysis.policy.learned import SHARES, state_of
from analysis.simulation.draws import Release, draw
from analysis.simulation.rollouts import Rollouts
from analysis.spec import TOTAL_BP

Floats = npt.NDArray[np.float64]

LOADS = (2.0, 20.0, 200.0)  # sessions a second
RUNS = 4  # rollouts of each release
TICKS = 160
NOT_TRAINING = 1_000_003  # keeps seeds that score apart from those that train
SURE = 2.0  # standard errors


@dataclass(slots=True)
class Counting:
    """A policy whose choices are counted, as shares of the room."""

    inner: LearnedPolicy
    counts: npt.NDArray[np.int64]
    name: str = "learned"

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:
        if view.cap > view.split:
            self.counts[self.inner.choose(state_of(view), rng=rng)[0]] += 1
        return self.inner.propose(view, rng=rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """By release: mean weighted harm of bad ones, and minutes until everybody has a good one (TICKS where never).

    `promoted_good`, `promoted_bad`: shares of rollouts.
    """

    harm: Floats
    minutes: Floats
    promoted_good: float
    promoted_bad: float


def scores_of(values: QValues, *, seed: int, n: int) -> dict[str, object]:
    """Scores at LOADS of `learned`, `budget` and the whole cap, on n good releases and 2n bad ones each.

    With the finding, and how often `learned` chose which share of the room.
    """
    learned = Counting(LearnedPolicy(values), np.zeros(len(SHARES), np.int64))
    policies: tuple[Policy, ...] = (learned, BudgetPolicy(), WholeCapPolicy())
    rivals = [policy.name for policy in policies[1:]]
    found = {
        load: {policy.name: score(policy, seed=seed, load=load, n=n) for policy in policies} for load in LOADS
    }  # fmt: skip
    finding = {
        rival: {f"{load:g}": compared(row["learned"], row[rival]) for load, row in found.items()} for rival in rivals
    }
    return {
        "scores": {f"{load:g}": {name: told(each) for name, each in row.items()} for load, row in found.items()},
        "finding": finding,
        "is_better": all(is_better(list(by_load.values())) for by_load in finding.values()),
        "actions": dict(zip(map(str, SHARES), learned.counts.tolist(), strict=True)),
    }


def score(policy: Policy, *, seed: int, load: float, n: int) -> Score:
    """Play n good releases and 2n bad ones at a load."""
    good = [_played(policy, seed, i, load, bad=False) for i in range(n)]
    bad = [_played(policy, seed, n + i, load, bad=True) for i in range(2 * n)]
    return Score(
        harm=np.array([harm.mean() for harm, _, _ in bad]),
        minutes=np.array([minutes.mean() for _, minutes, _ in good]),
        promoted_good=float(np.mean([promoted.mean() for _, _, promoted in good])),
        promoted_bad=float(np.mean([promoted.mean() for _, _, promoted in bad])),
    )


def _played(
    policy: Policy, seed: int, index: int, load: float, *, bad: bool
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """(RUNS,) harm, minutes to full, and whether everybody has the release in the end."""
    key = (seed, NOT_TRAINING, round(load * 10), index)
    return play(draw(np.random.default_rng(key), load=load, bad=bad), policy, seed=(*key, 1))


def play(release: Release, policy: Policy, *, seed: tuple[int, ...]) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """RUNS rollouts of a release: harm, minutes to full (those of TICKS where never), whether full in the end."""
    rollouts = Rollouts(release, [policy] * RUNS, seed)
    interval_s = release.spec.rollout.interval_s
    full_s = np.full(RUNS, TICKS * interval_s)
    for _ in range(TICKS):
        rollouts.tick()
        is_full = (rollouts.ramps.split_bp >= TOTAL_BP).all(axis=1)
        full_s = np.where(is_full, np.minimum(full_s, rollouts.people.now_s), full_s)
        if rollouts.ramps.is_finished.all():
            break
    promoted: npt.NDArray[np.bool_] = np.all(rollouts.ramps.split_bp >= TOTAL_BP, axis=1)
    return rollouts.harm, full_s / 60, promoted


def told(score: Score) -> dict[str, float]:
    return {
        "harm_of_bad": round(float(score.harm.mean()), 2),
        "minutes_of_good": round(float(score.minutes.mean()), 3),
        "good_promoted": round(score.promoted_good, 4),
        "bad_promoted": round(score.promoted_bad, 4),
    }


def compared(one: Score, other: Score) -> str:
    """In harm and in time, release by release: 'better', 'worse' or 'level', `one` against `other`.

    Better: in one of both by SURE standard errors, and not worse in the other; worse: worse in either.
    """
    signs = [_sign(one.harm - other.harm), _sign(one.minutes - other.minutes)]
    word = "worse" if 1 in signs else "better" if -1 in signs else "level"
    harm, minutes = (float(d.mean()) for d in (one.harm - other.harm, one.minutes - other.minutes))
    return f"{word}: {harm:+.2f} bad sessions, {minutes:+.3f} minutes"


def _sign(differences: Floats) -> int:
    error = float(differences.std(ddof=1)) / np.sqrt(len(differences)) if len(differences) > 1 else np.inf
    mean = float(differences.mean())
    return int(np.sign(mean)) if abs(mean) > SURE * error else 0


def is_better(findings: list[str]) -> bool:
    """Better at two loads of three and worse at none."""
    words = [finding.partition(":")[0] for finding in findings]
    return words.count("better") >= 2 and "worse" not in words
