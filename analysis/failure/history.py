"""From rollouts that were recorded to facts: what was known of each one when it began, and of one that begins now."""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypedDict

from analysis.failure.facts import (
    LONGEST_TEXT,
    MOST_ATTRIBUTES,
    Attribute,
    FirstMinutes,
    PastRelease,
    ReleaseFacts,
)

SIZE, KIND = "size", "kind"
"""Attributes with a meaning of their own: how large a change is, a number >= 0, and what kind of change, a name."""

LARGEST = 1e100  # number that is looked at: the square of a larger one may be none
RECORD_N = 200  # a service's newest rollouts, that are its record


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRollout:
    """One rollout as it was recorded. Times in seconds since 1970; `ended_s` None: it runs.

    `failed` None: nobody knows. `attributes`: what was told of the release when it began.
    """

    service: str
    began_s: float
    ended_s: float | None
    failed: bool | None
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    first: FirstMinutes | None = None


class Past:
    """Rollouts by the time at which they began, as facts of later ones are told from. `add` them in that order."""

    def __init__(self, rollouts: Iterable[PastRollout] = ()) -> None:
        self._own: defaultdict[str, deque[PastRollout]] = defaultdict(lambda: deque(maxlen=RECORD_N))
        self._open: list[PastRollout] = []
        for rollout in sorted(rollouts, key=lambda each: each.began_s):
            self.add(rollout)

    def add(self, rollout: PastRollout) -> None:
        """Add the newest one."""
        self._own[rollout.service].append(rollout)
        self._open = [each for each in self._open if each.ended_s is None or each.ended_s > rollout.began_s]
        self._open.append(rollout)

    def facts(self, service: str, attributes: Mapping[str, Attribute], began_s: float) -> ReleaseFacts:
        """What is known of a release that begins at `began_s`, which is not before any that was added."""
        own = self._own.get(service, ())
        over = [
            each for each in own if each.ended_s is not None and each.ended_s <= began_s and each.failed is not None
        ]
        running = (each for each in self._open if each.ended_s is None or each.ended_s > began_s)
        at = datetime.fromtimestamp(began_s, tz=UTC)
        return ReleaseFacts(
            service=service,
            releases=len(over),
            failures=sum(bool(each.failed) for each in over),
            hour=at.hour + at.minute / 60 + at.second / 3_600,
            weekday=at.weekday(),
            overlapping=sum(each.service != service for each in running),
            since_last_h=max(began_s - own[-1].began_s, 0.0) / 3_600 if own else None,
            **_told(attributes),
        )


def releases_of(rollouts: Iterable[PastRollout]) -> tuple[PastRelease, ...]:
    """Those of which it is known whether they failed, in the order in which they began, with what was known then."""
    past, found = Past(), []
    for each in sorted(rollouts, key=lambda each: each.began_s):
        if each.failed is not None:
            facts = past.facts(each.service, each.attributes, each.began_s)
            found.append(PastRelease(facts=facts, failed=each.failed, began_s=each.began_s, first=each.first))
        past.add(each)
    return tuple(found)


class _Told(TypedDict):
    size: float | None
    kind: str | None
    attributes: Mapping[str, Attribute]


def _told(attributes: Mapping[str, Attribute]) -> _Told:
    """What was told of a release. A value that cannot be looked at counts as unknown."""
    fitting = {name: attributes[name] for name in sorted(attributes) if _fits(name, attributes[name])}
    size, kind = fitting.pop(SIZE, None), fitting.pop(KIND, None)
    return {
        "size": float(size) if size is not None and not isinstance(size, str) and size >= 0 else None,
        "kind": None if kind is None else str(kind),
        "attributes": dict(itertools.islice(fitting.items(), MOST_ATTRIBUTES)),
    }


def _fits(name: str, value: Attribute) -> bool:
    """Whether an attribute can be looked at; one that cannot counts as unknown."""
    if len(name) > LONGEST_TEXT:
        return False
    return len(value) <= LONGEST_TEXT if isinstance(value, str) else abs(value) <= LARGEST
