"""Who has registered, and for how long that holds: pure, told the time.

A lease that runs out takes its endpoint away. But silence is weaker evidence than it looks: if many fall silent at
once, it is more likely the network, or Serinus, than all of them. So what runs out by itself never takes a version's
last live endpoint, and within one lease time never more than half of its endpoints. What it may not take stays, marked
stale, until it renews; or, after one more lease time, until live ones are there in its place: as many as are stale.
Instances that say that they leave, and people, may take all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from xds_server.errors import BadRequestError, LostLeaseError, RefusedError, UnknownNameError
from xds_server.mesh import Address

MIN_LEASE_S: Final = 1.0
MAX_OF_A_VERSION: Final = 1_000
MAX_IN_ALL: Final = 20_000

STALL_S: Final = 2.0
"""Between two looks at the leases: in a longer gap Serinus stood still, and nobody could renew."""

Key: TypeAlias = tuple[str, str]
"""Service and version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One endpoint of a version. `lease`: the name of its lease, known to who registered it.

    `asked_s`: the lease time asked for; 0: none. `lease_s`: the one granted. `expires_s`: monotonic.
    `is_stale`: the lease has run out, and the endpoint stays all the same.
    """

    lease: str
    service: str
    version: str
    address: Address
    asked_s: float
    lease_s: float
    expires_s: float
    since_unix_ns: int
    is_stale: bool = False

    @property
    def key(self) -> Key:
        return self.service, self.version

    @property
    def over_s(self) -> float:
        """When it may be taken out."""
        return self.expires_s + (self.lease_s if self.is_stale else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """What has become of leases that ran out."""

    taken: tuple[Registration, ...] = ()
    kept: tuple[Registration, ...] = ()


class Registry:
    """Registrations by lease. `now_s`: seconds of one monotonic clock.

    A version that is no longer `registered` in the mesh file keeps its registrations until they run out: the file may
    be mended.
    """

    def __init__(self) -> None:
        self._terms: Mapping[Key, float] = {}
        self._by_lease: dict[str, Registration] = {}
        self._by_version: dict[Key, dict[Address, str]] = {}
        self._by_address: dict[tuple[str, Address], str] = {}  # service and address
        self._taken_at: dict[Key, deque[float]] = {}
        self._next_s = float("inf")  # no lease runs out before
        self._looked_s = float("-inf")

    def adapt(self, terms: Mapping[Key, float]) -> None:
        """Let instances of these versions register, for so many seconds at most, and no others."""
        self._terms = terms
        self._taken_at = {key: taken for key, taken in self._taken_at.items() if key in terms}

    # --- what instances say

    def admit(self, key: Key, address: Address, asked_s: float) -> float:
        """Return the lease time with which a version's endpoint may register.

        Raises
        ------
        UnknownNameError, RefusedError, BadRequestError
            The version is not there for that, there are too many, or the lease is out of range.
        """
        if key not in self._terms:
            raise self._unknown(key)
        longest_s = self._terms[key]
        if asked_s and not MIN_LEASE_S <= asked_s <= longest_s:
            raise BadRequestError(
                f"a lease of {asked_s:g} s is out of range; legal: {MIN_LEASE_S:g} s to {longest_s:g} s, "
                "the lease in the mesh file"
            )
        here = self._by_version.get(key, {})
        if address not in here and len(here) >= MAX_OF_A_VERSION:
            raise RefusedError(
                f"{MAX_OF_A_VERSION:,} endpoints of {key[0]} {key[1]} are registered, and no more can be"
            )
        if address not in here and len(self._by_lease) >= MAX_IN_ALL:
            raise RefusedError(f"{MAX_IN_ALL:,} endpoints are registered, and no more can be")
        return asked_s or longest_s

    def put(self, registration: Registration) -> Registration | None:
        """Take an endpoint in; return the registration whose place it takes.

        Whoever held the address in any version of the service holds it no more: one server is of one version.
        """
        replaced = self._by_lease.get(self._by_address.get((registration.service, registration.address), ""))
        if replaced is not None:
            self._drop((replaced,))
        self._put(registration)
        return replaced

    def renew(self, lease: str, now_s: float) -> tuple[Registration, bool]:
        """Begin a lease anew; return it, and whether its endpoint was stale.

        Raises
        ------
        LostLeaseError
        """
        before = self._find(lease)
        term_s = self._terms.get(before.key, before.lease_s)
        lease_s = min(before.asked_s, term_s) if before.asked_s else term_s
        renewed = replace(before, lease_s=lease_s, expires_s=now_s + lease_s, is_stale=False)
        self._put(renewed)
        return renewed, before.is_stale

    def deregister(self, lease: str) -> Registration:
        """Take an endpoint out, be it the last one; raises LostLeaseError."""
        found = self._find(lease)
        self._drop((found,))
        return found

    # --- what people say

    def remove(self, key: Key, address: Address | None) -> tuple[Registration, ...]:
        """Take out a version's endpoint, or with None all of its stale ones; return those taken.

        Raises
        ------
        UnknownNameError
            It is not registered.
        """
        here = self.of(key)
        chosen = tuple(r for r in here if (r.is_stale if address is None else r.address == address))
        if not chosen:
            what = "stale endpoint" if address is None else "endpoint"
            shown = "" if address is None else show_address(address)
            raise UnknownNameError(f"{what} of {key[0]} {key[1]}", shown, [show_address(r.address) for r in here])
        self._drop(chosen)
        return chosen

    # --- what time says

    def expire(self, now_s: float) -> Expiry:
        """Take out those whose lease has run out, or keep them as stale; to be called more often than `STALL_S`."""
        stood_still_s = now_s - self._looked_s
        if self._looked_s > float("-inf") and stood_still_s > STALL_S:
            self._postpone(stood_still_s)
        self._looked_s = now_s
        if now_s < self._next_s:
            return Expiry()
        due: dict[Key, list[Registration]] = {}
        for registration in sorted(self._by_lease.values(), key=lambda each: (each.over_s, each.address)):
            if registration.over_s <= now_s:
                due.setdefault(registration.key, []).append(registration)
        taken: list[Registration] = []
        kept: list[Registration] = []
        for key, found in due.items():
            silent = [registration for registration in found if not registration.is_stale]
            n = self._may_go_n(key, silent, now_s)
            self._take(key, silent[:n], now_s)
            stale = [replace(registration, is_stale=True) for registration in silent[n:]]
            for registration in stale:
                self._put(registration)
            late = [registration for registration in found if registration.is_stale]
            late = late[: self._may_follow_n(key, late, now_s)]
            self._take(key, late, now_s)
            taken += silent[:n] + late
            kept += stale
        self._next_s = min((registration.over_s for registration in self._by_lease.values()), default=float("inf"))
        return Expiry(taken=tuple(taken), kept=tuple(kept))

    def _may_go_n(self, key: Key, silent: Sequence[Registration], now_s: float) -> int:
        """How many of a version's endpoints that have fallen silent may go now."""
        here, gone = self.of(key), {registration.lease for registration in silent}
        if key in self._terms and all(registration.is_stale or registration.lease in gone for registration in here):
            return 0
        return min(len(silent), self._allowance(key, now_s))

    def _may_follow_n(self, key: Key, late: Sequence[Registration], now_s: float) -> int:
        """How many of those that have long been stale may go now."""
        here = self.of(key)
        stale_n = sum(registration.is_stale for registration in here)
        if key in self._terms and len(here) - stale_n < stale_n:
            return 0
        return min(len(late), self._allowance(key, now_s))

    def _allowance(self, key: Key, now_s: float) -> int:
        """How many of a version's endpoints may go by expiry now, of whatever kind."""
        here = self.of(key)
        if key not in self._terms:
            return len(here)  # nobody is sent there
        recent = self._taken_at.get(key, deque())
        while recent and recent[0] <= now_s - self._terms[key]:
            recent.popleft()
        # As many as stay: then those that went within a lease time are at most half of those that there were.
        return max(0, (len(here) - len(recent)) // 2)

    def _take(self, key: Key, registrations: Sequence[Registration], now_s: float) -> None:
        self._drop(registrations)
        if key in self._terms:
            self._taken_at.setdefault(key, deque()).extend(now_s for _ in registrations)

    def _postpone(self, seconds: float) -> None:
        for registration in tuple(self._by_lease.values()):
            self._put(replace(registration, expires_s=registration.expires_s + seconds))

    # --- looking

    def of(self, key: Key) -> tuple[Registration, ...]:
        """The registrations of a version, in the order in which they came."""
        return tuple(self._by_lease[lease] for lease in self._by_version.get(key, {}).values())

    def is_held(self, service: str, address: Address) -> bool:
        """Whether an address is registered, in any version of a service."""
        return (service, address) in self._by_address

    def __iter__(self) -> Iterator[Registration]:
        return iter(tuple(self._by_lease.values()))

    def __len__(self) -> int:
        return len(self._by_lease)

    # --- inside

    def _unknown(self, key: Key) -> UnknownNameError:
        service, version = key
        versions = [name for owner, name in self._terms if owner == service]
        if versions:
            return UnknownNameError(f"version of {service} with registered endpoints", version, versions)
        return UnknownNameError("service with registered endpoints", service, {owner for owner, _ in self._terms})

    def _find(self, lease: str) -> Registration:
        found = self._by_lease.get(lease)
        if found is None:
            raise LostLeaseError(
                f"no lease '{lease}': it has run out, or its endpoint was registered anew or removed; register again"
            )
        return found

    def _put(self, registration: Registration) -> None:
        self._by_lease[registration.lease] = registration
        self._by_version.setdefault(registration.key, {})[registration.address] = registration.lease
        self._by_address[registration.service, registration.address] = registration.lease
        self._next_s = min(self._next_s, registration.over_s)

    def _drop(self, registrations: Iterable[Registration]) -> None:
        for registration in registrations:
            del self._by_lease[registration.lease]
            del self._by_address[registration.service, registration.address]
            here = self._by_version[registration.key]
            del here[registration.address]
            if not here:
                del self._by_version[registration.key]


def show_address(address: Address) -> str:
    """Write an address as people do."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
