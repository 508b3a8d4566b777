"""What one stream has subscribed to, of one type: the state-of-the-world rules of the xDS protocol.

Delta streams will fill the same record from `resource_names_subscribe` and `resource_names_unsubscribe`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

WILDCARD = "*"


@dataclass(slots=True, kw_only=True)
class Subscription:
    """Names and wildcard. `may_be_legacy`: LDS and CDS only, where a first request without names means everything."""

    may_be_legacy: bool
    names: frozenset[str] = frozenset()
    wildcard: bool = False
    has_named: bool = False

    def covers(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def replace(self, requested: Iterable[str]) -> frozenset[str]:
        """Take over the names of a request and return what is new among them (`*` for the wildcard).

        xDS protocol, "How the client specifies what resources to return": an empty list is the wildcard only while no
        request on this stream has named anything of the type; afterwards it unsubscribes from everything.
        """
        names = frozenset(requested)
        self.has_named |= bool(names)
        wildcard = WILDCARD in names or (self.may_be_legacy and not self.has_named)
        new = names - self.names - {WILDCARD}
        if wildcard and not self.wildcard:
            new |= {WILDCARD}
        self.names, self.wildcard = names - {WILDCARD}, wildcard
        return new
