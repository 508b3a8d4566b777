"""The formats of text that protoc-gen-validate knows by name."""

from __future__ import annotations

import ipaddress
import re

_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_URI_REFERENCE = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*")

# What protoc-gen-validate makes of `well_known_regex` (module/checker.go); character classes mean the same to RE2 and
# to Python, whose matcher answers in a twentieth of the time.
HEADER_NAME = re.compile(r":?[0-9a-zA-Z!#$%&'*+-.^_|~`]+")
HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
HEADER_TEXT = re.compile(r"[^\x00\n\r]*")
"""Either of them, where the rule says `strict: false`."""


def is_hostname(text: str) -> bool:
    """RFC 1034, section 3.5, with digits in front allowed; no internationalised names."""
    return len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.removesuffix(".").split("."))


def is_ip(text: str, *versions: int) -> bool:
    """Whether it is an address without brackets and zone, of one of these versions of IP (none named: any)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text and (not versions or address.version in versions)


def is_email(text: str) -> bool:
    """RFC 5322's addr-spec with a dot-atom before the @; quoted local parts are not known here."""
    local, at, host = text.rpartition("@")
    fits = bool(at) and len(text) <= 254 and len(local) <= 64
    return fits and _LOCAL_PART.fullmatch(local) is not None and is_hostname(host)


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


def is_uri(text: str) -> bool:
    """RFC 3986, by its alphabet; a scheme is required."""
    return _SCHEME.match(text) is not None and is_uri_reference(text)


def is_uri_reference(text: str) -> bool:
    return _URI_REFERENCE.fullmatch(text) is not None
