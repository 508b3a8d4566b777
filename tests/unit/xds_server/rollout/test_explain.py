"""What a person on call reads."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace
from typing import Any

import pytest

from analysis.decision import Phase, Tier
from xds_server.pb import control_pb2 as pb
from xds_server.rollout import explain as module
from xds_server.rollout.explain import PHASES, TIERS, explain
from xds_server.store.records import DecisionRow

SECOND = 10**9
NOW = 1_700_000_000 * SECOND

ERRORS = pb.KpiStatus(
    kpi="error_rate", canary=0.081, baseline=0.005, tolerance=0.02, evidence=6.0, canary_n=412, baseline_n=1_830,
    effect=0.074, effect_lower=0.031, effect_upper=0.117,
)  # fmt: skip


def service(*segments: pb.SegmentStatus, **changes: Any) -> pb.ServiceStatus:
    values: dict[str, Any] = {
        "service": "checkout",
        "rollout": "checkout-1",
        "state": "running",
        "mode": "act",
        "baseline": "v1",
        "canary": "v2",
        "generation": 14,
        "in_force": True,
        "harm_budget": 500,
        "harm_upper": 42.4,
        "harm_reserved": 12,
        "started_unix_ns": NOW - 200 * SECOND,
    }
    return pb.ServiceStatus(segments=segments, **{**values, **changes})


POWER = pb.SegmentStatus(
    segment="power",
    phase="rolled_back",
    health="harmful",
    verdict="rollback",
    reason="8.1 % of sessions met an error, 0.5 % on the baseline",
    leading_kpi="error_rate",
    evidence=6.0,
    evidence_needed=5.5,
    exposed_sessions=434,
    excess_sessions=31.2,
    largest_split=0.25,
    kpis=[ERRORS],
)
EU = pb.SegmentStatus(
    segment="eu", phase="ramping", health="unknown", split=0.125, needed_sessions=120, needed_minutes=2.5
)
ROLLBACK = DecisionRow(
    at_unix_ns=NOW - 35 * SECOND,
    service="checkout",
    rollout="checkout-1",
    segment="power",
    verdict="rollback",
    tier="proven",
    split_before_bp=2_500,
    split_after_bp=0,
    generation=13,
    reason="errors",
    in_force_unix_ns=NOW - 34_600 * 10**6,
)


def test_a_segment_that_came_when_the_rollout_had_ended_is_not_said_to_be_pinned() -> None:
    late = pb.SegmentStatus(segment="newcomers", health="unknown", baseline="v2")
    text = explain(service(late, state="finished"), [], segment="newcomers", now_unix_ns=NOW)
    assert text.endswith("\n\nnewcomers: took no part, everybody there gets v2.")


def test_a_rollback_is_told_with_what_happened_to_whom_why_and_what_to_do() -> None:
    """One segment in full, every line of it."""
    text = explain(service(POWER, EU), [ROLLBACK], segment="power", now_unix_ns=NOW)
    assert text == (
        "checkout: rollout checkout-1, v2 against v1, running, started 3 min ago.\n"
        "Harm: at most 42 of the 500 bad sessions that it may cost beyond the baseline; "
        "sessions still open could add 12.\n"
        "In force: every Envoy that carries its traffic has configuration 14.\n"
        "\n"
        "power: rolled back: everybody there gets v1.\n"
        "  Why: 8.1 % of sessions met an error, 0.5 % on the baseline\n"
        "  To whom: 434 sessions got v2; about 31 of them went bad that would not have on v1. Largest split: 25 %.\n"
        "  Evidence: proof of harm, from sessions that met an error.\n"
        "  22:12:45 UTC, 35 s ago: rollback, 25 % → 0 % (on proof): errors; in force 0.4 s later\n"
        "  sessions that met an error: 8.1 % of 412 on v2, 0.5 % of 1,830 on v1 (accepted: 2 percentage points more; "
        "of people who came together +7.4, surely between +3.1 and +11.7).\n"
        "  You can: release a mended version: serinus rollout start checkout --canary VERSION"
    )


def test_a_service_without_a_rollout_says_how_to_start_one() -> None:
    """Nothing has happened, and that is said."""
    text = explain(pb.ServiceStatus(service="checkout", baseline="v1"), [], segment=None, now_unix_ns=NOW)
    assert text == (
        "checkout: no rollout yet; everybody gets v1.\nYou can: serinus rollout start checkout --canary VERSION"
    )


def test_not_knowing_yet_is_said_with_what_is_still_needed() -> None:
    """No data is never told as health."""
    text = explain(service(EU), [], segment="eu", now_unix_ns=NOW)
    assert "eu: 12.5 % of its people get v2." in text
    assert "Not known yet: 120 more judged sessions needed, about 2 min at today's traffic." in text
    assert "healthy" not in text
    unknown = pb.SegmentStatus(segment="eu", phase="ramping", needed_sessions=9, needed_minutes=-1)
    assert "9 more judged sessions needed.\n" in explain(service(unknown), [], segment="eu", now_unix_ns=NOW)


def test_the_short_form_names_each_segment_with_its_last_turn_only() -> None:
    """All segments fit a screen; repeated holds and other segments' decisions are left out."""
    hold = DecisionRow(
        at_unix_ns=NOW,
        service="checkout",
        rollout="checkout-1",
        segment="eu",
        verdict="hold",
        split_before_bp=1_250,
        split_after_bp=1_250,
        generation=14,
        reason="dwell",
    )
    text = explain(service(POWER, EU), [ROLLBACK, hold], segment=None, now_unix_ns=NOW)
    assert text.count("rollback, 25 % → 0 %") == 1
    assert "dwell" not in text
    assert "\n\neu: " in text


