"""What a run of the demo should have come to, and what it came to. Pure: values in, values out.

The truth is what the people report after the run; the happenings are Serinus's decisions and the shops' own books.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from xds_server.demo.fault import BASELINE, CANARY, SEGMENTS, Fault, FaultKind

PROMOTED, ROLLED_BACK, WITHDRAWN, UNKNOWN = "promoted", "rolled_back", "withdrawn", "unknown"

SMALL_TOLERANCES, SMALL_DEVIATIONS = 3.0, 0.4
"""A fault may also end as "don't know" when what it adds beyond the tolerance can hardly be seen in two minutes: its
excess is below three tolerances, or stands out by less than .4 standard deviations of one session, so that it takes
some hundreds of sessions to tell."""

TOO_LATE_S = 15.0
"""A fault that starts less than this before the promotion cannot be known yet: sessions are judged at a fixed age."""

SILENCE_S = 1.0
"""A version that has had no request for this long, while people are about, has zero traffic."""

BLAMED: Mapping[FaultKind, str] = {
    FaultKind.ERRORS: "error_rate",
    FaultKind.CRASH: "error_rate",
    FaultKind.LATENCY: "latency_p95",
    FaultKind.ABANDONMENT: "abandonment",
    FaultKind.FEATURE: "feature:wishlist",
}
"""The KPI that a rollback over each kind of fault has to name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """One decision of Serinus, as its history tells it. Splits in basis points."""

    at_unix: float
    segment: str
    verdict: str
    tier: str
    kpi: str | None
    reason: str
    split_before_bp: int
    split_after_bp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentEnd:
    """How Serinus's last status showed a segment. `largest_split` in [0, 1]; `needed`: sessions until it would know."""

    phase: str
    largest_split: float
    exposed_sessions: int
    needed_sessions: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One segment's traffic at one version, as the shop's server saw it. Unix seconds; None: never."""

    requests: int
    last_unix: float | None
    first_fault_unix: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that is known of a run once it is over. `tolerances`: accepted excess in [0, 1) by KPI."""

    choice: str
    seed: int
    duration_s: float
    truth: Mapping[str, Any]
    decisions: Sequence[Decided]
    ends: Mapping[str, SegmentEnd]
    seen: Mapping[str, Mapping[str, Seen]]  # by version, then segment
    seen_unix: float  # when the shops were asked, while people were still about
    rollout_started_unix: float
    tolerances: Mapping[str, float]
    pushes: int
    acks: int
    nacks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What may come of a segment. `kpis`: what a rollback has to name."""

    outcomes: frozenset[str]
    words: str
    kpis: frozenset[str] = frozenset()
    hard_tier: bool = False  # a rollback of the hard tier needs to name no KPI
    onset_unix: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSummary:
    """One row of the verdict; `right` says whether what was expected is what happened.

    `harmed_sessions_beyond_baseline` is exact: sessions that met the canary's fault and whose plan was a good one.
    """

    segment: str
    expected: str
    outcome: str
    right: bool
    phase: str
    tier: str
    kpi: str | None
    reason: str
    seconds_from_fault_to_decision: float | None
    seconds_from_fault_to_zero_traffic: float | None
    canary_sessions: int
    harmed_sessions_beyond_baseline: int
    largest_split: float
    seconds_to_full: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The verdict on a run. `wrong`: what was not as it had to be, a line each; `exit` is 0 when there is none."""

    fault: str
    seed: int
    duration_s: float
    onset_s: float
    injected: Sequence[Mapping[str, Any]]
    segments: tuple[SegmentSummary, ...]
    pushes: int
    acks: int
    nacks: int
    requests: int
    failed_requests: Mapping[str, int]
    failed_requests_not_the_faults_doing: int
    people_moved_back_unasked: int
    wrong: tuple[str, ...]
    exit: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it: segments by name."""
        raw = asdict(self)
        raw["segments"] = {row.pop("segment"): row for row in raw["segments"]}
        return raw


def expect(run: Run, segment: str) -> Expected:
    """Return what the truth calls for in `segment`."""
    canary_fault = _fault_of(run, segment, CANARY)
    if canary_fault is not None:
        return _expect_of_fault(run, segment, *canary_fault)
    if _fault_of(run, segment, BASELINE) is not None:
        # The canary is the better one. It may be promoted or doubted; to take it back would be wrong.
        return Expected(outcomes=frozenset({PROMOTED, WITHDRAWN, UNKNOWN}), words="not rolled back")
    return Expected(outcomes=frozenset({PROMOTED}), words=PROMOTED)


def _fault_of(run: Run, segment: str, version: str) -> tuple[Fault, float | None] | None:
    for raw in run.truth["faults"]:
        fault = Fault.from_dict(raw)
        if fault.version == version and fault.concerns(segment):
            return fault, raw["onset_unix"]
    return None


def _expect_of_fault(run: Run, segment: str, fault: Fault, onset_unix: float | None) -> Expected:
    kpi = BLAMED[fault.kind]
    drawn = run.choice == "random"
    tolerance, deviation = run.tolerances[kpi], (fault.usual() * (1 - fault.usual())) ** 0.5
    small = max(SMALL_TOLERANCES * tolerance, tolerance + SMALL_DEVIATIONS * deviation)
    promoted = _final(run, segment, "promote")
    too_late = onset_unix is None or (promoted is not None and promoted.at_unix < onset_unix + TOO_LATE_S)
    if drawn and fault.excess() < tolerance:
        outcomes, words = {PROMOTED, WITHDRAWN, UNKNOWN}, "tolerable: promoted or don't know"
    elif drawn and fault.excess() < small:
        outcomes, words = {ROLLED_BACK, WITHDRAWN, UNKNOWN}, f"small: rolled back ({kpi}) or don't know"
    else:
        outcomes, words = {ROLLED_BACK}, f"rolled back ({kpi})"
    if drawn and too_late:
        outcomes, words = outcomes | {PROMOTED}, f"{words}, or promoted before it could show"
    return Expected(
        outcomes=frozenset(outcomes),
        words=words,
        kpis=frozenset({kpi, "anomaly"} if drawn else {kpi}),
        hard_tier=kpi == "error_rate",
        onset_unix=onset_unix,
    )


def summarise(run: Run) -> Summary:
    """Return the verdict on a run."""
    rows = tuple(_segment(run, segment) for segment in SEGMENTS)
    others = int(run.truth["failed"]["other"])
    moved = moved_back_unasked(run)
    wrong = [
        f"{row.segment}: expected {row.expected}, got {row.outcome}" + (f" ({row.kpi or row.tier})" if row.kpi else "")
        for row in rows
        if not row.right
    ]
    if others:
        wrong.append(
            f"{others} failed requests were not the fault's doing: {', '.join(run.truth['failed_examples'][:3])}"
        )
    if moved:
        wrong.append(f"{moved} people were moved from the canary back to the baseline while no split fell")
    return Summary(
        fault=run.choice,
        seed=run.seed,
        duration_s=round(run.duration_s, 1),
        onset_s=run.truth["onset_s"],
        injected=run.truth["faults"],
        segments=rows,
        pushes=run.pushes,
        acks=run.acks,
        nacks=run.nacks,
        requests=run.truth["requests"],
        failed_requests=run.truth["failed"],
        failed_requests_not_the_faults_doing=others,
        people_moved_back_unasked=moved,
        wrong=tuple(wrong),
        exit=1 if wrong else 0,
    )


def _segment(run: Run, segment: str) -> SegmentSummary:
    end = run.ends[segment]
    outcome = end.phase if end.phase in (PROMOTED, ROLLED_BACK, WITHDRAWN) else UNKNOWN
    wanted = expect(run, segment)
    decided = _final(run, segment, "rollback", "withdraw", "promote")
    seen = run.seen[CANARY][segment]
    return SegmentSummary(
        segment=segment,
        expected=wanted.words,
        outcome=outcome,
        right=_is_right(wanted, outcome, decided),
        phase=end.phase,
        tier=decided.tier if decided else "",
        kpi=decided.kpi if decided else None,
        reason=decided.reason if decided else end.reason,
        seconds_from_fault_to_decision=_seconds(seen.first_fault_unix, decided.at_unix if decided else None),
        seconds_from_fault_to_zero_traffic=_seconds(seen.first_fault_unix, _silent_since(run, seen)),
        canary_sessions=_tally(run, segment, CANARY, "sessions"),
        harmed_sessions_beyond_baseline=_tally(run, segment, CANARY, "harmed"),
        largest_split=end.largest_split,
        seconds_to_full=_seconds(run.rollout_started_unix, _full_since(run, segment)),
    )


def _is_right(wanted: Expected, outcome: str, decided: Decided | None) -> bool:
    if outcome not in wanted.outcomes:
        return False
    if outcome != ROLLED_BACK:
        return True
    if decided is None or wanted.onset_unix is None or decided.at_unix < wanted.onset_unix:
        return False  # a rollback before the fault is a false one, whatever came after
    return decided.kpi in wanted.kpis or (wanted.hard_tier and decided.tier == "hard" and decided.kpi is None)


def _final(run: Run, segment: str, *verdicts: str) -> Decided | None:
    found = [each for each in run.decisions if each.segment == segment and each.verdict in verdicts]
    return found[-1] if found else None


def _full_since(run: Run, segment: str) -> float | None:
    return next(
        (each.at_unix for each in run.decisions if each.segment == segment and each.split_after_bp == 10_000), None
    )


def _silent_since(run: Run, seen: Seen) -> float | None:
    if seen.last_unix is None or run.seen_unix - seen.last_unix < SILENCE_S:
        return None
    return seen.last_unix


def _seconds(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else round(end - begin, 2)


def _tally(run: Run, segment: str, version: str, what: str) -> int:
    return int(run.truth["segments"][segment].get(version, {}).get(what, 0))


def moved_back_unasked(run: Run) -> int:
    """Return how often somebody went from the canary to the baseline with no falling split to explain it."""
    falls = [each for each in run.decisions if each.split_after_bp < each.split_before_bp]

    def is_asked(flip: Mapping[str, Any]) -> bool:
        # Decided shortly before the last answer from the canary (it was on its way) or since.
        return any(
            fall.segment == flip["segment"] and flip["from_unix"] - 2 <= fall.at_unix <= flip["to_unix"]
            for fall in falls
        )

    return sum(not is_asked(flip) for flip in run.truth["flips"])
