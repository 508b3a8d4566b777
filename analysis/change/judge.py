"""The verdict on releases that ran at the same time, from their value series: rollback, keep or hold, when and why.

A pure function of the data up to now. Called again with more data it comes to the same findings at the same times, and
perhaps to more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.change.arms import WINDOW, contrast
from analysis.change.before_after import REACTION, Jump, TooShort, jump
from analysis.change.blame import REACH, Share, Suspect, closeness, graph, shares, sites
from analysis.change.faults import Fault, Health, health
from analysis.change.finding import Finding, Ground, Judgement, Verdict
from analysis.change.kpis import kind_of
from analysis.change.series import (
    BASELINE,
    CANARY,
    Edge,
    Flags,
    Floats,
    Release,
    Series,
    Stream,
    grid,
    mean,
    span,
    streams,
)
from analysis.change.silence import silence

SETTLE_S, SETTLE_TICKS = 120.0, 2  # a new version has nothing to say at first; the longer of the two
STICKY = 0.5  # of a tick on an edge: calls stick to connections, so that one without a call makes the next likely
PATIENCE = 10  # ticks after the newest suspect began until anybody is blamed: a silent one is known by then
BLAMED = 0.5  # share of a fault from which on a release is taken back for it: more likely than not
SUSPECTED = 0.2  # and from which on it is not kept without somebody having looked


@dataclass(frozen=True, slots=True, kw_only=True)
class _Own:
    """What is known of a release by itself.

    `short`: ticks of history that are missing; `heard_s`: when its canary was first measured; `watched`: ticks since
    it began.
    """

    findings: list[Finding]
    first: int
    ticks: int
    heard_s: float | None
    short: int
    watched: int

    @property
    def worst(self) -> Finding | None:
        decisive = [each for each in self.findings if each.ground is not Ground.RESOURCES]
        return min(decisive, key=lambda each: (each.at_unix_s, each.p), default=None)


def judge(releases: Sequence[Release], *, now_unix_s: float) -> tuple[Judgement, ...]:
    """A judgement of each release, in their order; `releases` ran at the same time, `now_unix_s` ends the data.

    Nothing after now is looked at. A release without any series is held: nothing is known of it.
    """
    if not releases:
        return ()
    seen = [release.until(now_unix_s) for release in releases]
    system = health(seen)
    own = {release.rollout: _own(release, system) for release in seen}
    blamed = _blamed(seen, own, system)
    return tuple(_judgement(release, own[release.rollout], blamed.get(release.rollout), now_unix_s) for release in seen)


# -- a release by itself -----------------------------------------------------------------------------------------------


def _own(release: Release, system: Health) -> _Own:
    mine = release.own()
    first, ticks = span(release.series, release.interval_s)
    canary = [each for each in mine if each.arm == CANARY and each.at_s[-1] > 0]
    heard_s = min((float(each.at_s[each.at_s > 0][0]) for each in canary), default=None)
    known = streams(mine)
    n_places = len(known) + 1
    findings: list[Finding] = []
    short = 0
    beside = _beside(mine)
    for stream, series in known.items():
        arms = [
            grid([each for each in series if each.arm == arm], interval_s=release.interval_s, first=first, ticks=ticks)
            for arm in (BASELINE, CANARY)
        ]
        if not beside:
            found = _jumped(release, stream, arms, -first)
            short = max(short, found.ticks) if isinstance(found, TooShort) else short
            findings += [found] if isinstance(found, Finding) else []
            continue
        findings += _compared(release, stream, arms, -first, n_places)
        if stream.edge is not None and kind_of(stream.kpi).decisive:
            counts = _has_to_say(release, stream.edge, system, first, ticks)
            findings += _silent_on(release, stream, arms, -first, n_places, counts)
    if beside:
        findings += _silent(release, mine, first, ticks, n_places)
    findings.sort(key=lambda each: (each.at_unix_s, each.p))
    watched = max(ticks + first, 0)
    return _Own(findings=findings, first=first, ticks=ticks, heard_s=heard_s, short=short, watched=watched)


def _beside(series: Sequence[Series]) -> bool:
    """Whether the baseline spoke after the release began, so that the canary has something to be compared with."""
    return any(each.arm == BASELINE and each.at_s[-1] > 0 for each in series)


def _at(release: Release, tick: int) -> float:
    """When a tick is over."""
    return release.started_unix_s + (tick + 1) * release.interval_s


def _compared(release: Release, stream: Stream, arms: list[Floats], start: int, n_places: int) -> list[Finding]:
    kind = kind_of(stream.kpi)
    baseline, canary = arms
    if not len(baseline) or start < 0:
        return []
    if not len(canary):
        return []
    apart = contrast(baseline, canary, start, kind, n_places=n_places)
    if apart is None:
        return []
    ground = Ground.CONTRAST if kind.decisive else Ground.RESOURCES
    words = f"{stream}: {apart.canary:.4g} on the canary, {apart.baseline:.4g} on the baseline"
    return [_finding(release, ground, stream, apart.tick, apart.p, apart.effect, words)]


def _has_to_say(release: Release, edge: Edge, system: Health, first: int, ticks: int) -> Flags:
    """(ticks,) whether a canary that works would have been heard on an edge: its caller is called, and well.

    Calls that the canary makes itself count where it was called; where nobody is known to call it, always.
    """
    if edge.caller != release.service:
        middles = np.arange(first, first + ticks, dtype=np.float64) + 0.5
        middles = release.started_unix_s + middles * release.interval_s
        return ~system.is_ill(edge.caller, middles, release.interval_s)
    calls_in = [
        each for each in release.own() if each.source.edge is not None and each.source.edge.callee == release.service
    ]
    canary = [each for each in calls_in if each.arm == CANARY]
    if not calls_in:
        return np.ones(ticks, bool)
    if not canary:
        return np.zeros(ticks, bool)
    called = np.isfinite(grid(canary, interval_s=release.interval_s, first=first, ticks=ticks)).any(axis=0)
    return np.asarray(called, bool)


def _silent_on(
    release: Release, stream: Stream, arms: list[Floats], start: int, n_places: int, counts: Flags
) -> list[Finding]:
    baseline, canary = arms
    if not len(baseline) or start < 0:
        return []
    nobody = np.full((1, baseline.shape[1]), np.nan)
    quiet = silence(
        baseline, canary if len(canary) else nobody, start,
        settle_ticks=_settle(release), n_places=n_places, counts=counts, weight=STICKY,
    )  # fmt: skip
    if quiet is None:
        return []
    words = f"the canary was not heard on {stream.edge} for {quiet.ticks} ticks, while the baseline was"
    return [_finding(release, Ground.SILENCE, stream, quiet.tick, quiet.p, float("nan"), words)]


def _settle(release: Release) -> int:
    return max(SETTLE_TICKS, round(SETTLE_S / release.interval_s))


def _silent(release: Release, mine: Sequence[Series], first: int, ticks: int, n_places: int) -> list[Finding]:
    """Of the canary as a whole: not a word, of any KPI at any place."""
    arms = [
        grid([each for each in mine if each.arm == arm], interval_s=release.interval_s, first=first, ticks=ticks)
        for arm in (BASELINE, CANARY)
    ]
    nobody = np.full((1, ticks), np.nan)
    quiet = silence(
        arms[0], arms[1] if len(arms[1]) else nobody, -first, settle_ticks=_settle(release), n_places=n_places
    )
    if quiet is None:
        return []
    words = f"nothing was heard of the canary for {quiet.ticks} ticks, while the baseline spoke"
    whole = Stream("any KPI", "", None)
    return [_finding(release, Ground.SILENCE, whole, quiet.tick, quiet.p, float("nan"), words)]


def _jumped(release: Release, stream: Stream, arms: list[Floats], start: int) -> Finding | TooShort | None:
    kind = kind_of(stream.kpi)
    values = mean(np.concatenate([arm for arm in arms if len(arm)]))
    found = jump(values, start, kind, interval_s=release.interval_s) if start > 0 else TooShort(REACTION)
    if not isinstance(found, Jump):
        return found
    words = f"{stream}: changed by {found.effect:+.4g} right after; at other times such jumps are {found.usual:.3g}"
    ground = Ground.BEFORE_AFTER if kind.decisive else Ground.RESOURCES
    return _finding(release, ground, stream, found.tick, found.p, found.effect, words)


def _finding(
    release: Release, ground: Ground, stream: Stream, tick: int, p: float, effect: float, words: str
) -> Finding:
    return Finding(ground=ground, stream=str(stream), at_unix_s=_at(release, tick), p=p, effect=effect, words=words)


# -- releases among each other -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blame:
    share: Share
    at_unix_s: float
    fault: Fault


def _blamed(releases: Sequence[Release], own: Mapping[str, _Own], system: Health) -> dict[str, _Blame]:
    """What of a fault elsewhere is put on each release, where what was found of one of them does not explain it."""
    found = system.faults
    if not found:
        return {}
    begin, interval_s = min(each.started_unix_s for each in releases), max(each.interval_s for each in releases)
    calls = graph(_edges(releases))
    suspects = {each.rollout: _suspect(each, own[each.rollout], begin) for each in releases}
    begun = [each.started_s for each in suspects.values() if each.started_s <= found[0].onset_s]
    when_s = max([found[0].found_s, *(each + PATIENCE * interval_s for each in begun)])
    if begin + when_s > _ends(releases):
        return {}
    at_unix_s = begin + when_s
    known = [fault for fault in found if fault.found_s <= when_s]
    culprits = [
        suspects[name].service
        for name, each in own.items()
        if each.worst is not None and each.worst.at_unix_s <= at_unix_s
    ]
    where = sites(known, calls)
    near = [closeness(service, site, calls) for service in culprits for site in where]
    if any(each is not None and each <= REACH for each in near):
        return {}
    onset_s = min(fault.onset_s for fault in known)
    shown = {site.edge for site in where}
    first = next((fault for fault in known if fault.place.edge in shown), known[0])
    split = shares(where, suspects, calls, onset_s=onset_s, interval_s=interval_s)
    return {name: _Blame(share=share, at_unix_s=at_unix_s, fault=first) for name, share in split.items()}


def _edges(releases: Sequence[Release]) -> set[Edge]:
    return {each.source.edge for release in releases for each in release.series if each.source.edge is not None}


def _suspect(release: Release, own: _Own, begin_unix_s: float) -> Suspect:
    shift_s = release.started_unix_s - begin_unix_s
    return Suspect(
        service=release.service, started_s=shift_s, heard_s=None if own.heard_s is None else shift_s + own.heard_s
    )


def _ends(releases: Sequence[Release]) -> float:
    """The newest measurement of all."""
    return max(release.started_unix_s + float(each.at_s[-1]) for release in releases for each in release.series)


# -- the verdict -------------------------------------------------------------------------------------------------------


def _judgement(release: Release, own: _Own, blame: _Blame | None, now_unix_s: float) -> Judgement:
    findings = list(own.findings)
    share = 0.0 if blame is None else blame.share.share
    if blame is not None and share >= SUSPECTED:
        words = f"{blame.fault.place} failed: {share:.0%} of the blame, as {blame.share.reason}"
        findings.append(
            Finding(ground=Ground.BLAME, stream=str(blame.fault.place), at_unix_s=blame.at_unix_s, p=1 - share,
                    effect=float("nan"), words=words)
        )  # fmt: skip
    verdict, at_unix_s, reason = _verdict(own, blame, findings, share)
    return Judgement(
        rollout=release.rollout, service=release.service, verdict=verdict,
        at_unix_s=now_unix_s if at_unix_s is None else at_unix_s, blame=share, findings=tuple(findings), reason=reason,
    )  # fmt: skip


def _verdict(
    own: _Own, blame: _Blame | None, findings: Sequence[Finding], share: float
) -> tuple[Verdict, float | None, str]:
    if own.worst is not None:
        return Verdict.ROLLBACK, own.worst.at_unix_s, own.worst.words
    if blame is not None and share >= BLAMED:
        return Verdict.ROLLBACK, blame.at_unix_s, findings[-1].words
    if blame is not None and share >= SUSPECTED:
        return Verdict.HOLD, None, f"{findings[-1].words}; others share it"
    if own.short:
        return Verdict.HOLD, None, f"too little is known of before the change: {own.short} more ticks would do"
    if own.watched < WINDOW:
        return Verdict.HOLD, None, f"watched for {own.watched} ticks; {WINDOW} are needed"
    if own.heard_s is None:
        return Verdict.HOLD, None, "nothing was measured of the canary"
    if findings:
        return Verdict.KEEP, None, f"no harm was found; but {findings[0].words}"
    return Verdict.KEEP, None, "nothing stands out"
