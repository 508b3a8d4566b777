"""How a run of the demo looks: the live table, lines where there is no terminal, and the verdict."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from xds_server.demo.summary import SegmentSummary, Summary
from xds_server.pb import control_pb2 as pb

COLOURS = {"harmful": "red", "healthy": "green", "promoted": "green", "rolled_back": "red", "withdrawn": "yellow"}


def live_table(status: pb.Status, *, fault: str, elapsed_s: float) -> Table:
    """Return a row a segment: split, evidence, state, sessions still needed, and why."""
    service = status.services[0]
    title = (
        f"{service.service} {service.baseline} → {service.canary or '…'}   {elapsed_s:5.1f} s   fault: {fault}   "
        f"pushes {status.pushes}  ACKs {status.acks}  NACKs {status.nacks}   "
        f"harm ≤ {service.harm_upper + service.harm_reserved:.0f} of {service.harm_budget:.0f}"
    )
    table = Table(title=title, title_justify="left", expand=True)
    table.add_column("segment", no_wrap=True)
    table.add_column("split", justify="right", no_wrap=True)
    table.add_column("evidence", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("sessions", justify="right", no_wrap=True)
    table.add_column("needs", justify="right", no_wrap=True)
    table.add_column("last decision", ratio=1)
    for each in service.segments:
        state = each.phase if each.phase in COLOURS else f"{each.phase}, {each.health}"
        table.add_row(
            each.segment,
            f"{each.split:.1%}",
            _evidence(each),
            Text(state.replace("_", " "), style=COLOURS.get(each.phase, COLOURS.get(each.health, ""))),
            f"{each.canary_sessions}/{each.baseline_sessions}",
            str(each.needed_sessions) if each.needed_sessions else "–",
            f"{each.verdict}: {each.reason}" if each.reason else each.verdict,
        )
    return table


def _evidence(segment: pb.SegmentStatus) -> str:
    if not segment.leading_kpi:
        return "–"
    return f"{segment.leading_kpi} {segment.evidence:+.1f}/{segment.evidence_needed:.1f}"


def decision_line(segment: pb.SegmentStatus, *, elapsed_s: float) -> str:
    """Return one line about a segment's newest decision."""
    return (
        f"{elapsed_s:6.1f} s  {segment.segment:<10} {segment.split:6.1%}  {segment.phase:<11} "
        f"{segment.verdict}: {segment.reason}"
    )


def verdict_table(summary: Summary) -> Table:
    """Return what was expected, what happened, and when."""
    table = Table(title="What was expected, and what happened", title_justify="left")
    for name, justify in (
        ("", "left"),
        ("segment", "left"),
        ("expected", "left"),
        ("happened", "left"),
        ("on", "left"),
        ("fault → decision", "right"),
        ("→ zero traffic", "right"),
        ("start → 100 %", "right"),
        ("canary sessions", "right"),
        ("harmed", "right"),
        ("largest split", "right"),
    ):
        table.add_column(name, justify="right" if justify == "right" else "left")
    for row in summary.segments:
        table.add_row(*_verdict_row(row))
    return table


def _verdict_row(row: SegmentSummary) -> tuple[Text | str, ...]:
    return (
        Text("✓", style="green") if row.right else Text("✗", style="red"),
        row.segment,
        row.expected,
        row.outcome.replace("_", " ") if row.outcome != "unknown" else f"don't know ({row.phase})",
        row.kpi or row.tier,
        _seconds(row.seconds_from_fault_to_decision),
        _seconds(row.seconds_from_fault_to_zero_traffic),
        _seconds(row.seconds_to_full),
        str(row.canary_sessions),
        str(row.harmed_sessions_beyond_baseline),
        f"{row.largest_split:.0%}",
    )


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def verdict_lines(summary: Summary) -> list[str]:
    """Return the run's numbers and whatever was wrong, a line each."""
    injected = "; ".join(
        f"{each['version']} {each['kind']} for {'everybody' if each['segment'] == '*' else each['segment']}, size "
        f"{each['size']:.3g}, {each['excess']:.1%} of sessions"
        for each in summary.injected
    )
    return [
        f"fault {summary.fault}, seed {summary.seed}: {injected or 'nothing'}"
        + (f", from {summary.onset_s:.1f} s on" if injected else ""),
        f"{summary.requests} requests, {summary.failed_requests['fault']} failed by the fault, "
        f"{summary.failed_requests['chance']} by chance, {summary.failed_requests_not_the_faults_doing} otherwise; "
        f"{summary.pushes} pushes, {summary.acks} ACKs, {summary.nacks} NACKs",
        *(f"wrong: {line}" for line in summary.wrong),
    ]
