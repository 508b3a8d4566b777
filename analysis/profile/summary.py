"""What a profile says, for people to read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.profile.profile import Profile

STEPS_MAX = 8  # of a kind's way that are told
USES_MAX = 12
HOURS_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of visits: its share of all, in [0, 1], and its likeliest way, step by step."""

    share: float
    way: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`kinds`: of visits, the largest first. `uses`: what most visits do, with their share in [0, 1].

    `busiest`: hours of the week (0 is Thursday's first, UTC) with most sessions, and how many are usual there.
    """

    kinds: tuple[Kind, ...]
    uses: tuple[tuple[str, float], ...]
    busiest: tuple[tuple[int, float], ...]


def summary(profile: Profile) -> Summary:
    """The profile in short."""
    mixture, labels = profile.oddity.mixture, profile.labels
    order = np.argsort(-mixture.shares, kind="stable")
    common = np.argsort(-profile.use, kind="stable")[:USES_MAX]
    known = np.flatnonzero(np.isfinite(profile.hours))
    busiest = known[np.argsort(-profile.hours[known], kind="stable")[:HOURS_MAX]]
    return Summary(
        kinds=tuple(Kind(share=float(mixture.shares[k]), way=_way(mixture.rows[k], labels)) for k in order.tolist()),
        uses=tuple((labels[i], float(profile.use[i])) for i in common.tolist() if profile.use[i] > 0),
        busiest=tuple((int(hour), float(profile.hours[hour])) for hour in busiest.tolist()),
    )


def _way(chances: np.ndarray[tuple[int, int], np.dtype[np.float64]], labels: tuple[str, ...]) -> tuple[str, ...]:
    """The likeliest step after the likeliest step, until the end or one that was there already."""
    edge = len(labels)
    way: list[int] = []
    at = edge
    while len(way) < STEPS_MAX:
        at = int(np.argmax(chances[at]))
        if at == edge or at in way:
            break
        way.append(at)
    return tuple(labels[i] for i in way)
