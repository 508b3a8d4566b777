"""What Envoys say that they sent, beside what they logged, over a minute that slides."""

from __future__ import annotations

import pytest

from analysis.decision import Insufficient
from analysis.evidence.log_loss import LAG_S, MAX_BIAS, MAX_LOSS, MIN_N, WINDOW_S, Load, LoadLedger, LogCheck, LogLoss

ARMS = {"v1": "shop|v1", "v2": "shop|v2"}


class Envoy:
    """An Envoy that reports every two seconds, and whose logs arrive a moment before; `lost` of them do not."""

    def __init__(self, ledger: LoadLedger[str], node: str = "edge", *, at_s: float = 0.0) -> None:
        self.ledger, self.node, self.now_s = ledger, node, at_s
        ledger.open(node)

    def serve(
        self, seconds: float, *, rate: int = 50, lost: float = 0.0, arm: str = "shop|v1", active: int = 0
    ) -> Envoy:
        """Serve `rate` requests a second. Each takes one upstream request."""
        for _ in range(round(seconds / 2)):
            self.now_s += 2
            series = self.ledger.series(self.node).get(arm)
            logged = round(2 * rate * (1 - lost))
            for _ in range(logged if series is not None else 0):
                assert series is not None
                series.logged(1, 1)
            self.ledger.report(self.node, {arm: Load(issued=2 * rate, active=active)}, self.now_s)
            self.ledger.settle(self.node, self.now_s + LAG_S)
        return self


def found(check: LogCheck, version: str = "v1") -> LogLoss:
    loss = check.versions[version]
    assert isinstance(loss, LogLoss)
    return loss


@pytest.fixture
def ledger() -> LoadLedger[str]:
    return LoadLedger()


def test_complete_logs_lack_nothing(ledger: LoadLedger[str]) -> None:
    envoy = Envoy(ledger).serve(30)
    check = ledger.check(ARMS, envoy.now_s)
    assert (found(check).n, found(check).lost, found(check).least) == (1_400, 0, 0)
    assert (check.total, check.nodes) == (found(check), 1)
    assert not check.is_lossy
    assert isinstance(check.versions["v2"], Insufficient)


def test_a_loss_is_found_with_its_bounds_and_forgotten_once_the_window_has_passed(ledger: LoadLedger[str]) -> None:
    envoy = Envoy(ledger).serve(30).serve(10, lost=0.4)
    check = ledger.check(ARMS, envoy.now_s)
    assert found(check).lost == 200
    assert found(check).least <= 200 <= found(check).most
    assert check.is_lossy
    envoy.serve(WINDOW_S + 4)
    assert found(ledger.check(ARMS, envoy.now_s)).most == 0


def test_entries_that_come_late_are_missed_and_then_are_not(ledger: LoadLedger[str]) -> None:
    envoy = Envoy(ledger).serve(20).serve(6, lost=1.0)
    assert found(ledger.check(ARMS, envoy.now_s)).least == 300
    for _ in range(300):
        ledger.series("edge")["shop|v1"].logged(1, 1)
    envoy.serve(4)
    assert found(ledger.check(ARMS, envoy.now_s)).lost == 0


def test_entries_that_are_on_their_way_are_not_missing(ledger: LoadLedger[str]) -> None:
    """A burst ends with a report: its requests are finished, and their entries come a moment later."""
    envoy = Envoy(ledger).serve(20)
    ledger.report("edge", {"shop|v1": Load(issued=400, active=0)}, envoy.now_s + 2)
    assert found(ledger.check(ARMS, envoy.now_s + 2.1)).n == 900, "too early to tell"
    for _ in range(400):
        ledger.series("edge")["shop|v1"].logged(1, 1)
    ledger.settle("edge", envoy.now_s + 2 + LAG_S)
    loss = found(ledger.check(ARMS, envoy.now_s + 2 + LAG_S))
    assert (loss.n, loss.least, loss.most) == (1_300, 0, 400)


def test_few_requests_say_nothing(ledger: LoadLedger[str]) -> None:
    envoy = Envoy(ledger).serve(20, rate=5, lost=1.0)
    assert ledger.check(ARMS, envoy.now_s).total == Insufficient(n=90, needed=MIN_N - 90, minutes=None)


def test_an_envoy_that_does_not_report_is_not_compared(ledger: LoadLedger[str]) -> None:
    check = ledger.check(ARMS, 100.0)
    assert (check.nodes, check.total) == (0, Insufficient(n=0, needed=MIN_N, minutes=None))
    assert not ledger.series("old")
    ledger.report("old", {"shop|v1": Load(issued=5_000, active=0)}, 100.0)
    assert ledger.check(ARMS, 101.0) == check


def test_requests_from_before_the_stream_are_nobodys(ledger: LoadLedger[str]) -> None:
    """A first report tells of all since some earlier stream, and nobody knows what of that was logged here."""
    envoy = Envoy(ledger)
    ledger.report("edge", {"shop|v1": Load(issued=1_000_000, active=7)}, 0.0)
    ledger.settle("edge", LAG_S)
    envoy.serve(20, active=7)
    assert (found(ledger.check(ARMS, envoy.now_s)).n, found(ledger.check(ARMS, envoy.now_s)).most) == (1_000, 0)


