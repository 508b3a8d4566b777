"""What one stream has subscribed to, of one type, by the rules of both variants of the protocol.

xDS protocol, "How the client specifies what resources to return": both tables of examples are tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from weakref import WeakKeyDictionary, ref

WILDCARD = "*"
_NO_NAMES = frozenset({WILDCARD, ""})  # an empty name asks for nothing: some clients unsubscribe from all by it

_shared: WeakKeyDictionary[frozenset[str], ref[frozenset[str]]] = WeakKeyDictionary()


def shared(names: frozenset[str]) -> frozenset[str]:
    """The one set with these names: Envoys of one kind subscribe to the same, and a large mesh has thousands."""
    known = _shared.get(names)
    found = known() if known is not None else None
    if found is None:
        _shared[names] = ref(names)
        return names
    return found


@dataclass(slots=True, kw_only=True)
class Subscription:
    """Names and wildcard. `may_be_legacy`: where a first request without names means everything."""

    may_be_legacy: bool
    names: frozenset[str] = frozenset()
    wildcard: bool = False
    has_begun: bool = False
    has_named: bool = False

    def covers(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def covers_all(self, names: Set[str]) -> bool:
        return self.wildcard or names <= self.names

    def replace(self, requested: Iterable[str]) -> frozenset[str]:
        """State of the world: take over the names of a request and return what is new (`*` for the wildcard).

        An empty list is the wildcard only while no request on this stream has named anything of the type; afterwards it
        unsubscribes from everything.
        """
        names = frozenset(requested)
        self.has_named |= bool(names)
        wildcard = WILDCARD in names or (self.may_be_legacy and not self.has_named)
        return self._become(names - _NO_NAMES, wildcard=wildcard)

    def change(self, subscribe: Iterable[str], unsubscribe: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
        """Delta: add and take away names; return what is new, and what must be sent again though it is not.

        A first request that subscribes to nothing is the wildcard, which then lasts until `*` is unsubscribed. A name
        that is subscribed again is to be sent again: "the client may have forgotten it". One that is unsubscribed and
        still covered by the wildcard, as well.
        """
        added, removed = frozenset(subscribe), frozenset(unsubscribe)
        is_legacy = self.may_be_legacy and not self.has_begun and not added
        self.has_begun = True
        before, had_wildcard = self.names, self.wildcard
        wildcard = (had_wildcard or is_legacy or WILDCARD in added) and WILDCARD not in removed
        new = self._become((before | added) - removed - _NO_NAMES, wildcard=wildcard)
        again = (added & self.names) | ((removed & before) if wildcard else frozenset())
        if had_wildcard and wildcard and WILDCARD in added:
            again |= {WILDCARD}
        return new, again - new

    def _become(self, names: frozenset[str], *, wildcard: bool) -> frozenset[str]:
        new = names - self.names
        if wildcard and not self.wildcard:
            new |= {WILDCARD}
        self.names, self.wildcard = (self.names if names == self.names else shared(names)), wildcard
        return new
