"""Registrations that outlive the process: the registry with its clock and its store; each turn is a line in the log."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from xds_server.clock import Clock
from xds_server.discovery.registry import Key, Registration, Registry, show_address
from xds_server.errors import JournalError
from xds_server.mesh import Address
from xds_server.store.endpoints import EndpointStore
from xds_server.store.records import RegistrationRow

log = logging.getLogger(__name__)

ORPHAN_LEASE_S: Final = 60.0
"""Of a registration whose version is no longer registered in the mesh file, unless it asked for another."""


class Registrations:
    """Who has registered. What has been taken in is on the disk when the call returns.

    `on_change`: called with each version whose endpoints have changed. `events`: by what happened.
    """

    def __init__(
        self,
        terms: Mapping[Key, float],
        *,
        clock: Clock,
        store: EndpointStore | None,
        on_change: Callable[[Key], None],
    ) -> None:
        self.events: Counter[str] = Counter()
        self._registry = Registry()
        self._clock = clock
        self._store = store
        self._on_change = on_change
        self._registry.adapt(terms)
        self._restore(terms)

    def _restore(self, terms: Mapping[Key, float]) -> None:
        """Begin every lease anew: nobody could renew while Serinus was away."""
        now_s = self._clock.monotonic()
        for row in self._store.registrations() if self._store is not None else ():
            longest_s = terms.get((row.service, row.version), row.asked_s or ORPHAN_LEASE_S)
            lease_s = min(row.asked_s or longest_s, longest_s)
            values = {name: getattr(row, name) for name in ("lease", "service", "version", "asked_s", "since_unix_ns")}
            self._registry.put(
                Registration(
                    **values,
                    address=(row.host, row.port),
                    lease_s=lease_s,
                    expires_s=now_s + lease_s,
                    is_stale=row.is_stale,
                )
            )

    def adapt(self, terms: Mapping[Key, float]) -> None:
        """Let instances of these versions register, for so many seconds at most, and no others."""
        self._registry.adapt(terms)

    def adopt(self, key: Key, addresses: Iterable[Address], lease_s: float) -> None:
        """Let a version keep the endpoints that it had before it was registered, for as long as a lease lasts.

        What other versions of the service hold stays theirs.
        """
        free = (address for address in addresses if not self._registry.is_held(key[0], address))
        made = [self._made(key, address, asked_s=0.0, lease_s=lease_s) for address in free]
        for registration in made:
            self._registry.put(registration)
        self._keep((), made)
        self._on_change(key)
        log.info("%s %s keeps its endpoints for one lease, until its instances register", *key)

    # --- what instances say

    def register(self, key: Key, address: Address, *, lease_s: float, who: str) -> Registration:
        """Take an endpoint in; see `Registry.register`. It raises JournalError too; then nothing has been changed."""
        granted_s = self._registry.admit(key, address, lease_s)
        made = self._made(key, address, asked_s=lease_s, lease_s=granted_s)
        if self._store is not None:
            self._store.change(put=[_row(made)])
        replaced = self._registry.put(made)
        if replaced is not None and replaced.key != key:
            log.warning("%s: %s is no longer %s", key[0], show_address(address), replaced.version)
            self._warn_if_empty(replaced.key)
            self._on_change(replaced.key)
        log.info("%s %s: %s has registered, by %s, for %g s", *key, show_address(address), who, made.lease_s)
        self.events["registered"] += 1
        self._on_change(key)
        return made

    def _made(self, key: Key, address: Address, *, asked_s: float, lease_s: float) -> Registration:
        return Registration(
            lease=secrets.token_hex(16),
            service=key[0],
            version=key[1],
            address=address,
            asked_s=asked_s,
            lease_s=lease_s,
            expires_s=self._clock.monotonic() + lease_s,
            since_unix_ns=self._clock.now_unix_ns(),
        )

    def renew(self, lease: str) -> Registration:
        """Begin a lease anew; raises LostLeaseError."""
        renewed, was_stale = self._registry.renew(lease, self._clock.monotonic())
        if was_stale:
            log.info("%s %s: %s is back", *renewed.key, show_address(renewed.address))
            self._keep((), (renewed,))
        return renewed

    def deregister(self, lease: str) -> Registration:
        """Take an endpoint out, be it the last one; raises LostLeaseError."""
        gone = self._registry.deregister(lease)
        log.info("%s %s: %s has left", *gone.key, show_address(gone.address))
        self.events["deregistered"] += 1
        self._gone((gone,))
        return gone

    # --- what people and time say

    def remove(self, key: Key, address: Address | None, *, who: str, reason: str) -> tuple[Registration, ...]:
        """Take out an endpoint of a version, or with None all of its stale ones; see `Registry.remove`."""
        gone = self._registry.remove(key, address)
        why = f": {reason}" if reason else ""
        log.warning("%s %s: %s removed by %s%s", *key, _shown(gone), who, why)
        self.events["removed"] += len(gone)
        self._gone(gone)
        return gone

    def expire(self) -> None:
        """Take out whose lease has run out, as far as that may be."""
        expiry = self._registry.expire(self._clock.monotonic())
        if not expiry.taken and not expiry.kept:
            return
        for key in dict.fromkeys(registration.key for registration in (*expiry.taken, *expiry.kept)):
            if taken := [r for r in expiry.taken if r.key == key]:
                log.warning("%s %s: %s not renewed, taken out", *key, _shown(taken))
            if kept := [r for r in expiry.kept if r.key == key]:
                log.error("%s %s: %s not renewed, and kept: too many at once, or the last", *key, _shown(kept))
        self.events["expired"] += len(expiry.taken)
        self.events["kept"] += len(expiry.kept)
        self._keep((registration.lease for registration in expiry.taken), expiry.kept)
        for key in dict.fromkeys(registration.key for registration in expiry.taken):
            self._on_change(key)

    # --- looking

    def of(self, key: Key) -> tuple[Registration, ...]:
        """The registrations of a version, in the order in which they came."""
        return self._registry.of(key)

    # --- inside

    def _gone(self, gone: Iterable[Registration]) -> None:
        self._keep((registration.lease for registration in gone), ())
        for key in dict.fromkeys(registration.key for registration in gone):
            self._warn_if_empty(key)
            self._on_change(key)

    def _warn_if_empty(self, key: Key) -> None:
        if not self._registry.of(key):
            log.warning("%s %s has no endpoint left: Envoys answer 503 for it", *key)

    def _keep(self, gone: Iterable[str], changed: Iterable[Registration]) -> None:
        """Write down what has happened. What cannot be written comes back with a restart, and runs out again."""
        if self._store is None:
            return
        try:
            self._store.change(gone=gone, put=map(_row, changed))
        except JournalError as error:
            log.error("changes of registrations are not stored: %s", error)  # noqa: TRY400 -- one line


def _row(registration: Registration) -> RegistrationRow:
    return RegistrationRow(
        lease=registration.lease,
        service=registration.service,
        version=registration.version,
        host=registration.address[0],
        port=registration.address[1],
        asked_s=registration.asked_s,
        since_unix_ns=registration.since_unix_ns,
        is_stale=registration.is_stale,
    )


def _shown(registrations: Iterable[Registration]) -> str:
    return ", ".join(show_address(registration.address) for registration in registrations)
