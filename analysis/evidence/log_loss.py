"""How many requests do the access logs lack? A check against the load that Envoys report themselves.

An Envoy's load report counts, by cluster, the upstream requests issued since the last report and those in progress.
Counters are not lost as log entries are: they wait for the next report. A finished request's entry says how many
upstream requests it took, retries included. So over a window, what has finished by the reports must have been logged.

Neither side is exact to the request, hence bounds. They hold if an entry arrives within `LAG_S` and a report at once;
in a steady load it is enough that their delays stay within `LAG_S` together:

- Entries of the last moment are still on their way at a report. Logged at least is what had arrived by then; at most,
  what arrived until `LAG_S` later.
- An upstream request that never got a connection is in the log and in no counter; which of several tries it was, nobody
  says. So an entry stands for at least and at most so many.
- Tries that failed are finished while their request goes on, unlogged: of each in progress at most as many as, so far,
  any entry has shown beyond the first.
- Where hosts are replaced, Envoy forgets their counters: requests in progress vanish, which are logged much later. They
  show as a fall of what is in progress. (Those issued since the last report are missing too, which hides a loss.)

So the lower bound claims no loss that is none. What it costs: in a window of a minute, a loss below 1.7 % of a steady
load, or below the swing of what is in progress, stays unproven.

The comparison of an Envoy begins anew with each of its streams of reports, and rests while it has two (hot restart).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from analysis.decision import Insufficient

WINDOW_S = 60.0
LAG_S = 1.0
"""Within which an entry arrives once its request has finished: Envoy sends five times as often."""

MIN_N = 100
"""Requests in the window below which nothing is said."""

MAX_LOSS = 0.02
"""Share of a service's requests that may be missing before nothing rises: the excess of bad sessions that is tolerated
by default. What is missing might all be bad."""

MAX_BIAS = 0.02
"""Share that one version may lack more of than the other: what is missing of the one might all be bad."""

Arm = TypeVar("Arm", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What an Envoy reports: upstream requests issued since its last report, and those in progress now."""

    issued: int
    active: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLoss:
    """Of `n` finished upstream requests the logs lack about `lost`, at least `least` and at most `most`.

    `nodes`: Envoys compared. `worst`: the one that is lacking most, `worst_least` of those; empty: none is.
    """

    n: int
    lost: int
    least: int
    most: int
    nodes: int
    worst: str = ""
    worst_least: int = 0

    @property
    def ratio(self) -> float:
        return self.lost / self.n

    @property
    def lower(self) -> float:
        return self.least / self.n

    @property
    def upper(self) -> float:
        return self.most / self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCheck:
    """What the logs of one service lack, of all versions together and of each. `nodes`: Envoys compared; 0: no check.

    Insufficient: fewer than `MIN_N` requests in the window.
    """

    total: LogLoss | Insufficient
    versions: Mapping[str, LogLoss | Insufficient]
    nodes: int

    @property
    def is_lossy(self) -> bool:
        """Whether surely more is missing than may be."""
        return isinstance(self.total, LogLoss) and self.total.lower > MAX_LOSS

    def leans(self, baseline: str, canary: str) -> tuple[str, str] | None:
        """The version of which surely more is missing, and the other; None: neither, as far as is known."""
        for more, less in ((canary, baseline), (baseline, canary)):
            a, b = self.versions.get(more), self.versions.get(less)
            if isinstance(a, LogLoss) and isinstance(b, LogLoss) and a.lower - b.upper > MAX_BIAS:
                return more, less
        return None


NO_CHECK = LogCheck(total=Insufficient(n=0, needed=MIN_N, minutes=None), versions={}, nodes=0)


@dataclass(slots=True, kw_only=True)
class _Point:
    """Both sides at a report: sums since the series began. `late_…`: of the logs, `LAG_S` later; None: not yet."""

    at_s: float
    finished: int
    active: int
    least: int
    most: int
    late_least: int = 0
    late_most: int | None = None


class Series:
    """One arm on one Envoy. `logged` is for whoever reads the logs; all else belongs to the ledger."""

    __slots__ = ("deepest", "issued", "least", "most", "points")

    def __init__(self, load: Load, at_s: float) -> None:
        self.issued = load.active
        self.least = self.most = self.deepest = 0
        self.points: deque[_Point] = deque((_Point(at_s=at_s, finished=0, active=load.active, least=0, most=0),))

    def logged(self, least: int, most: int, n: int = 1) -> None:
        """Count `n` entries: each of a request that took at least and at most so many upstream requests."""
        self.least += least * n
        self.most += most * n
        if most > self.deepest:  # noqa: PLR1730 -- `max` is slower, and every entry comes by here
            self.deepest = most

    def reported(self, load: Load, at_s: float) -> None:
        self.issued += load.issued
        newest = self.points[-1]
        if at_s - newest.at_s < LAG_S:
            return  # too soon to tell anything new; what was issued counts with the next one
        self.settle(at_s)
        finished = self.issued - load.active
        self.points.append(_Point(at_s=at_s, finished=finished, active=load.active, least=self.least, most=self.most))
        while self.points[1].at_s <= at_s - WINDOW_S:
            self.points.popleft()

    def settle(self, now_s: float) -> None:
        """Note what has been logged since the newest report, once its entries must be here."""
        newest = self.points[-1]
        if newest.late_most is None and now_s - newest.at_s >= LAG_S:
            newest.late_least, newest.late_most = self.least, self.most

    @property
    def is_idle(self) -> bool:
        """Whether nothing was on its way in the whole window."""
        first, last = self.points[0], self.points[-1]
        return (
            last.at_s - first.at_s >= WINDOW_S
            and last.finished == first.finished
            and not any(point.active for point in self.points)
        )

    def loss(self, now_s: float) -> tuple[int, int, int, int] | None:
        """Requests finished in the window; lost of them, at least and at most; None: not comparable now."""
        self.settle(now_s)
        settled = [point for point in self.points if point.late_most is not None]
        if len(settled) < 2 or now_s - settled[-1].at_s > WINDOW_S:
            return None
        begin, end = settled[0], settled[-1]
        n = max(end.finished - begin.finished, 0)
        active = [point.active for point in settled]
        tries = max(self.deepest, 1)
        hidden = (max(active) - min(active)) * tries + end.active * (tries - 1)
        assert end.late_most is not None  # noqa: S101 -- it is settled
        least = min(max(n - (end.late_most - begin.most) - hidden, 0), n)
        most = min(max(n - (end.least - begin.late_least), least), n)
        lost = min(max(n - (end.most - begin.most), least), most)
        return n, lost, least, most


