"""However requests, retries, losses, delays and replaced hosts fall: the bounds hold what was really lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.evidence.log_loss import LAG_S, Load, LoadLedger, LogLoss

REPORT_S = 2.0
MAX_TRIES = 3


@pytest.fixture(autouse=True, scope="module")
def few_are_enough() -> Iterator[None]:
    """Small numbers find what is off by one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.evidence.log_loss.MIN_N", 1)
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One upstream request. `connected`: whether it got a connection, so that it counts as issued."""

    start_s: float
    end_s: float
    connected: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One HTTP request; its entry arrives `delay_s` after its last try, unless it is lost."""

    tries: tuple[Try, ...]
    delay_s: float
    lost: bool

    @property
    def logged_s(self) -> float:
        return self.tries[-1].end_s + self.delay_s


@st.composite
def asked(draw: st.DrawFn, *, lossless: bool = False) -> Asked:
    at = draw(st.floats(0, 70))
    tries = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, MAX_TRIES]))):
        connected = draw(st.sampled_from([True, True, True, False]))
        lasts = draw(st.sampled_from([0.001, 0.05, 0.3, 3.0, 30.0])) if connected else 0.0
        tries.append(Try(start_s=at, end_s=at + lasts, connected=connected))
        at += lasts  # really, Envoy pauses some 25 ms, in which a request is in no counter
    # Envoy knows how the last try ended; of the others only how many there were.
    return Asked(
        tries=tuple(tries),
        delay_s=draw(st.floats(0, LAG_S * 0.99)),
        lost=False if lossless else draw(st.booleans()),
    )


def counts(request: Asked) -> tuple[int, int]:
    """What an entry stands for: see `decode.upstream_requests`."""
    n, last = len(request.tries), request.tries[-1].connected
    if not last:
        return 0, n - 1
    return 1, n


def play(requests: list[Asked], replaced_s: float = -1.0) -> tuple[LogLoss | None, int, int]:
    """Report and log in order of time; the loss, and the tries that finished in the window: all, and those lost.

    `replaced_s`: when all hosts are replaced, and their counters forgotten.
    """
    ledger: LoadLedger[str] = LoadLedger()
    ledger.open("e")
    entries = sorted((r.logged_s, *counts(r)) for r in requests if not r.lost)
    tries = [(t, r.lost) for r in requests for t in r.tries if t.connected]
    before = 0.0

    def log(until: float) -> None:
        series = ledger.series("e").get("v")
        for at, least, most in entries:
            if before <= at < until and series is not None:
                series.logged(least, most)

    for at in (REPORT_S * (n + 1) + 0.1 for n in range(40)):
        log(at)
        issued = sum(before <= t.start_s < at and not t.start_s <= replaced_s < at for t, _ in tries)
        active = sum(t.start_s < at <= t.end_s and not t.start_s <= replaced_s < at for t, _ in tries)
        ledger.report("e", {"v": Load(issued=issued, active=active)}, at)
        if series := ledger.series("e").get("v"):
            series.deepest = MAX_TRIES  # it has been seen
        before = at
    log(before + LAG_S)
    found = ledger.check({"v": "v"}, before + LAG_S).versions["v"]
    if not isinstance(found, LogLoss):
        return None, 0, 0
    begin = ledger.series("e")["v"].points[0].at_s
    finished = [lost for t, lost in tries if begin <= t.end_s < before]
    return found, len(finished), sum(finished)


@settings(max_examples=200, deadline=None)
@given(requests=st.lists(asked(), min_size=1, max_size=60))
def test_what_was_lost_lies_within_the_bounds(requests: list[Asked]) -> None:
    found, n, lost = play(requests)
    if found is not None:
        assert found.n == n
        assert found.least <= lost <= found.most
        assert found.least <= found.lost <= found.most <= n


@settings(max_examples=200, deadline=None)
@given(requests=st.lists(asked(lossless=True), min_size=1, max_size=60), report_n=st.integers(1, 38))
def test_nothing_is_claimed_lost_where_nothing_was_whatever_hosts_are_replaced(
    requests: list[Asked], report_n: int
) -> None:
    """Right after a report. Between two, a try that nobody has heard of may end as well; its failed tries count."""
    found, _, _ = play(requests, REPORT_S * report_n + 0.1)
    assert found is None or found.least == 0


@settings(max_examples=200, deadline=None)
@given(requests=st.lists(asked(lossless=True), min_size=1, max_size=60), replaced_s=st.floats(0, 80))
def test_nothing_is_claimed_lost_where_nothing_was_whenever_hosts_are_replaced(
    requests: list[Asked], replaced_s: float
) -> None:
    found, _, _ = play([request for request in requests if len(request.tries) == 1], replaced_s)
    assert found is None or found.least == 0
