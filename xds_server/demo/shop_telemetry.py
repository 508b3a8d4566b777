"""What the shop tells OpenTelemetry: a server span for each request, and events for what its people do.

The shop is an application like any other: it uses the OpenTelemetry SDK as is, and knows nothing of Serinus.
"""

from __future__ import annotations

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

DELAY_MS = 300
"""How long spans and events are gathered before they are sent: seconds would be seconds of blindness."""

EXPORT_TIMEOUT_S = 2


class Telemetry:
    """Spans and events of one version of the shop. Without an `otlp` address they are made and dropped."""

    def __init__(self, version: str, otlp: str | None) -> None:
        resource = Resource({"service.name": "shop", "service.version": version})
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._logs = LoggerProvider(resource=resource, shutdown_on_exit=False)
        if otlp is not None:
            self._export_to(otlp)
        self._tracer = self._traces.get_tracer("shop")
        self._logger = self._logs.get_logger("shop")

    def _export_to(self, otlp: str) -> None:
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        spans = OTLPSpanExporter(endpoint=otlp, insecure=True, timeout=EXPORT_TIMEOUT_S)
        events = OTLPLogExporter(endpoint=otlp, insecure=True, timeout=EXPORT_TIMEOUT_S)
        self._traces.add_span_processor(
            BatchSpanProcessor(spans, max_queue_size=8_192, schedule_delay_millis=DELAY_MS, max_export_batch_size=1_024)
        )
        self._logs.add_log_record_processor(
            BatchLogRecordProcessor(
                events, max_queue_size=8_192, schedule_delay_millis=DELAY_MS, max_export_batch_size=1_024
            )
        )

    def request(self, *, method: str, path: str, user: str, status: int, start_unix_ns: int, end_unix_ns: int) -> None:
        span = self._tracer.start_span(
            f"{method} {path}",
            kind=SpanKind.SERVER,
            start_time=start_unix_ns,
            attributes={
                "http.request.method": method,
                "url.path": path,
                "http.response.status_code": status,
                "user.id": user,
            },
        )
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_unix_ns)

    def page_view(self, *, path: str, user: str, at_unix_ns: int) -> None:
        self._event("page.view", {"url.path": path, "user.id": user}, at_unix_ns)

    def feature_used(self, *, feature: str, user: str, at_unix_ns: int) -> None:
        self._event("feature.used", {"feature.name": feature, "user.id": user}, at_unix_ns)

    def _event(self, name: str, attributes: dict[str, str], at_unix_ns: int) -> None:
        self._logger.emit(
            LogRecord(
                timestamp=at_unix_ns,
                observed_timestamp=at_unix_ns,
                severity_number=SeverityNumber.INFO,
                event_name=name,
                attributes=attributes,
            )
        )

    def close(self) -> None:
        """Send what is still waiting, then stop. Bounded by the exporters' timeout."""
        self._traces.shutdown()
        self._logs.shutdown()
