"""Whose fault is it: releases that ran at once share the blame for what broke elsewhere, by time and by who calls whom.

As Gandalf does (Li et al., NSDI 2020, section 4.3), a release is vetoed by faults older than itself, blame falls off
with the time since it began to serve and with its distance, and is shared where that leaves several.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.change.faults import Fault
from analysis.change.series import Edge

JITTER = 0.25  # of a tick: measurements of the same tick come so far apart
PROMPT_S = 60.0  # blame is a quarter at so long between a canary's first word and the fault (at least a tick)
NEARER = 0.5  # and falls by this with each call between them
EXONERATED = 0.1  # times it where the old version of the service fails as well: its canary cannot have done that
NOBODY = 0.05  # weight of a fault that no release has to do with
REACH = 2  # calls within which what was found of a release itself explains a fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A release as it may be blamed: seconds after the first began. `heard_s`: its canary's first measurement."""

    service: str
    started_s: float
    heard_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What of a fault is put on one release, in [0, 1], and why, in words."""

    share: float
    reason: str


def graph(edges: Iterable[Edge]) -> Mapping[str, frozenset[str]]:
    """Whom each service calls."""
    calls: dict[str, set[str]] = {}
    for caller, callee in edges:
        if caller != callee:
            calls.setdefault(caller, set()).add(callee)
    return {caller: frozenset(callees) for caller, callees in calls.items()}


def roots(found: Sequence[Fault], calls: Mapping[str, frozenset[str]]) -> list[Fault]:
    """Faults that no other explains: callers fail after whom they call; whom nobody calls any more falls silent."""
    failing = [fault for fault in found if not fault.is_silent]
    deepest = [
        fault for fault in failing
        if not any(_below(fault.place.edge, other.place.edge, calls) for other in failing)
    ]  # fmt: skip
    starved = [fault for fault in found if fault.is_silent]
    ill_callees = {fault.place.edge.callee for fault in found}
    return deepest + [fault for fault in starved if fault.place.edge.caller not in ill_callees]


def _below(edge: Edge, other: Edge, calls: Mapping[str, frozenset[str]]) -> bool:
    """Whether the other edge's failing would make this one fail."""
    if edge.callee == other.callee:
        return False
    steps = distance(edge.callee, other.caller, calls)
    return steps is not None and distance(other.callee, edge.caller, calls) is None


def distance(caller: str, callee: str, calls: Mapping[str, frozenset[str]]) -> int | None:
    """Fewest calls from one service to the other; None where there is no way."""
    reached, edge, steps = {caller}, {caller}, 0
    while edge:
        if callee in edge:
            return steps
        edge = {after for before in edge for after in calls.get(before, ())} - reached
        reached |= edge
        steps += 1
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An edge at which an incident shows. `seen_by`: services whose old instances saw it fail.

    `callee_is_well`: all other callers of the callee are.
    """

    edge: Edge
    seen_by: frozenset[str]
    callee_is_well: bool


def sites(found: Sequence[Fault], calls: Mapping[str, frozenset[str]]) -> list[Site]:
    """Where an incident begins to show: the edges of those faults that no other explains."""
    ill = {fault.place.edge for fault in found}
    seen_by: dict[Edge, set[str]] = {}
    for fault in roots(found, calls):
        seen_by.setdefault(fault.place.edge, set()).add(fault.place.observer)
    return [
        Site(edge=edge, seen_by=frozenset(observers), callee_is_well=_is_well(edge, ill, calls))
        for edge, observers in seen_by.items()
    ]


def _is_well(edge: Edge, ill: set[Edge], calls: Mapping[str, frozenset[str]]) -> bool:
    others = {Edge(caller, edge.callee) for caller, callees in calls.items() if edge.callee in callees} - {edge}
    return bool(others) and not others & ill


def closeness(service: str, site: Site, calls: Mapping[str, frozenset[str]]) -> int | None:
    """How many calls lie between a service and a site. None: it has nothing to do with it.

    What the callee needs comes first, then the caller and what it needs. Where other callers of the callee are well,
    it is the caller that comes first.
    """
    down, side = distance(site.edge.callee, service, calls), distance(site.edge.caller, service, calls)
    near = [] if down is None else [down + (1 if site.callee_is_well else 0)]
    if side is not None:
        near.append(side + (0 if site.callee_is_well else 1))
    return min(near, default=None)


def shares(
    where: Sequence[Site], suspects: Mapping[str, Suspect], calls: Mapping[str, frozenset[str]], *,
    onset_s: float, interval_s: float,
) -> dict[str, Share]:  # fmt: skip
    """What of an incident that began at `onset_s` is put on each release, by its name. The rest is nobody's.

    A release weighs what it weighs at the site that speaks most against it.
    """
    weights = {
        name: max(_weight(site, suspect, calls, onset_s=onset_s, interval_s=interval_s) for site in where)
        for name, suspect in suspects.items()
    }
    total = sum(weight for weight, _ in weights.values()) + NOBODY
    return {name: Share(share=weight / total, reason=reason) for name, (weight, reason) in weights.items()}


def _weight(
    site: Site, suspect: Suspect, calls: Mapping[str, frozenset[str]], *, onset_s: float, interval_s: float
) -> tuple[float, str]:
    since_s = suspect.started_s if suspect.heard_s is None else suspect.heard_s
    if since_s > onset_s + JITTER * interval_s:
        return 0.0, "the fault is older than it"
    near = closeness(suspect.service, site, calls)
    if near is None:
        return 0.0, "no calls lead from the fault to it"
    late_s = max(onset_s - since_s, 0.0)
    weight = NEARER**near / (1 + late_s / max(PROMPT_S, interval_s)) ** 2
    reason = f"it began to serve {late_s / 60:.0f} min before the fault, {near} calls away from it"
    if suspect.service in site.seen_by:
        return weight * EXONERATED, f"{reason}; but its old version fails as well"
    return weight, reason
