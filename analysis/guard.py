"""The only place that decides which way is safe: on any doubt traffic stays where it is or goes back, never forward."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.decision import Advance, Hold, Phase, Promote, Reason, Reduce, Rollback, Tier, Verdict, Withdraw
from analysis.failure.facts import PRIOR_RISK
from analysis.forecast.excess import Forecast
from analysis.forecast.exhaustion import Exhaustion
from analysis.spec import TOTAL_BP, RolloutSpec
from analysis.splits import SMALLEST_BP, worth_bp

SUSPICIOUS = 0.5  # share of the proof at which the split stops rising
ALARMING = 0.75  # … and at which it is halved
BREACH_TICKS = 3  # ticks in a row that a forecast must foresee the breach
BURNING_TICKS = 2  # ticks in a row that a limit must burn
BREACH_SURE = 0.6  # probability at which a foreseen breach counts, given proof that the canary is worse at all
EXHAUSTED_SURE = 0.9  # probability at which it counts that a resource will run out
BREACH_LIKELY = 0.5  # … and at which nothing rises any more
LEAST_BREACH_SURE, MOST_BREACH_SURE = BREACH_LIKELY, 0.98  # whatever the risk
UNKNOWN_CEILING_BP = TOTAL_BP // 2
"""While nothing is known the split stops at one half: beyond it a session teaches less (w·(1-w)) and harms more."""


def exhausts(forecast: Exhaustion | None, false_rollback: float) -> bool:
    """Whether a resource surely runs out within the horizon, and the canary is proven to use it up faster."""
    if forecast is None:
        return False
    return forecast.p_exhausts >= EXHAUSTED_SURE and forecast.log_e >= -math.log(false_rollback)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadForecast:
    """What a KPI that gets worse as the split grows would be at the `split` proposed; shares in [0, 1]."""

    kpi: str
    limit: float
    split: float
    mean: float
    p_breach: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardView:
    """All that is known of one segment at one tick.

    `proposal_bp`: what the policy wants; `cap_bp`: what the harm budget allows. `world_bad`: the baseline is as bad.
    `proven`: reasons that are proof of harm. `suspicion`: the strongest evidence as a share of the proof, and `suspect`
    what it is about. `breach_ticks`: ticks in a row with a foreseen breach *and* the evidence floor; `breach_likely`:
    more likely than not. `at_next`: the KPI that the proposed split would take nearest to its limit. `exhaustion`: the
    resource of the canary that is likeliest to run out, `exhausted_ticks` in a row surely so. `burning_ticks`: ticks in
    a row in which far more people than the limit allows met failures. `log_loss`: the logs lack too many
    requests. `sample_ratio`: proof that people are not spread as was asked for. `unhealthy`: why the canary is not
    known to be healthy, if it is not. `stale_s`: seconds without access logs, where that is long. `dirty`: what speaks
    against a promotion now. `over_limit`: an absolute limit that people have lately been above.
    """

    phase: Phase
    split_bp: int
    proposal_bp: int
    cap_bp: int
    max_split_bp: int
    spec: RolloutSpec
    crash: bool = False
    crash_everywhere: bool = False
    burning_ticks: int = 0
    silent: bool = False
    world_bad: bool = False
    proven: tuple[Reason, ...] = ()
    suspicion: float = 0.0
    suspect: Reason | None = None
    forecast: Forecast | None = None
    breach_ticks: int = 0
    breach_likely: bool = False
    at_next: LoadForecast | None = None
    exhaustion: Exhaustion | None = None
    exhausted_ticks: int = 0
    budget_spent: bool = False
    log_loss: Reason | None = None
    sample_ratio: Reason | None = None
    unhealthy: Reason | None = None
    stale_s: float | None = None
    confirmed: bool = True
    dwelt: bool = True
    bake_done: bool = False
    dirty: Reason | None = None
    over_limit: Reason | None = None
    paused: bool = False
    frozen: bool = False
    already_reduced: bool = False
    waits_for: tuple[str, ...] = ()


def review(view: GuardView) -> Verdict:
    """The verdict on one segment. Checks run from the gravest to the mildest; the first that speaks decides."""
    if view.frozen:
        return Hold(reasons=(_reason("frozen", "frozen by an operator"),))
    if view.phase.is_final:
        return Hold(reasons=(_reason("final", f"already {view.phase}"),))
    return _back(view) or _stay(view) or _doubt(view) or _forward(view)


def _reason(code: str, text: str) -> Reason:
    return Reason(code=code, text=text)


def _back(view: GuardView) -> Verdict | None:
    """What must go back, or must not even be judged."""
    if view.split_bp == 0:
        return None
    if view.world_bad and (view.proven or view.crash or view.crash_everywhere):
        return Hold(
            reasons=(_reason("world", "both versions got worse: the world is bad, not the canary"), *view.proven)
        )
    if view.crash or view.crash_everywhere:
        where = "everywhere" if view.crash_everywhere else "in this segment"
        return Rollback(tier=Tier.HARD, reasons=(_reason("crash", f"most people on the canary meet failures {where}"),))
    if view.silent:
        text = "the canary should be in the access logs and is not"
        return Rollback(tier=Tier.HARD, reasons=(_reason("silent", text),))
    if view.burning_ticks >= BURNING_TICKS and not view.world_bad:
        text = "far more people on the canary meet failures right now than its limit allows, and than on the baseline"
        return Rollback(tier=Tier.HARD, reasons=(_reason("limit_burning", text),))
    if view.proven:
        return Rollback(tier=Tier.PROVEN, reasons=view.proven)
    return _predicted(view) or _cheaper(view)


def _predicted(view: GuardView) -> Rollback | None:
    """What is not broken yet, and surely will be."""
    if view.forecast is not None and view.breach_ticks >= BREACH_TICKS:
        return Rollback(tier=Tier.PREDICTED, reasons=(_breach(view.forecast),))
    if view.exhaustion is not None and view.exhausted_ticks >= BREACH_TICKS:
        return Rollback(tier=Tier.PREDICTED, reasons=(_exhaustion(view.exhaustion),))
    return None


def _cheaper(view: GuardView) -> Verdict | None:
    """What the budget or a suspicion takes back."""
    if view.budget_spent:
        text = "the harm budget is used up and the canary is neither proven harmful nor proven tolerable"
        return Withdraw(reasons=(_reason("budget_spent", text), *_listed(view.unhealthy)))
    if view.cap_bp < view.split_bp:
        reason = _reason("budget", f"the harm budget allows {view.cap_bp / 100:.0f} % at present")
        return Reduce(split_bp=max(view.cap_bp, min(SMALLEST_BP, view.split_bp)), reasons=(reason,))
    if view.suspicion >= ALARMING and not view.already_reduced and view.suspect is not None:
        return Reduce(split_bp=max(view.split_bp // 2, min(SMALLEST_BP, view.split_bp)), reasons=(view.suspect,))
    return None


def _stay(view: GuardView) -> Hold | None:
    """What keeps the split where it is."""
    if view.paused:
        return Hold(reasons=(_reason("paused", "paused by an operator"),))
    if view.waits_for:
        return Hold(reasons=(_reason("after", f"waits until {', '.join(view.waits_for)} is promoted"),))
    if view.phase is Phase.WARMUP:
        return Hold(reasons=(_reason("warmup", "learning the baseline"),))
    if view.stale_s is not None:
        return Hold(reasons=(_reason("no_data", f"no access logs for {view.stale_s:.0f} s"),))
    if not view.confirmed:
        return Hold(reasons=(_reason("unconfirmed", "waits for Envoys to acknowledge the last split"),))
    if view.log_loss is not None:
        return Hold(reasons=(view.log_loss,))
    if view.sample_ratio is not None:
        return Hold(reasons=(view.sample_ratio,))
    return None


def _doubt(view: GuardView) -> Hold | None:
    """What forbids a rise, be the split 0 (then nothing above has spoken) or not."""
    if view.world_bad:
        return Hold(reasons=(_reason("world", "the baseline is in trouble as well: no time to expose anybody new"),))
    if view.crash or view.crash_everywhere or view.silent or view.burning_ticks:
        return Hold(reasons=(_reason("crash", "the canary fails, or burns its limit, or is silent"),))
    if view.proven:
        return Hold(reasons=view.proven)
    if view.budget_spent:
        return Hold(reasons=(_reason("budget_spent", "the harm budget is used up"),))
    if not view.suspicion < SUSPICIOUS:
        return Hold(reasons=(view.suspect or _reason("suspicion", "the evidence leans against the canary"),))
    return _foreseen(view)


def _foreseen(view: GuardView) -> Hold | None:
    """What forbids a rise since a limit is near, or would be."""
    if view.over_limit is not None:
        return Hold(reasons=(view.over_limit,))
    if view.forecast is not None and (view.breach_likely or view.breach_ticks >= BREACH_TICKS):
        return Hold(reasons=(_breach(view.forecast),))
    if view.exhaustion is not None and not view.exhaustion.p_exhausts < BREACH_LIKELY and view.exhaustion.log_e > 0:
        return Hold(reasons=(_exhaustion(view.exhaustion),))
    if view.at_next is not None and not view.at_next.p_breach < BREACH_LIKELY:
        return Hold(reasons=(_overload(view.at_next),))
    return None


def _forward(view: GuardView) -> Verdict:
    """How far it may go."""
    bake_bp = min(view.spec.bake_split_bp, view.max_split_bp)
    if view.phase is Phase.BAKING:
        if view.bake_done and view.unhealthy is not None:
            return Hold(reasons=(view.unhealthy,))
        if view.bake_done and view.dirty is not None:
            return Hold(reasons=(view.dirty,))
        if view.bake_done:
            return Promote(reasons=(_reason("baked", "healthy after baking"),))
        return Hold(reasons=(_reason("baking", f"baking at {view.split_bp / 100:.0f} %"),))
    if not view.dwelt:
        return Hold(reasons=(_reason("dwell", "dwells before the next step"),))
    ceiling = min(view.cap_bp, bake_bp, view.split_bp + view.spec.max_step_bp)
    if view.unhealthy is not None:
        ceiling = min(ceiling, UNKNOWN_CEILING_BP)
    split_bp = min(view.proposal_bp, ceiling)
    if split_bp >= view.split_bp + worth_bp(view.split_bp) or view.split_bp < split_bp == bake_bp:
        return Advance(split_bp=split_bp, reasons=(_reason("allowed", f"the budget allows {view.cap_bp / 100:.0f} %"),))
    return Hold(reasons=(view.unhealthy or _reason("budget", f"the budget allows {view.cap_bp / 100:.0f} %"),))


def forecast_threshold(risk: float, usual: float = BREACH_SURE) -> float:
    """Probability in [LEAST_BREACH_SURE, MOST_BREACH_SURE] at which a foreseen breach of a release of that risk counts.

    `usual`: at the prior. The odds of a breach are those that the forecast gives times those of the release's risk
    over the prior's, so the threshold's log-odds fall by as much as the risk's rise (Bayes). It is the evidence's
    floor, and not this, that bounds false alarms.
    """
    if risk == PRIOR_RISK:
        return usual
    odds = usual / (1 - usual) * PRIOR_RISK / (1 - PRIOR_RISK) * (1 - risk) / max(risk, 1e-9)
    return min(max(odds / (1 + odds), LEAST_BREACH_SURE), MOST_BREACH_SURE)


def _breach(forecast: Forecast) -> Reason:
    where = " everywhere" if forecast.everywhere else ""
    return Reason(
        code="forecast",
        text=(
            f"{forecast.kpi}{where} is forecast to cross its limit of {forecast.limit:.1%} within "
            f"{forecast.horizon_s / 60:.0f} min with probability {forecast.p_breach:.2f}"
        ),
        kpi=forecast.kpi, observed=forecast.mean, limit=forecast.limit, unit="share of sessions",
    )  # fmt: skip


def _exhaustion(forecast: Exhaustion) -> Reason:
    text = (
        f"{forecast.resource} of the canary is forecast to reach its limit of {forecast.limit:g} within "
        f"{forecast.horizon_s / 60:.0f} min with probability {forecast.p_exhausts:.2f}; it grows faster than the "
        f"baseline's (evidence {math.exp(min(forecast.log_e, 700.0)):.3g} to 1)"
    )
    return Reason(
        code="exhaustion", text=text, kpi=forecast.resource, observed=forecast.level, limit=forecast.limit,
        unit="as reported",
    )  # fmt: skip


def _overload(forecast: LoadForecast) -> Reason:
    text = (
        f"{forecast.kpi} gets worse as the split grows: at {forecast.split:.0%} it would be above its limit of "
        f"{forecast.limit:.1%} with probability {forecast.p_breach:.2f}"
    )
    return Reason(
        code="load", text=text, kpi=forecast.kpi, observed=forecast.mean, limit=forecast.limit, unit="share of sessions"
    )


def _listed(reason: Reason | None) -> tuple[Reason, ...]:
    return () if reason is None else (reason,)
