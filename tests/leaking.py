"""A version whose memory grows beside one whose memory does not: `python -m tests.leaking OTLP_ADDRESS`, until killed.

Both report with OpenTelemetry's own SDK and exporter. A process of its own: other tests load older copies of the
messages that the exporter needs.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterable

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

EVERY_MS = 50.0
START, PER_S = 300.0, 40.0  # megabytes


def report(version: str, per_s: float, address: str) -> MeterProvider:
    """Report the memory of a process that uses `per_s` megabytes more each second."""
    began, rng = time.monotonic(), random.Random(version)

    def memory(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(START + per_s * (time.monotonic() - began) + rng.uniform(0, 3))

    exporter = OTLPMetricExporter(endpoint=address, insecure=True)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=EVERY_MS)
    resource = Resource({"service.name": "shop", "service.version": version})
    provider = MeterProvider([reader], resource=resource)
    provider.get_meter("shop").create_observable_gauge("process.memory.usage", [memory], unit="MBy")
    return provider


if __name__ == "__main__":
    providers = [report("v1", 0.0, sys.argv[1]), report("v2", PER_S, sys.argv[1])]
    time.sleep(60)
