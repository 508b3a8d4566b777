"""The doors: who is let in to the gRPC ports, and the ports themselves."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import grpc

from xds_server.access import Access
from xds_server.ads.servicer import SERVER_OPTIONS
from xds_server.app_options import RunOptions
from xds_server.errors import ListenError, RefusedError
from xds_server.mesh import Mesh
from xds_server.telemetry import Telemetry
from xds_server.tls import ServerCertificate, TlsFiles
from xds_server.web.server import listen

GRACE_S: Final = 0.5  # for calls to be answered; Envoys' streams have no end of their own


def listen_on(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ListenError with why it cannot."""
    try:
        return listen(host, port)
    except OSError as error:
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """Who is let in, to both gRPC ports. `certificate` None: plain text."""

    access: Access
    certificate: ServerCertificate | None

    @classmethod
    def of(cls, options: RunOptions, telemetry: Telemetry) -> Entrance:
        """Let in as the options say. Raises SerinusError for certificates that cannot be used."""
        access = Access()
        telemetry.watch_access(lambda: {str(reason): n for reason, n in access.denials.items()})
        if options.tls_certificate is None or options.tls_key is None:
            return cls(access=access, certificate=None)
        files = TlsFiles(certificate=options.tls_certificate, key=options.tls_key, client_ca=options.tls_client_ca)
        certificate = ServerCertificate(files, count=telemetry.certificate_read)
        telemetry.watch_tls(
            handshakes=lambda: {"hello": certificate.handshakes_n, "call": access.connections_n},
            not_after_unix_s=lambda: certificate.not_after_unix_s,
        )
        return cls(access=access, certificate=certificate)

    def check(self, mesh: Mesh) -> None:
        """Raise RefusedError for rules that nothing would be checked by: whoever wrote them counts on them."""
        if mesh.access is not None and not (self.certificate is not None and self.certificate.asks_clients):
            raise RefusedError("access in the mesh file needs clients with certificates: --tls-client-ca")

    @contextlib.asynccontextmanager
    async def open(self, host: str, port: int) -> AsyncIterator[tuple[grpc.aio.Server, int]]:
        """A server bound to host:port (0: a free one), to be started by the caller; stopped with grace in the end."""
        listen_on(host, port).close()  # gRPC would say on stderr, in words of its own, what is wrong
        server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=(self.access.interceptor(),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        in_use = f"cannot listen on {host}:{port}: the port is in use or the address is not ours"
        try:
            if self.certificate is None:
                bound = server.add_insecure_port(address)
            else:
                bound = server.add_secure_port(address, self.certificate.credentials())
        except RuntimeError as error:
            raise ListenError(in_use) from error
        if bound == 0:
            raise ListenError(in_use)
        try:
            yield server, bound
        finally:
            await server.stop(GRACE_S)
