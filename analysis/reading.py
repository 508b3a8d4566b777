"""What the evidence says of each segment of a rollout: proof, suspicion, health, and where its KPIs are heading."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from analysis.decision import Health, Insufficient, Phase, Reason
from analysis.evidence.exclusion import GRID, ExcessExclusion
from analysis.evidence.log_loss import MAX_BIAS, MAX_LOSS, NO_CHECK, LogLoss
from analysis.evidence.regression import Against, RegressionEvidence
from analysis.evidence.sample_ratio import ASKED, ON_CANARY, PEOPLE, SampleRatio
from analysis.forecast.trend import Forecast, forecast
from analysis.guard import ALARMING, BREACH_LIKELY, BREACH_SURE, UNKNOWN_CEILING_BP
from analysis.harm import HarmLedger
from analysis.reward import Reward, reward
from analysis.segment import SegmentState
from analysis.spec import TOTAL_BP, KpiKind, ServiceSpec
from analysis.window import BASELINE, CANARY, Window

Floats = npt.NDArray[np.float64]

ROLLBACK_LATENCY_S = 3.0  # from a decision until the last request on the canary, ALS flush and one tick included
HEALTHY_EXCESS = 0.25
"""Healthy means two things. The excess of bad sessions that is not excluded is one that the budget could bear at full
exposure until it is noticed, and never above this. And on each KPI an excess is excluded of so many tolerances or,
where that would take too many sessions at this base rate, of so many standard deviations of one session (.6: some 150
sessions at an even split)."""
HEALTHY_TOLERANCES = 4.0
HEALTHY_DEVIATIONS = 0.6
LEANING = 1.0  # log e-value against zero excess below which a forecast is only noise
CALM_FORECAST_TICKS = 5
WORLD_TICKS, WORLD_LIMIT_SHARE = 10, 0.5  # ticks of the baseline looked at, and how near to a limit is near
COMPARED = math.log(20)  # log e-value against zero excess at which a comparison does speak against the canary
AGREEING = 0.25  # share of the proof that a segment's own people must show for proof over all segments to count there
SURPRISE = 1e-4  # chance of a look at the canary alone that takes the split back to where a control can be compared
CLEAN = 0.01  # … and below which nothing is promoted: waiting costs little
SURPRISE_TICKS = 20  # ticks of the canary looked at
RECENT_TICKS = 30  # ticks behind the excess that the reward sees


@dataclass(frozen=True, slots=True, kw_only=True)
class KpiView:
    """Shares of sessions in [0, 1] (NaN: none judged), and the log e-value against the tolerance."""

    kpi: str
    canary: float
    baseline: float
    tolerance: float
    log_e: float
    canary_n: int
    baseline_n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioView:
    """New people, those on the canary, how many were asked for there; log e-value of the difference, and its proof."""

    people: int
    on_canary: int
    asked: float
    log_e: float
    log_threshold: float


class Reading:
    """All that a rollout's windows have shown so far. S segments, in matching order; `segments` is the ramp's own."""

    def __init__(self, spec: ServiceSpec, segments: Mapping[str, SegmentState]) -> None:
        self.spec = spec
        self.segments = segments
        self.evidence = RegressionEvidence(spec)
        self.harm = HarmLedger(spec)
        self._guarded = [k for k, kpi in enumerate(spec.kpis) if kpi.kind is not KpiKind.ANOMALY]
        self.kpi_exclusion = ExcessExclusion(
            len(spec.segments) * len(self._guarded),
            risk=spec.rollout.budget_risk * len(spec.segments),  # a gate: its risk is each segment's own
            epoch_s=self.harm.epoch_s,
        )
        self.sample_ratio = SampleRatio(len(spec.segments), tau_s=spec.rollout.horizon_s)
        self.totals_n = np.zeros((len(spec.segments), len(spec.kpis), 2))
        self.totals_bad = np.zeros_like(self.totals_n)
        self.logs = NO_CHECK  # of the newest tick
        self.begins_interval = True  # the newest tick is the first of an interval
        self._newest_s = spec.rollout.interval_s  # how long the newest entry of the histories lasts by now

    def learn(self, window: Window, *, since_s: float, elapsed_s: float, blind: bool) -> None:
        """Add one tick that lasted `elapsed_s`, ending `since_s` after the first exposure. `blind`: no logs."""
        if self._guarded:
            n, bad, base = (
                window.n[:, self._guarded],
                window.bad[:, self._guarded],
                self.evidence.base.value[:, self._guarded],
            )
            self.kpi_exclusion.update(n.reshape(-1, 2), bad.reshape(-1, 2), base.ravel(), at_s=since_s)
        interval_s = self.spec.rollout.interval_s
        self.evidence.update(window, since_exposure_s=since_s, share=min(elapsed_s / interval_s, 1.0))
        self.sample_ratio.update(window.newcomers, since_exposure_s=since_s)
        self.harm.update(window, at_s=since_s, elapsed_s=elapsed_s, blind=blind)
        if blind:
            self.harm.miss(self.splits() * self.live(), seconds=elapsed_s)
        self.totals_n += window.n
        self.totals_bad += window.bad
        self._remember(window, elapsed_s)

    def _remember(self, window: Window, elapsed_s: float) -> None:
        """Keep what a tick counted, by intervals: shorter ticks, as in a closer watch, add up to one entry."""
        interval_s = self.spec.rollout.interval_s
        self.begins_interval = not (0 < elapsed_s <= interval_s - self._newest_s + elapsed_s / 2)
        self._newest_s = elapsed_s if self.begins_interval else self._newest_s + elapsed_s
        for i, state in enumerate(self.segments.values()):
            if state.since_s is None:
                continue
            n, bad = window.n[i].astype(float), window.bad[i].astype(float)
            if state.history and not self.begins_interval:
                before_n, before_bad = state.history.pop()
                n, bad = before_n + n, before_bad + bad
            state.history.append((n, bad))

    def splits(self) -> Floats:
        splits: Floats = np.array([state.split_bp for state in self.segments.values()]) / TOTAL_BP
        return splits

    def live(self) -> npt.NDArray[np.bool_]:
        """Segments whose canary may still do harm that the budget pays for."""
        return np.array([not state.phase.is_final for state in self.segments.values()])

    def proven(self, index: int) -> tuple[Reason, ...]:
        """Reasons that are proof of harm in a segment, or in all together where this one agrees; gravest first.

        Proof over all segments may come from one of them alone. It counts here only for what this segment's own people
        show as well, on the same KPI.
        """
        together, log_e = len(self.spec.segments), self.evidence.log_e_values[index]
        needed = float(self.evidence.log_thresholds[index])
        agreeing = [t for t in self._crossed(together) if log_e[t] >= AGREEING * needed]
        row, grounds = (index, own) if (own := self._crossed(index)) else (together, agreeing)
        return tuple(self._reason(row, t) for t in sorted(grounds, key=lambda t: _GRAVITY[self._kpi_kind(t)]))

    def _crossed(self, row: int) -> list[int]:
        """Tests whose evidence is proof in a row, those against zero left out: they are no ground."""
        log_e, needed = self.evidence.log_e_values[row], self.evidence.log_thresholds[row]
        tests = enumerate(self.evidence.tests)
        return [t for t, test in tests if test.against is not Against.ZERO and log_e[t] >= needed]

    def _kpi_kind(self, test: int) -> KpiKind:
        return self.spec.kpis[self.evidence.tests[test].kpi].kind

    def _reason(self, row: int, test_index: int) -> Reason:
        test = self.evidence.tests[test_index]
        kpi = self.spec.kpis[test.kpi]
        rows = slice(None) if row == len(self.spec.segments) else row
        n = np.atleast_2d(self.totals_n[rows, test.kpi]).sum(axis=0)
        bad = np.atleast_2d(self.totals_bad[rows, test.kpi]).sum(axis=0)
        canary, baseline = _share(bad[CANARY], n[CANARY]), _share(bad[BASELINE], n[BASELINE])
        where = "everywhere" if row == len(self.spec.segments) else "here"
        odds = float(np.exp(min(self.evidence.log_e_values[row, test_index], 700.0)))
        if test.against is Against.LIMIT:
            text = f"{kpi.name} is {canary:.1%} of sessions {where}, limit {test.value:.1%} (evidence {odds:.3g} to 1)"
        else:
            text = (
                f"{kpi.name} is {canary:.1%} of sessions {where} against {baseline:.1%} on the baseline, "
                f"tolerance {test.value:.1%} (evidence {odds:.3g} to 1)"
            )
        limit = test.value if test.against is Against.LIMIT else baseline + test.value
        return Reason(
            code=f"{test.against}:{kpi.name}",
            text=text,
            kpi=kpi.name,
            observed=canary,
            limit=limit,
            unit="share of sessions",
        )

    def suspicion(self, index: int) -> tuple[float, Reason | None]:
        """The strongest evidence of harm in a segment as a share of what proves it, and what it is about."""
        log_e = self.evidence.log_e_values[index]
        grounds = [t for t, test in enumerate(self.evidence.tests) if test.against is not Against.ZERO]
        strongest = max(grounds, key=lambda t: log_e[t])
        value = float(log_e[strongest]) / float(self.evidence.log_thresholds[index])
        chance, surprise = self.surprise(index)
        if surprise is not None and chance < SURPRISE and not value >= ALARMING:
            return ALARMING, surprise
        if not np.isfinite(value):
            return 0.0, None
        return value, self._reason(index, strongest)

    def surprise(self, index: int) -> tuple[float, Reason | None]:
        """How surprising the canary's last sessions are above an even split, and on which KPI; (1, None): not at all.

        There the control is thin, and evidence against it slow. So the canary is also held against all that is known of
        the baseline, its tolerance added: the chance of as many bad sessions or more. A surprise is no proof.
        """
        state = self.segments[self.spec.segments[index].name]
        recent = list(state.history)[-SURPRISE_TICKS:]
        if state.split_bp <= UNKNOWN_CEILING_BP or not recent:
            return 1.0, None
        n, bad = (np.sum([counts[:, CANARY] for counts in column], axis=0) for column in zip(*recent, strict=True))
        tolerances = np.array([kpi.tolerance for kpi in self.spec.kpis])
        usual = np.clip(self.evidence.base.value[index] + tolerances, 0.0, 1.0)
        chances = np.where(np.isin(np.arange(len(n)), self._guarded), binom.sf(bad - 1, n, usual), 1.0)
        k = int(chances.argmin())
        name = self.spec.kpis[k].name
        text = (
            f"{name} is {_share(bad[k], n[k]):.1%} of the canary's last {n[k]:.0f} sessions, "
            f"usual is {usual[k]:.1%} at most"
        )
        reason = Reason(
            code=f"surprise:{name}",
            text=text,
            kpi=name,
            observed=_share(bad[k], n[k]),
            limit=float(usual[k]),
            unit="share of sessions",
        )
        return float(chances[k]), reason

    def log_loss(self, baseline: str, canary: str) -> Reason | None:
        """Why the logs of a service, or of one version beside the other, lack too much to be trusted."""
        checked = self.logs.versions
        if isinstance(total := self.logs.total, LogLoss) and self.logs.is_lossy:
            worst = f", {total.worst_least:,} of them of {total.worst}" if total.nodes > 1 and total.worst else ""
            text = (
                f"the access logs lack at least {total.lower:.1%} of the {total.n:,} requests that Envoys sent "
                f"upstream in the last minute{worst}"
            )
            return Reason(
                code="log_loss", text=text, observed=total.lower, limit=MAX_LOSS, unit="share of upstream requests"
            )
        if (leaning := self.logs.leans(baseline, canary)) is None:
            return None
        more, less = (checked[version] for version in leaning)
        assert isinstance(more, LogLoss) and isinstance(less, LogLoss)  # noqa: S101, PT018 -- `leans` has compared them
        text = (
            f"the access logs of the last minute lack at least {more.lower:.1%} of the {more.n:,} requests to "
            f"{leaning[0]} and at most {less.upper:.1%} of the {less.n:,} to {leaning[1]}: they cannot be compared"
        )
        return Reason(
            code="log_loss", text=text, observed=more.lower - less.upper, limit=MAX_BIAS,
            unit="share of upstream requests",
        )  # fmt: skip

    def mismatch(self, index: int) -> Reason | None:
        """Proof that new people here, or in all segments together, do not get the canary as often as was asked for."""
        rows = (row for row in (index, len(self.spec.segments)) if self.sample_ratio.is_mismatch[row])
        row = next(rows, None)
        if row is None:
            return None
        view = self.ratio_view(row)
        where = "here" if row == index else "in all segments together"
        text = (
            f"{view.on_canary:,} of {view.people:,} new people {where} are on the canary where {view.asked:,.0f} were "
            f"asked for (evidence {math.exp(min(view.log_e, 700.0)):.3g} to 1)"
        )
        return Reason(
            code="sample_ratio",
            text=text,
            observed=_share(view.on_canary, view.people),
            limit=_share(view.asked, view.people),
            unit="share of new people",
        )

    def ratio_view(self, row: int) -> RatioView:
        """What new people did in a segment, or, in the row after the last segment, in all of them together."""
        totals = self.sample_ratio.totals[row]
        return RatioView(
            people=int(totals[PEOPLE]),
            on_canary=int(totals[ON_CANARY]),
            asked=float(totals[ASKED]),
            log_e=float(self.sample_ratio.log_e_values[row]),
            log_threshold=float(self.sample_ratio.log_thresholds[row]),
        )

    def overlook_mismatch(self, index: int) -> None:
        """A person knows of the mismatch that holds a segment: what is said against its people is forgotten."""
        rows = np.isin(np.arange(len(self.spec.segments) + 1), (index, len(self.spec.segments)))
        self.sample_ratio.forget(rows & self.sample_ratio.is_mismatch)

    def dirty(self, index: int) -> Reason | None:
        """What speaks against promoting now: a milder surprise than calls the canary back."""
        chance, surprise = self.surprise(index)
        return surprise if chance < CLEAN else None

    def world_breaks_limit(self, index: int, proven: tuple[Reason, ...]) -> bool:
        """Whether all proof rests on limits that the baseline comes near as well, and on no comparison."""
        limits = {reason.kpi for reason in proven if reason.code.startswith(Against.LIMIT)}
        if not proven or any(not reason.code.startswith(Against.LIMIT) for reason in proven):
            return False
        return all(self._is_elevated(index, k) for k, kpi in enumerate(self.spec.kpis) if kpi.name in limits)

    def _is_elevated(self, index: int, kpi: int) -> bool:
        """Whether the baseline, here or in all segments together, has lately been near the limit, the canary no worse.

        Lately, since a limit may be broken long before a share of the whole rollout shows it; all segments, since at a
        high split hardly anybody is left on the baseline.
        """
        if self._log_e_against_zero(index, self.spec.kpis[kpi].name) >= COMPARED:
            return False
        own = self._baseline_lately(index, kpi)
        together = sum((self._baseline_lately(i, kpi) for i in range(len(self.spec.segments))), np.zeros(2))
        line = WORLD_LIMIT_SHARE * (self.spec.kpis[kpi].limit or 1.0)
        return any(_share(float(bad), float(n)) > line for n, bad in (own, together))

    def _baseline_lately(self, index: int, kpi: int) -> Floats:
        """People judged on the baseline in the last ticks, and the bad ones: (2,)."""
        recent = list(self.segments[self.spec.segments[index].name].history)[-WORLD_TICKS:]
        counts: Floats = np.array([(n[kpi, BASELINE], bad[kpi, BASELINE]) for n, bad in recent], float).reshape(-1, 2)
        total: Floats = counts.sum(axis=0)
        return total

    def unhealthy(self, index: int) -> Reason | None:
        """Why a segment's canary is not known to be healthy; None when it is."""
        needed = self.needed(index)
        if needed is None:
            return None
        when = "at today's traffic: never" if needed.minutes is None else f"about {needed.minutes:.1f} min"
        return Reason(code="unknown", text=f"don't know yet (needs {needed.needed} more sessions, {when})")

    def needed(self, index: int) -> Insufficient | None:
        """How much more it takes to call a segment healthy; None when nothing more is needed."""
        state = self.segments[self.spec.segments[index].name]
        share = state.split_bp / TOTAL_BP
        shown = share if 0 < share < 1 else 0.25  # before the first step: what a usual step would need
        more = max(
            (e.sessions_needed(row, target, base, shown) for e, row, target, base in self.unexcluded(index)),
            default=None,
        )
        if more is None:
            return None
        rate = float(self.harm.rate[index])
        minutes = more / rate / 60 if rate > 0 and np.isfinite(more) else None
        judged = int(self.harm.judged[index, CANARY])
        return Insufficient(n=judged, needed=int(min(np.ceil(more), 10**9)), minutes=minutes)

    def unexcluded(self, index: int) -> Iterator[tuple[ExcessExclusion, int, float, float]]:
        """What still stands between a segment and 'healthy': (test, its row, excess to exclude, base rate)."""
        target = self._tolerable_excess(index)
        if self.harm.exclusion.worst[index] > target:
            yield self.harm.exclusion, index, target, float(self.harm.base.value[index])
        for f, k in enumerate(self._guarded):
            row = index * len(self._guarded) + f
            base = float(self.evidence.base.value[index, k])
            visible = max(
                HEALTHY_TOLERANCES * self.spec.kpis[k].tolerance, HEALTHY_DEVIATIONS * (base * (1 - base)) ** 0.5
            )
            if self.kpi_exclusion.worst[row] > min(visible, HEALTHY_EXCESS):
                yield self.kpi_exclusion, row, min(visible, HEALTHY_EXCESS), base

    def _tolerable_excess(self, index: int) -> float:
        """The excess rate of bad sessions that must be excluded before a segment counts as healthy."""
        reaction_s = self.spec.oldest_judged_s + ROLLBACK_LATENCY_S
        bearable = self.harm.affordable_excess(
            self.splits(), self.live(), seconds=reaction_s, latency_s=ROLLBACK_LATENCY_S
        )
        return float(np.clip(bearable[index], max(self.spec.rollout.harm.tolerance, GRID[0]), HEALTHY_EXCESS))

    def health(self, index: int) -> Health:
        state = self.segments[self.spec.segments[index].name]
        if state.phase is Phase.ROLLED_BACK or self.proven(index):
            return Health.HARMFUL
        unknown = state.phase is not Phase.PROMOTED and self.unhealthy(index) is not None
        return Health.UNKNOWN if unknown else Health.HEALTHY

    def breach_is_founded(self, index: int, state: SegmentState) -> bool:
        """A breach is foreseen, and evidence against zero excess of that KPI is above the floor."""
        if state.forecast is None or state.forecast.p_breach < BREACH_SURE:
            return False
        zero = sum(test.against is Against.ZERO for test in self.evidence.tests)
        floor = math.log(len(self.spec.segments) * zero / self.spec.rollout.false_rollback)
        return self._log_e_against_zero(index, state.forecast.kpi) >= floor

    def breach_is_likely(self, index: int, state: SegmentState) -> bool:
        """A breach is more likely than not, and the counts lean against the canary at all."""
        likely = state.forecast is not None and state.forecast.p_breach >= BREACH_LIKELY
        return likely and self._log_e_against_zero(index, state.forecast.kpi if state.forecast else "") > LEANING

    def _log_e_against_zero(self, index: int, kpi: str) -> float:
        log_e = self.evidence.log_e_values[index]
        tests = enumerate(self.evidence.tests)
        zero = [t for t, test in tests if test.against is Against.ZERO and self.spec.kpis[test.kpi].name == kpi]
        return float(max((log_e[t] for t in zero), default=-np.inf))

    def look_ahead(self, index: int, state: SegmentState, *, tick: int) -> None:
        """A new forecast every tick while any count leans against the canary, every few ticks otherwise."""
        if state.phase not in (Phase.RAMPING, Phase.BAKING):
            state.forecast = None
            return
        leaning = any(self._log_e_against_zero(index, kpi.name) > LEANING for kpi in self.spec.kpis)
        if leaning or tick % CALM_FORECAST_TICKS == index % CALM_FORECAST_TICKS:
            state.forecast = self._forecast(state)

    def _forecast(self, state: SegmentState) -> Forecast | None:
        """The most worrying forecast among the KPIs with a limit; never further ahead than the data reach back."""
        horizon = max(1, round(self.spec.rollout.horizon_s / self.spec.rollout.interval_s))
        found = []
        for k, kpi in enumerate(self.spec.kpis):
            if kpi.limit is not None and len(state.history):
                n = np.array([n[k, CANARY] for n, _ in state.history])
                bad = np.array([bad[k, CANARY] for _, bad in state.history])
                found.append(forecast(kpi.name, bad, n, limit=kpi.limit, horizon_ticks=min(horizon, len(n))))
        return max((f for f in found if f is not None), key=lambda f: f.p_breach, default=None)

    def excess(self, index: int, kind: KpiKind) -> float:
        """Excess share of canary over baseline in the last ticks; NaN where either arm is empty."""
        state = self.segments[self.spec.segments[index].name]
        recent = list(state.history)[-RECENT_TICKS:]
        kpis = [k for k, kpi in enumerate(self.spec.kpis) if kpi.kind is kind]
        if not recent or not kpis:
            return float("nan")
        n = sum(n[kpis[0]] for n, _ in recent)
        bad = sum(bad[kpis[0]] for _, bad in recent)
        return _share(bad[CANARY], n[CANARY]) - _share(bad[BASELINE], n[BASELINE])

    def reward_of(self, index: int, state: SegmentState) -> Reward:
        return reward(
            split=state.split_bp / TOTAL_BP,
            errors=self.excess(index, KpiKind.ERROR_RATE),
            slowness=self.excess(index, KpiKind.LATENCY),
            abandonment=self.excess(index, KpiKind.ABANDONMENT),
            anomaly=self.excess(index, KpiKind.ANOMALY),
            weight=self.spec.segments[index].weight,
        )

    def numbers(self, index: int, state: SegmentState) -> dict[str, float]:
        suspicion, _ = self.suspicion(index)
        ratio = self.ratio_view(index)
        numbers = {
            "suspicion": suspicion,
            "log_e": float(max(self.evidence.log_e_values[index])),
            "log_e_needed": float(self.evidence.log_thresholds[index]),
            "worst_excess": float(self.harm.exclusion.worst[index]),
            "cap": state.cap_bp / TOTAL_BP,
            "harm_upper": self.harm.upper,
            "harm_allowed": self.harm.allowed,
            "canary_sessions": float(self.harm.judged[index, CANARY]),
            "baseline_sessions": float(self.harm.judged[index, BASELINE]),
            "new_people": float(ratio.people),
            "new_people_canary": float(ratio.on_canary),
            "new_people_asked": ratio.asked,
            "sample_ratio_log_e": ratio.log_e,
        }
        if isinstance(self.logs.total, LogLoss):
            numbers |= {"log_loss": self.logs.total.ratio, "log_loss_lower": self.logs.total.lower}
        if state.reward is not None:
            numbers["reward"] = state.reward.value
        if state.forecast is not None:
            numbers["p_breach"] = state.forecast.p_breach
        return {name: value for name, value in numbers.items() if np.isfinite(value)}

    def kpi_view(self, index: int, k: int) -> KpiView:
        n, bad = self.totals_n[index, k], self.totals_bad[index, k]
        test = next(
            t for t, test in enumerate(self.evidence.tests) if test.kpi == k and test.against is Against.TOLERANCE
        )
        return KpiView(
            kpi=self.spec.kpis[k].name,
            canary=_share(bad[CANARY], n[CANARY]),
            baseline=_share(bad[BASELINE], n[BASELINE]),
            tolerance=self.spec.kpis[k].tolerance,
            log_e=float(self.evidence.log_e_values[index, test]),
            canary_n=int(n[CANARY]),
            baseline_n=int(n[BASELINE]),
        )

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as JSON-able values."""
        return {
            "totals": [self.totals_n.tolist(), self.totals_bad.tolist()],
            "evidence": self.evidence.state(),
            "harm": self.harm.state(),
            "kpi_exclusion": self.kpi_exclusion.state(),
            "sample_ratio": self.sample_ratio.state(),
        }

    def restore(self, state: Mapping[str, Any], *, gap_s: float) -> None:
        """Take a state that `state` gave, `gap_s` ago; the segments must have been restored before.

        Who had been counted among the new people is not known any more, and whoever is counted twice is no second
        witness: unless a mismatch was found, that test begins anew. So it does where the state has none.
        """
        self.totals_n, self.totals_bad = (np.asarray(x, float).reshape(self.totals_n.shape) for x in state["totals"])
        self.evidence.restore(state["evidence"])
        self.kpi_exclusion.restore(state["kpi_exclusion"])
        self.harm.restore(state["harm"], gap_s=gap_s, split=self.splits())
        if "sample_ratio" in state:
            self.sample_ratio.restore(state["sample_ratio"])
            self.sample_ratio.forget(~self.sample_ratio.is_mismatch)


_GRAVITY = {
    KpiKind.ERROR_RATE: 0, KpiKind.LATENCY: 1, KpiKind.ABANDONMENT: 2, KpiKind.FEATURE: 3, KpiKind.ANOMALY: 4
}  # fmt: skip


def _share(bad: float, n: float) -> float:
    return float(bad / n) if n > 0 else float("nan")
