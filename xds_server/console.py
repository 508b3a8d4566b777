"""What the command line shows people: tables, once or live."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from xds_server.pb import control_pb2 as pb
from xds_server.pb import registry_pb2 as registry
from xds_server.pb import training_pb2 as training

PHASE_STYLES: Final = {
    "promoted": "green",
    "ramping": "cyan",
    "baking": "cyan",
    "rolled_back": "red",
    "withdrawn": "yellow",
}
PATIENCE_S: Final = 2.0  # so long it goes without a progress bar
UNSEEN_S: Final = 60.0
HEALTH_STYLES: Final = {"harmful": "red", "healthy": "green"}


def show(view: RenderableType) -> None:
    """Print a view once."""
    _console().print(view)


@contextmanager
def progress(what: str) -> Iterator[Callable[[float], None]]:
    """A bar on stderr, where that is a terminal and it takes long enough to be worth one; told shares in [0, 1]."""
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=1.0)
    begin_s = time.monotonic()

    def tell(share: float) -> None:
        bar.update(task, completed=share)
        if not bar.live.is_started and sys.stderr.isatty() and time.monotonic() - begin_s > PATIENCE_S:
            bar.start()

    try:
        yield tell
    finally:
        if bar.live.is_started:
            bar.stop()


def show_live(views: Iterator[RenderableType]) -> None:
    """Show each view in the place of the one before; one after the other where there is no terminal."""
    console = _console()
    if not console.is_terminal:
        for view in views:
            console.print(view)
        return
    with Live(console=console, auto_refresh=False) as live:
        for view in views:
            live.update(view, refresh=True)


def _console() -> Console:
    # Texts are shown as they are (a reason may contain brackets); a pipe has no width of its own.
    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 180)


def status_view(status: pb.Status) -> RenderableType:
    """Return a table a service, a row a segment, and a line about the Envoys."""
    parts: list[RenderableType] = [_service(service) for service in status.services]
    parts.append(
        Text(f"{_connected(status.nodes)} connected, {status.pushes} pushes, {status.acks} ACKs, {status.nacks} NACKs")
    )
    parts += [Text(f"{s.service}: {note}", style="yellow") for s in status.services for note in s.notes]
    parts += [_rejection(node) for node in status.nodes if node.rejections]
    parts += [Text(line, style="red") for each in status.endpoints for line in _doubts(each)]
    parts += [Text(f"{n.node} is not waited for, {n.excluded}", style="yellow") for n in status.nodes if n.excluded]
    if status.mesh.refused:
        parts.append(Text(f"{status.mesh.path} is not served as it is now: {status.mesh.refused}", style="red"))
    if status.mesh.waiting:
        parts.append(Text(f"changes wait until rollouts have ended: {', '.join(status.mesh.waiting)}", style="yellow"))
    return Group(*parts)


def _connected(nodes: Sequence[pb.NodeStatus]) -> str:
    clients = [node.connected for node in nodes if node.role == "grpc"]
    envoys = [node.connected for node in nodes if node.role != "grpc"]
    counts = [(envoys, "Envoys")] if envoys or not clients else []
    counts += [(clients, "gRPC clients")] if clients else []
    return " and ".join(f"{sum(of)} of {len(of)} {name}" for of, name in counts)


def _service(service: pb.ServiceStatus) -> Table:
    title = Text(service.service, style="bold")
    if service.rollout:
        title.append(f" {service.rollout}: {service.canary} against {service.baseline}, {service.state}", style="")
        force = "in force" if service.in_force else f"waiting for {', '.join(service.waiting_for) or 'Envoy'}"
        title.append(f", generation {service.generation} {force}")
        if service.HasField("log_check"):
            title.append(f", {_logs(service.log_check)}")
        title.append(f", harm at most {service.harm_upper:.0f} of {service.harm_budget:.0f} sessions")
    else:
        title.append(f" no rollout, everybody on {service.baseline}", style="")
    if service.mode == "observe":
        title.append(" (observes only)")
    if service.attributes:
        title.append(f" ({', '.join(f'{name}={value}' for name, value in sorted(service.attributes.items()))})")
    table = Table(title=title, title_justify="left", title_style="", expand=False)
    for name, justify in (
        ("segment", "left"),
        ("phase", "left"),
        ("seen", "right"),
        ("split", "right"),
        ("cap", "right"),
        ("health", "left"),
        ("evidence", "right"),
        ("judged", "right"),
        ("needed", "right"),
        ("last decision", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # a literal, widened by the loop
    requests = sum(segment.seen_requests for segment in service.segments)
    for segment in service.segments:
        table.add_row(*_segment(segment, requests))
    if unseen := _unseen(service):
        table.caption = Text(unseen, style="yellow")
        table.caption_justify = "left"
    return table


def _unseen(service: pb.ServiceStatus) -> str:
    """Which segments have been empty for a while, though others have not: perhaps nobody can be in them."""
    empty = [segment.segment for segment in service.segments if not segment.seen_requests]
    if service.seen_s < UNSEEN_S or not empty or len(empty) == len(service.segments):
        return ""
    return f"nobody seen in {', '.join(empty)} for {service.seen_s / 60:.0f} minutes"


def _logs(check: pb.LogCheck) -> str:
    if not check.nodes or check.total.needed:
        return "log check not available"
    return f"logs lack {check.total.lower:.1%} to {check.total.upper:.1%}"


def _segment(segment: pb.SegmentStatus, requests: int) -> Iterable[RenderableType]:
    """One row. `requests`: of all segments together, lately."""
    yield segment.segment
    yield Text(
        f"{segment.phase}, watched" if segment.watched else segment.phase, style=PHASE_STYLES.get(segment.phase, "")
    )
    yield f"{segment.seen_requests / requests:.1%} {segment.seen_people}" if requests else ""
    yield f"{segment.split:.1%}"
    yield f"{segment.cap:.1%}"
    yield Text(segment.health, style=HEALTH_STYLES.get(segment.health, ""))
    share = segment.evidence / segment.evidence_needed if segment.evidence_needed > 0 else 0.0
    yield f"{max(0.0, share):.0%} {segment.leading_kpi}".rstrip()
    yield f"{segment.canary_sessions}/{segment.baseline_sessions}"
    yield _needed(segment)
    yield f"{segment.verdict}: {segment.reason}" if segment.reason else segment.verdict


def _needed(segment: pb.SegmentStatus) -> str:
    if not segment.needed_sessions:
        return ""
    return f"{segment.needed_sessions}" + (
        f" (~{segment.needed_minutes:.0f} min)" if segment.needed_minutes > 0 else ""
    )


def _rejection(node: pb.NodeStatus) -> Text:
    newest = node.rejections[-1]
    what = f"{newest.type} {', '.join(newest.resources)}".rstrip()
    return Text(f"{node.node} rejected {what} at {_time(newest.at_unix_ns)}: {newest.message}", style="red")


def _doubts(endpoints: pb.VersionEndpoints) -> Iterator[str]:
    """What is wrong with a version's endpoints, a line each."""
    version = f"{endpoints.service} {endpoints.version}"
    if not endpoints.endpoints:
        yield f"{version} has no endpoints: nobody has registered"
    if endpoints.stale:
        stale = ", ".join(endpoints.stale)
        yield f"{version}: {len(endpoints.stale)} of {endpoints.endpoints} endpoints not renewed, and kept: {stale}"
    if endpoints.refused:
        yield f"{version} keeps its {endpoints.endpoints} endpoints: {endpoints.refused}"


