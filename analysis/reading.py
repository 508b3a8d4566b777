"""What the evidence says of each segment: proof, suspicion, health, and what the budget still allows.

Numbers only, as arrays with a leading axis of B rollouts of one service; `wording` says the same in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from analysis.evidence.blocks import Blocks
from analysis.evidence.effect import Effects
from analysis.evidence.exclusion import GRID, ExcessExclusion
from analysis.evidence.regression import Against, RegressionEvidence
from analysis.evidence.sample_ratio import SampleRatio
from analysis.forecast.excess import ExcessTrends
from analysis.guard import ALARMING, UNKNOWN_CEILING_BP
from analysis.harm import HarmLedger, to_bp
from analysis.reactive import ReactiveRule
from analysis.recent import Recent
from analysis.reward import Reward, price_of_harm, reward
from analysis.spec import TOTAL_BP, KpiKind, ServiceSpec
from analysis.window import BASELINE, CANARY, Window

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

ROLLBACK_LATENCY_S = 3.0  # from a decision until the last request on the canary, ALS flush and one tick included
HEALTHY_EXCESS = 0.25
HEALTHY_BEARS_S = 1_800.0
HARM_TOLERANCES, HARM_DEVIATIONS = 2.0, 0.15
"""Healthy means two things. The excess of bad sessions that is not excluded is one that what is left of the budget
could bear for half an hour of the segment's whole traffic, and never above HEALTHY_EXCESS, since after the promotion
nobody compares any more; two tolerances are always good enough, and so are .15 standard deviations of one session: some
1,300 sessions at an even split. And on each KPI an excess is excluded of so many tolerances or, where that would take
too many sessions at this base rate, of so many standard deviations of one session (.6: some 150 of them)."""
HEALTHY_TOLERANCES = 4.0
HEALTHY_DEVIATIONS = 0.6
WORLD_TICKS, WORLD_LIMIT_SHARE = 10, 0.5  # ticks of the baseline looked at, and how near to a limit is near
COMPARED = math.log(20)  # log e-value against zero excess at which a comparison does speak against the canary
NAMED_FDR = 0.2  # false discovery rate at which segments are named once all of them together have shown proof
AGREEING = 2  # segments named on one KPI from which on those not known to be healthy are taken for alike
OTHERS_AGREE = math.log(20)  # … as they are where all segments but the most evident one show so much evidence
SURPRISE = 1e-4  # chance of a look at the canary alone that takes the split back to where a control can be compared
CLEAN = 0.01  # … and below which nothing is promoted: waiting costs little
SURPRISE_TICKS = 20  # ticks of the canary looked at
RECENT_TICKS = 30  # ticks behind the excess that the reward sees
SURELY = 2.0  # standard errors of an excess of late that are taken for noise where a policy learns from it
HISTORY_TICKS = 30  # ticks of history kept

EXCESS_KINDS = (KpiKind.ERROR_RATE, KpiKind.LATENCY, KpiKind.ABANDONMENT, KpiKind.ANOMALY)
"""Order of the last axis of `Conclusions.excess`."""

NO_TEST = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where B rollouts stand when a tick is read. Arrays (B, S): splits in [0, 1]; `live`: not final; `rising`: may.

    `cleared`: known to be healthy once, and baking since.
    """

    split: Floats
    live: Flags
    rising: Flags
    cleared: Flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusions:
    """What all ticks so far come to. B rollouts, S segments, T tests (`RegressionEvidence.tests`).

    `log_e` (B, S + 1, T): as `RegressionEvidence.log_e_values`.
    `own` (B, S, T): grounds that a segment's own people prove; `shared` (B, S, T): those that all people together
    prove, where this segment is one of those named for it, or not known to be otherwise. `proven` (B, S): by either.
    `named` (B, S, T): whom evidence of all people together would be about; `others` (B, 1, T): log e-value of all but
    the most evident one.
    `suspicion` (B, S): the strongest evidence of harm as a share of what proves it; `suspect` (B, S): the test that it
    is about, NO_TEST: a surprise.
    `chance` (B, S): of as bad a canary or worse, see `SURPRISE`; `surprising` (B, S): the KPI that it is about.
    `target` (B, S): the excess that must be excluded before a segment is healthy; `healthy` (B, S).
    `kpi_worst`, `visible` (B, S, guarded KPIs): excess of each KPI not excluded yet, and what must be excluded.
    `caps_bp` (B, S): what the harm budget allows. `harm_upper`, `harm_allowed` (B,): as in `HarmLedger`.
    `excess` (B, S, len(EXCESS_KINDS)): of late, NaN: unknown. `leaning` (B, S): the KPI that of late speaks most
    against the canary, in standard errors beyond its tolerance. `reward` (B, S): of the last tick.
    `mismatch` (B, S + 1): people are not spread as was asked for; `ratio_log_e`: the evidence of it.
    """

    log_e: Floats
    own: Flags
    shared: Flags
    proven: Flags
    named: Flags
    others: Floats
    suspicion: Floats
    suspect: Indices
    chance: Floats
    surprising: Indices
    worst: Floats
    target: Floats
    healthy: Flags
    kpi_worst: Floats
    visible: Floats
    caps_bp: Indices
    harm_upper: Floats
    harm_allowed: Floats
    excess: Floats
    leaning: Indices
    reward: Reward
    mismatch: Flags
    ratio_log_e: Floats

    @property
    def budget_spent(self) -> Flags:
        """(B,) whether harm may be above what is allowed already."""
        spent: Flags = self.harm_upper > self.harm_allowed
        return spent


