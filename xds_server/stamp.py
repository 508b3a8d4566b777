"""What a route writes on the access log entries of its requests, whatever is pushed while they are under way."""

from __future__ import annotations

from typing import Final, NamedTuple

TAG: Final = "serinus"
"""Of our access log. Its text has ten lines: the stamp of the route, the hop that split first, Envoy's access log type,
the status, Envoy's response flags, the upstream cluster, the content type, the gRPC status in the response's headers,
that in its trailers, and the person's sticky key."""

MAX_CONTENT_TYPE: Final = 64
MAX_GRPC_STATUS: Final = 4
"""Characters of them that are logged."""

_STREAM = "stream"


class Stamp(NamedTuple):
    """Who routed a request, and as what.

    `rollout`: "" while there has never been one. `generation` None: unreadable. `is_stream`: the route's requests last
    as long as somebody is there. As text `<service>|<segment>|<rollout>|<generation>`, with `|stream` for those; no
    name of a mesh has a `|`.
    """

    service: str
    segment: str
    rollout: str
    generation: int | None
    is_stream: bool = False

    def __str__(self) -> str:
        text = f"{self.service}|{self.segment}|{self.rollout}|{'' if self.generation is None else self.generation}"
        return f"{text}|{_STREAM}" if self.is_stream else text


def read_stamp(text: str) -> Stamp:
    """Return the stamp of which that is the text; of any other text what can be told. An empty one names no service."""
    service, segment, rollout, generation, kind, *_ = *text.split("|"), "", "", "", ""
    return Stamp(
        service=service,
        segment=segment,
        rollout=rollout,
        generation=int(generation) if len(generation) <= 18 and generation.isascii() and generation.isdigit() else None,
        is_stream=kind == _STREAM,
    )
