"""Access logs and telemetry in, samples out."""

from xds_server.ingest.ingest import Ingest, Reporter

__all__ = ["Ingest", "Reporter"]