def test_what_waits_what_is_paused_and_what_is_only_observed_is_said() -> None:
    """The states in which nothing seems to happen are explained."""
    waiting = explain(
        service(EU, in_force=False, waiting_for=["edge-1", "cart-7"], state="frozen"), [], segment=None, now_unix_ns=NOW
    )
    assert "Not in force yet: configuration 14 waits for edge-1, cart-7." in waiting
    assert "A person froze it" in waiting
    assert "serinus rollout resume checkout" in waiting
    observed = explain(service(EU, mode="observe", state="paused"), [], segment=None, now_unix_ns=NOW)
    assert "Serinus only observes" in observed
    assert "A person paused it" in observed


def test_where_new_people_went_is_said_and_what_to_do_where_they_were_not_asked_to() -> None:
    """A split that is not kept is no matter of the version."""
    kept = pb.SampleRatio(people=1_020, on_canary=512, asked=509.6, evidence=-2.0, evidence_needed=7.6)
    lost = pb.SampleRatio(people=1_020, on_canary=412, asked=509.6, evidence=12.0, evidence_needed=7.6)
    segment = pb.SegmentStatus(segment="eu", phase="ramping", sample_ratio=kept)
    text = explain(service(segment, sample_ratio=kept), [], segment="eu", now_unix_ns=NOW)
    assert text.count("New people: 512 of 1,020 got v2, 510 were asked for.\n") == 1, "one segment is all there are"
    assert "You can: wait" in text
    text = explain(service(segment, POWER, sample_ratio=lost), [], segment=None, now_unix_ns=NOW)
    assert "New people: 412 of 1,020 got v2, 510 were asked for. That is no chance" in text
    assert "You can: find out where its people go, then `serinus rollout resume checkout --segment eu`" in text
    nobody = explain(service(EU, POWER), [], segment=None, now_unix_ns=NOW)
    assert "New people" not in nobody


def test_a_closer_watch_is_said_with_how_long_requests_take_on_either_version() -> None:
    quantiles = [pb.LatencyQuantile(quantile=0.5, canary_ms=12, baseline_ms=11.4),
                 pb.LatencyQuantile(quantile=0.99, canary_ms=1234.5, baseline_ms=200)]  # fmt: skip
    watched = pb.SegmentStatus(
        segment="eu", phase="ramping", health="unknown", split=0.125, watched=True,
        latencies=pb.Latencies(canary_n=12, baseline_n=3_400, quantiles=quantiles),
    )  # fmt: skip
    text = explain(service(watched), [], segment="eu", now_unix_ns=NOW)
    assert "\n  Closer watch, until the evidence clears: ticks and access logs come sooner" in text
    counts = "\n  latencies of 12 requests on v2 and 3,400 on v1: "
    assert f"{counts}p50 12 ms (11.4 ms on v1), p99 1,234 ms (200 ms on v1).\n" in text
    assert "latencies" not in explain(service(watched), [], segment=None, now_unix_ns=NOW)
    watched.latencies.canary_n = 0
    assert "0 requests on v2 and 3,400 on v1 so far." in explain(service(watched), [], segment="eu", now_unix_ns=NOW)
    assert "loser watch" not in explain(service(EU), [], segment="eu", now_unix_ns=NOW)


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        (
            {"reactive_failures": 4.0, "reactive_fired_s": 1_200.0},
            "would have rolled back 20 min after the first exposure.",
        ),
        ({"reactive_failures": 1.0}, "would not have rolled back by the last decision (1 of 4 missed)."),
    ],
)
def test_what_a_fixed_threshold_would_have_done_is_said_from_the_newest_numbers(
    numbers: dict[str, float], told: str
) -> None:
    old = {"numbers": {"reactive_failures": 0.0}}
    rows = [replace(ROLLBACK, detail_json=json.dumps(each)) for each in (old, {"numbers": numbers}, {})]
    text = explain(service(POWER), rows, segment="power", now_unix_ns=NOW)
    rule = "95 % of sessions without errors, missed at 4 looks, one every 5 min"
    assert f"\n  A fixed threshold ({rule}) {told}\n" in text
    assert "fixed threshold" not in explain(service(POWER), rows, segment=None, now_unix_ns=NOW)
    assert "fixed threshold" not in explain(service(POWER), rows[2:], segment="power", now_unix_ns=NOW)


def test_a_number_that_is_not_known_is_not_printed_as_one() -> None:
    """An upper bound may be infinite before there is data."""
    text = explain(service(EU, harm_upper=float("inf")), [], segment=None, now_unix_ns=NOW)
    assert "at most an unknown number of the 500" in text


