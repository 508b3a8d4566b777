"""Whatever instances do and whenever: silence never empties a version, nor takes more than half of it at a time."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from xds_server.discovery.registry import Key, Registration, Registry
from xds_server.errors import LostLeaseError

KEYS: tuple[Key, ...] = (("shop", "v1"), ("shop", "v2"), ("cart", "v1"))
NAMES = st.integers(1, 9)
STEP_S = 0.5


class Leases(RuleBasedStateMachine):
    """Instances register, renew, leave and fall silent, in any order; time passes in looks."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.now_s = 0.0
        self.n = 0
        self.expires: dict[str, float] = {}  # as each instance knows it
        self.left: set[str] = set()
        self.taken: list[tuple[float, Key]] = []

    @initialize(terms=st.fixed_dictionaries({key: st.integers(1, 8) for key in KEYS}))
    def begin(self, terms: dict[Key, int]) -> None:
        self.terms = {key: float(term_s) for key, term_s in terms.items()}
        self.registry.adapt(self.terms)
        self.look()

    @rule(key=st.sampled_from(KEYS), port=NAMES, asked_s=st.sampled_from([0.0, 1.0]))
    def register(self, key: Key, port: int, asked_s: float) -> None:
        lease_s = self.registry.admit(key, ("10.0.0.1", port), asked_s)
        self.n += 1
        made = Registration(
            lease=f"lease-{self.n}", service=key[0], version=key[1], address=("10.0.0.1", port), asked_s=asked_s,
            lease_s=lease_s, expires_s=self.now_s + lease_s, since_unix_ns=self.n,
        )  # fmt: skip
        replaced = self.registry.put(made)
        if replaced is not None:
            assert (replaced.service, replaced.address) == (made.service, made.address)
            self.left.add(replaced.lease)
        self.expires[made.lease] = made.expires_s

    @precondition(lambda self: self.expires)
    @rule(data=st.data())
    def renew(self, data: Any) -> None:
        lease = data.draw(st.sampled_from(sorted(self.expires)))
        try:
            renewed, _ = self.registry.renew(lease, self.now_s)
        except LostLeaseError:
            assert lease not in {registration.lease for registration in self.registry}
        else:
            assert not renewed.is_stale
            self.expires[lease] = renewed.expires_s

    @precondition(lambda self: self.expires)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        lease = data.draw(st.sampled_from(sorted(self.expires)))
        if lease in {registration.lease for registration in self.registry}:
            self.registry.deregister(lease)
            self.left.add(lease)

    @rule(looks=st.integers(1, 20), renewing=st.sets(NAMES))
    def wait(self, looks: int, renewing: set[int]) -> None:
        for _ in range(looks):
            self.now_s += STEP_S
            for registration in self.registry:
                if registration.address[1] in renewing:
                    self.expires[registration.lease] = self.registry.renew(registration.lease, self.now_s)[0].expires_s
            self.look()

    @rule(seconds=st.floats(3, 100))
    def stand_still(self, seconds: float) -> None:
        self.now_s += seconds
        for lease in self.expires:
            self.expires[lease] += seconds
        self.look()

    def look(self) -> None:
        before = {key: self.registry.of(key) for key in KEYS}
        expiry = self.registry.expire(self.now_s)
        for registration in (*expiry.taken, *expiry.kept):
            assert self.expires[registration.lease] <= self.now_s + 1e-6, "its time was not over"
        for key in KEYS:
            after = self.registry.of(key)
            gone = [registration for registration in expiry.taken if registration.key == key]
            assert {r.lease for r in before[key]} - {r.lease for r in after} == {r.lease for r in gone}
            self.taken += [(self.now_s, key)] * len(gone)
            self.left |= {registration.lease for registration in gone}
            if gone:
                assert any(not registration.is_stale for registration in after), "no live one is left"
                lately = sum(at > self.now_s - self.terms[key] for at, of in self.taken if of == key)
                assert lately <= len(after), "more than half went within a lease time"
            assert bool(after) == bool(before[key]), "emptied"
            assert all(r.is_stale or self.now_s < r.expires_s for r in after), "neither live nor stale"

    @invariant()
    def nobody_goes_without_a_reason(self) -> None:
        assert {registration.lease for registration in self.registry} == self.expires.keys() - self.left

    @invariant()
    def an_address_is_of_one_version(self) -> None:
        held = [(registration.service, registration.address) for registration in self.registry]
        assert len(held) == len(set(held)) == len(self.registry)
        assert sum(len(self.registry.of(key)) for key in KEYS) == len(self.registry)


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=150, stateful_step_count=40)
