"""What the command line takes: arguments and options that several verbs share, and how their texts are read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand
from typer.main import get_command

DEFAULT_SERVER: Final = "127.0.0.1:18000"


class RemoteCommand(TyperCommand):
    """A verb that talks to a running control plane, over TLS if told so."""

    def __init__(self, *args: Any, params: list[Any], **options: Any) -> None:
        super().__init__(*args, params=[*params, *get_command(_tls_options).params], **options)

    def invoke(self, ctx: Any) -> Any:
        given = (ctx.params.pop(name) for name in ("tls_ca", "tls_certificate", "tls_key"))
        ca, certificate, key = (Path(path) if path else None for path in given)
        together(certificate, key)
        if ctx.params.get("server") and (ca is not None or certificate is not None):
            from xds_server.client import use_tls

            use_tls(ca, certificate, key)
        return super().invoke(ctx)


def together(certificate: Path | None, key: Path | None) -> None:
    """Refuse a certificate without its key, and the other way round."""
    if (certificate is None) != (key is None):
        raise typer.BadParameter("--tls-certificate and --tls-key go together")


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Fault(StrEnum):
    NONE = "none"
    ERRORS = "errors"
    LATENCY = "latency"
    ABANDONMENT = "abandonment"
    CRASH = "crash"
    FEATURE = "feature"
    RANDOM = "random"
    ALL = "all"


class Output(StrEnum):
    YAML = "yaml"
    JSON = "json"


def address(text: str) -> str:
    """Check HOST:PORT; a callback of options."""
    host, separator, port = text.rpartition(":")
    if not (separator and host and port.isdecimal() and 0 < int(port) < 65_536):
        raise typer.BadParameter(f"'{text}' is not HOST:PORT with a port from 1 to 65535")
    return text


def optional_address(text: str | None) -> str | None:
    return None if text is None else address(text)


def lease_ms(text: str) -> int:
    """Return a lease time in milliseconds, from a text such as `30s`; 0 from the empty one."""
    if not text:
        return 0
    from xds_server.units import WrongValueError, duration

    try:
        return round(float(str(duration("1s", "1h")(text))) * 1_000)
    except WrongValueError as wrong:
        raise typer.BadParameter(f"'{text}': {wrong.message}; legal: {wrong.legal}") from None


def split_bp(text: str) -> int:
    """Return a split in basis points from per cent: `25%`, `0.5%`."""
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise typer.BadParameter(f"'{text}' is not a share from 0% to 100%")
    return round(percent * 100)


def attributes(texts: list[str]) -> dict[str, str]:
    """Attributes of a release by name, each from `KEY=VALUE`."""
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (separator and name and value):
            raise typer.BadParameter(f"'{text}' is not KEY=VALUE", param_hint="--attribute")
        if name in found:
            raise typer.BadParameter(f"'{name}' is given twice", param_hint="--attribute")
        found[name] = value
    return found


def writable(file: Path | None) -> Path | None:
    """Refuse before the work what could not be written after it."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise typer.BadParameter(f"'{file}' cannot be written: no such directory, or it is one")
    return file


MeshFile = Annotated[Path, typer.Argument(metavar="MESH", help="The mesh file (YAML).", show_default=False)]
ServiceName = Annotated[str, typer.Argument(metavar="SERVICE", show_default=False)]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="An Envoy's node ID.", show_default=False)]
AnyService = Annotated[str, typer.Argument(metavar="SERVICE", help="Only this service.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Server = Annotated[
    str,
    typer.Option(envvar="SERINUS_SERVER", metavar="HOST:PORT", callback=address, help="The running control plane."),
]
CertificateFile = Annotated[
    Path | None,
    typer.Option("--tls-certificate", metavar="FILE", help="The own certificate (PEM).", show_default=False),
]
KeyFile = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key (PEM).", show_default=False)]
ClientCaFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Clients must have certificates that this authority (PEM) has signed.", show_default=False
    ),
]
_tls_options = typer.Typer(add_completion=False)


@_tls_options.command()
def _options(
    *,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            envvar="SERINUS_TLS_CA",
            metavar="FILE",
            help="Talk TLS to a control plane whose certificate this authority (PEM) has signed.",
            show_default=False,
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            envvar="SERINUS_TLS_CERTIFICATE", metavar="FILE", help="The own certificate (PEM).", show_default=False
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(envvar="SERINUS_TLS_KEY", metavar="FILE", help="Its key (PEM).", show_default=False),
    ] = None,
) -> None:
    """Hold the options that every `RemoteCommand` takes; nobody calls it."""


Segment = Annotated[str, typer.Option(help="Only this segment; without it, every segment.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why; it is journalled.", show_default=False)]
Who = Annotated[str, typer.Option(help="Who; without it, user@host.", show_default=False)]
