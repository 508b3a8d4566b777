"""What a reading of the evidence says, in words and as data, of one segment of one rollout."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.decision import Insufficient, Reason
from analysis.evidence.log_loss import MAX_BIAS, MAX_LOSS, LogCheck, LogLoss
from analysis.evidence.regression import Against, Test
from analysis.evidence.sample_ratio import ASKED, ON_CANARY, PEOPLE
from analysis.reading import CLEAN, NO_TEST, SURPRISE_TICKS, Reading, share
from analysis.spec import KpiKind, KpiSpec
from analysis.window import BASELINE, CANARY

_GRAVITY = {
    KpiKind.ERROR_RATE: 0, KpiKind.LATENCY: 1, KpiKind.ABANDONMENT: 2, KpiKind.FEATURE: 3, KpiKind.ANOMALY: 4
}  # fmt: skip
SESSIONS = "share of sessions"
USUAL_STEP = 0.25  # split for which it is told how much is to be known, before the first step


@dataclass(frozen=True, slots=True, kw_only=True)
class KpiView:
    """Shares of sessions in [0, 1] (NaN: none judged), and the log e-value against the tolerance.

    `effect`, `lower`, `upper`: canary minus baseline of people who came together, and its confidence sequence.
    """

    kpi: str
    canary: float
    baseline: float
    tolerance: float
    log_e: float
    canary_n: int
    baseline_n: int
    effect: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioView:
    """New people, those on the canary, how many were asked for there; log e-value of the difference, and its proof."""

    people: int
    on_canary: int
    asked: float
    log_e: float
    log_threshold: float


@dataclass(frozen=True, slots=True)
class Wording:
    """The words for one rollout of a reading. Segments by index; the row after the last one is all of them together."""

    reading: Reading
    rollout: int

    def proven(self, segment: int) -> tuple[Reason, ...]:
        """Reasons that are proof of harm in a segment, gravest first."""
        now, kpis = self.reading.now, self.reading.spec.kpis
        own, shared = now.own[self.rollout, segment], now.shared[self.rollout, segment]
        tests = sorted(np.flatnonzero(own | shared).tolist(), key=lambda t: _GRAVITY[kpis[self._test(t).kpi].kind])
        return tuple(self._ground(segment if own[t] else self._together, t) for t in tests)

    @property
    def _together(self) -> int:
        return len(self.reading.spec.segments)

    def _test(self, test: int) -> Test:
        return self.reading.evidence.tests[test]

    def _ground(self, row: int, index: int) -> Reason:
        test, kpi = self._test(index), self.reading.spec.kpis[self._test(index).kpi]
        rows = slice(None) if row == self._together else slice(row, row + 1)
        n = self.reading.totals_n[self.rollout, rows, test.kpi].sum(axis=0)
        bad = self.reading.totals_bad[self.rollout, rows, test.kpi].sum(axis=0)
        canary, baseline = (share(bad[arm], n[arm]) for arm in (CANARY, BASELINE))
        where = "everywhere" if row == self._together else "here"
        odds = math.exp(min(float(self.reading.now.log_e[self.rollout, row, index]), 700.0))
        limit = test.value if test.against is Against.LIMIT else baseline + test.value
        return Reason(
            code=f"{test.against}:{kpi.name}",
            text=f"{_compared(test, kpi, canary, baseline, where)} (evidence {odds:.3g} to 1)",
            kpi=kpi.name,
            observed=canary,
            limit=limit,
            unit=SESSIONS,
        )

    def suspect(self, segment: int) -> Reason | None:
        """What the strongest evidence of harm is about; None: there is none yet."""
        test = int(self.reading.now.suspect[self.rollout, segment])
        if test == NO_TEST:
            return self.surprise(segment)
        seen = np.isfinite(self.reading.now.log_e[self.rollout, segment, test])
        return self._ground(segment, test) if seen else None

    def surprise(self, segment: int) -> Reason:
        """What is surprising about the canary's last sessions; see `Conclusions.chance`."""
        k = int(self.reading.now.surprising[self.rollout, segment])
        n, bad = (float(x[self.rollout, segment, k, CANARY]) for x in self.reading.recent.sums(SURPRISE_TICKS))
        name, usual = self.reading.spec.kpis[k].name, float(self.reading.usual[self.rollout, segment, k])
        return Reason(
            code=f"surprise:{name}",
            text=f"{name} is {share(bad, n):.1%} of the canary's last {n:.0f} sessions, usual is {usual:.1%} at most",
            kpi=name,
            observed=share(bad, n),
            limit=usual,
            unit=SESSIONS,
        )

    def log_threshold(self, segment: int) -> float:
        """Log e-value that proves what is suspected most."""
        test = max(int(self.reading.now.suspect[self.rollout, segment]), 0)
        return float(self.reading.evidence.log_thresholds[segment, test])

    def dirty(self, segment: int) -> Reason | None:
        """What speaks against promoting now: a milder surprise than calls the canary back."""
        return self.surprise(segment) if self.reading.now.chance[self.rollout, segment] < CLEAN else None

    def over_limit(self, segment: int) -> Reason | None:
        """The limit that people have lately been above; see `Reading.over_limit`."""
        if (found := self.reading.over_limit(self.rollout, segment)) is None:
            return None
        k, n, bad, is_everybody = found
        name, limit = self.reading.spec.kpis[k].name, self.reading.spec.kpis[k].limit or 1.0
        whose = f"the last {n:.0f} sessions on both versions" if is_everybody else f"the canary's last {n:.0f} sessions"
        return Reason(
            code=f"over_limit:{name}",
            text=f"{name} is {share(bad, n):.1%} of {whose}, limit {limit:.1%}",
            kpi=name,
            observed=share(bad, n),
            limit=limit,
            unit=SESSIONS,
        )

    def mismatch(self, segment: int) -> Reason | None:
        """Proof that new people here, or in all segments together, do not get the canary as often as was asked for."""
        rows = (row for row in (segment, self._together) if self.reading.now.mismatch[self.rollout, row])
        row = next(rows, None)
        if row is None:
            return None
        view = self.ratio_view(row)
        where = "here" if row == segment else "in all segments together"
        text = (
            f"{view.on_canary:,} of {view.people:,} new people {where} are on the canary where {view.asked:,.0f} were "
            f"asked for (evidence {math.exp(min(view.log_e, 700.0)):.3g} to 1)"
        )
        return Reason(
            code="sample_ratio",
            text=text,
            observed=share(view.on_canary, view.people),
            limit=share(view.asked, view.people),
            unit="share of new people",
        )

    def ratio_view(self, row: int) -> RatioView:
        """What new people did in a segment, or, in the row after the last segment, in all of them together."""
        ratio = self.reading.sample_ratio
        totals = ratio.totals[self.rollout, row]
        return RatioView(
            people=int(totals[PEOPLE]),
            on_canary=int(totals[ON_CANARY]),
            asked=float(totals[ASKED]),
            log_e=float(self.reading.now.ratio_log_e[self.rollout, row]),
            log_threshold=float(ratio.log_thresholds[row]),
        )

    def unhealthy(self, segment: int, sessions: float, fresh_s: float = 0.0) -> Reason:
        """Why a segment's canary is not known to be healthy: so many more sessions are needed (`sessions_needed`).

        `fresh_s`: seconds for which the canary's latency does not count yet.
        """
        if fresh_s > 0:
            text = f"don't know yet (the canary is fresh: its latency counts in {fresh_s / 60:.1f} min)"
            return Reason(code="unknown", text=text)
        needed = self._insufficient(segment, sessions)
        when = "at today's traffic: never" if needed.minutes is None else f"about {needed.minutes:.1f} min"
        return Reason(code="unknown", text=f"don't know yet (needs {needed.needed} more sessions, {when})")

    def needed(self, segment: int, split: float) -> Insufficient | None:
        """How much more it takes to call a segment healthy at a split in [0, 1]; None when nothing more is needed."""
        if self.reading.now.healthy[self.rollout, segment]:
            return None
        return self._insufficient(segment, float(self.sessions_needed([segment], [split])[0]))

    def sessions_needed(self, segments: npt.ArrayLike, split: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(n,) sessions that it takes to call n segments healthy, at their splits (n,) in [0, 1]."""
        at = np.asarray(split, float)
        shown = np.where((at > 0) & (at < 1), at, USUAL_STEP)
        needed: npt.NDArray[np.float64] = self.reading.sessions_needed(self.rollout, segments, shown).max(axis=-1)
        return needed

    def _insufficient(self, segment: int, sessions: float) -> Insufficient:
        rate = float(self.reading.harm.rate[self.rollout, segment])
        minutes = sessions / rate / 60 if rate > 0 and math.isfinite(sessions) else None
        judged = int(self.reading.harm.judged[self.rollout, segment, CANARY])
        needed = math.ceil(min(sessions, 1e9))
        return Insufficient(n=judged, needed=needed, minutes=minutes)

    def kpi_views(self, segment: int) -> tuple[KpiView, ...]:
        """All KPIs of a segment, in the specification's order."""
        return tuple(self.kpi_view(segment, k) for k in range(len(self.reading.spec.kpis)))

    def kpi_view(self, segment: int, k: int) -> KpiView:
        """One KPI of a segment, and the evidence against its tolerance."""
        reading, compared = self.reading, (Against.TOLERANCE, Against.RATIO)
        n, bad = reading.totals_n[self.rollout, segment, k], reading.totals_bad[self.rollout, segment, k]
        test = next(t for t, each in enumerate(reading.evidence.tests) if each.kpi == k and each.against in compared)
        effect, lower, upper = reading.effects.interval((self.rollout, segment, k))
        return KpiView(
            kpi=reading.spec.kpis[k].name,
            canary=share(bad[CANARY], n[CANARY]),
            baseline=share(bad[BASELINE], n[BASELINE]),
            tolerance=reading.spec.kpis[k].tolerance,
            log_e=float(reading.now.log_e[self.rollout, segment, test]),
            canary_n=int(n[CANARY]),
            baseline_n=int(n[BASELINE]),
            effect=effect,
            lower=lower,
            upper=upper,
        )

    def numbers(self, segment: int) -> dict[str, float]:
        """The evidence behind a decision, by name, for journal and explain; what is unknown is left out."""
        reading, at = self.reading, (self.rollout, segment)
        now, ratio = reading.now, self.ratio_view(segment)
        numbers = {
            "suspicion": float(now.suspicion[at]),
            "log_e": float(now.suspicion[at]) * self.log_threshold(segment),
            "log_e_needed": self.log_threshold(segment),
            "worst_excess": float(now.worst[at]),
            "cap": float(now.caps_bp[at]) / 10_000,
            "harm_upper": float(now.harm_upper[self.rollout]),
            "harm_allowed": float(now.harm_allowed[self.rollout]),
            "canary_sessions": float(reading.harm.judged[at][CANARY]),
            "baseline_sessions": float(reading.harm.judged[at][BASELINE]),
            "new_people": float(ratio.people),
            "new_people_canary": float(ratio.on_canary),
            "new_people_asked": ratio.asked,
            "sample_ratio_log_e": ratio.log_e,
            "reward": float(now.reward.value[at]),
            "reactive_failures": float(reading.reactive.failures[at]),
            "reactive_fired_s": float(reading.reactive.fired_s[at]),
        }
        return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _compared(test: Test, kpi: KpiSpec, canary: float, baseline: float, where: str) -> str:
    match test.against:
        case Against.LIMIT:
            return f"{kpi.name} is {canary:.1%} of sessions {where}, limit {test.value:.1%}"
        case Against.RATIO:
            return (
                f"{canary:.1%} of the canary's sessions {where} are slower than the baseline's p95 by more than "
                f"{kpi.regression:.0%}; of the baseline's own, {baseline:.1%} are slower than it"
            )
        case Against.TOLERANCE | Against.ZERO:
            doubled = " twice over" if kpi.is_behaviour and test.against is Against.TOLERANCE else ""
            accepted = kpi.tolerance if doubled else test.value
            return (
                f"{kpi.name} is {canary:.1%} of sessions {where} against {baseline:.1%} on the baseline, "
                f"tolerance {accepted:.1%}{doubled}"
            )


def log_loss(logs: LogCheck, baseline: str, canary: str) -> Reason | None:
    """Why the logs of a service, or of one version beside the other, lack too much to be trusted."""
    if isinstance(total := logs.total, LogLoss) and logs.is_lossy:
        worst = f", {total.worst_least:,} of them of {total.worst}" if total.nodes > 1 and total.worst else ""
        text = (
            f"the access logs lack at least {total.lower:.1%} of the {total.n:,} requests that Envoys sent "
            f"upstream in the last minute{worst}"
        )
        return Reason(
            code="log_loss", text=text, observed=total.lower, limit=MAX_LOSS, unit="share of upstream requests"
        )
    if (leaning := logs.leans(baseline, canary)) is None:
        return None
    more, less = (logs.versions[version] for version in leaning)
    assert isinstance(more, LogLoss) and isinstance(less, LogLoss)  # noqa: S101, PT018 -- `leans` has compared them
    text = (
        f"the access logs of the last minute lack at least {more.lower:.1%} of the {more.n:,} requests to "
        f"{leaning[0]} and at most {less.upper:.1%} of the {less.n:,} to {leaning[1]}: they cannot be compared"
    )
    return Reason(
        code="log_loss", text=text, observed=more.lower - less.upper, limit=MAX_BIAS, unit="share of upstream requests"
    )
