"""What a run is judged by: constructed truths and histories, and the verdict that each calls for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from xds_server.demo.fault import CHOSEN, SEGMENTS, Fault, FaultKind
from xds_server.demo.summary import Decided, Run, Seen, SegmentEnd, moved_back_unasked, summarise

T0 = 1_000_000.0
ONSET = T0 + 15
TOLERANCES = {
    "error_rate": 0.02,
    "latency_p95": 0.02,
    "abandonment": 0.02,
    "feature:wishlist": 0.05,
    "anomaly": 0.1,
}


def decided(segment: str, verdict: str, at: float, *, kpi: str | None = None, tier: str = "") -> Decided:
    before, after = (5_000, 0) if verdict in ("rollback", "withdraw") else (9_500, 10_000)
    return Decided(
        at_unix=at,
        segment=segment,
        verdict=verdict,
        tier=tier,
        kpi=kpi,
        reason="because",
        split_before_bp=before,
        split_after_bp=after,
    )


def promoted(segment: str) -> Decided:
    return decided(segment, "promote", T0 + 70)


def rolled_back(segment: str, kpi: str | None, *, tier: str = "proven", at: float = ONSET + 5) -> Decided:
    return decided(segment, "rollback", at, kpi=kpi, tier=tier)


PHASE = {"promote": "promoted", "rollback": "rolled_back", "withdraw": "withdrawn"}


def tally(sessions: int, bad: int) -> dict[str, int]:
    return {"sessions": sessions, "bad": bad, "harmed": 30}


def a_run(choice: str, faults: tuple[Fault, ...], *decisions: Decided, **changed: Any) -> Run:
    """A run in which segments with no decision given are still ramping."""
    phases = {each.segment: PHASE[each.verdict] for each in decisions}
    truth = {
        "faults": [{**fault.as_dict(), "excess": fault.excess(), "onset_unix": ONSET} for fault in faults],
        "onset_s": 15.0,
        "requests": 30_000,
        "failed": {"fault": 100, "chance": 20, "other": 0},
        "failed_examples": [],
        "flips": [],
        "segments": {segment: {"v1": tally(400, 40), "v2": tally(600, 90)} for segment in SEGMENTS},
    }
    run = Run(
        choice=choice,
        seed=1,
        duration_s=80,
        truth=truth,
        decisions=decisions,
        ends={
            segment: SegmentEnd(
                phase=phases.get(segment, "ramping"), largest_split=0.5, exposed_sessions=600, needed_sessions=0
            )
            for segment in SEGMENTS
        },
        seen={
            "v1": {segment: Seen(requests=9, last_unix=T0 + 90, first_fault_unix=None) for segment in SEGMENTS},
            "v2": {
                segment: Seen(requests=9, last_unix=ONSET + 5.5, first_fault_unix=ONSET + 0.5) for segment in SEGMENTS
            },
        },
        seen_unix=T0 + 90,
        rollout_started_unix=T0 + 3,
        tolerances=TOLERANCES,
        pushes=40,
        acks=40,
        nacks=0,
    )
    return replace(run, **changed)


def test_a_run_without_fault_is_right_when_everybody_is_promoted() -> None:
    assert summarise(a_run("none", (), *map(promoted, SEGMENTS))).exit == 0


def test_a_run_without_fault_is_wrong_when_one_segment_is_rolled_back() -> None:
    others = [promoted(segment) for segment in SEGMENTS if segment != "eu"]
    summary = summarise(a_run("none", (), *others, rolled_back("eu", "abandonment")))
    assert summary.exit == 1
    assert "eu: expected promoted, got rolled_back" in summary.wrong[0]


def test_a_run_without_fault_is_wrong_when_one_segment_is_not_done() -> None:
    assert summarise(a_run("none", (), *map(promoted, SEGMENTS[1:]))).exit == 1


def the_faults_of_all(power_kpi: str | None, eu_kpi: str | None, power_tier: str = "proven") -> Run:
    return a_run(
        "all",
        CHOSEN["all"],
        rolled_back("power", power_kpi, tier=power_tier),
        rolled_back("eu", eu_kpi),
        promoted("newcomers"),
        promoted("default"),
    )


def test_all_is_right_when_power_errs_and_eu_gives_up() -> None:
    assert summarise(the_faults_of_all("error_rate", "abandonment")).exit == 0
    assert summarise(the_faults_of_all(None, "abandonment", power_tier="hard")).exit == 0


@pytest.mark.parametrize(("power", "eu"), [("abandonment", "abandonment"), ("error_rate", "anomaly"), (None, None)])
def test_all_is_wrong_when_a_rollback_names_another_reason(power: str | None, eu: str | None) -> None:
    assert summarise(the_faults_of_all(power, eu)).exit == 1


def test_a_rollback_before_the_fault_is_a_false_one() -> None:
    early = rolled_back("eu", "abandonment", at=ONSET - 1)
    run = a_run("abandonment", CHOSEN["abandonment"], early, *(promoted(s) for s in SEGMENTS if s != "eu"))
    assert summarise(run).exit == 1


@pytest.mark.parametrize(
    ("choice", "segment", "kpi"),
    [
        ("errors", "power", "error_rate"),
        ("latency", "newcomers", "latency_p95"),
        ("feature", "default", "feature:wishlist"),
    ],
)
def test_each_fault_calls_for_its_own_kpi(choice: str, segment: str, kpi: str) -> None:
    others = [promoted(each) for each in SEGMENTS if each != segment]
    assert summarise(a_run(choice, CHOSEN[choice], rolled_back(segment, kpi), *others)).exit == 0
    assert summarise(a_run(choice, CHOSEN[choice], promoted(segment), *others)).exit == 1


def test_a_crash_calls_for_every_segment_to_be_rolled_back() -> None:
    back = [rolled_back(segment, None, tier="hard") for segment in SEGMENTS]
    assert summarise(a_run("crash", CHOSEN["crash"], *back)).exit == 0
    assert summarise(a_run("crash", CHOSEN["crash"], *back[1:], promoted(SEGMENTS[0]))).exit == 1


def abandonment_of(size: float, version: str = "v2") -> tuple[Fault, ...]:
    return (Fault(version=version, segment="eu", kind=FaultKind.ABANDONMENT, size=size),)


@pytest.mark.parametrize(
    ("size", "right"),
    [
        (0.5, {"rollback"}),  # excess 45 %: nobody can miss it
        (0.04, {"rollback", "withdraw", "ramping"}),  # 3.6 %: small, may end as "don't know"
        (0.01, {"promote", "withdraw", "ramping"}),  # 0.9 %: within the tolerance
    ],
)
def test_a_random_fault_is_judged_by_its_size(size: float, right: set[str]) -> None:
    others = [promoted(each) for each in SEGMENTS if each != "eu"]
    endings: dict[str, tuple[Decided, ...]] = {
        "rollback": (rolled_back("eu", "abandonment"),),
        "withdraw": (decided("eu", "withdraw", ONSET + 30),),
        "promote": (promoted("eu"),),
        "ramping": (),
    }
    found = {
        name
        for name, ending in endings.items()
        if summarise(a_run("random", abandonment_of(size), *ending, *others)).exit == 0
    }
    assert found == right


def test_a_fault_of_the_baseline_is_no_reason_to_take_the_canary_back() -> None:
    others = [promoted(each) for each in SEGMENTS if each != "eu"]
    faults = abandonment_of(0.8, version="v1")
    assert summarise(a_run("random", faults, promoted("eu"), *others)).exit == 0
    assert summarise(a_run("random", faults, *others)).exit == 0
    assert summarise(a_run("random", faults, rolled_back("eu", "abandonment"), *others)).exit == 1


def test_times_are_counted_from_the_first_faulty_answer_that_a_server_gave() -> None:
    row = summarise(the_faults_of_all("error_rate", "abandonment")).as_dict()["segments"]["power"]
    assert row["seconds_from_fault_to_decision"] == pytest.approx(4.5)
    assert row["seconds_from_fault_to_zero_traffic"] == pytest.approx(5.0)
    assert row["seconds_to_full"] is None


def test_a_version_that_is_still_asked_has_no_zero_traffic() -> None:
    run = the_faults_of_all("error_rate", "abandonment")
    row = summarise(replace(run, seen_unix=ONSET + 5.7)).as_dict()["segments"]["power"]
    assert row["seconds_from_fault_to_zero_traffic"] is None


def test_harm_is_the_sessions_that_the_canarys_fault_turned_bad() -> None:
    rows = summarise(the_faults_of_all("error_rate", "abandonment")).as_dict()["segments"]
    assert (rows["eu"]["canary_sessions"], rows["eu"]["harmed_sessions_beyond_baseline"]) == (600, 30)


def test_a_failed_request_that_is_not_the_faults_doing_makes_the_run_wrong() -> None:
    run = the_faults_of_all("error_rate", "abandonment")
    run = replace(
        run, truth={**run.truth, "failed": {"fault": 1, "chance": 1, "other": 1}, "failed_examples": ["none 503 UH"]}
    )
    summary = summarise(run)
    assert summary.exit == 1
    assert summary.failed_requests_not_the_faults_doing == 1


def test_leaving_the_canary_needs_a_split_that_fell() -> None:
    run = the_faults_of_all("error_rate", "abandonment")
    asked = {"segment": "eu", "from_unix": ONSET + 4.8, "to_unix": ONSET + 5.6}
    unasked = {"segment": "newcomers", "from_unix": ONSET + 4.8, "to_unix": ONSET + 5.6}
    assert moved_back_unasked(replace(run, truth={**run.truth, "flips": [asked]})) == 0
    assert moved_back_unasked(replace(run, truth={**run.truth, "flips": [asked, unasked]})) == 1


def test_the_summary_can_be_written_as_json() -> None:
    written = json.loads(json.dumps(summarise(the_faults_of_all("error_rate", "abandonment")).as_dict()))
    assert set(written["segments"]) == set(SEGMENTS)
    assert written["failed_requests_not_the_faults_doing"] == 0
