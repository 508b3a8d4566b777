"""Recorded people, split anew: what a policy with another split would have seen of them.

Assumed is that who is on a version is as good a sample of all people as who was recorded on it, that people do not
change by being on the other version before, and that as many come whatever the split. Then a smaller arm is a random
part of the recorded one (drawn without putting back), and a larger one is the recorded one and more of the same, at the
rate recorded of late.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.change.series import tick_of
from analysis.errors import RecordError
from analysis.history.record import RolloutRecord
from analysis.observer import LATENESS_S
from analysis.spec import TOTAL_BP, ServiceSpec
from analysis.window import BASELINE, CANARY, Window

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

MEMORY = 0.95  # weight of a tick in the recorded rate, over that of the next one
LAST_TICKS = 30  # of a record, which come again and again after its end
GOES_ON_S = 3_600.0  # how long they do: a policy that takes longer than the recorded one has time to decide
MOST_TICKS = 200_000  # of a record and what goes on after it: 23 days of ticks of ten seconds
ENTRIES = 5  # log entries of a session, for the checks of silence: records do not have them


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """B records on one grid of T ticks after the beginning; S segments and K KPIs as in the plan.

    A record goes on for GOES_ON_S after its end: its last ticks come again in their order.

    `n`, `bad` : (T, B, S, K, 2); `arrived` : (T, B, S); `rate` : (T, B, S, K, 2) bad shares recorded of late; `ticks` :
    (B,) how long each record is, what goes on included, 0 of an empty one; `before_n`, `before_bad` : (B, S, K) people
    of the baseline before the beginning.
    """

    n: Counts
    bad: Counts
    arrived: Counts
    rate: Floats
    ticks: Counts
    before_n: Counts
    before_bad: Counts

    @classmethod
    def of(cls, records: Sequence[RolloutRecord], spec: ServiceSpec) -> Recorded:
        interval_s, n_kpis = spec.rollout.interval_s, len(spec.kpis)
        columns = [tick_of(record.at_s, interval_s) for record in records]
        ticks = np.array([max(int(column[-1]) + 1, 0) if len(column) else 0 for column in columns], np.int64)
        lengths = np.where(ticks > 0, ticks + round(GOES_ON_S / interval_s), 0)
        shape = int(lengths.max(initial=0)), len(records), len(spec.segments), n_kpis, 2
        n, bad, arrived = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape[:3], np.int64)
        before_n, before_bad = np.zeros(shape[1:4], np.int64), np.zeros(shape[1:4], np.int64)
        for b, (record, column) in enumerate(zip(records, columns, strict=True)):
            after = column >= 0
            for s, name in enumerate(record.segments):
                i = spec.segment_index[name]
                np.add.at(n[:, b, i], column[after], record.n[after, s])
                np.add.at(bad[:, b, i], column[after], record.bad[after, s])
                came = np.nan_to_num(record.arrived[after, s]).astype(np.int64)
                np.add.at(arrived[:, b, i], column[after], came)
                _go_on((n[:, b, i], bad[:, b, i], arrived[:, b, i]), int(ticks[b]), int(lengths[b]))
                before_n[b, i] = record.n[~after, s, :, BASELINE].sum(axis=0)
                before_bad[b, i] = record.bad[~after, s, :, BASELINE].sum(axis=0)
        return cls(
            n=n, bad=bad, arrived=_arrivals(arrived, n, spec), rate=_rates(n, bad), ticks=lengths, before_n=before_n,
            before_bad=before_bad,
        )  # fmt: skip


def check_length(record: RolloutRecord) -> None:
    """Raise RecordError for a record of too many ticks to be held: its times or its interval are of another unit."""
    ticks = (max(record.ends_s, 0.0) + GOES_ON_S) / record.interval_s
    if ticks > MOST_TICKS:
        raise RecordError(
            f"rollout {record.rollout!r} ends {record.ends_s:g} s after its beginning: with the hour for which it "
            f"goes on {ticks:.3g} ticks of {record.interval_s:g} s; legal: {MOST_TICKS} at most"
        )


def _go_on(columns: Sequence[Counts], ends: int, length: int) -> None:
    """Repeat the last ticks of a record, from its end on."""
    last = min(LAST_TICKS, ends)
    if last:
        again = ends - last + np.arange(length - ends) % last
        for column in columns:
            column[ends:length] = column[again]


def age_ticks(spec: ServiceSpec, kpi: int) -> int:
    """Ticks between the one in which a session begins and the one in which it is judged."""
    return math.ceil((spec.kpis[kpi].judge_after_s + LATENESS_S) / spec.rollout.interval_s)


def _arrivals(arrived: Counts, n: Counts, spec: ServiceSpec) -> Counts:
    """Sessions that began; where they were not recorded, as many as were judged for any KPI at its age."""
    judged = np.zeros_like(arrived)
    for kpi in range(n.shape[3]):
        total, age = n[:, :, :, kpi].sum(axis=-1), age_ticks(spec, kpi)
        judged[: max(len(total) - age, 0)] = np.maximum(judged[: max(len(total) - age, 0)], total[age:])
        judged[max(len(total) - age, 0) :] = np.maximum(judged[max(len(total) - age, 0) :], total[-age:][:age])
    return np.where(arrived.any(axis=0), arrived, judged)


def _rates(n: Counts, bad: Counts) -> Floats:
    """Bad shares of late, by tick; before anybody was there, those of the first who were; without any, 0.

    An arm on which nobody ever was takes the other arm's.
    """
    seen, failed = np.zeros(n.shape), np.zeros(n.shape)
    for tick in range(len(n)):
        seen[tick] = n[tick] + (MEMORY * seen[tick - 1] if tick else 0)
        failed[tick] = bad[tick] + (MEMORY * failed[tick - 1] if tick else 0)
    rate = np.divide(failed, seen, out=np.full(n.shape, np.nan), where=seen > 0)
    for tick in range(len(n) - 2, -1, -1):
        rate[tick] = np.where(np.isnan(rate[tick]), rate[tick + 1], rate[tick])
    rate = np.where(np.isnan(rate), rate[..., ::-1], rate)
    rates: Floats = np.nan_to_num(rate)
    return rates


class People:
    """The recorded people of B deployments, tick by tick, at splits of somebody's choice."""

    def __init__(self, recorded: Recorded, spec: ServiceSpec, rng: np.random.Generator) -> None:
        self._recorded, self._spec, self._rng = recorded, spec, rng
        self._ages = [age_ticks(spec, kpi) for kpi in range(len(spec.kpis))]
        self._splits: deque[Floats] = deque(maxlen=max(self._ages, default=0) + 2)  # newest last
        self._exposed_since = np.full(recorded.arrived.shape[1:], np.inf)
        self._harms = [k for k in spec.harms if k < recorded.n.shape[3]]
        self._first_judged = int(np.argmin(self._ages)) if self._ages else 0
        self.tick = 0
        self.harm = np.zeros(recorded.arrived.shape[1:])
        self.exposed = np.zeros(recorded.arrived.shape[1:], np.int64)

    @property
    def is_over(self) -> bool:
        return self.tick >= len(self._recorded.n)

    def advance(self, split_bp: npt.ArrayLike) -> tuple[Window, Counts]:
        """One tick at splits (B, S) in basis points: its window, and newcomers as `SampleRatio.update` takes them."""
        split = np.asarray(split_bp, float) / TOTAL_BP
        self._exposed_since = np.where((split > 0) & np.isinf(self._exposed_since), self.tick, self._exposed_since)
        self._splits.append(split)
        arrived = self._recorded.arrived[self.tick]
        exposed = self._rng.binomial(arrived, split)
        self._charge(exposed)
        fields, newcomers = self._judged(split.shape)
        window = Window(
            **fields, exposed=exposed, arrived=arrived, people=np.zeros((*split.shape, 2), np.int64),
            failing=np.zeros((*split.shape, 2), np.int64), bots=np.zeros(split.shape, np.int64), newcomers=Counter(),
            traffic={}, entries=int(arrived.sum()) * ENTRIES,
        )  # fmt: skip
        self.tick += 1
        return window, newcomers

    def _charge(self, exposed: Counts) -> None:
        """Harm as expected: people on the canary times the recorded excess of what counts as harm, at its worst KPI."""
        rate = self._recorded.rate[self.tick][:, :, self._harms]
        excess = rate[..., CANARY] - rate[..., BASELINE]
        self.harm += exposed * (excess.max(axis=-1) if self._harms else 0.0)
        self.exposed += exposed

    def _judged(self, shape: tuple[int, ...]) -> tuple[dict[str, Counts], Counts]:
        n_kpis = len(self._spec.kpis)
        fields = {
            "n": np.zeros((*shape, n_kpis, 2), np.int64), "bad": np.zeros((*shape, n_kpis, 2), np.int64),
            "unexposed_n": np.zeros((*shape, n_kpis), np.int64),
            "unexposed_bad": np.zeros((*shape, n_kpis), np.int64),
        }  # fmt: skip
        newcomers = np.zeros((0, 5), np.int64)
        for kpi, age in enumerate(self._ages):
            began = self.tick - age
            n, bad, began_split = self._split_anew(kpi, age)
            exposed = (began >= self._exposed_since)[..., None]
            fields["unexposed_n"][:, :, kpi] = np.where(exposed, 0, n)[..., BASELINE]
            fields["unexposed_bad"][:, :, kpi] = np.where(exposed, 0, bad)[..., BASELINE]
            if kpi == self._first_judged:
                newcomers = _newcomers(np.where(exposed, n, 0), began_split)
            n, bad = self._stayed(n, bad, age)
            fields["n"][:, :, kpi], fields["bad"][:, :, kpi] = np.where(exposed, n, 0), np.where(exposed, bad, 0)
        if self.tick == 0:
            fields["unexposed_n"] += self._recorded.before_n
            fields["unexposed_bad"] += self._recorded.before_bad
        return fields | self._harm_of(fields), newcomers

    def _split_anew(self, kpi: int, age: int) -> tuple[Counts, Counts, Floats]:
        """Who is judged now by the split at which they began: (B, S, 2) people and bad ones, and that split (B, S)."""
        split = self._splits[-1 - age] if len(self._splits) > age else np.zeros_like(self._splits[-1])
        was_n, was_bad = (counts[self.tick, :, :, kpi] for counts in (self._recorded.n, self._recorded.bad))
        total = was_n.sum(axis=-1)
        on_canary = self._rng.binomial(total, split)
        n = np.stack([total - on_canary, on_canary], axis=-1)
        kept = np.minimum(n, was_n)
        bad = self._rng.hypergeometric(was_bad, was_n - was_bad, kept)
        more = self._rng.binomial(n - kept, self._recorded.rate[self.tick, :, :, kpi])
        return n, bad + more, split

    def _stayed(self, n: Counts, bad: Counts, age: int) -> tuple[Counts, Counts]:
        """Those who were on the same side of the split from their beginning until they were judged."""
        meanwhile = list(self._splits)[-1 - age :] if len(self._splits) > age else list(self._splits)
        began, lowest, highest = meanwhile[0], np.minimum.reduce(meanwhile), np.maximum.reduce(meanwhile)
        baseline = (1 - highest) / np.maximum(1 - began, 1e-9)
        canary = lowest / np.maximum(began, 1e-9)
        stayed = np.clip(np.stack([baseline, canary], axis=-1), 0.0, 1.0)
        kept_bad = self._rng.binomial(bad, stayed)
        return kept_bad + self._rng.binomial(n - bad, stayed), kept_bad

    def _harm_of(self, fields: dict[str, Counts]) -> dict[str, Counts]:
        """Harm by people: who was bad in a way that counts; those of several KPIs as if they were others."""
        harm: dict[str, Counts] = {}
        for name, n, bad in (("harm", "n", "bad"), ("unexposed_harm", "unexposed_n", "unexposed_bad")):
            axis = 2
            people = fields[n].take(self._harms, axis=axis)
            failed = fields[bad].take(self._harms, axis=axis)
            harm[f"{name}_n"] = people.max(axis=axis, initial=0)
            harm[f"{name}_bad"] = np.minimum(failed.sum(axis=axis), harm[f"{name}_n"])
        return harm


def _newcomers(n: Counts, split: Floats) -> Counts:
    rollout, segment = np.nonzero(n.sum(axis=-1))
    asked_bp = np.round(split * TOTAL_BP).astype(np.int64)[rollout, segment]
    rows = [
        np.stack([rollout, segment, asked_bp, np.full_like(rollout, arm), n[rollout, segment, arm]], axis=1)
        for arm in (BASELINE, CANARY)
    ]
    return np.concatenate(rows)