@dataclass(slots=True)
class _Sum:
    n: int = 0
    lost: int = 0
    least: int = 0
    most: int = 0
    by_node: dict[str, int] = field(default_factory=dict)

    def add(self, node: str, loss: tuple[int, int, int, int]) -> None:
        n, lost, least, most = loss
        self.n += n
        self.lost += lost
        self.least += least
        self.most += most
        self.by_node[node] = self.by_node.get(node, 0) + least

    def value(self) -> LogLoss | Insufficient:
        if self.n < MIN_N:
            return Insufficient(n=self.n, needed=MIN_N - self.n, minutes=None)
        worst = max(self.by_node, key=lambda node: self.by_node[node])
        return LogLoss(
            n=self.n,
            lost=self.lost,
            least=self.least,
            most=self.most,
            nodes=len(self.by_node),
            worst=worst if self.by_node[worst] else "",
            worst_least=self.by_node[worst],
        )


@dataclass(slots=True)
class _Node(Generic[Arm]):
    streams: int = 0
    series: dict[Arm, Series] = field(default_factory=dict)


class LoadLedger(Generic[Arm]):
    """What Envoys say that they sent upstream, beside what they have logged. Times are seconds of one monotonic clock.

    An arm is one version of one service. Bounded by the nodes that report, and on each by the arms that have load.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, _Node[Arm]] = {}
        self._by_arm: dict[Arm, dict[str, Series]] = {}

    @property
    def nodes(self) -> frozenset[str]:
        """Envoys with a stream of reports."""
        return frozenset(self._nodes)

    def open(self, node: str) -> None:
        """A stream of reports has begun."""
        known = self._nodes.setdefault(node, _Node())
        known.streams += 1
        self._begin_anew(node, known)

    def close(self, node: str) -> None:
        """A stream of reports has ended."""
        known = self._nodes[node]
        known.streams -= 1
        self._begin_anew(node, known)
        if not known.streams:
            del self._nodes[node]

    def _begin_anew(self, node: str, known: _Node[Arm]) -> None:
        for arm in tuple(known.series):
            self._drop(node, known, arm)

    def _drop(self, node: str, known: _Node[Arm], arm: Arm) -> None:
        del known.series[arm]
        del self._by_arm[arm][node]
        if not self._by_arm[arm]:
            del self._by_arm[arm]

    def series(self, node: str) -> Mapping[Arm, Series]:
        """What of a node's entries is to be counted: for each of these arms, by its `logged`."""
        known = self._nodes.get(node)
        return known.series if known is not None else {}

    def report(self, node: str, loads: Mapping[Arm, Load], at_s: float) -> None:
        """Take one report, of the arms that were asked for; of others nothing is known from here on."""
        known = self._nodes.get(node)
        if known is None or known.streams != 1:
            return  # of two Envoys by one name, which logged what?
        for arm, series in tuple(known.series.items()):
            if arm in loads:
                series.reported(loads[arm], at_s)
            if arm not in loads or series.is_idle:
                self._drop(node, known, arm)
        for arm, load in loads.items():
            if arm not in known.series and (load.issued or load.active):
                # Older entries are still on their way: from here on both sides are counted.
                known.series[arm] = self._by_arm.setdefault(arm, {})[node] = Series(load, at_s)

    def settle(self, node: str, now_s: float) -> None:
        """Look at a node's logs once more, `LAG_S` after its report: the sooner after that, the closer the bounds."""
        for series in self.series(node).values():
            series.settle(now_s)

    def check(self, arms: Mapping[str, Arm], now_s: float) -> LogCheck:
        """What the logs of a service lack. `arms`: by version."""
        total, nodes = _Sum(), set()
        versions = {}
        for version, arm in arms.items():
            own = versions[version] = _Sum()
            for node, loss in self._losses(arm, now_s):
                own.add(node, loss)
                total.add(node, loss)
                nodes.add(node)
        return LogCheck(
            total=total.value(),
            versions={version: own.value() for version, own in versions.items()},
            nodes=len(nodes),
        )

    def _losses(self, arm: Arm, now_s: float) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
        for node, series in self._by_arm.get(arm, {}).items():
            loss = series.loss(now_s)
            if loss is not None:
                yield node, loss
