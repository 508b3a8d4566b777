"""What `segment.lua` needs to hold people in the segment in which their session began."""

from __future__ import annotations

import hmac
import math
import re
from typing import Final

from google.protobuf.struct_pb2 import Struct, Value

from xds_server import mesh as m
from xds_server.resources.parts import HELD_HEADER, cookie_attributes, strings

LONGEST_S: Final = 86_400
"""A page that keeps asking would never end its session."""


def hold_s_of(gap_s: float) -> int:
    """How long a hold counts: written at its latest half a gap ago, it outlives a whole gap of silence.

    Not written anew on every answer, since caches do not keep answers that set cookies.
    """
    return math.ceil(1.5 * gap_s) + 1  # times are in whole seconds


def held_match(segment: str) -> m.SegmentMatch:
    """Matches who is held in a segment."""
    return m.SegmentMatch(headers=(m.ValueMatch(name=HELD_HEADER, kind="exact", value=segment),))


def hold_context(service: m.Service) -> Struct:
    """What the filter is told of a service."""
    gap_s = service.spec.session.gap_s
    hold_s, cookie = hold_s_of(gap_s), hold_cookie(service)
    tags = hold_tags(service)
    context = strings(
        {
            "cookie": cookie,
            "pattern": re.sub(r"(\W)", r"%\1", cookie) + "=([%w.]+)",
            "attributes": cookie_attributes(hold_s),
            "secret": signing_secret(service),
        }
    )
    for name, seconds in (("hold", hold_s), ("renew", gap_s / 2), ("longest", LONGEST_S)):
        context.fields[name].number_value = seconds
    context.fields["tags"].struct_value.CopyFrom(strings(tags))
    return Struct(fields={"hold": Value(struct_value=context)})


def hold_cookie(service: m.Service) -> str:
    """The cookie that holds, named after the one that a service's visitors have, and after the service.

    Cookies do not know ports: two services of one host name would overwrite each other's.
    """
    names = [identity.cookie for identity in service.identity if isinstance(identity, m.CookieIdentity)]
    return f"{names[0]}_segment_{service.name}" if names else f"serinus-hold-{service.name}"


def hold_tags(service: m.Service) -> dict[str, str]:
    """What stands in the cookie for each segment that holds."""
    return {segment: _derived(service, f"tag|{segment}", 6) for segment in service.held_segments}


def signing_secret(service: m.Service) -> str:
    """What signs the cookie: 16 bytes, in hex."""
    return _derived(service, "secret", 16)


def _derived(service: m.Service, what: str, size: int) -> str:
    return hmac.digest(service.hold_secret, f"{service.name}|{what}".encode(), "sha256")[:size].hex()
