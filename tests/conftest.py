"""For all tests: certificates, patience, and what each can say of itself (see `tests.conformance.table`)."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import settings

from tests.conformance import table
from tests.conformance.table import pytest_terminal_summary

__all__ = ["pytest_terminal_summary"]

REAL = ("conformance", "envoy", "proxyless", "security")
"""Where real processes talk to each other in real time."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of real processes get a second go: one in thousands fails when the machine stalls, and the summary says so.

    What holds nowhere fails twice. The conformance table shows what happened the first time.
    """
    table.pytest_collection_modifyitems(items)
    if config.getoption("markexpr") == table.PROPERTY:
        return
    real = [config.rootpath / "tests" / name for name in REAL]
    for item in items:
        if any(directory in item.path.parents for directory in real):
            item.add_marker(pytest.mark.flaky(reruns=1))


# How long an example takes says something about the machine that day, nothing about what is tested.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files."""

    certificate: Path
    key: Path


@dataclass(slots=True)
class Authority:
    """Signs certificates. `ca`: its own, as a PEM file."""

    directory: Path
    name: str = "authority"
    ca: Path = field(init=False)
    _key: ec.EllipticCurvePrivateKey = field(init=False)
    _subject: x509.Name = field(init=False)
    _n: int = 0

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _name(self.name)
        own = (
            _builder(self._subject, self._subject, self._key.public_key(), days=(-1, 2))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = self.directory / f"{self.name}.pem"
        self.ca.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def issue(self, *sans: str, days: tuple[float, float] = (-1, 1), to: Certificate | None = None) -> Certificate:
        """Sign a certificate for these URIs, IP addresses and DNS names. `to`: overwrite these files."""
        self._n += 1
        key = ec.generate_private_key(ec.SECP256R1())
        signed = (
            _builder(_name(f"{self.name}-{self._n}"), self._subject, key.public_key(), days=days)
            .add_extension(x509.SubjectAlternativeName([_general(san) for san in sans]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        stem = self.directory / f"{self.name}-{self._n}"
        files = to or Certificate(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        files.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return files


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: tuple[float, float]
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    first, last = (now + dt.timedelta(days=day) for day in days)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(first).not_valid_after(last)


def _general(san: str) -> x509.GeneralName:
    if "://" in san:
        return x509.UniformResourceIdentifier(san)
    try:
        return x509.IPAddress(ipaddress.ip_address(san))
    except ValueError:
        return x509.DNSName(san)


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Authority]:
    """A new authority by this name, with a directory of its own."""
    return lambda name: Authority(tmp_path_factory.mktemp(name), name)