class Reading:
    """All that the windows of B rollouts have shown so far. S segments, in matching order."""

    def __init__(self, spec: ServiceSpec, n: int = 1) -> None:
        self.spec = spec
        n_segments, n_kpis = len(spec.segments), len(spec.kpis)
        self._shape = (n, n_segments, n_kpis)
        self._weights = np.array([segment.weight for segment in spec.segments])
        self._tolerances = np.array([kpi.tolerance for kpi in spec.kpis])
        self.evidence = RegressionEvidence(spec, n)
        self.harm = HarmLedger(spec, n)
        self.guarded = np.array([k for k, kpi in enumerate(spec.kpis) if kpi.kind is not KpiKind.ANOMALY], int)
        self.kpi_exclusion = ExcessExclusion(
            n_segments * len(self.guarded),
            risk=spec.rollout.budget_risk * n_segments,  # a gate: its risk is each segment's own
            epoch_s=self.harm.epoch_s,
            n=n,
        )
        self.sample_ratio = SampleRatio(n_segments, n)
        self.reactive = ReactiveRule(spec, n)
        self.effects = Effects(self._shape)
        self.recent = Recent(self._shape, HISTORY_TICKS, (WORLD_TICKS, SURPRISE_TICKS, RECENT_TICKS))
        self.begins_interval = True  # whether the newest tick is the first of an interval
        self._newest_s = spec.rollout.interval_s  # how long the newest entry of `recent` lasts by now
        self.totals_n = np.zeros((*self._shape, 2))
        self.totals_bad = np.zeros_like(self.totals_n)
        self._limits = [(k, kpi.limit) for k, kpi in enumerate(spec.kpis) if kpi.limit is not None]
        self.limited = np.array([k for k, _ in self._limits], int)
        self.trends = ExcessTrends(
            [spec.kpis[k].name for k in self.limited], [limit for _, limit in self._limits],
            [spec.kpis[k].tolerance for k in self.limited], n_segments, n, horizon_s=spec.rollout.horizon_s,
        )  # fmt: skip
        self._pairs = Blocks((n, n_segments, len(self.limited)))
        errors = (kpi.limit for kpi in spec.kpis if kpi.kind is KpiKind.ERROR_RATE)
        self.error_limit = next(errors, None)  # of the share of sessions
        nobody = np.zeros((n, n_segments))
        self.now = self.conclude(Standing(split=nobody, live=nobody == 0, rising=nobody > 0, cleared=nobody > 0))

    def learn(
        self,
        window: Window,
        newcomers: Indices,
        standing: Standing,
        *,
        since_s: npt.ArrayLike,
        elapsed_s: npt.ArrayLike,
        blind: npt.ArrayLike,
    ) -> None:
        """Add one tick and conclude. (B,) each: it lasted `elapsed_s`, ending `since_s` after the first exposure.

        `blind`: no logs have come. `newcomers`: as `SampleRatio.update` takes them.
        """
        shape = self._shape
        n, bad = (x.reshape(*shape, 2).astype(float) for x in (window.n, window.bad))
        guarded = self.guarded
        if len(guarded):
            base = self.evidence.base.value[:, :, guarded]
            rows = (shape[0], -1, 2)
            self.kpi_exclusion.update(
                n[:, :, guarded].reshape(rows), bad[:, :, guarded].reshape(rows), base, at_s=since_s
            )
        self._look_ahead(n, bad, float(np.max(elapsed_s)))
        self.evidence.update(window, since_exposure_s=since_s, elapsed_s=elapsed_s)
        self.sample_ratio.update(newcomers, since_exposure_s=since_s)
        self.harm.update(window, at_s=since_s, elapsed_s=elapsed_s, blind=blind)
        self.harm.miss(standing.split * standing.live, seconds=np.where(blind, elapsed_s, 0.0))
        self.effects.update(n, bad)
        self.reactive.update(n, bad, since_exposure_s=since_s)
        self._remember(n, bad, float(np.max(elapsed_s)))
        self.totals_n += n
        self.totals_bad += bad
        self.now = self.conclude(standing)

    def _look_ahead(self, n: Floats, bad: Floats, elapsed_s: float) -> None:
        """Let the forecasts learn what a tick counted; of the baseline's rate only what was known before it."""
        n, bad = self._pairs.take(n[:, :, self.limited], bad[:, :, self.limited])
        base = self.evidence.base
        self.trends.update(n, bad, base.value[:, :, self.limited], base.n[:, :, self.limited], elapsed_s=elapsed_s)

    def _remember(self, n: Floats, bad: Floats, elapsed_s: float) -> None:
        """Keep what a tick counted, by intervals: shorter ticks, as in a closer watch, add up to one entry."""
        interval_s = self.spec.rollout.interval_s
        self.begins_interval = not (0 < elapsed_s <= interval_s - self._newest_s + elapsed_s / 2)
        self._newest_s = elapsed_s if self.begins_interval else self._newest_s + elapsed_s
        self.recent.push(n, bad, begins=self.begins_interval)

    # -- conclusions ---------------------------------------------------------------------------------------------------

    def conclude(self, standing: Standing) -> Conclusions:
        """What all ticks so far come to."""
        log_e = self.evidence.log_e_values
        target, worst = self._target(standing), self.harm.exclusion.worst
        kpi_worst, visible = self.kpi_exclusion.worst.reshape(*self._shape[:2], -1), self._visible_excess
        healthy = (worst <= target) & (kpi_worst <= visible).all(axis=-1)
        known = healthy | standing.cleared
        named, others = self._named(log_e)
        own, shared = self._grounds(log_e, named, others, known)
        chance, surprising = self._surprise(standing.split)
        suspicion, suspect = self._suspicion(log_e, chance, known)
        excess = self._excess()
        caps = self.harm.caps(standing.split, standing.live, standing.rising, latency_s=ROLLBACK_LATENCY_S)
        return Conclusions(
            log_e=log_e,
            own=own,
            shared=shared,
            proven=np.logical_or.reduce(own | shared, axis=-1),
            named=named,
            others=others,
            suspicion=suspicion,
            suspect=suspect,
            chance=chance,
            surprising=surprising,
            worst=worst,
            target=target,
            healthy=healthy,
            kpi_worst=kpi_worst,
            visible=visible,
            caps_bp=to_bp(caps),
            harm_upper=self.harm.upper,
            harm_allowed=self.harm.allowed,
            excess=excess,
            leaning=self._leaning(),
            reward=self._reward(standing.split, excess),
            mismatch=self.sample_ratio.is_mismatch,
            ratio_log_e=self.sample_ratio.log_e_values,
        )

    def _named(self, log_e: Floats) -> tuple[Flags, Floats]:
        """Whom evidence of all people together is about: (B, S, T) segments named; (B, 1, T) log e of the others.

        It may come from one segment alone. It counts for those that e-BH names (Wang & Ramdas 2022, JRSS-B 84(3),
        section 4: the k largest e-values, each at least S/(k·FDR)), and at least for the most evident one. `others`:
        of all but that one; infinite where several are named: then the canary is bad and not a segment.
        """
        values = log_e[:, :-1]
        order = np.argsort(-values, axis=1, kind="stable")
        ranked = np.take_along_axis(values, order, axis=1)
        n_segments = self._shape[1]
        ranks = np.arange(1, n_segments + 1)[None, :, None]
        k = np.max(np.where(ranked >= np.log(n_segments / (ranks * NAMED_FDR)), ranks, 0), axis=1, keepdims=True)
        rank_of = np.argsort(order, axis=1, kind="stable") + 1
        others = np.take_along_axis(self.evidence.log_e_of_others, order[:, :1], axis=1)
        return rank_of <= np.maximum(k, 1), np.where(k >= AGREEING, np.inf, others)

    def _grounds(self, log_e: Floats, named: Flags, others: Floats, healthy: Flags) -> tuple[Flags, Flags]:
        """Proof of harm, (B, S, T): of a segment's own people, and of all people together.

        The latter counts for those named; where the others agree, who is not known to be healthy goes with them.
        """
        crossed = (log_e >= self.evidence.log_thresholds) & self.evidence.grounds
        own, together = crossed[:, :-1], crossed[:, -1]
        proof = (together | own.any(axis=1))[:, None]
        with_others = proof & (others >= OTHERS_AGREE) & ~healthy[:, :, None] & self.evidence.grounds
        return own, (together[:, None] & named) | with_others

    def _suspicion(self, log_e: Floats, chance: Floats, healthy: Flags) -> tuple[Floats, Indices]:
        """The strongest evidence of harm as a share of what proves it, (B, S), and the test that it is about.

        Who is not known to be healthy is suspected with the others as well: with all of them together, but for the most
        evident one, who may be the only culprit.
        """
        thresholds = self.evidence.log_thresholds
        most = log_e[:, :-1].argmax(axis=1)[:, None]
        others = np.take_along_axis(self.evidence.log_e_of_others, most, axis=1) / thresholds[-1]
        is_most = np.arange(self._shape[1])[None, :, None] == most
        with_others = np.where(healthy[:, :, None] | is_most, -np.inf, others)
        shares = np.maximum(log_e[:, :-1] / thresholds[:-1], with_others)
        shares = np.where(self.evidence.grounds, shares, -np.inf)
        suspect, suspicion = shares.argmax(axis=-1), shares.max(axis=-1)
        by_surprise = (chance < SURPRISE) & ~(suspicion >= ALARMING)
        suspicion = np.where(by_surprise, ALARMING, suspicion)
        return np.where(np.isfinite(suspicion), suspicion, 0.0), np.where(by_surprise, NO_TEST, suspect)

    def _surprise(self, split: Floats) -> tuple[Floats, Indices]:
        """How surprising the canary's last sessions are above an even split, and on which KPI; 1: not at all. (B, S).

        There the control is thin, and evidence against it slow. So the canary is also held against all that is known of
        the baseline, its tolerance added: the chance of as many bad sessions or more. A surprise is no proof.
        """
        shape = self._shape[:2]
        chance, kpi = np.ones(shape), np.zeros(shape, np.int64)
        where = split > UNKNOWN_CEILING_BP / TOTAL_BP
        if not where.any() or not len(self.guarded):
            return chance, kpi
        n, bad = (x[where][:, self.guarded, CANARY] for x in self.recent.sums(SURPRISE_TICKS))
        chances = binom.sf(bad - 1, n, self.usual[where][:, self.guarded])
        chance[where], kpi[where] = chances.min(axis=-1), self.guarded[chances.argmin(axis=-1)]
        return chance, kpi

    @property
    def usual(self) -> Floats:
        """(B, S, K) the baseline's rates, the tolerances added."""
        usual: Floats = np.clip(self.evidence.base.value + self._tolerances, 0.0, 1.0)
        return usual

    def _target(self, standing: Standing) -> Floats:
        """(B, S) the excess of bad sessions that must be excluded before a segment is healthy."""
        bearable = self.harm.affordable_excess(
            standing.split, standing.live, seconds=HEALTHY_BEARS_S, latency_s=ROLLBACK_LATENCY_S
        )  # fmt: skip
        base, tolerance = self.harm.base.value, self.spec.rollout.harm.tolerance
        least = np.maximum(HARM_TOLERANCES * tolerance, HARM_DEVIATIONS * np.sqrt(base * (1 - base)))
        least = np.clip(least, GRID[0], HEALTHY_EXCESS)
        return np.clip(bearable, least, HEALTHY_EXCESS)

    @property
    def _visible_excess(self) -> Floats:
        """(B, S, guarded KPIs) the excess of each that must be excluded."""
        base = self.evidence.base.value[:, :, self.guarded]
        visible = np.maximum(
            HEALTHY_TOLERANCES * self._tolerances[self.guarded], HEALTHY_DEVIATIONS * np.sqrt(base * (1 - base))
        )
        capped: Floats = np.minimum(visible, HEALTHY_EXCESS)
        return capped

    def sessions_needed(self, rollout: int, segments: npt.ArrayLike, split: npt.ArrayLike) -> Floats:
        """(n, 1 + guarded KPIs) sessions that stand between n segments and 'healthy', at their splits (n,) in [0, 1].

        Of both arms together, until what `Conclusions.target` says is excluded, and `visible` of each KPI, if the
        canary is as good as the baseline. 0: it is excluded; inf: an arm gets nothing.
        """
        now, which, share = self.now, np.asarray(segments, int), np.asarray(split, float)
        base, kpi_base = self.harm.base.value[rollout, which], self.evidence.base.value[rollout, which]
        harm = self.harm.exclusion.sessions_needed(rollout, which, now.target[rollout, which], base, share)
        kpis = self.kpi_exclusion.sessions_needed(
            rollout, self.kpi_row(which[:, None], np.arange(len(self.guarded))),
            now.visible[rollout, which], kpi_base[:, self.guarded], share[:, None],
        )  # fmt: skip
        return np.column_stack([harm, kpis])

    def kpi_row(self, segment: npt.ArrayLike, place: npt.ArrayLike) -> Indices:
        """Row of `kpi_exclusion` of a segment's guarded KPI; `place`: in `guarded`."""
        row: Indices = np.asarray(segment) * len(self.guarded) + np.asarray(place)
        return row

    def _excess(self) -> Floats:
        """(B, S, len(EXCESS_KINDS)) excess shares of canary over baseline of late; NaN where either arm is empty."""
        n, bad = self.recent.sums(RECENT_TICKS)
        share = np.divide(bad, n, out=np.full_like(n, np.nan), where=n > 0)
        excess = share[..., CANARY] - share[..., BASELINE]
        columns = [next((k for k, kpi in enumerate(self.spec.kpis) if kpi.kind is kind), None) for kind in EXCESS_KINDS]
        unknown = np.full(self._shape[:2], np.nan)
        return np.stack([unknown if k is None else excess[..., k] for k in columns], axis=-1)

    def _leaning(self) -> Indices:
        """(B, S) KPI with the largest excess of late, in its standard errors; one more good and bad one in each arm."""
        considered = self.guarded if len(self.guarded) else np.arange(self._shape[2])
        n, bad = (x[:, :, considered] for x in self.recent.sums(RECENT_TICKS))
        share = (bad + 1) / (n + 2)
        error = np.sqrt((share * (1 - share) / (n + 2)).sum(axis=-1))
        excess = share[..., CANARY] - share[..., BASELINE] - self._tolerances[considered]
        leaning: Indices = considered[(excess / error).argmax(axis=-1)]
        return leaning

    def _reward(self, split: Floats, excess: Floats) -> Reward:
        errors, slowness, abandonment, anomaly = np.moveaxis(excess, -1, 0)
        return reward(
            split=split, errors=errors, slowness=slowness, abandonment=abandonment, anomaly=anomaly,
            weight=self._weights,
        )  # fmt: skip

    def worth(self, rollout: int) -> Floats:
        """(S,) what a tick of each segment would be worth at a split of 1, as far as is known; see `Reward.worth`.

        By the excess of late that is surely more than noise. NaN where nothing is known of a segment's canary yet.
        """
        n, bad = (x[rollout] for x in self.recent.sums(RECENT_TICKS))
        known = (n > 0).all(axis=-1)
        shares = (bad + 1) / (n + 2)
        error = np.sqrt((shares * (1 - shares) / (n + 2)).sum(axis=-1))
        seen = np.divide(bad, n, out=np.zeros_like(n), where=n > 0)
        surely = np.where(known, np.maximum(seen[..., CANARY] - seen[..., BASELINE] - SURELY * error, 0.0), np.nan)
        kinds = [next((k for k, kpi in enumerate(self.spec.kpis) if kpi.kind is kind), None) for kind in EXCESS_KINDS]
        errors, slowness, abandonment, anomaly = (np.nan if k is None else surely[:, k] for k in kinds)
        rate, interval_s = self.harm.rate[rollout], self.spec.rollout.interval_s
        whole = reward(
            split=1.0, errors=errors, slowness=slowness, abandonment=abandonment, anomaly=anomaly,
            weight=self._weights * rate * interval_s * price_of_harm(self.spec.rollout.harm.budget, interval_s),
        )  # fmt: skip
        return np.where(known.any(axis=-1), whole.worth(rate / max(float(rate.sum()), 1e-9)), np.nan)

    # -- one rollout's segment -----------------------------------------------------------------------------------------

    def log_e_against_zero(self, rollout: int, segment: int, kpi: int) -> float:
        """Log e-value of any excess at all on a KPI; -inf where it is not tested."""
        tests = enumerate(self.evidence.tests)
        zero = [t for t, test in tests if test.against is Against.ZERO and test.kpi == kpi]
        return float(max(self.now.log_e[rollout, segment, zero], default=-np.inf))

    def world_breaks_limit(self, rollout: int, segment: int) -> bool:
        """Whether all proof rests on limits that the baseline comes near as well, and on no comparison."""
        grounds = np.flatnonzero(self.now.own[rollout, segment] | self.now.shared[rollout, segment])
        tests = [self.evidence.tests[t] for t in grounds]
        if not tests or any(test.against is not Against.LIMIT for test in tests):
            return False
        return all(self._is_elevated(rollout, segment, test.kpi) for test in tests)

    def _is_elevated(self, rollout: int, segment: int, kpi: int) -> bool:
        """Whether the baseline, here or in all segments together, has lately been near the limit, the canary no worse.

        Lately, since a limit may be broken long before a share of the whole rollout shows it; all segments, since at a
        high split hardly anybody is left on the baseline.
        """
        if self.log_e_against_zero(rollout, segment, kpi) >= COMPARED:
            return False
        n, bad = (x[rollout, :, kpi, BASELINE] for x in self.recent.sums(WORLD_TICKS))
        line = WORLD_LIMIT_SHARE * (self.spec.kpis[kpi].limit or 1.0)
        pairs = ((n[segment], bad[segment]), (n.sum(), bad.sum()))
        return any(share(float(b), float(count)) > line for count, b in pairs)

    def over_limit(self, rollout: int, segment: int) -> tuple[int, float, float, bool] | None:
        """(KPI, people, bad ones, whether everybody's) of late, where they are above its limit; None: nowhere.

        The segment's people on the canary, and everybody, on either version. Proof takes its time, more so after a long
        healthy past, and in a bad world the budget has nothing to say, since there is no excess; yet a rise would
        expose people. The chance of a false hold is that of a look, `CLEAN`.
        """
        for k, limit in self._limits:
            canary = [float(x[rollout, segment, k, CANARY]) for x in self.recent.sums(SURPRISE_TICKS)]
            everybody = [float(x[rollout, :, k].sum()) for x in self.recent.sums(WORLD_TICKS)]
            for (n, bad), is_everybody in ((canary, False), (everybody, True)):
                if bad > limit * n and binom.sf(bad - 1, n, limit) < CLEAN:
                    return k, n, bad, is_everybody
        return None

    def overlook_mismatch(self, rollout: int, segment: int) -> None:
        """A person knows of the mismatch that holds a segment: what is said against its people is forgotten."""
        rows = np.zeros_like(self.sample_ratio.is_mismatch)
        rows[rollout, [segment, -1]] = True
        self.sample_ratio.forget(rows & self.sample_ratio.is_mismatch)

    # -- restarts ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as JSON-able values. Of a single rollout."""
        return {
            "totals": [self.totals_n[0].tolist(), self.totals_bad[0].tolist()],
            "evidence": self.evidence.state(),
            "harm": self.harm.state(),
            "kpi_exclusion": self.kpi_exclusion.state(),
            "sample_ratio": self.sample_ratio.state(),
            "reactive": self.reactive.state(),
            "effects": self.effects.state(),
            "recent": self.recent.state(),
            "trends": self.trends.state(),
            "pairs": self._pairs.state(),
        }

    def restore(self, state: Mapping[str, Any], standing: Standing, *, gap_s: float) -> None:
        """Take a state that `state` gave, `gap_s` ago; `standing`: as it is now.

        Who had been counted among the new people is not known any more, and whoever is counted twice is no second
        witness: unless a mismatch was found, that test begins anew.
        """
        self.totals_n, self.totals_bad = (np.asarray(x, float).reshape(self.totals_n.shape) for x in state["totals"])
        self.evidence.restore(state["evidence"])
        self.kpi_exclusion.restore(state["kpi_exclusion"])
        self.harm.restore(state["harm"], gap_s=gap_s, split=standing.split)
        self.reactive.restore(state["reactive"])
        self.effects.restore(state["effects"])
        self.recent.restore(state["recent"])
        self.trends.restore(state["trends"])
        self._pairs.restore(state["pairs"])
        self.sample_ratio.restore(state["sample_ratio"])
        self.sample_ratio.forget(~self.sample_ratio.is_mismatch)
        self.now = self.conclude(standing)


def share(bad: float, n: float) -> float:
    """A share in [0, 1]; NaN of nobody."""
    return float(bad / n) if n > 0 else float("nan")
