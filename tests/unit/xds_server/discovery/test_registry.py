"""Leases: who may register, who goes when silent, and who stays because too many are."""

from __future__ import annotations

import pytest

from xds_server.discovery import registry
from xds_server.discovery.registry import Key, Registration, Registry
from xds_server.errors import BadRequestError, LostLeaseError, RefusedError, UnknownNameError

V1, V2 = ("shop", "v1"), ("shop", "v2")
LEASE_S = 10.0


class Leases:
    """A registry with a clock that is moved by hand; `wait` looks as often as the control plane does."""

    def __init__(self, *names: str, key: Key = V1) -> None:
        self.registry = Registry()
        self.registry.adapt({V1: LEASE_S, V2: LEASE_S})
        self.now_s = 100.0
        for name in names:
            self.register(name, key)

    def register(self, name: str, key: Key = V1, asked_s: float = 0.0) -> Registration | None:
        address = ("10.0.0.1", ord(name))
        lease_s = self.registry.admit(key, address, asked_s)
        made = Registration(
            lease=name, service=key[0], version=key[1], address=address, asked_s=asked_s, lease_s=lease_s,
            expires_s=self.now_s + lease_s, since_unix_ns=0,
        )  # fmt: skip
        return self.registry.put(made)

    def wait(self, seconds: float, renewing: str = "") -> str:
        """Let time pass; return who was taken. Those named renew every second."""
        taken = ""
        for _ in range(round(seconds * 2)):
            self.now_s += 0.5
            for name in renewing:
                self.registry.renew(name, self.now_s)
            taken += "".join(registration.lease for registration in self.registry.expire(self.now_s).taken)
        return taken

    def here(self, key: Key = V1) -> str:
        return "".join(registration.lease for registration in self.registry.of(key))

    def stale(self, key: Key = V1) -> str:
        return "".join(registration.lease for registration in self.registry.of(key) if registration.is_stale)


def test_who_renews_stays_and_who_falls_silent_goes() -> None:
    leases = Leases(*"abc")
    assert leases.wait(30, renewing="ab") == "c"
    assert (leases.here(), leases.stale()) == ("ab", "")


def test_a_lease_lasts_as_long_as_was_granted() -> None:
    leases = Leases(*"ab")
    leases.register("c", asked_s=3.0)
    assert leases.wait(2.5, renewing="ab") == ""
    assert leases.wait(0.5, renewing="ab") == "c"


def test_the_last_one_stays_when_it_falls_silent() -> None:
    leases = Leases("a")
    assert leases.wait(60) == ""
    assert (leases.here(), leases.stale()) == ("a", "a")


def test_when_all_fall_silent_at_once_all_stay() -> None:
    """It is the network, or Serinus, rather than all of them."""
    leases = Leases(*"abcd")
    assert leases.wait(60) == ""
    assert leases.stale() == "abcd"


def test_of_many_that_fall_silent_one_by_one_half_go_and_the_others_stay() -> None:
    leases = Leases()
    for name in "abcd":
        leases.register(name)
        leases.wait(1)
    assert leases.wait(60) == "ab"
    assert (leases.here(), leases.stale()) == ("cd", "cd")


def test_of_several_that_fall_silent_at_once_as_many_go_as_may() -> None:
    leases = Leases(*"abcd")
    assert leases.wait(19.5, renewing="d") == "ab"
    assert (leases.here(), leases.stale()) == ("cd", "c")


def test_in_the_next_lease_time_half_of_what_is_left_may_go() -> None:
    leases = Leases(*"abcdefgh")
    assert leases.wait(10, renewing="efgh") == "abcd"
    assert leases.wait(10, renewing="efgh") == ""
    assert leases.wait(9.5, renewing="gh") == ""
    assert leases.wait(0.5, renewing="gh") == "ef"
    assert leases.stale() == ""


def test_stale_ones_do_not_count_as_somebody_who_is_left() -> None:
    """Nobody knows whether a stale one is alive: the last live one is not given up for it."""
    leases = Leases(*"ab")
    leases.wait(10)
    assert leases.stale() == "ab"
    leases.wait(1, renewing="b")
    assert leases.stale() == "a"
    assert leases.wait(60) == "a"
    assert leases.stale() == "b"


def test_a_stale_one_that_renews_is_as_it_was() -> None:
    leases = Leases("a")
    leases.wait(20)
    renewed, was_stale = leases.registry.renew("a", leases.now_s)
    assert (renewed.is_stale, was_stale, leases.stale()) == (False, True, "")


def test_a_stale_one_goes_once_a_live_one_has_taken_its_place() -> None:
    """But not before it has had another lease time, in which it could have come back."""
    leases = Leases("a")
    assert leases.wait(60) == ""
    leases.register("b")
    assert leases.wait(0.5) == "a"
    leases = Leases(*"ab")
    leases.wait(10)
    assert leases.stale() == "ab"
    assert leases.wait(9.5, renewing="b") == ""
    assert leases.wait(0.5, renewing="b") == "a"
    assert (leases.here(), leases.stale()) == ("b", "")


