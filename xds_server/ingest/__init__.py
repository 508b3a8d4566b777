"""Access logs and telemetry in, samples out."""

from xds_server.ingest.entries import Reporter
from xds_server.ingest.ingest import Ingest

__all__ = ["Ingest", "Reporter"]
