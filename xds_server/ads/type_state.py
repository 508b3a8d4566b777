"""What one stream knows of one type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from xds_server.ads.held import Held
from xds_server.ads.response import Response
from xds_server.ads.subscription import WILDCARD, Subscription
from xds_server.snapshot import Resource

REMOVAL = ""
"""In the place of a version: the resource is gone."""


def version_of(resource: Resource | None) -> str | None:
    """The version of what may not be there."""
    return resource.version if resource is not None else None


@dataclass(slots=True, kw_only=True)
class TypeState:
    """One type on one stream.

    `held`: what the client has ACKed. `due`: names to be looked at: what the client has of them may differ from the
    target. `owed`: names to be sent even if unchanged, or to be answered if they do not exist (`*`: an answer is owed
    whatever there is). `rejected`: versions not to be sent again, by name ("": the removal). `suspects`: were rejected
    together, to be tried one by one. `instead`: content that takes the place of rejected content, by name. `unknown`:
    names of which the client may have content that is not known here: from before this stream, or of a
    response that it rejected. `parent_sent`: CDS (LDS) was
    sent after our newest EDS (RDS). `is_fresh`: the client had nothing from before this stream.
    `refuses_held`: it has refused even what it had ACKed, so that there is nothing to go back to.

    Whatever is subscribed and neither due, owed, in flight nor rejected, the client has as the target has it.
    """

    subscription: Subscription
    held: Held = field(default_factory=Held)
    due: set[str] = field(default_factory=set)
    owed: set[str] = field(default_factory=set)
    rejected: dict[str, str] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    instead: dict[str, Resource] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    sent_version: str = ""
    acked_version: str = ""
    in_flight: Response | None = None
    nonce: str = ""
    parent_sent: bool = False
    is_fresh: bool = True
    refuses_held: bool = False

    def has(self, name: str) -> Resource | None:
        """What the client subscribes to and has ACKed under this name."""
        return self.held.get(name) if self.subscription.covers(name) else None

    def may_have(self, name: str) -> Iterator[Resource]:
        """What the client has under a name, or will have when it ACKs what is in flight."""
        if (held := self.has(name)) is not None:
            yield held
        if self.in_flight is not None and (sent := self.in_flight.body.resources.get(name)) is not None:
            yield sent

    def names(self) -> set[str]:
        """Every subscribed name under which the client has something, or may have it soon."""
        found = self.held.names()
        if self.in_flight is not None:
            found |= self.in_flight.body.resources.keys()
        return found if self.subscription.wildcard else found & self.subscription.names

    def must_look(self, names: Iterable[str]) -> None:
        """These may have changed; those that the client does not subscribe to do not matter."""
        covers = self.subscription.covers
        self.due.update(name for name in names if covers(name))

    def forget(self, name: str) -> Resource | None:
        """The client has given a name up; return what it had under it."""
        had = self.held.get(name)
        self.held.put(name, None)
        for names in (self.due, self.owed, self.suspects, self.unknown):
            names.discard(name)
        self.rejected.pop(name, None)
        self.instead.pop(name, None)
        return had

    def is_at_rest(self) -> bool:
        """Whether there is nothing to say and no answer to wait for."""
        return not (self.due or self.owed or self.in_flight)

    def unsettled(self) -> set[str]:
        """Names of which the client may have something else than the target."""
        if not (self.due or self.owed or self.rejected):
            return set()
        return {*self.due, *self.owed, *self.rejected} - {WILDCARD}

    def answered(self, names: Iterable[str]) -> None:
        """These are in what is being sent."""
        self.due.difference_update(names)
        self.owed.difference_update(names)
        self.owed.discard(WILDCARD)
        # A set keeps the room that it once needed: thousands of names when the stream began.
        self.due = self.due or set()
        self.owed = self.owed or set()