def test_many_stale_ones_wait_for_as_many_live_ones() -> None:
    """The few that are heard of would get the traffic of all."""
    leases = Leases(*"abcd")
    leases.wait(20)
    assert leases.wait(60, renewing="d") == ""
    assert leases.wait(10, renewing="cd") == "ab"


def test_what_is_no_longer_registered_in_the_mesh_file_does_not_stay_stale_for_ever() -> None:
    leases = Leases(*"ab")
    leases.wait(10)
    assert leases.stale() == "ab"
    leases.registry.adapt({})
    assert leases.wait(10) == "ab"


def test_who_says_that_it_leaves_goes_be_it_the_last() -> None:
    leases = Leases(*"ab")
    assert [leases.registry.deregister(name).lease for name in "ab"] == ["a", "b"]
    assert leases.here() == ""
    with pytest.raises(LostLeaseError, match="register again"):
        leases.registry.deregister("a")


def test_a_lease_that_is_no_more_cannot_be_renewed() -> None:
    leases = Leases(*"ab")
    leases.wait(10, renewing="a")
    with pytest.raises(LostLeaseError, match="no lease 'b'"):
        leases.registry.renew("b", leases.now_s)


def test_a_person_removes_one_or_all_that_are_stale() -> None:
    leases = Leases(*"abcd")
    leases.wait(10)
    leases.wait(1, renewing="d")
    assert [r.lease for r in leases.registry.remove(V1, ("10.0.0.1", ord("a")))] == ["a"]
    assert [r.lease for r in leases.registry.remove(V1, None)] == ["b", "c"]
    assert leases.here() == "d"
    with pytest.raises(UnknownNameError, match=r"no endpoint of shop v1 '10.0.0.1:97'; known: 10.0.0.1:100"):
        leases.registry.remove(V1, ("10.0.0.1", ord("a")))
    with pytest.raises(UnknownNameError, match="no stale endpoint of shop v1"):
        leases.registry.remove(V1, None)


def test_an_address_registers_anew_and_the_old_lease_is_no_more() -> None:
    """So the end of an instance that lingers does not take out the one that has taken its place."""
    leases = Leases("a")
    made = leases.registry.of(V1)[0]
    again = leases.registry.put(Registration(**{**_fields(made), "lease": "a2"}))
    assert again == made
    with pytest.raises(LostLeaseError):
        leases.registry.deregister("a")
    assert leases.here() == "a2"


def test_an_address_is_of_one_version_of_a_service() -> None:
    leases = Leases(*"ab")
    replaced = leases.register("a", V2)
    assert replaced is not None
    assert (replaced.version, leases.here(V1), leases.here(V2)) == ("v1", "b", "a")


def test_after_a_standstill_everybody_has_the_time_to_renew() -> None:
    """Nobody could while Serinus stood still."""
    leases = Leases(*"abc")
    leases.wait(8)
    leases.now_s += 600
    assert leases.wait(1.5) == ""
    assert leases.wait(20, renewing="ab") == "c"


def test_the_mesh_file_says_which_versions_may_register_and_how_long() -> None:
    leases = Leases()
    admit = leases.registry.admit
    assert admit(V1, ("10.0.0.1", 1), 0.0) == LEASE_S
    assert admit(V1, ("10.0.0.1", 1), 2.0) == 2.0
    for asked_s in (0.5, 11.0):
        with pytest.raises(BadRequestError, match="out of range; legal: 1 s to 10 s"):
            admit(V1, ("10.0.0.1", 1), asked_s)
    with pytest.raises(UnknownNameError, match="no version of shop with registered endpoints 'v3'; known: v1, v2"):
        admit(("shop", "v3"), ("10.0.0.1", 1), 0.0)
    with pytest.raises(UnknownNameError, match="no service with registered endpoints 'cart'; known: shop"):
        admit(("cart", "v1"), ("10.0.0.1", 1), 0.0)


def test_a_version_that_the_mesh_file_forgets_keeps_its_endpoints_until_they_fall_silent() -> None:
    leases = Leases(*"ab")
    leases.registry.adapt({V2: LEASE_S})
    assert leases.wait(20, renewing="a") == "b"
    assert leases.wait(20) == "a", "nobody is sent there: no reason to keep it"


def test_a_changed_lease_time_counts_from_the_next_renewal() -> None:
    leases = Leases("a")
    leases.registry.adapt({V1: 5.0})
    assert leases.registry.renew("a", leases.now_s)[0].expires_s == leases.now_s + 5.0
    leases.registry.adapt({V1: 60.0})
    assert leases.registry.renew("a", leases.now_s)[0].expires_s == leases.now_s + 60.0


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_OF_A_VERSION", 2)
    monkeypatch.setattr(registry, "MAX_IN_ALL", 3)
    leases = Leases(*"ab")
    with pytest.raises(RefusedError, match="2 endpoints of shop v1 are registered"):
        leases.register("c")
    leases.register("c", V2)
    with pytest.raises(RefusedError, match="3 endpoints are registered"):
        leases.register("d", V2)
    leases.register("a")  # anew
    assert len(leases.registry) == 3


def _fields(registration: Registration) -> dict[str, object]:
    return {name: getattr(registration, name) for name in registration.__slots__}
