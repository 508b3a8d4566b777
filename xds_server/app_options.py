"""What `serinus run` was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Where to read, listen and write. Loopback unless told otherwise; port 0 takes any free one.

    `tls_certificate`, `tls_key`: of both gRPC ports; None: plain text. `tls_client_ca`: who signs those of clients;
    None: clients need none.
    """

    mesh_path: Path
    grpc_host: str = "127.0.0.1"
    grpc_port: int = 18_000
    otlp_port: int = 4_317
    http_host: str = "127.0.0.1"
    http_port: int = 8_080
    data_dir: Path = Path(".serinus")
    log_level: str = "info"
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
