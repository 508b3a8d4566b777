"""TLS: the control plane's certificate, taken up again whenever its files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import grpc

from xds_server.errors import TlsError
from xds_server.file_signature import LOOK_EVERY_S, Watched

log = logging.getLogger(__name__)

_TIME_FORMATS: Final = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}  # UTCTime, GeneralizedTime (RFC 5280, 4.1.2.5)
_VERSION: Final = 0xA0


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files. `client_ca`: who may sign clients' certificates; None: clients are not asked for any."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def paths(self) -> tuple[Path, ...]:
        return (self.certificate, self.key) if self.client_ca is None else (self.certificate, self.key, self.client_ca)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    configuration: grpc.ServerCertificateConfiguration
    not_after_unix_s: float


class ServerCertificate:
    """What a control plane shows to its clients. A pair that cannot be used leaves the one before in force.

    `handshakes_n`: connections on which one was begun. gRPC does not say which of them failed.
    """

    def __init__(self, files: TlsFiles, *, count: Callable[[str], None] = lambda _result: None) -> None:
        """Read the files. `count` is told of each later reading: `adopted` or `refused`.

        Raises
        ------
        TlsError
            They cannot be read, do not belong together or have expired.
        """
        self._files = files
        self._count = count
        self._watched = Watched(*files.paths())
        self._pair = _read(files)
        self.handshakes_n = 0

    @property
    def asks_clients(self) -> bool:
        """Whether clients must show a certificate."""
        return self._files.client_ca is not None

    @property
    def not_after_unix_s(self) -> float:
        """Until when the certificate in force is valid."""
        return self._pair.not_after_unix_s

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for one port; whoever connects later is shown what is in force then."""
        given = self._pair

        def fetch() -> grpc.ServerCertificateConfiguration | None:  # in a thread of gRPC's, for each connection
            nonlocal given
            self.handshakes_n += 1
            if given is self._pair:
                return None
            given = self._pair
            return given.configuration

        return grpc.dynamic_ssl_server_credentials(
            given.configuration, fetch, require_client_authentication=self.asks_clients
        )

    async def run(self) -> None:
        """Look at the files until cancelled. What is wrong is said once."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._watched.has_news():
                self._watched.take()
                await self.read()

    async def read(self) -> None:
        """Take up the files as they are now, if they can be used."""
        try:
            self._pair = await asyncio.to_thread(_read, self._files)
        except TlsError as error:
            log.error("the certificate in force stays: %s", error)  # noqa: TRY400 -- a traceback says nothing more
            self._count("refused")
        else:
            until = datetime.fromtimestamp(self._pair.not_after_unix_s, UTC).isoformat(timespec="seconds")
            log.info("new connections are shown the certificate in %s, valid until %s", self._files.certificate, until)
            self._count("adopted")


def channel_credentials(
    ca: Path | None, certificate: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials:
    """Credentials of a client. `ca`: who may sign the server's certificate; None: those that gRPC knows.

    Raises
    ------
    TlsError
        A file cannot be read, or the certificate and its key do not belong together.
    """
    if certificate is not None and key is not None:
        _checked(TlsFiles(certificate=certificate, key=key, client_ca=ca))
    return grpc.ssl_channel_credentials(
        _bytes(ca) if ca is not None else None,
        _bytes(key) if key is not None else None,
        _bytes(certificate) if certificate is not None else None,
    )


def _read(files: TlsFiles) -> _Pair:
    before = [_bytes(path) for path in files.paths()]
    not_after = _checked(files)
    if before != [_bytes(path) for path in files.paths()]:
        raise TlsError(f"{files.certificate} is being written")
    certificate, key, *ca = before
    configuration = grpc.ssl_server_certificate_configuration([(key, certificate)], ca[0] if ca else None)
    return _Pair(configuration=configuration, not_after_unix_s=not_after)


def _checked(files: TlsFiles) -> float:
    """When the certificate's time is up. Raises TlsError for files that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = _bytes(files.certificate)
    try:
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise TlsError(f"{files.certificate} and {files.key}: {_reason(error)}") from error
    if files.client_ca is not None:
        try:
            context.load_verify_locations(cafile=files.client_ca)
        except (OSError, ValueError) as error:
            raise TlsError(f"{files.client_ca}: {_reason(error)}") from error
    try:
        not_before, not_after = _validity(pem)
    except (ValueError, IndexError, KeyError) as error:
        raise TlsError(f"{files.certificate}: not a certificate that can be used") from error
    now = time.time()
    if not not_before <= now <= not_after:
        word = "has expired" if now > not_after else "is not valid yet"
        raise TlsError(f"{files.certificate} {word}")
    return not_after


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        words = (error.reason or "").lower().replace("_", " ")
        return {
            "key values mismatch": "the key is not the certificate's",
            "bad decrypt": "the key is encrypted",
            "bad password read": "the key is encrypted",
        }.get(words) or f"not PEM files that can be used ({words or error})"
    return str(getattr(error, "strerror", None) or error)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror}") from error


# --- The one thing of a certificate that `ssl` does not tell: RFC 5280, 4.1


def _validity(pem: bytes) -> tuple[float, float]:
    """From and until when the first certificate of a PEM file is valid, in Unix time."""
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    body = pem[pem.index(begin) : pem.index(end) + len(end)].decode("ascii")
    der = ssl.PEM_cert_to_DER_cert(body)
    certificate = _children(der)[0][1]
    fields = _children(_children(certificate)[0][1])
    if fields[0][0] == _VERSION:
        fields = fields[1:]
    _serial, _algorithm, _issuer, validity, *_ = fields
    (first, last) = _children(validity[1])
    return _time(*first), _time(*last)


def _children(der: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each element of a DER sequence's content."""
    found, at = [], 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            n = length & 0x7F
            length, at = int.from_bytes(der[at : at + n], "big"), at + n
        found.append((tag, der[at : at + length]))
        at += length
    return found


def _time(tag: int, content: bytes) -> float:
    return datetime.strptime(content.decode("ascii"), _TIME_FORMATS[tag]).replace(tzinfo=UTC).timestamp()