def test_requests_in_progress_are_not_missing(ledger: LoadLedger[str]) -> None:
    """Long streams: issued, and in no log before they end."""
    envoy = Envoy(ledger).serve(20)
    ledger.report("edge", {"shop|v1": Load(issued=500, active=500)}, envoy.now_s + 2)
    envoy.now_s += 2
    for _ in range(5):
        envoy.serve(2, active=500)
    assert found(ledger.check(ARMS, envoy.now_s)).least == 0


def test_each_stream_begins_anew_and_two_at_once_are_not_told_apart(ledger: LoadLedger[str]) -> None:
    envoy = Envoy(ledger).serve(20, lost=1.0)
    successor = Envoy(ledger, at_s=envoy.now_s)  # a hot restart: for a while there are two by one name
    successor.serve(20, lost=1.0)
    assert ledger.check(ARMS, successor.now_s).nodes == 0
    ledger.close("edge")
    successor.serve(20)
    assert found(ledger.check(ARMS, successor.now_s)).most == 0
    ledger.close("edge")
    assert (ledger.nodes, ledger.check(ARMS, successor.now_s).nodes) == (frozenset(), 0)


def test_an_envoy_that_has_fallen_silent_is_not_compared_for_ever(ledger: LoadLedger[str]) -> None:
    envoy = Envoy(ledger).serve(20, lost=1.0)
    assert ledger.check(ARMS, envoy.now_s + WINDOW_S).nodes == 1
    assert ledger.check(ARMS, envoy.now_s + WINDOW_S + LAG_S).nodes == 0


def test_what_has_no_load_any_more_is_forgotten(ledger: LoadLedger[str]) -> None:
    envoy = Envoy(ledger).serve(20)
    for _ in range(40):
        envoy.now_s += 2
        ledger.report("edge", {"shop|v1": Load(issued=0, active=0)}, envoy.now_s)
    assert not ledger.series("edge")


def test_what_is_not_asked_for_any_more_begins_anew_when_it_is_again(ledger: LoadLedger[str]) -> None:
    """Meanwhile it is logged, and reported to nobody."""
    envoy = Envoy(ledger).serve(20)
    envoy.now_s += 2
    ledger.report("edge", {}, envoy.now_s)
    assert not ledger.series("edge")
    envoy.serve(20, lost=1.0)
    assert found(ledger.check(ARMS, envoy.now_s)).least == 900


def test_reports_without_end_are_no_memory_without_end(ledger: LoadLedger[str]) -> None:
    ledger.open("edge")
    for n in range(20_000):
        ledger.report("edge", {"shop|v1": Load(issued=1, active=0)}, n * 0.01)
    assert len(ledger.series("edge")["shop|v1"].points) <= WINDOW_S / LAG_S + 2


def test_the_envoy_that_lacks_most_is_named(ledger: LoadLedger[str]) -> None:
    good, bad = Envoy(ledger, "good"), Envoy(ledger, "bad")
    good.serve(30, rate=500)
    bad.serve(30, lost=1.0)
    total = ledger.check(ARMS, good.now_s).total
    assert isinstance(total, LogLoss)
    assert (total.worst, total.worst_least, total.nodes) == ("bad", 1_400, 2)
    assert total.n == 15_400
    assert ledger.check(ARMS, good.now_s).is_lossy, "one Envoy in ten by traffic says nothing at all"


def test_a_loss_of_one_version_is_found_where_the_whole_service_hardly_lacks_anything(
    ledger: LoadLedger[str],
) -> None:
    Envoy(ledger, "a").serve(60, rate=500)
    envoy = Envoy(ledger, "b").serve(60, rate=10, arm="shop|v2", lost=0.5)
    check = ledger.check(ARMS, envoy.now_s)
    assert not check.is_lossy
    assert check.leans("v1", "v2") == check.leans("v2", "v1") == ("v2", "v1")


def loss(n: int, least: int, most: int) -> LogLoss:
    return LogLoss(n=n, lost=least, least=least, most=most, nodes=1)


@pytest.mark.parametrize(
    ("baseline", "canary", "leaning"),
    [
        (loss(10_000, 0, 0), loss(1_000, 21, 30), ("v2", "v1")),
        (loss(1_000, 21, 30), loss(10_000, 0, 0), ("v1", "v2")),
        (loss(10_000, 0, 0), loss(1_000, 20, 30), None),
        (loss(10_000, 0, 100), loss(1_000, 30, 500), None),
        (loss(10_000, 0, 0), Insufficient(n=3, needed=97, minutes=None), None),
    ],
)
def test_one_version_lacks_more_only_where_the_bounds_say_so(
    baseline: LogLoss, canary: LogLoss | Insufficient, leaning: tuple[str, str] | None
) -> None:
    check = LogCheck(total=baseline, versions={"v1": baseline, "v2": canary}, nodes=1)
    assert MAX_BIAS == 0.02
    assert check.leans("v1", "v2") == leaning
    assert check.leans("v1", "v3") is None


@pytest.mark.parametrize(("least", "lossy"), [(20, False), (21, True)])
def test_a_service_lacks_too_much_above_the_limit_not_at_it(least: int, lossy: bool) -> None:
    assert MAX_LOSS == 0.02
    assert LogCheck(total=loss(1_000, least, 500), versions={}, nodes=1).is_lossy is lossy
