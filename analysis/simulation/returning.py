"""People between two sessions: who comes again, and what they have been through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Users = npt.NDArray[np.uint64]
Marks = npt.NDArray[np.uint8]

BEEN_ON_CANARY, WAS_HIT = np.uint8(1), np.uint8(2)
"""Marks of a person: an earlier session was on the canary; a fault of the canary hit the newest one."""
NEW_USER = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Comers:
    """People who begin a session: (n,) hashes, and marks."""

    users: Users
    marks: Marks


class Returning:
    """People of one kind who come again: at first they stay away for `pause_s`, so that it is another session.

    Each session is one of somebody who has been there before with probability `share`, as long as there is somebody;
    each person comes again with that probability. Both flows being equal, there are as many who wait as at the start:
    `rate_per_s` sessions a second, `again_s` from the end of one session to the next on average.
    """

    def __init__(
        self, *, share: float, rate_per_s: float, pause_s: float, again_s: float, rng: np.random.Generator
    ) -> None:
        self.share = share
        self._pause_s = pause_s
        flow = rate_per_s * share
        away = int(rng.poisson(flow * pause_s))
        ready = int(rng.poisson(flow * max(again_s - pause_s, 0.0)))
        self._away_until_s = np.sort(rng.uniform(0, pause_s, away))
        self._away = _newcomers(away, rng)
        self._ready = _newcomers(ready, rng)

    def leave(self, people: Comers, at_s: float, rng: np.random.Generator) -> None:
        """People whose session is over; some of them come again."""
        stays = rng.random(len(people.users)) < self.share
        self._away = _joined(self._away, Comers(users=people.users[stays], marks=people.marks[stays]))
        self._away_until_s = np.append(self._away_until_s, np.full(int(stays.sum()), at_s + self._pause_s))

    def come(self, n: int, now_s: float, rng: np.random.Generator) -> Comers:
        """Who begins `n` sessions now: old acquaintances and new people."""
        back = int(np.searchsorted(self._away_until_s, now_s, side="right"))
        if back:
            self._ready = _joined(self._ready, _part(self._away, slice(None, back)))
            self._away, self._away_until_s = _part(self._away, slice(back, None)), self._away_until_s[back:]
        n_known = min(int(rng.binomial(n, self.share)), len(self._ready.users))
        n_ready = len(self._ready.users)
        chosen = rng.choice(n_ready, n_known, replace=False, shuffle=False) if n_known else np.empty(0, np.int64)
        known, self._ready = _part(self._ready, chosen), _without(self._ready, chosen)
        return _joined(known, _newcomers(n - n_known, rng))


def _newcomers(n: int, rng: np.random.Generator) -> Comers:
    return Comers(users=rng.integers(1, NEW_USER, n, dtype=np.uint64), marks=np.zeros(n, np.uint8))


def _joined(one: Comers, other: Comers) -> Comers:
    if not len(other.users):
        return one
    users, marks = ([getattr(each, name) for each in (one, other)] for name in ("users", "marks"))
    return Comers(users=np.concatenate(users), marks=np.concatenate(marks))


def _part(people: Comers, which: slice | npt.NDArray[np.int64]) -> Comers:
    return Comers(users=people.users[which], marks=people.marks[which])


def _without(people: Comers, which: npt.NDArray[np.int64]) -> Comers:
    if not len(which):
        return people
    keep = np.ones(len(people.users), np.bool_)
    keep[which] = False
    return Comers(users=people.users[keep], marks=people.marks[keep])
