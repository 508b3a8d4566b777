"""What a client has, of one type: a mapping shared with every stream in the same state, and this stream's own part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from xds_server.snapshot import Resource
from xds_server.snapshot.snapshot import NOTHING

Named = Mapping[str, Resource]


class Held:
    """Resources by name, as last ACKed.

    A stream that is up to date costs one reference to the snapshot's own mapping, however many resources there are.
    Names that the client does not subscribe to may be in it: whoever asks must ask for subscribed names only.
    """

    __slots__ = ("_base", "_own")

    def __init__(self) -> None:
        self._base: Named = NOTHING
        self._own: dict[str, Resource | None] | None = None

    def get(self, name: str) -> Resource | None:
        """What the client has under a name; None: nothing, or something that is unknown here."""
        if self._own is not None and name in self._own:
            return self._own[name]
        return self._base.get(name)

    def put(self, name: str, resource: Resource | None) -> None:
        """The client now has this under the name; None: nothing any more."""
        if self._own is None:
            if self._base.get(name) is resource:
                return
            self._own = {}
        self._own[name] = resource

    def take(self, named: Named) -> None:
        """The client now has these as well."""
        if self.is_empty:
            self._base = named
        elif len(named) == 1:
            for name, resource in named.items():
                self.put(name, resource)
        else:
            self._own = {**(self._own or {}), **named}

    def become(self, base: Named, *, except_for: Iterable[str] = ()) -> None:
        """From now on the client has what `base` has, except for those names, of which it has what it had."""
        own = {name: self.get(name) for name in except_for}
        self._base, self._own = base, own or None

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing at all."""
        return not self._base and not self._own

    def lacks(self, names: Set[str]) -> bool:
        """Whether it is known at a glance that there is nothing under any of these names."""
        own = self._own or {}
        return self._base.keys().isdisjoint(names) and all(own[name] is None for name in own.keys() & names)

    def names(self) -> set[str]:
        """Every name under which there is something, subscribed or not."""
        own = self._own or {}
        return {name for name in self._base if name not in own} | {n for n, r in own.items() if r is not None}

    def is_exactly(self, base: Named) -> bool:
        """Whether it is known at a glance that the client has all of `base` (not knowing is no)."""
        return self._own is None and self._base is base
