"""What the command line takes: arguments and options that several verbs share, and how their texts are read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

DEFAULT_SERVER: Final = "127.0.0.1:18000"


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


def split_bp(text: str) -> int:
    """Return a split in basis points from per cent: `25%`, `0.5%`."""
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise typer.BadParameter(f"'{text}' is not a share from 0% to 100%")
    return round(percent * 100)


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
Segment = Annotated[str, typer.Option(help="Only this segment; without it, every segment.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why; it is journalled.", show_default=False)]
Who = Annotated[str, typer.Option(help="Who; without it, user@host.", show_default=False)]