def test_every_phase_and_tier_has_its_words() -> None:
    """A new phase cannot be forgotten here."""
    assert set(PHASES) == set(Phase)
    assert set(TIERS) == set(Tier)
    for phase in Phase:
        segment = pb.SegmentStatus(segment="s", phase=str(phase), baseline="v1", canary="v2")
        assert "s: " in explain(service(segment), [], segment="s", now_unix_ns=NOW)


def test_examples_in_the_docstrings_hold() -> None:
    """Percentages and durations as people read them."""
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("moved", "leaning", "said"),
    [
        (0, 0.0, "Policy learned: 1,412 updates on the job; every value is as shipped."),
        (
            96, -0.002,
            "Policy learned: 1,412 updates on the job have moved 96 of its 3,120 values, the farthest by 0.0123 of at "
            "most 0.02, on the whole towards smaller steps. What a rollout teaches counts from the next one on.",
        ),
        (
            96, 0.002,
            "Policy learned: 1,412 updates on the job have moved 96 of its 3,120 values, the farthest by 0.0123 of at "
            "most 0.02, on the whole towards larger steps. What a rollout teaches counts from the next one on.",
        ),
    ],
)  # fmt: skip
def test_how_far_a_policy_has_moved_is_told(moved: int, leaning: float, said: str) -> None:
    learning = pb.PolicyLearning(updates=1_412, moved=moved, values=3_120, farthest=0.0123, bound=0.02, leaning=leaning)
    told = explain(service(EU, policy_learning=learning), [], segment=None, now_unix_ns=NOW)
    assert said in told.splitlines()
    assert "Policy learned" not in explain(service(EU), [], segment=None, now_unix_ns=NOW)


def test_what_the_policy_that_watches_would_have_done_is_told_in_full_only() -> None:
    eu = pb.SegmentStatus()
    eu.CopyFrom(EU)
    eu.shadow.CopyFrom(pb.Shadow(policy="learned", less=41, same=76, more=3))
    row = DecisionRow(
        at_unix_ns=NOW, service="checkout", rollout="checkout-1", segment="eu", verdict="advance", tier="",
        split_before_bp=0, split_after_bp=1_250, generation=14, reason="",
        detail_json=json.dumps({"shadow": {"policy": "learned", "verdict": "hold", "split_bp": 500}}), who="",
    )  # fmt: skip
    text = explain(service(eu), [row], segment="eu", now_unix_ns=NOW)
    assert (
        "Beside it watches policy learned: of 120 decisions it would have given the canary less in 41 and more in 3; "
        "at the last decision told here: hold, 5 %.\n"
    ) in text
    assert "Beside it" not in explain(service(eu), [row], segment=None, now_unix_ns=NOW)
    assert "Beside it" not in explain(service(EU), [], segment="eu", now_unix_ns=NOW)


def test_forecast_is_told_with_band_limit_chance_and_what_drives_it() -> None:
    forecast = pb.Forecast(
        kpi="error_rate", limit=0.02, horizon_s=7_200, now=0.011, mean=0.024, lower=0.015, upper=0.033,
        probability=0.71, driver="slow trend", everywhere=True, crosses_s=4_800, width=1.4, baseline=0.005,
    )  # fmt: skip
    creeping = pb.SegmentStatus(segment="eu", phase="ramping", baseline="v1", canary="v2", forecast=forecast)
    told = explain(service(creeping), (), segment="eu", now_unix_ns=NOW)
    assert (
        "Forecast: sessions that met an error in all segments together, 1.1 % now, 0.5 % on the baseline, 2.4 % (1.5 % "
        "to 3.3 %) in 2 h 0 min; the limit is 2 %, and the chance to cross it by then 71 %. What drives it: a slow "
        "trend; on this course it meets the limit in 1 h 20 min; the band is 1.4 times as wide as modelled."
    ) in told
    assert "Forecast" not in explain(service(EU), (), segment="eu", now_unix_ns=NOW)


def test_a_resource_is_told_with_its_course_the_band_and_the_evidence() -> None:
    leak = pb.Exhaustion(
        resource="memory", limit=2_000, is_known=True, level=1_250, slope_per_h=410.5, baseline_slope_per_h=-3,
        in_s=6_600, lower_s=6_000, upper_s=-1, horizon_s=7_200, probability=0.87, evidence=3.0, evidence_needed=4.605,
    )  # fmt: skip
    unknown = pb.Exhaustion(resource="queue", limit=10)
    told = explain(service(EU, resources=[leak, unknown]), (), segment=None, now_unix_ns=NOW).splitlines()
    assert (
        "Resource memory: 1250 of 2000 on v2, +410.5 an hour, -3 on v1; on this course the limit is reached in 1 h 50 "
        "min (1 h 40 min to never), within 2 h 0 min with a probability of 87 %. The evidence that v2 uses it up "
        "faster is 20.1 to 1; 100 to 1 is needed."
    ) in told
    assert "Resource queue: too little has been reported of v2 to say when it runs out." in told
