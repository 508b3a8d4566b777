"""What a backtest says of one recorded deployment, and what all of them come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.backtest.parts import Split, part
from analysis.backtest.rates import Rate, Spread, Table, rate, spread
from analysis.change.finding import Judgement, Verdict
from analysis.history.record import RolloutRecord, label_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a policy would have done with the recorded people. Times in seconds after the beginning, None: never.

    `outcome`: as in `simulation.outcome`; `taken_back_s`: when any segment was rolled back; to withdraw what is neither
    proven harmful nor tolerable is none. `harm`: bad people beyond what the
    baseline would have cost them, as expected from the recorded rates; `exposed`: people on the canary; `reason`: of
    the first that was taken back, or of the last decision.
    """

    outcome: str
    taken_back_s: float | None
    full_s: float | None
    harm: float
    exposed: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One recorded deployment. `bad`: what is known of it, None: nothing. `case`: those that ran at once.

    `taken_back_s`: when it was, in seconds after the beginning; None: it was not. `recorded_s`: when it was in truth,
    if it was. `share`: of the blame, and `p` of the strongest finding, by which releases of a case are ranked.
    """

    rollout: str
    service: str
    case: str
    bad: bool | None
    label_reason: str
    started_unix_s: float
    verdict: Verdict
    taken_back_s: float | None
    recorded_s: float | None
    p: float
    reason: str
    judgement: Judgement | None
    replay: Replay | None

    @property
    def is_error(self) -> bool:
        return self.bad is not None and (self.verdict is Verdict.ROLLBACK) != self.bad


def outcome(record: RolloutRecord, case: str, judgement: Judgement | None, replay: Replay | None) -> Outcome:
    """What is known, beside what would have been said: by its value series, by its counts, whichever speaks first."""
    known = label_of(record)
    found = [] if judgement is None or judgement.verdict is not Verdict.ROLLBACK else [
        (judgement.at_unix_s - record.started_unix_s, min(each.p for each in judgement.findings), judgement.reason)
    ]  # fmt: skip
    if replay is not None and replay.taken_back_s is not None:
        found.append((replay.taken_back_s, 0.0, replay.reason))
    first = min(found, default=None)
    verdict, reason = _unfound(judgement, replay) if first is None else (Verdict.ROLLBACK, first[2])
    return Outcome(
        rollout=record.rollout, service=record.service, case=case, bad=known.bad, label_reason=known.reason,
        started_unix_s=record.started_unix_s, verdict=verdict, taken_back_s=None if first is None else first[0],
        recorded_s=_recorded_s(record), p=1.0 if first is None else first[1], reason=reason, judgement=judgement,
        replay=replay,
    )  # fmt: skip


def _unfound(judgement: Judgement | None, replay: Replay | None) -> tuple[Verdict, str]:
    if judgement is None and replay is None:
        return Verdict.HOLD, "nothing was recorded of it after it began"
    if replay is not None and replay.outcome != "promoted" and judgement is None:
        return Verdict.HOLD, replay.reason
    if judgement is not None:
        return judgement.verdict, judgement.reason
    return Verdict.KEEP, "promoted"


def _recorded_s(record: RolloutRecord) -> float | None:
    return min((each.at_s for each in record.decisions if each.verdict == "rollback"), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of deployments of which it is known whether they were bad. Times in minutes.

    `verdict_min`: from the beginning to the rollback of bad ones; `lead_min`: from there to when they were taken back
    in truth. `named`: cases with a bad deployment in which its service was blamed before all others, of those in which
    any was. `harm_bad`, `harm_good`: bad people beyond the baseline's, in the replay of bad and of good ones.
    """

    records: int
    unlabelled: int
    held: int
    table: Table
    precision: Rate
    recall: Rate
    f1: Rate
    false_positive_rate: Rate
    verdict_min: Spread
    lead_min: Spread
    named: Rate
    harm_bad: Spread
    harm_good: Spread


def figures(outcomes: Sequence[Outcome]) -> Figures:
    """What a judge was right in, and how soon. What is held is not taken back: of bad ones that is an error."""
    known = [each for each in outcomes if each.bad is not None]
    table = Table.of([bool(each.bad) for each in known], [each.verdict is Verdict.ROLLBACK for each in known])
    caught = [each for each in known if each.bad and each.taken_back_s is not None]
    return Figures(
        records=len(outcomes), unlabelled=len(outcomes) - len(known),
        held=sum(each.verdict is Verdict.HOLD for each in known), table=table, precision=table.precision,
        recall=table.recall, f1=table.f1, false_positive_rate=table.false_positive_rate,
        verdict_min=spread([(each.taken_back_s or 0.0) / 60 for each in caught]),
        lead_min=spread(
            [(each.recorded_s - (each.taken_back_s or 0.0)) / 60 for each in caught if each.recorded_s is not None]
        ),
        named=_named(known),
        harm_bad=spread([each.replay.harm for each in known if each.replay is not None and each.bad]),
        harm_good=spread([each.replay.harm for each in known if each.replay is not None and not each.bad]),
    )  # fmt: skip


def _named(known: Sequence[Outcome]) -> Rate:
    by_case: dict[str, list[Outcome]] = {}
    for each in known:
        by_case.setdefault(each.case, []).append(each)
    hits = n = 0
    for case in by_case.values():
        taken_back = sorted((each for each in case if each.verdict is Verdict.ROLLBACK), key=lambda each: each.p)
        if not taken_back or not any(each.bad for each in case):
            continue
        first = [each for each in taken_back if each.p == taken_back[0].p]
        n += 1
        hits += len(first) == 1 and bool(first[0].bad)
    return rate(hits, n)


def parts(outcomes: Sequence[Outcome], split: Split) -> Mapping[str, Figures]:
    """The figures of each part, by its name."""
    found: dict[str, list[Outcome]] = {}
    for each in outcomes:
        found.setdefault(part(each.case, each.started_unix_s, split), []).append(each)
    return {name: figures(found[name]) for name in sorted(found)}
