"""In which segment somebody is held: `segment.lua` once more, for whoever asks before Envoy does."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from xds_server.flags.siphash import siphash
from xds_server.mesh import Service
from xds_server.resources.hold import LONGEST_S, hold_cookie, hold_s_of, hold_tags, signing_secret

SKEW_S: Final = 60  # by which the clock of the Envoy that wrote a cookie may be ahead of this one's

_COOKIE = re.compile(r"([0-9]{1,12})\.([0-9]{1,12})\.([0-9a-fA-F]+)\.([0-9a-fA-F]+)")


@dataclass(frozen=True, slots=True)
class Hold:
    """What is known of how a service holds people."""

    value: re.Pattern[str]  # finds it in a Cookie header, with something before it
    hold_s: int
    secret: bytes
    segments: Mapping[str, str]  # by tag

    @classmethod
    def of(cls, service: Service) -> Hold | None:
        """None: the service holds nobody."""
        if not service.held_segments:
            return None
        tags = {tag: segment for segment, tag in hold_tags(service).items()}
        secret = bytes.fromhex(signing_secret(service))
        value = re.compile(rf"[;,\s]{re.escape(hold_cookie(service))}=([0-9A-Za-z.]+)", re.ASCII)
        return cls(value, hold_s_of(service.spec.session.gap_s), secret, tags)

    def segment(self, declared: str, jar: str, key: str, now_s: float) -> str:
        """Return the segment that Envoy takes somebody for who is in `declared` by what the request says itself.

        `jar`: the Cookie header, several joined by semicolons.
        """
        if declared not in self.segments.values():
            return declared
        value = self.value.search(f";{jar}")
        found = _COOKIE.fullmatch(value[1]) if value is not None else None
        if found is None:
            return declared
        began, written, now = int(found[1]), int(found[2]), int(now_s)
        if began > written or written > now + SKEW_S or now - written > self.hold_s or now - began > LONGEST_S:
            return declared
        segment = self.segments.get(found[3])
        said = f"{found[1]}.{found[2]}.{found[3]}.{key}".encode("utf-8", "surrogateescape")
        is_signed = segment is not None and hmac.compare_digest(siphash(self.secret, said), found[4])
        return segment if segment is not None and is_signed else declared
