"""Recorded deployments judged again, as they would have been at the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from analysis.backtest.cases import CASE, cases, has_control, last_s, release
from analysis.backtest.outcome import Outcome, Replay, outcome
from analysis.backtest.replay import replay
from analysis.change import Judgement, judge
from analysis.history.record import RolloutRecord
from analysis.spec import ServiceSpec

NO_PLANS: Mapping[str, ServiceSpec] = MappingProxyType({})


def backtest(
    records: Sequence[RolloutRecord],
    *,
    policy: str,
    specs: Mapping[str, ServiceSpec] = NO_PLANS,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Outcome]:
    """An outcome for each record, in their order.

    Value series are judged by `analysis.change`, releases that ran at once together. Counts of people on both versions
    are replayed through the ramp with the policy of that name (`replay`), with the plans of `specs`, by service.
    `progress` is told how many records are done,
    in halves: judged, and replayed. Raises RecordError as `replay` does.
    """
    judged: dict[int, Judgement] = {}
    names: dict[int, str] = {}
    for case in cases(records):
        for i in case:
            names[i] = str(records[i].attributes.get(CASE, records[case[0]].rollout))
        releases = {i: release(records[i]) for i in case}
        seen = [i for i in case if releases[i].series]
        now_unix_s = max((records[i].started_unix_s + last_s(records[i]) for i in case), default=0.0)
        judged |= dict(zip(seen, judge([releases[i] for i in seen], now_unix_s=now_unix_s), strict=True))
        progress(len(names) / 2)
    counted = [i for i, record in enumerate(records) if has_control(record)]
    replayed = dict(
        zip(
            counted,
            replay(
                [records[i] for i in counted], policy=policy, specs=specs, seed=seed,
                progress=lambda done: progress((len(records) + done) / 2),
            ),
            strict=True,
        )
    )  # fmt: skip
    return [outcome(record, names[i], judged.get(i), _of(replayed, i)) for i, record in enumerate(records)]


def _of(replayed: dict[int, Replay], i: int) -> Replay | None:
    return replayed.get(i)
