"""Serinus's own metrics. The only importer of the OpenTelemetry API and SDK; Prometheus reads them from `render`.

What others count already is read when somebody asks (`watch_…`); what only happens is reported as it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from analysis.decision import SegmentDecision, verdict_name
from analysis.spec import TOTAL_BP

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Reading = Callable[[], Mapping[str, float]]
"""Current values by the one label that tells them apart."""

PairReading = Callable[[], Mapping[tuple[str, str], float]]
"""Current values by two labels."""


class Telemetry:
    """The meters of one control plane, in a registry of their own. All calls come from the event loop."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._registry = CollectorRegistry()
        self._reader = PrometheusMetricReader(
            disable_target_info=True, scope_info_enabled=False, registry=self._registry
        )
        seconds = View(instrument_unit="s", aggregation=ExplicitBucketHistogramAggregation(_SECONDS))
        self._provider = MeterProvider(
            metric_readers=[self._reader],
            resource=Resource({"service.name": "serinus", "service.version": version}),
            views=[seconds],
            shutdown_on_exit=False,
        )
        self._meter = meter = self._provider.get_meter("serinus", version)
        self._decisions = meter.create_counter(
            "serinus.decisions", "{decision}", "Decisions of a tick, by service, segment and verdict."
        )
        self._split = meter.create_gauge("serinus.split.ratio", "", "Canary's share of a segment's people, 0 to 1.")
        self._watched = meter.create_gauge(
            "serinus.watched", "", "1 while a segment is watched more closely, on a suspicion; else 0."
        )
        self._evidence = meter.create_gauge(
            "serinus.evidence", "", "Evidence against a segment's canary, by KPI: e-value, natural logarithm."
        )
        self._harm = meter.create_gauge(
            "serinus.harm.sessions.upper", "", "Upper bound of the bad sessions that a rollout has cost so far."
        )
        self._sample_ratio = meter.create_gauge(
            "serinus.sample.ratio.evidence",
            "",
            "Evidence that a rollout's new people are not spread as the splits asked for: e-value, natural logarithm.",
        )
        self._in_force = meter.create_histogram(
            "serinus.commit.to.ack", "s", "From committing a split until every Envoy concerned has acknowledged it."
        )
        self._tick = meter.create_histogram("serinus.tick.duration", "s", "One tick of a service's rollout.")
        self._rollbacks_rejected = meter.create_counter(
            "serinus.xds.rollbacks.rejected", "{rejection}", "Rollbacks that an Envoy has rejected: somebody must look."
        )
        self._mesh_reads = meter.create_counter(
            "serinus.mesh.reads", "{read}", "Times that a changed mesh file was read, by result: adopted or refused."
        )
        self._certificate_reads = meter.create_counter(
            "serinus.tls.reads", "{read}", "Times that a changed certificate was read, by result: adopted or refused."
        )
        self._journal = meter.create_counter("serinus.journal.records", "{record}", "Records written to the journal.")

    # --- reported as it happens

    def decided(self, service: str, decision: SegmentDecision) -> None:
        """Count one segment's decision, and show its split."""
        segment = {"service": service, "segment": decision.segment}
        self._decisions.add(1, {**segment, "verdict": verdict_name(decision.verdict)})
        self._split.set(decision.split_after_bp / TOTAL_BP, segment)

    def split(self, service: str, segment: str, split_bp: int) -> None:
        """Show a split that no decision of a tick has set: an operator's, or one resumed after a restart."""
        self._split.set(split_bp / TOTAL_BP, {"service": service, "segment": segment})

    def watched(self, service: str, segment: str, *, watched: bool) -> None:
        """Show whether a segment is watched more closely."""
        self._watched.set(int(watched), {"service": service, "segment": segment})

    def evidence(self, service: str, segment: str, kpi: str, log_e_value: float) -> None:
        """Show the evidence that a segment's canary is worse, as the natural logarithm of its e-value."""
        self._evidence.set(log_e_value, {"service": service, "segment": segment, "kpi": kpi})

    def harm(self, service: str, sessions_upper: float) -> None:
        """Show the upper bound of a rollout's harm so far, in bad sessions beyond the baseline's."""
        self._harm.set(sessions_upper, {"service": service})

    def sample_ratio(self, service: str, log_e_value: float) -> None:
        """Show the evidence that splits are not kept, as the natural logarithm of its e-value."""
        self._sample_ratio.set(log_e_value, {"service": service})

    def in_force(self, service: str, seconds: float) -> None:
        """Record how long it took until a committed split was acknowledged everywhere."""
        self._in_force.record(seconds, {"service": service})

    def ticked(self, service: str, seconds: float) -> None:
        """Record how long one tick took."""
        self._tick.record(seconds, {"service": service})

    def rollback_rejected(self, service: str, *, fell_back: bool) -> None:
        """Count an Envoy's rejection of a rollback; `fell_back`: it has older routes without the canary."""
        self._rollbacks_rejected.add(1, {"service": service, "fell_back": str(fell_back).lower()})

    def mesh_read(self, result: str) -> None:
        """Count that the mesh file was read again: `adopted` or `refused`."""
        self._mesh_reads.add(1, {"result": result})

    def certificate_read(self, result: str) -> None:
        """Count that the certificate's files were read again: `adopted` or `refused`."""
        self._certificate_reads.add(1, {"result": result})

    def journal_written(self, kind: str) -> None:
        """Count one record written to the journal."""
        self._journal.add(1, {"kind": kind})

    # --- read when somebody asks

    def watch_ready(self, ready: Callable[[], bool]) -> None:
        """Show whether the control plane is ready, and which version it is."""
        self._gauge(
            "serinus.up", "1: ready, 0: starting or ending.", ("version",), lambda: [((self._version,), ready())]
        )

    def watch_ingest(self, *, entries: PairReading, depth: Reading, dropped: Reading, samples: Reading) -> None:
        """Show what arrives: `entries` by (source, reason), the others by service (`Ingest.counts`, `.depths`, …)."""
        self._counter(
            "serinus.ingest.entries",
            "Log entries, spans and events that arrived, by what became of them.",
            ("source", "reason"),
            _by_pair(entries),
        )
        self._gauge("serinus.ingest.queue.rows", "Samples waiting.", ("service",), _by_label(depth))
        self._counter("serinus.ingest.dropped", "Samples that a full queue has cost.", ("service",), _by_label(dropped))
        self._counter("serinus.samples", "Samples taken.", ("service",), _by_label(samples))

    def watch_access_logs(self, *, waiting_bytes: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Show the access log messages that wait to be decoded."""
        self._gauge(
            "serinus.ingest.queue.messages", "Access log messages not decoded yet.", (), lambda: [((), waiting())]
        )
        self._gauge("serinus.ingest.queue.bytes", "Bytes of them.", (), lambda: [((), waiting_bytes())])

    def watch_labels(self, *, labels: Reading, overflow: Reading) -> None:
        """Show how many labels each service's samples have, and those that found no room."""
        self._gauge("serinus.labels", "Labels of what people do.", ("service",), _by_label(labels))
        self._counter(
            "serinus.labels.overflow", "Samples whose label found no room: `other`.", ("service",), _by_label(overflow)
        )

    def watch_otlp_http(self, answers: Reading) -> None:
        """Show the answers to OTLP over HTTP, by status."""
        self._counter("serinus.otlp.http.answers", "Answers to OTLP over HTTP.", ("status",), _by_label(answers))

    def watch_flags(self, answers: Reading) -> None:
        """Show the evaluations of flags, by reason or error code."""
        self._counter("serinus.flag.evaluations", "Evaluations of flags.", ("result",), _by_label(answers))

    def watch_xds(self, *, responses: PairReading, nodes: Callable[[], int]) -> None:
        """Show what goes on with Envoys: `responses` by (event, type), event being push, ack or nack."""
        self._counter(
            "serinus.xds.responses",
            "Responses pushed, ACKed and NACKed.",
            ("event", "type"),
            _by_pair(responses),
        )
        self._gauge("serinus.xds.nodes", "Envoys and gRPC clients connected.", (), lambda: [((), nodes())])

    def watch_history(self, *, rollouts: Callable[[], int], stored_bytes: Callable[[], int]) -> None:
        """Show how much is kept of past deployments, as of the last look."""
        self._gauge("serinus.history.rollouts", "Past deployments kept.", (), lambda: [((), rollouts())])
        self._gauge("serinus.history.bytes", "Bytes of them in the journal.", (), lambda: [((), stored_bytes())])

    def watch_loads(self, *, lost: PairReading, streams: Callable[[], int], nodes: Callable[[], int]) -> None:
        """Show what Envoys' load reports say: `lost`, the share that access logs lack, by (service, version)."""
        self._gauge(
            "serinus.access.log.loss.ratio",
            "Share of the upstream requests of the last minute that the access logs lack, 0 to 1.",
            ("service", "version"),
            _by_pair(lost),
        )
        self._gauge("serinus.lrs.streams", "Streams of load reports.", (), lambda: [((), streams())])
        self._gauge("serinus.lrs.nodes", "Envoys that report their load.", (), lambda: [((), nodes())])

    def watch_refusals(self, refused: Reading) -> None:
        """Show the xDS streams that were ended by us, by reason."""
        self._counter("serinus.xds.refusals", "xDS streams ended by Serinus.", ("reason",), _by_label(refused))

    def watch_access(self, refused: Reading) -> None:
        """Show the calls that certificates did not allow, by reason."""
        self._counter(
            "serinus.access.refusals",
            "Calls that the peer's certificate does not allow.",
            ("reason",),
            _by_label(refused),
        )

    def watch_tls(self, *, handshakes: Reading, not_after_unix_s: Callable[[], float]) -> None:
        """Show TLS connections that were begun and those that got through, and when the certificate's time is up."""
        self._counter(
            "serinus.tls.handshakes", "TLS connections by how far they got.", ("reached",), _by_label(handshakes)
        )
        self._gauge(
            "serinus.tls.certificate.not.after.seconds",
            "When the certificate in force expires, in Unix time.",
            (),
            lambda: [((), not_after_unix_s())],
        )

    def watch_sessions(self, *, begun: Reading, bots: Reading, followed: Reading, evicted: Reading) -> None:
        """Show the sessions that have begun, machines', those that are followed, and those lost to their bound."""
        self._counter("serinus.sessions.begun", "Sessions that have begun.", ("service",), _by_label(begun))
        self._counter(
            "serinus.sessions.bots", "Sessions of machines, by their own word.", ("service",), _by_label(bots)
        )
        self._gauge("serinus.sessions.open", "Sessions being followed.", ("service",), _by_label(followed))
        self._counter(
            "serinus.sessions.evicted", "Sessions never judged: too many were open.", ("service",), _by_label(evicted)
        )

    def watch_profiles(self, *, sessions: PairReading, people: Reading) -> None:
        """Show what is known of people: sessions behind each profile, by (service, segment); people, by service."""
        self._gauge(
            "serinus.profile.sessions",
            "Sessions that the segment's profile was learnt from.",
            ("service", "segment"),
            _by_pair(sessions),
        )
        self._gauge("serinus.people", "People who are remembered.", ("service",), _by_label(people))

    def watch_learned(self, answers: Reading) -> None:
        """Show what Envoys were told of who is in a learned segment, by result."""
        self._counter(
            "serinus.learned.answers", "Envoys' questions in which learned segment somebody is.", ("result",),
            _by_label(answers),
        )  # fmt: skip

    def watch_endpoints(self, *, published: PairReading, stale: PairReading, events: PairReading) -> None:
        """Show endpoints that the mesh file does not list, by service and version; `events` by (source, event)."""
        labels = ("service", "version")
        self._gauge(
            "serinus.endpoints", "Endpoints from files and registrations, as published.", labels, _by_pair(published)
        )
        self._gauge("serinus.endpoints.stale", "Endpoints kept though not renewed.", labels, _by_pair(stale))
        self._counter("serinus.endpoint.events", "What happened to endpoints.", ("source", "event"), _by_pair(events))

    # --- out

    def render(self) -> bytes:
        """Return every metric in the Prometheus text format (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """Stop reading: what is watched may go away after this."""
        self._provider.shutdown()

    # --- inside

    def _gauge(self, name: str, text: str, labels: Sequence[str], read: _Points) -> None:
        self._meter.create_observable_gauge(name, [_callback(labels, read)], description=text)

    def _counter(self, name: str, text: str, labels: Sequence[str], read: _Points) -> None:
        self._meter.create_observable_counter(name, [_callback(labels, read)], description=text)


_Points = Callable[[], Iterable[tuple[tuple[str, ...], float]]]
"""Label values with the current value, each time it is asked."""


def _by_label(read: Reading) -> _Points:
    return lambda: [((label,), value) for label, value in read().items()]


def _by_pair(read: PairReading) -> _Points:
    return lambda: list(read().items())


def _callback(labels: Sequence[str], read: _Points) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, dict(zip(labels, values, strict=True))) for values, value in read()]

    return observe
