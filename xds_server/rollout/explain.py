"""What is happening to a service's rollout and why, in words for a person on call. Pure: values in, text out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from analysis.decision import Phase, Tier
from analysis.reactive import FAILURES, LOOK_S, SUCCESS
from xds_server.pb import control_pb2 as pb
from xds_server.rollout.steered import HELD
from xds_server.store.records import DecisionRow

PHASES: Final = {
    Phase.WAITING: "waits for another segment; everybody there gets {baseline}",
    Phase.WARMUP: "warms up: {baseline} is being learnt, nobody gets {canary} yet",
    Phase.RAMPING: "{split} of its people get {canary}",
    Phase.BAKING: "bakes: {split} of its people get {canary}, the rest stay on {baseline} to compare with",
    Phase.PROMOTED: "promoted: everybody there gets {canary}",
    Phase.ROLLED_BACK: "rolled back: everybody there gets {baseline}",
    Phase.WITHDRAWN: "withdrawn: everybody there gets {baseline}; {canary} was proven neither harmful nor tolerable",
    Phase.PINNED: "pinned: takes no part, everybody there gets {baseline}",
}

TIERS: Final = {
    Tier.HARD: "at once, a hard limit was broken",
    Tier.PROVEN: "on proof",
    Tier.PREDICTED: "on a forecast",
    Tier.OPERATOR: "by a person",
}

KPIS: Final = {
    "error_rate": "sessions that met an error",
    "latency_p95": "sessions that were slow",
    "abandonment": "sessions that were abandoned",
    "anomaly": "sessions that behaved unusually",
}


def explain(
    service: pb.ServiceStatus, decisions: Sequence[DecisionRow], *, segment: str | None, now_unix_ns: int
) -> str:
    """Return what happened, to whom, why, and what can be done; one segment in full, or all of them in short.

    `decisions` are the rollout's, oldest first; those of other segments are ignored.
    """
    if not service.rollout:
        return (
            f"{service.service}: no rollout yet; everybody gets {service.baseline}.\n"
            f"You can: serinus rollout start {service.service} --canary VERSION"
        )
    chosen = [each for each in service.segments if segment in {None, each.segment}]
    paragraphs = ["\n".join(_overview(service, now_unix_ns))]
    for each in chosen:
        own = [row for row in decisions if row.segment in {each.segment, ""}]
        lines = _segment(service, each, own, now_unix_ns, in_full=segment is not None)
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)


def _overview(service: pb.ServiceStatus, now_unix_ns: int) -> list[str]:
    since = _duration((now_unix_ns - service.started_unix_ns) / 1e9)
    lines = [
        f"{service.service}: rollout {service.rollout}, {service.canary} against {service.baseline}, "
        f"{service.state}, started {since} ago."
    ]
    if service.mode == "observe":
        lines.append("Serinus only observes: it says what it would do and changes nothing.")
    is_held = any(segment.reason.startswith(HELD) for segment in service.segments)
    who = "Serinus itself" if is_held else "A person"
    if service.state == "paused":
        lines.append(f"{who} paused it: splits may fall, never rise, until `resume`.")
    if service.state == "frozen":
        lines.append(f"{who} froze it: nothing moves, not even down, until `resume`.")
    lines.append(
        f"Harm: at most {_count(service.harm_upper)} of the {_count(service.harm_budget)} bad sessions that it may "
        f"cost beyond the baseline; sessions still open could add {_count(service.harm_reserved)}."
    )
    if service.HasField("risk"):
        lines.append(_risk(service.risk))
    lines += [_resource(each, service.canary, service.baseline) for each in service.resources]
    if service.sample_ratio.people and len(service.segments) > 1:
        lines.append(_spread(service.sample_ratio, service.canary))
    if service.HasField("log_check"):
        lines.append(_logs(service.log_check))
    if service.HasField("policy_learning"):
        lines.append(_learning(service.policy_learning))
    if service.in_force:
        lines.append(f"In force: every Envoy that carries its traffic has configuration {service.generation}.")
    else:
        waiting = ", ".join(service.waiting_for) or "Envoy"
        lines.append(f"Not in force yet: configuration {service.generation} waits for {waiting}.")
    return lines


def _risk(risk: pb.Risk) -> str:
    """Tell how likely the release fails, and what drove that."""
    told = f": {'; '.join(risk.told)}" if risk.told else ""
    if not told and not risk.source.startswith("prior"):
        told = ": nothing of it stands out"
    return f"Risk: it fails with a probability of {_percent(risk.risk)} ({risk.source}){told}."


def _resource(told: pb.Exhaustion, canary: str, baseline: str) -> str:
    """Tell when a resource of the canary runs out, and whether it is the canary that uses it up."""
    if not told.is_known:
        return f"Resource {told.resource}: too little has been reported of {canary} to say when it runs out."
    when = f"in {_duration(told.in_s)}" if told.in_s >= 0 else "never"
    latest = _duration(told.upper_s) if told.upper_s >= 0 else "never"
    band = f" ({_duration(told.lower_s)} to {latest})" if told.lower_s >= 0 else ""
    beside = f", {told.baseline_slope_per_h:+.4g} on {baseline}" if told.HasField("baseline_slope_per_h") else ""
    return (
        f"Resource {told.resource}: {told.level:.4g} of {told.limit:.4g} on {canary}, {told.slope_per_h:+.4g} an hour"
        f"{beside}; on this course the limit is reached {when}{band}, within {_duration(told.horizon_s)} with a "
        f"probability of {_percent(told.probability)}. The evidence that {canary} uses it up faster is "
        f"{_odds(told.evidence)} to 1; {_odds(told.evidence_needed)} to 1 is needed."
    )


def _segment(
    service: pb.ServiceStatus,
    segment: pb.SegmentStatus,
    decisions: Sequence[DecisionRow],
    now_unix_ns: int,
    *,
    in_full: bool,
) -> list[str]:
    names = {"baseline": segment.baseline or service.baseline, "canary": segment.canary or service.canary}
    if not segment.phase:  # as one that came when the rollout had ended
        return [f"{segment.segment}: took no part, everybody there gets {names['baseline']}."]
    phase, split = Phase(segment.phase), _percent(segment.split)
    lines = [f"{segment.segment}: {PHASES[phase].format(split=split, **names)}."]
    if phase is Phase.PINNED:
        return lines
    if segment.reason:
        lines.append(f"  Why: {segment.reason}")
    lines += [f"  {line}" for line in _knowledge(segment, phase, names)]
    turns = [row for row in decisions if _is_turn(row)]
    lines += [f"  {_told(row, now_unix_ns)}" for row in (turns[-8:] if in_full else turns[-1:])]
    if in_full:
        lines += [f"  {_forecast(segment.forecast)}"] if segment.HasField("forecast") else []
        lines += [f"  {line}" for line in _fixed_threshold(decisions)]
        lines += [f"  {_shadow(segment.shadow, decisions)}"] if segment.HasField("shadow") else []
        lines += [f"  {_kpi(kpi, names)}" for kpi in segment.kpis]
        lines += [f"  {_latencies(segment.latencies, names)}"] if segment.HasField("latencies") else []
    lines.append(f"  You can: {_advice(service, segment, phase)}")
    return lines


def _knowledge(segment: pb.SegmentStatus, phase: Phase, names: dict[str, str]) -> list[str]:
    """Tell whom it touched, and what is known of them."""
    lines = []
    if segment.exposed_sessions:
        line = f"To whom: {segment.exposed_sessions:,} sessions got {names['canary']}"
        if segment.excess_sessions >= 1:
            line += (
                f"; about {_count(segment.excess_sessions)} of them went bad that would not have on {names['baseline']}"
            )
        lines.append(f"{line}. Largest split: {_percent(segment.largest_split)}.")
    if segment.sample_ratio.people:
        lines.append(_spread(segment.sample_ratio, names["canary"]))
    if segment.needed_sessions and not phase.is_final:
        about = (
            f", about {_duration(segment.needed_minutes * 60)} at today's traffic" if segment.needed_minutes > 0 else ""
        )
        lines.append(f"Not known yet: {segment.needed_sessions:,} more judged sessions needed{about}.")
    elif segment.health == "healthy" and not phase.is_final:
        lines.append("Known: it is healthy within the accepted tolerance.")
    leading = next((kpi for kpi in segment.kpis if kpi.kpi == segment.leading_kpi), None)
    if leading is not None and segment.evidence > 0 and segment.evidence_needed > 0:
        share = min(1.0, segment.evidence / segment.evidence_needed)
        proof = "proof of harm" if share >= 1 else f"{_percent(share)} of the way to proof of harm"
        lines.append(f"Evidence: {proof}, from {_words(leading.kpi)}.")
    if segment.watched:
        lines.append(
            "Closer watch, until the evidence clears: ticks and access logs come sooner and, where the mesh traces, "
            "every request is traced."
        )
    return lines


def _spread(ratio: pb.SampleRatio, canary: str) -> str:
    """Tell where new people went, and where they were asked to go."""
    line = f"New people: {ratio.on_canary:,} of {ratio.people:,} got {canary}, {_count(ratio.asked)} were asked for."
    if _is_mismatch(ratio):
        line += " That is no chance: the splits are not kept, or a version's access logs get lost."
    return line


def _logs(check: pb.LogCheck) -> str:
    """Tell what the access logs lack of what Envoys say that they sent upstream."""
    total = check.total
    if not check.nodes:
        return "Access logs: no check, since no Envoy with its traffic reports its load in this minute."
    of = f" (by {check.nodes} of {check.carriers} Envoys)" if check.nodes < check.carriers else ""
    if total.needed:
        return f"Access logs: no check yet{of}, {total.needed} more upstream requests needed."
    line = (
        f"Access logs: {_percent(total.lower)} to {_percent(total.upper)} of the {total.requests:,} upstream requests "
        f"of the last minute are missing{of}"
    )
    versions = [each for each in check.versions if not each.needed]
    if total.lower > 0 and len(versions) > 1:
        line += "; " + ", ".join(f"about {_percent(each.lost)} of {each.version}'s" for each in versions)
    return f"{line}; {total.node} lacks most." if total.node and check.nodes > 1 else f"{line}."


def _learning(learnt: pb.PolicyLearning) -> str:
    """Tell how far the policy has moved from what it came with."""
    if not learnt.moved:
        return f"Policy learned: {learnt.updates:,} updates on the job; every value is as shipped."
    towards = "larger" if learnt.leaning > 0 else "smaller"
    return (
        f"Policy learned: {learnt.updates:,} updates on the job have moved {learnt.moved:,} of its {learnt.values:,} "
        f"values, the farthest by {learnt.farthest:.3g} of at most {learnt.bound:.3g}, on the whole towards {towards} "
        "steps. What a rollout teaches counts from the next one on."
    )


def _is_mismatch(ratio: pb.SampleRatio) -> bool:
    return ratio.people > 0 and ratio.evidence >= ratio.evidence_needed


def _kpi(kpi: pb.KpiStatus, names: dict[str, str]) -> str:
    if not kpi.canary_n or not kpi.baseline_n:
        return f"{_words(kpi.kpi)}: no judged sessions of both versions yet."
    return (
        f"{_words(kpi.kpi)}: {_percent(kpi.canary)} of {kpi.canary_n:,} on {names['canary']}, "
        f"{_percent(kpi.baseline)} of {kpi.baseline_n:,} on {names['baseline']} "
        f"(accepted: {_percent(kpi.tolerance)[:-2]} percentage points more; of people who came together "
        f"{_points(kpi.effect)}, surely between {_points(kpi.effect_lower)} and {_points(kpi.effect_upper)})."
    )


DRIVERS: Final = {
    "steady": "an excess that stays",
    "slow trend": "a slow trend",
    "steep trend": "a steep trend",
    "load": "the split: it gets worse as that grows",
}


def _forecast(forecast: pb.Forecast) -> str:
    """Tell where a KPI is heading, how sure that is, and what drives it."""
    where = " in all segments together" if forecast.everywhere else ""
    meets = f"; on this course it meets the limit in {_duration(forecast.crosses_s)}" if forecast.crosses_s > 0 else ""
    width = f"; the band is {forecast.width:.1f} times as wide as modelled" if forecast.width > 1.05 else ""
    driver = DRIVERS.get(forecast.driver, forecast.driver)
    return (
        f"Forecast: {_words(forecast.kpi)}{where}, {_percent(forecast.now)} now, {_percent(forecast.baseline)} on the "
        f"baseline, {_percent(forecast.mean)} ({_percent(forecast.lower)} to {_percent(forecast.upper)}) in "
        f"{_duration(forecast.horizon_s)}; the limit is {_percent(forecast.limit)}, and the chance to cross it by then "
        f"{_percent(forecast.probability)}. What drives it: {driver}{meets}{width}."
    )


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _latencies(found: pb.Latencies, names: dict[str, str]) -> str:
    """Tell how long requests took since the closer watch began."""
    counts = f"{found.canary_n:,} requests on {names['canary']} and {found.baseline_n:,} on {names['baseline']}"
    if not found.canary_n or not found.baseline_n:
        return f"latencies under closer watch: {counts} so far."
    quantiles = (
        f"p{q.quantile * 100:.0f} {_ms(q.canary_ms)} ({_ms(q.baseline_ms)} on {names['baseline']})"
        for q in found.quantiles
    )
    return f"latencies of {counts}: {', '.join(quantiles)}."


def _ms(value: float) -> str:
    """Return a latency to three digits.

    >>> _ms(0.1234), _ms(12.34), _ms(1234.5)
    ('0.123 ms', '12.3 ms', '1,234 ms')
    """
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _told(row: DecisionRow, now_unix_ns: int) -> str:
    """Tell one decision in a line."""
    at = datetime.fromtimestamp(row.at_unix_ns / 1e9, tz=UTC).strftime("%H:%M:%S UTC")
    move = (
        f", {_percent(row.split_before_bp / 10_000)} → {_percent(row.split_after_bp / 10_000)}"
        if row.split_before_bp != row.split_after_bp
        else ""
    )
    basis = f" ({TIERS[Tier(row.tier)]})" if row.tier in set(Tier) else ""
    who = f" by {row.who}" if row.who else ""
    if row.observed_only:
        force = "only observed, not done"
    elif row.in_force_unix_ns:
        force = f"in force {_duration((row.in_force_unix_ns - row.at_unix_ns) / 1e9)} later"
    else:
        force = ""
    differences = _detail(row).get("differences", ())
    behaviour = f"sessions on it were different in {', '.join(differences)}" if differences else ""
    tail = "; ".join(part for part in (row.reason, behaviour, force) if part)
    ago = _duration((now_unix_ns - row.at_unix_ns) / 1e9)
    return f"{at}, {ago} ago: {row.verdict}{move}{who}{basis}: {tail}"


def _fixed_threshold(decisions: Sequence[DecisionRow]) -> list[str]:
    """Tell what a rule with a fixed threshold would have done, by the newest decision that has numbers."""
    each = (_detail(row).get("numbers", {}) for row in reversed(decisions))
    numbers = next((found for found in each if "reactive_failures" in found), None)
    if numbers is None:
        return []
    rule = f"{_percent(SUCCESS)} of sessions without errors, missed at {FAILURES} looks, one every {_duration(LOOK_S)}"
    if "reactive_fired_s" in numbers:
        told = f"would have rolled back {_duration(numbers['reactive_fired_s'])} after the first exposure"
    else:
        told = (
            f"would not have rolled back by the last decision ({numbers['reactive_failures']:.0f} of {FAILURES} missed)"
        )
    return [f"A fixed threshold ({rule}) {told}."]


def _shadow(shadow: pb.Shadow, decisions: Sequence[DecisionRow]) -> str:
    """Tell what the policy that only watches would have done."""
    told = (
        f"Beside it watches policy {shadow.policy}: of {shadow.less + shadow.same + shadow.more:,} decisions it would "
        f"have given the canary less in {shadow.less:,} and more in {shadow.more:,}"
    )
    last = next((found for row in reversed(decisions) if (found := _detail(row).get("shadow"))), None)
    if last is not None:
        told += f"; at the last decision told here: {last['verdict']}, {_percent(last['split_bp'] / 10_000)}"
    return f"{told}."


def _detail(row: DecisionRow) -> dict[str, Any]:
    detail: dict[str, Any] = json.loads(row.detail_json) if row.detail_json else {}
    return detail


def _is_turn(row: DecisionRow) -> bool:
    """Say whether a decision is one that a person wants to hear of."""
    return (
        row.split_before_bp != row.split_after_bp or bool(row.who) or row.verdict not in {"advance", "hold", "reduce"}
    )


def _advice(service: pb.ServiceStatus, segment: pb.SegmentStatus, phase: Phase) -> str:
    command = f"serinus rollout {{}} {service.service} --segment {segment.segment}"
    if phase in (Phase.ROLLED_BACK, Phase.WITHDRAWN):
        more = "" if phase is Phase.ROLLED_BACK else " (with a larger harm budget, or when there is more traffic)"
        return f"release a mended version: serinus rollout start {service.service} --canary VERSION{more}"
    if service.state == "finished":
        return f"start the next one: serinus rollout start {service.service} --canary VERSION"
    if service.state in {"paused", "frozen"}:
        return f"`serinus rollout resume {service.service}`, or `{command.format('rollback')}`"
    if phase is Phase.PROMOTED:
        return f"`{command.format('rollback')}` if you know of harm that Serinus does not see"
    if _is_mismatch(segment.sample_ratio) or _is_mismatch(service.sample_ratio):
        return f"find out where its people go, then `{command.format('resume')}`; or `{command.format('rollback')}`"
    return f"wait; or `{command.format('pause')}`, or `{command.format('rollback')}`"


def _words(kpi: str) -> str:
    return KPIS.get(kpi) or f"sessions that did not use {kpi.removeprefix('feature:')}"


def _percent(ratio: float) -> str:
    """Return a share as people read it.

    >>> _percent(0.081), _percent(0.5), _percent(0.0004), _percent(1)
    ('8.1 %', '50 %', '0.04 %', '100 %')
    """
    percent = ratio * 100
    if not math.isfinite(percent):
        return "? %"
    digits = 0 if percent >= 99.95 else 1 if abs(percent) >= 0.1 else 2
    text = f"{percent:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def _count(value: float) -> str:
    """Return a number of sessions; one that is not finite is unknown."""
    return f"{value:,.0f}" if math.isfinite(value) else "an unknown number"


def _odds(log_e: float) -> str:
    return f"{math.exp(min(log_e, 700.0)):.3g}"


def _duration(seconds: float) -> str:
    """Return a duration to the precision that matters.

    >>> _duration(0.35), _duration(35), _duration(200), _duration(7500), _duration(200_000)
    ('0.3 s', '35 s', '3 min', '2 h 5 min', '2 d 7 h')
    """
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
