"""Who is near to a fault, in a graph of calls."""

from __future__ import annotations

import pytest

from analysis.change.blame import Site, Suspect, closeness, graph, shares
from analysis.change.series import Edge

CALLS = graph([Edge(*edge) for edge in (("web", "cart"), ("web", "pay"), ("cart", "stock"), ("pay", "stock"))])


def site(*, well: bool, seen_by: str = "cart") -> Site:
    return Site(edge=Edge("cart", "stock"), seen_by=frozenset([seen_by]), callee_is_well=well)


@pytest.mark.parametrize(
    ("service", "failing", "well"), [("stock", 0, 1), ("cart", 1, 0), ("pay", None, None), ("web", None, None)]
)
def test_a_fault_is_the_callee_s_unless_its_other_callers_are_well(
    service: str, failing: int | None, well: int | None
) -> None:
    assert closeness(service, site(well=False), CALLS) == failing
    assert closeness(service, site(well=True), CALLS) == well


def test_shares_add_up_with_what_is_nobody_s() -> None:
    suspects = {
        "stock": Suspect(service="stock", started_s=0.0, heard_s=60.0),
        "cart": Suspect(service="cart", started_s=0.0, heard_s=None),
        "late": Suspect(service="stock", started_s=0.0, heard_s=999.0),
    }
    found = shares([site(well=False, seen_by="web")], suspects, CALLS, onset_s=60.0, interval_s=60.0)
    weights = {"stock": 1.0, "cart": 0.5 / 4, "late": 0.0}
    for name, weight in weights.items():
        assert found[name].share == pytest.approx(weight / (1.125 + 0.05)), name
    assert found["late"].reason == "the fault is older than it"
