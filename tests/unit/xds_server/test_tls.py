"""Certificates, read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xds_server.errors import TlsError
from xds_server.tls import ServerCertificate, TlsFiles, channel_credentials


def test_a_certificate_says_until_when_it_is_valid(authorities: Callable[[str], Any]) -> None:
    own = authorities("one").issue("localhost", days=(-1, 30_000))  # beyond 2049 its time is written in another way
    read = ServerCertificate(TlsFiles(certificate=own.certificate, key=own.key))
    assert read.not_after_unix_s == pytest.approx(time.time() + 30_000 * 86_400, abs=60)
    assert not read.asks_clients


@pytest.mark.parametrize("spoilt", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize(
    "content", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None]
)
def test_files_that_cannot_be_used_are_named(
    authorities: Callable[[str], Any], tmp_path: Path, spoilt: str, content: bytes | None
) -> None:
    authority = authorities("two")
    own = authority.issue("localhost")
    files = {"certificate": own.certificate, "key": own.key, "client_ca": authority.ca}
    files[spoilt] = tmp_path / "spoilt.pem"
    if content is not None:
        files[spoilt].write_bytes(content)
    with pytest.raises(TlsError, match=r"spoilt\.pem") as raised:
        ServerCertificate(TlsFiles(**files))
    assert "\n" not in str(raised.value)


def test_a_key_of_another_certificate_is_refused(authorities: Callable[[str], Any]) -> None:
    one, other = (authorities("three").issue("localhost") for _ in range(2))
    with pytest.raises(TlsError, match="the key is not the certificate's"):
        channel_credentials(None, one.certificate, other.key)
