from __future__ import annotations

import re

import pytest

from analysis.decision import Advance, Hold, Phase, SegmentDecision, Verdict
from xds_server.telemetry import Telemetry


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry("1.2.3")


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    """The metric's value in what Prometheus reads, None if it is not there."""
    wanted = ",".join(f'{label}="{text}"' for label, text in sorted(labels.items()))
    series = f"{name}{{{wanted}}}" if wanted else name
    found = re.search(rf"^{re.escape(series)} (\S+)$", telemetry.render().decode(), re.MULTILINE)
    return float(found.group(1)) if found else None


def decision(verdict: Verdict, split_bp: int) -> SegmentDecision:
    return SegmentDecision(
        segment="eu", verdict=verdict, phase=Phase.RAMPING, split_before_bp=0, split_after_bp=split_bp
    )


def test_decisions_are_counted_by_verdict_and_show_their_split(telemetry: Telemetry) -> None:
    telemetry.decided("shop", decision(Advance(split_bp=500, reasons=()), 500))
    telemetry.decided("shop", decision(Hold(reasons=()), 500))
    telemetry.decided("shop", decision(Hold(reasons=()), 500))
    assert value(telemetry, "serinus_decisions_total", service="shop", segment="eu", verdict="hold") == 2
    assert value(telemetry, "serinus_decisions_total", service="shop", segment="eu", verdict="advance") == 1
    assert value(telemetry, "serinus_split_ratio", service="shop", segment="eu") == 0.05


def test_a_split_that_an_operator_sets_shows_at_once(telemetry: Telemetry) -> None:
    telemetry.split("shop", "eu", 10_000)
    assert value(telemetry, "serinus_split_ratio", service="shop", segment="eu") == 1.0


def test_evidence_and_harm_show_their_latest_value(telemetry: Telemetry) -> None:
    for number in (1.5, -0.5):
        telemetry.evidence("shop", "eu", "error_rate", number)
        telemetry.harm("shop", 10 + number)
        telemetry.sample_ratio("shop", 7 + number)
    assert value(telemetry, "serinus_evidence", service="shop", segment="eu", kpi="error_rate") == -0.5
    assert value(telemetry, "serinus_harm_sessions_upper", service="shop") == 9.5
    assert value(telemetry, "serinus_sample_ratio_evidence", service="shop") == 6.5


def test_durations_are_histograms_in_seconds(telemetry: Telemetry) -> None:
    telemetry.in_force("shop", 0.02)
    telemetry.ticked("shop", 0.003)
    assert value(telemetry, "serinus_commit_to_ack_seconds_sum", service="shop") == 0.02
    assert value(telemetry, "serinus_commit_to_ack_seconds_bucket", service="shop", le="0.025") == 1
    assert value(telemetry, "serinus_commit_to_ack_seconds_bucket", service="shop", le="0.01") == 0
    assert value(telemetry, "serinus_tick_duration_seconds_count", service="shop") == 1


def test_journal_records_are_counted_by_kind(telemetry: Telemetry) -> None:
    telemetry.journal_written("decision")
    assert value(telemetry, "serinus_journal_records_total", kind="decision") == 1


def test_what_others_count_is_read_when_asked(telemetry: Telemetry) -> None:
    entries = {("access_log", "accepted"): 1}
    ready = False
    telemetry.watch_ready(lambda: ready)
    telemetry.watch_ingest(
        entries=lambda: entries, depth=lambda: {"shop": 4}, dropped=lambda: {"shop": 2}, samples=lambda: {"shop": 9}
    )
    telemetry.watch_access_logs(waiting_bytes=lambda: 12, waiting=lambda: 11)
    telemetry.watch_xds(responses=lambda: {("nack", "RDS"): 3}, nodes=lambda: 5)
    telemetry.watch_sessions(
        begun=lambda: {"shop": 9}, bots=lambda: {"shop": 2}, followed=lambda: {"shop": 6}, evicted=lambda: {"shop": 8}
    )
    entries["access_log", "accepted"] = 7
    assert value(telemetry, "serinus_ingest_entries_total", source="access_log", reason="accepted") == 7
    assert value(telemetry, "serinus_ingest_queue_rows", service="shop") == 4
    assert value(telemetry, "serinus_ingest_dropped_total", service="shop") == 2
    assert value(telemetry, "serinus_ingest_queue_messages") == 11
    assert value(telemetry, "serinus_ingest_queue_bytes") == 12
    assert value(telemetry, "serinus_samples_total", service="shop") == 9
    assert value(telemetry, "serinus_xds_responses_total", event="nack", type="RDS") == 3
    assert value(telemetry, "serinus_xds_nodes") == 5
    assert value(telemetry, "serinus_sessions_open", service="shop") == 6
    assert value(telemetry, "serinus_sessions_evicted_total", service="shop") == 8
    assert value(telemetry, "serinus_up", version="1.2.3") == 0
    ready = True
    assert value(telemetry, "serinus_up", version="1.2.3") == 1


def test_a_metric_that_nobody_feeds_is_not_there(telemetry: Telemetry) -> None:
    assert telemetry.render() == b""


def test_control_planes_in_one_process_keep_their_metrics_apart(telemetry: Telemetry) -> None:
    other = Telemetry("4")
    telemetry.journal_written("decision")
    assert value(other, "serinus_journal_records_total", kind="decision") is None


def test_after_the_end_nothing_is_read_any_more(telemetry: Telemetry) -> None:
    telemetry.watch_xds(responses=dict, nodes=lambda: 1 // 0)
    telemetry.close()
    assert telemetry.render() == b""