def history_view(reply: pb.HistoryReply) -> Group:
    """Return a row a decision, oldest first, and a line for each rollout of which more is known."""
    table = Table("time", "service", "segment", "verdict", "split", "who", "in force", "reason")
    for row in reply.decisions:
        verdict = f"{row.verdict} ({row.tier})" if row.tier else row.verdict
        table.add_row(
            _time(row.at_unix_ns),
            row.service,
            row.segment,
            f"{verdict}, observed only" if row.observed_only else verdict,
            f"{row.split_before_bp / 100:g} → {row.split_after_bp / 100:g} %",
            row.who or "engine",
            f"+{(row.in_force_unix_ns - row.at_unix_ns) / 1e9:.1f} s" if row.in_force_unix_ns else "",
            row.reason,
        )
    return Group(table, *(Text(f"{each.rollout}: {told}") for each in reply.rollouts if (told := _known(each))))


def _known(rollout: pb.RolloutSummary) -> str:
    """What is known of a release, and what an operator says of it."""
    parts = [f"{name}={value}" for name, value in sorted(rollout.attributes.items())]
    if rollout.label:
        reason = f": {rollout.label_reason}" if rollout.label_reason else ""
        parts.append(f"{rollout.label}, says {rollout.labelled_by}{reason}")
    return ", ".join(parts)


def rollouts_view(rollouts: Iterable[pb.RolloutSummary]) -> Table:
    """Return a row a rollout, oldest first."""
    table = Table("rollout", "service", "canary", "baseline", "state", "started", "finished", "outcome", "known")
    for row in rollouts:
        table.add_row(
            row.rollout,
            row.service,
            row.canary,
            row.baseline,
            row.state,
            _time(row.started_unix_ns),
            _time(row.finished_unix_ns) if row.finished_unix_ns else "",
            ", ".join(f"{segment} {phase}" for segment, phase in sorted(row.outcome.items())),
            _known(row),
        )
    return table


def endpoints_view(reply: registry.ListReply) -> Group:
    """Return a row an endpoint."""
    table = Table("service", "version", "endpoint", "from", "since", "lease")
    refusals = []
    for version in reply.versions:
        for endpoint in version.endpoints:
            lease = f"{endpoint.left_ms / 1_000:.0f} s of {endpoint.lease_ms / 1_000:g} s"
            table.add_row(
                version.service,
                version.version,
                endpoint.address,
                version.source,
                _time(endpoint.since_unix_ns) if endpoint.since_unix_ns else "",
                "" if not endpoint.lease_ms else Text("not renewed, kept", "red") if endpoint.stale else lease,
            )
        if not version.endpoints:
            table.add_row(version.service, version.version, Text("none", "red"), version.source)
        if version.refused:
            refusals.append(Text(version.refused, "red"))
    return Group(table, *refusals)


