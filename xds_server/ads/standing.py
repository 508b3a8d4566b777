"""How a client stands to each resource that it asks for: what it has of it, and what became of the newest content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from xds_server.ads.type_state import REMOVAL, TypeState, version_of
from xds_server.snapshot import Resource, ResourceType


class Standing(StrEnum):
    """`NOT_SENT`: also what does not exist. `STALE`: sent, and not answered yet. `ERROR`: rejected."""

    SYNCED = "synced"
    NOT_SENT = "not_sent"
    STALE = "stale"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceView:
    """One resource as one stream has it. `held`: what the client has ACKed. `wanted`: what it should have by now.

    `rejected`: the version that it has rejected, which is the wanted one ("": it refuses to give the resource up); None
    unless the standing is `ERROR`.
    """

    type: ResourceType
    name: str
    standing: Standing
    held: Resource | None
    wanted: Resource | None
    rejected: str | None = None


def standings(kind: ResourceType, state: TypeState, named: Mapping[str, Resource]) -> Iterator[ResourceView]:
    """Every resource of a type that a client asks for, by name. `named`: all that there are by now. O(resources)."""
    names = state.names() | state.subscription.names | state.rejected.keys()
    if state.subscription.wildcard:
        names |= named.keys()
    for name in sorted(names):
        wanted, held = named.get(name), state.has(name)
        rejected = _rejected(state, name, wanted, held)
        standing = _standing(state, name, wanted, held) if rejected is None else Standing.ERROR
        yield ResourceView(type=kind, name=name, standing=standing, held=held, wanted=wanted, rejected=rejected)


def _rejected(state: TypeState, name: str, wanted: Resource | None, held: Resource | None) -> str | None:
    version = version_of(wanted) or REMOVAL
    if state.rejected.get(name) == version or (state.refuses_held and held is not None and held.version == version):
        return version
    return None


def _standing(state: TypeState, name: str, wanted: Resource | None, held: Resource | None) -> Standing:
    if _is_under_way(state, name, held):
        return Standing.STALE
    if wanted is None or held is None or name in state.unknown:
        return Standing.NOT_SENT
    # Sent without a lifetime it is the same, to a client that could not bear one.
    return Standing.SYNCED if held.version in (wanted.version, version_of(wanted.lasting)) else Standing.NOT_SENT


def _is_under_way(state: TypeState, name: str, held: Resource | None) -> bool:
    """Whether something that the client does not have is in flight, or that it is gone."""
    if state.in_flight is None:
        return False
    body = state.in_flight.body
    sent = body.resources.get(name)
    if sent is not None:
        return sent.version != version_of(held)
    return held is not None and not body.keeps(name)
