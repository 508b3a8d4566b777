"""The public keys of whoever issues tokens: a JWK set (RFC 7517), in the mesh file or in a file beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 64 << 10
EXPECTED: Final = 'a JWK set of public keys, {"keys": [...]}'

_NEEDED: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_PRIVATE: Final = ("d", "p", "q", "k")


def read_jwks(path: Path) -> str:
    """Return what is in a file; raises ValueError when it cannot be read."""
    try:
        if not path.is_file():
            raise ValueError("no such file")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except OSError as error:
        raise ValueError(str(error.strerror or error)) from error


def check_jwks(text: str) -> None:
    """Raise ValueError when Envoy could verify nothing with these keys, or when they must not be handed out."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not keys:
        raise ValueError("no list of keys in it")
    for place, key in enumerate(keys):
        if isinstance(key, dict) and any(part in key for part in _PRIVATE):
            raise ValueError(f"key {place} is a private or secret key; every Envoy is sent these keys")
    if not any(isinstance(key, dict) and all(isinstance(key.get(p), str) for p in _needed(key)) for key in keys):
        raise ValueError(f"no key of a known type: {', '.join(_NEEDED)}, each with its parts")


def _needed(key: dict[str, object]) -> tuple[str, ...]:
    return ("kty", *_NEEDED.get(str(key.get("kty")), ("no such type",)))