def _time(unix_ns: int) -> str:
    return datetime.fromtimestamp(unix_ns / 1e9, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def segments_view(reply: pb.ListSegmentsReply) -> RenderableType:
    """Return a table of what is proposed, one of what has been adopted, and whether anything waits."""
    proposed = _table("proposed by the profiler", (("cluster", "right"), ("people", "right"), ("what they do", "left")))
    for each in reply.proposals:
        proposed.add_row(str(each.cluster), str(each.people), Text(each.description))
    adopted = _table(
        f"adopted, table {reply.table}" if reply.table else "adopted",
        (("name", "left"), ("people", "right"), ("segment", "left"), ("what they do", "left"), ("by", "left")),
    )
    for name in reply.adopted:
        people = str(name.people) + (f" → {name.people_later}" if name.people_later != name.people else "")
        who = f"{_time(name.adopted_unix_ns)} {name.who}" if name.adopted_unix_ns else "nobody yet"
        adopted.add_row(name.name, people, name.segment or "none", Text(name.description), Text(who))
    parts: list[RenderableType] = [proposed if reply.proposals else Text("nothing is proposed yet")]
    parts.append(adopted if reply.adopted else Text("nothing has been adopted"))
    if reply.waiting:
        parts.append(Text(f"table {reply.waiting} waits until the rollout has ended", style="yellow"))
    return Group(*parts)


_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def profile_view(reply: pb.ProfileReply) -> RenderableType:
    """Return what is usual, segment by segment."""
    return Group(*map(_profile, reply.segments), Text(f"{reply.people} people are remembered, by keyed hashes"))


def training_view(reply: pb.TrainProfileReply) -> RenderableType:
    """Return what has just been learnt."""
    if not reply.segments:
        return Text("nothing trained: no segment has had 60 sessions since the last time")
    return Group(*map(_profile, reply.segments))


def artefacts_view(artefacts: Iterable[training.Artefact]) -> RenderableType:
    """Return a row a version: when it was trained, its scores before the traffic and after the first minutes, why."""
    table = _table(
        "",
        (("model", "left"), ("trained", "left"), ("held out", "right"), ("AUC", "right"), ("slope", "right"),
         ("Brier", "right"), ("data", "left"), ("", "left")),
    )  # fmt: skip
    for each in artefacts:
        scores = json.loads(each.scores_json or "{}")
        stages = [scores.get(stage) or {} for stage in ("before", "after")]
        table.add_row(
            f"{each.kind} {each.version}",
            _time(each.trained_unix_ns),
            f"{stages[0].get('n', '')}",
            *(" → ".join(_score(stage.get(name)) for stage in stages) for name in ("auc", "slope", "brier")),
            each.fingerprint[:12],
            f"{'serves; ' if each.is_serving else '' if each.is_kept else 'not kept; '}{each.why}",
        )
    return table


def _score(interval: Mapping[str, float] | None) -> str:
    return "?" if interval is None else f"{interval['value']:.2f}"


def evaluation_view(reply: pb.ProfileEvaluationReply) -> RenderableType:
    """Return a row a segment: how many sessions since the training are unusual by it, and whether it still fits."""
    table = _table(
        "sessions since the training",
        (("segment", "left"), ("sessions", "right"), ("unusual", "right"), ("drift", "right"), ("", "left")),
    )
    for each in reply.segments:
        share = f"{100 * each.unusual / each.sessions:.1f} % (5 % expected)" if each.sessions else ""
        drift = f"{each.drift_distance:.2f}" if each.drift_distance else ""
        word = Text("call for training", "yellow") if each.calls_for_training else Text("")
        table.add_row(each.segment, str(each.sessions), share, drift, word)
    return table


def _profile(segment: pb.SegmentProfile) -> RenderableType:
    if not segment.sessions:
        return Text(f"{segment.segment}: nothing learnt yet, {segment.waiting} sessions seen\n")
    origin = f"version {segment.version}, {segment.why}" if segment.version else "for the rollout at hand"
    when = f" at {_time(segment.trained_unix_ns)}" if segment.trained_unix_ns else ""
    title = f"{segment.segment}: {segment.sessions} sessions{when} ({origin}); {segment.waiting} since"
    table = _table(title, (("visits", "right"), ("likeliest way", "left")))
    for kind in segment.kinds:
        table.add_row(f"{100 * kind.share:.0f} %", Text(" → ".join(kind.way)))
    uses = ", ".join(f"{use.label} {100 * use.share:.0f} %" for use in segment.uses)
    hours = ", ".join(f"{_DAYS[h.hour_of_week // 24]} {h.hour_of_week % 24:02}:00" for h in segment.busiest)
    lines = [Text(f"done in a session: {uses}")] if uses else []
    lines += [Text(f"busiest hours (UTC): {hours}")] if hours else []
    return Group(table, *lines, Text(""))


def _table(title: str, columns: Sequence[tuple[str, Literal["left", "right"]]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    for name, justify in columns:
        table.add_column(name, justify=justify)
    return table
