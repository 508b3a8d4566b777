"""What arrives from Envoys and applications, kept per service until the next tick takes it.

Everything here has one owner, the event loop; only `Ingest.decode`, which touches nothing that others see, may run
beside it. Nothing raises on what a peer has sent.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError

from analysis.evidence.log_loss import LoadLedger, LogCheck, Series
from analysis.sample import NO_STEP, SAMPLE_DTYPE, UNKNOWN, SampleBatch, SampleKind, Vocabulary
from xds_server import access
from xds_server.clock import Clock, SystemClock
from xds_server.ingest.browsers import Allowance, BrowserLabels, clock_is_off, cookie_in
from xds_server.ingest.entries import (
    ACCEPTED,
    MAX_AGE_S,
    MAX_AHEAD_S,
    NO_VERSION,
    Arrived,
    Decoded,
    Decoder,
    Logged,
    Reporter,
    Rows,
    ServiceRows,
    length,
    upstream_requests,
)
from xds_server.ingest.events import attributes_of, decode_event, decode_span, is_envoy
from xds_server.ingest.gauges import decode_metric
from xds_server.ingest.rows import (
    DecodeRules,
    Drop,
    Gauged,
    HashUser,
    Labels,
    Row,
    feature_label,
    path_template,
    rules_of,
    user_hash,
)
from xds_server.mesh import Mesh
from xds_server.node import kind_of
from xds_server.pb import als_pb2, otlp_pb2

MAX_NODES = 4096
"""Nodes remembered per service; beyond it the one that has been silent longest is forgotten."""

MAX_GAUGED = 10_000
"""Reports of resources that wait per service; beyond it the oldest go, and are counted."""

_NS = 1_000_000_000
_NAMES_SENDER = b"\x0a"  # field 1, which a serialiser writes first

Jar = Sequence[bytes]
"""The Cookie headers of a request."""

Outcomes = Iterator[Row | Drop | None]
"""What became of one thing after the other. None: only to give others their turn, where there was none."""

GaugeOutcomes = Iterator[Gauged | Drop | None]
"""The same of data points."""

_Item = TypeVar("_Item")
_Decode = Callable[[_Item, int, DecodeRules, Labels, HashUser], Row | Drop]


class Source(StrEnum):
    """Where something came from."""

    ACCESS_LOG = "access_log"
    SPAN = "span"
    EVENT = "event"
    METRIC = "metric"


@dataclass(slots=True)
class _Inbox:
    """One service's rows since the last drain, and who routed them."""

    rules: DecodeRules
    limit: int
    rows: deque[Rows] = field(default_factory=deque)
    n: int = 0
    loose: list[Row] = field(default_factory=list)  # the newest, that came one by one
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    browser_labels: BrowserLabels = field(init=False)
    accepted_n: int = 0
    dropped_n: int = 0
    seen_unix_s: dict[str, float] = field(default_factory=dict)  # by node, in order of the last sign of life
    generations: dict[str, int] = field(default_factory=dict)  # by node
    gauged: deque[Gauged] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.browser_labels = BrowserLabels(self.vocabulary)

    def put(self, row: Row) -> None:
        self.loose.append(row)
        self._accept(1)

    def put_all(self, decoded: ServiceRows) -> None:
        """Take rows that share a list of labels. They go if the mesh has changed and they mean something else now."""
        if not means_the_same(decoded.rules, self.rules):
            self.accepted_n += len(decoded.rows)
            self.dropped_n += len(decoded.rows)
            return
        self._tie()
        rows, label = decoded.rows, decoded.label
        used = np.flatnonzero(np.bincount(label[label >= 0], minlength=len(decoded.labels)))
        numbers = np.full(len(decoded.labels) + 1, NO_STEP, np.uint16)  # the last is for -1
        numbers[used] = [self.vocabulary.index(decoded.labels[i]) for i in used.tolist()]
        rows["label"] = numbers[label]
        self.rows.append(rows)
        self._accept(len(rows))

    def put_gauged(self, gauged: Gauged) -> None:
        self.gauged.append(gauged)
        self.accepted_n += 1
        if len(self.gauged) > MAX_GAUGED:
            self.gauged.popleft()
            self.dropped_n += 1

    def take(self) -> Rows:
        self._tie()
        rows = np.concatenate(self.rows) if self.rows else np.empty(0, SAMPLE_DTYPE)
        self.rows.clear()
        self.n = 0
        return rows

    def _accept(self, n: int) -> None:
        self.accepted_n += n
        self.n += n
        if self.n > self.limit:
            self._tie()
        while self.n > self.limit:  # the oldest goes: what is fresh decides
            oldest, excess = self.rows[0], self.n - self.limit
            if excess >= len(oldest):
                self.rows.popleft()
            else:
                self.rows[0] = oldest[excess:]
            lost = min(excess, len(oldest))
            self.n -= lost
            self.dropped_n += lost

    def _tie(self) -> None:
        if self.loose:
            self.rows.append(np.array(self.loose, SAMPLE_DTYPE))
            self.loose.clear()

    def saw(self, node: str, generation: int | None, unix_s: float) -> None:
        self.seen_unix_s.pop(node, None)
        self.seen_unix_s[node] = unix_s
        if generation is not None:
            self.generations[node] = generation
        if len(self.seen_unix_s) > MAX_NODES:
            silent = next(iter(self.seen_unix_s))
            del self.seen_unix_s[silent]
            self.generations.pop(silent, None)


def means_the_same(some: DecodeRules, others: DecodeRules) -> bool:
    """Return whether the segments and versions of rows have the same numbers by both."""
    return (some.segments, some.versions) == (others.segments, others.versions)


class Ingest:
    """Decodes what arrives and queues it per service.

    Parameters
    ----------
    mesh
        The services whose samples are wanted; whatever names another one is counted and dropped.
    user_hash_key
        Key of the hash that stands for a person from here on, at most 64 bytes. The sticky key itself is not kept.
    queue_limit
        Rows kept per service between two drains; beyond it the oldest are dropped, and counted.
    """

    def __init__(self, mesh: Mesh, *, user_hash_key: bytes, queue_limit: int, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._hash_user = partial(user_hash, user_hash_key)
        self._decoder = Decoder(hash_key=user_hash_key)
        self._queue_limit = queue_limit
        self._counts: Counter[tuple[str, str]] = Counter()
        self.loads: LoadLedger[bytes] = LoadLedger()  # by the name of a version's cluster
        self._inboxes: dict[bytes, _Inbox] = {}
        self._allowance = Allowance()
        self.adopt(mesh)

    def adopt(self, mesh: Mesh) -> None:
        """Go on with another mesh. What waits for a service is kept unless its rows would mean something else there."""
        inboxes = {}
        for name, service in mesh.services.items():
            rules, inbox = rules_of(service), self._inboxes.get(name.encode())
            if inbox is None or not means_the_same(inbox.rules, rules):
                inbox = _Inbox(rules, self._queue_limit)
            inbox.rules = rules
            _reserve_labels(inbox)
            inboxes[name.encode()] = inbox
        self._mesh, self._inboxes = mesh, inboxes
        self._rules = {name: inbox.rules for name, inbox in inboxes.items()}

    # --- in

    def take_access_logs(self, message: bytes, reporter: Reporter | None) -> Reporter | None:
        """Take one serialised `StreamAccessLogsMessage`.

        `reporter` is what the last call for the same stream returned, None for the first: only a stream's first message
        says which Envoy it comes from.

        Raises
        ------
        access.DeniedError
            The certificate of the peer does not let it be that Envoy; nothing has been taken.
        """
        reporter = self.reporter(message, reporter)
        arrived = Arrived(message, reporter, self.is_compared(reporter))
        self.take(self.decode([arrived]))
        return reporter

    def reporter(self, message: bytes, known: Reporter | None) -> Reporter | None:
        """Return who sends the stream of this message: whom it names, else whom an earlier one has named.

        Raises
        ------
        access.DeniedError
            The certificate of the peer does not let it be that Envoy.
        """
        if known is not None and not message.startswith(_NAMES_SENDER):
            return known
        try:
            opening = als_pb2.StreamOpening.FromString(message)
        except DecodeError:
            return known
        return self._reporter(opening.identifier.node) if opening.HasField("identifier") else known

    def is_compared(self, reporter: Reporter | None) -> bool:
        """Return whether what this Envoy logs is wanted beside what it reports of its load."""
        return reporter is not None and bool(self.loads.series(reporter.node))

    def decode(self, batch: Iterable[Arrived]) -> Decoded:
        """Decode what has arrived, for `take`. May run in another thread, one call at a time."""
        return self._decoder.decode(batch, self._rules, self._clock.now_unix_ns())

    def give_up(self, arrived: Arrived) -> None:
        """Count a message that there was no time for."""
        self._counts[Source.ACCESS_LOG, Drop.OVERLOAD] += length(arrived.message)

    def take(self, decoded: Decoded) -> None:
        """Take what messages have come to."""
        for what, n in decoded.counts.items():
            self._counts[Source.ACCESS_LOG, what] += n
        now_unix_s = self._clock.now_unix_ns() / _NS
        for (service, node), generation in decoded.seen.items():
            inbox = self._inboxes.get(service.encode())
            if inbox is not None:
                inbox.saw(node, generation, now_unix_s)
        for node, logged in decoded.logged.items():
            compared = self.loads.series(node)
            for request, n in logged.items():
                inbox = self._inboxes.get(request.service.encode())
                if inbox is not None:
                    _compare(request, n, inbox.rules, compared)
        for rows in decoded.rows:
            inbox = self._inboxes.get(rows.rules.name.encode())
            if inbox is not None:
                inbox.put_all(rows)

    def take_spans(self, message: bytes) -> bool:
        """Take one serialised `ExportTraceServiceRequest`; return whether it could be read."""
        try:
            request = otlp_pb2.ExportTraceServiceRequest.FromString(message)
        except DecodeError:
            self.unreadable(Source.SPAN)
            return False
        deque(self.spans(request), maxlen=0)
        return True

    def take_events(self, message: bytes) -> bool:
        """Take one serialised `ExportLogsServiceRequest`; return whether it could be read."""
        try:
            request = otlp_pb2.ExportLogsServiceRequest.FromString(message)
        except DecodeError:
            self.unreadable(Source.EVENT)
            return False
        deque(self.events(request), maxlen=0)
        return True

    def unreadable(self, source: Source) -> None:
        """Count a message that could not be read."""
        self._counts[source, Drop.MALFORMED] += 1

    def spans(self, request: otlp_pb2.ExportTraceServiceRequest, jar: Jar | None = None) -> Outcomes:
        """Take spans one by one, as they are asked for.

        `jar`: they come from a browser, which has sent these cookies along.
        """
        for group in request.resource_spans:
            spans = _members(scope.spans for scope in group.scope_spans)
            yield from self._telemetry(Source.SPAN, group.resource, spans, decode_span, jar)

    def events(self, request: otlp_pb2.ExportLogsServiceRequest, jar: Jar | None = None) -> Outcomes:
        """Take log records as `spans` takes spans."""
        for group in request.resource_logs:
            records = _members(scope.log_records for scope in group.scope_logs)
            yield from self._telemetry(Source.EVENT, group.resource, records, decode_event, jar)

    def gauges(self, request: otlp_pb2.ExportMetricsServiceRequest, jar: Jar | None = None) -> GaugeOutcomes:
        """Take what data points say of resources, as `spans` takes spans; of browsers nothing is taken."""
        now_unix_ns = self._clock.now_unix_ns()
        for group in request.resource_metrics:
            yield None
            attributes = attributes_of(group.resource.attributes)
            inbox = self._inboxes.get(attributes.get(b"service.name", b""))
            for metric in _members(scope.metrics for scope in group.scope_metrics):
                if metric is None:
                    yield None
                    continue
                for outcome in self._of_metric(metric, inbox, attributes, now_unix_ns, from_browser=jar is not None):
                    self._counts[Source.METRIC, outcome if isinstance(outcome, Drop) else ACCEPTED] += 1
                    yield outcome

    def _of_metric(
        self,
        metric: otlp_pb2.Metric,
        inbox: _Inbox | None,
        attributes: Mapping[bytes, bytes],
        now_unix_ns: int,
        *,
        from_browser: bool,
    ) -> Iterator[Gauged | Drop]:
        if inbox is None or is_envoy(attributes) or not access.current().sees(inbox.rules.name):
            yield _refusal(inbox, attributes)
        elif from_browser:
            yield Drop.FROM_BROWSER
        else:
            version = attributes.get(b"service.version", b"")
            known = version.decode() if version in inbox.rules.versions else None
            for outcome in decode_metric(metric, known, inbox.rules, now_unix_ns):
                if isinstance(outcome, Gauged):
                    inbox.put_gauged(outcome)
                yield outcome

    # --- out

    def drain_gauged(self) -> dict[str, list[Gauged]]:
        """Return what has been reported of resources since the last call, by service, in order of arrival."""
        drained = {}
        for inbox in self._inboxes.values():
            if inbox.gauged:
                drained[inbox.rules.name] = list(inbox.gauged)
                inbox.gauged.clear()
        return drained

    def drain(self) -> dict[str, SampleBatch]:
        """Return everything since the last drain, for each service of the mesh, in order of arrival."""
        batches = {}
        for inbox in self._inboxes.values():
            rows = inbox.take()
            rows.setflags(write=False)
            batches[inbox.rules.name] = SampleBatch(service=inbox.rules.name, rows=rows)
        return batches

    def vocabulary(self, service: str) -> Vocabulary:
        """Return the labels of one service's samples. It lives as long as this object and only grows."""
        return self._inboxes[service.encode()].vocabulary

    def traffic_nodes(self, service: str, within_s: float, now: float) -> set[str]:
        """Return the nodes whose Envoys have split this service's requests in the `within_s` seconds before `now`.

        `now` is Unix time in seconds. It goes by when their logs arrived, not by their clocks.
        """
        seen = self._inboxes[service.encode()].seen_unix_s
        return {node for node, unix_s in seen.items() if now - unix_s <= within_s}

    def generations(self, service: str) -> dict[str, int]:
        """Return the generation of the routes that each node's latest log entry of this service was routed by."""
        return dict(self._inboxes[service.encode()].generations)

    def clusters(self, services: Iterable[str]) -> tuple[bytes, ...]:
        """Return the names of the clusters of all versions of these services."""
        inboxes = (self._inboxes.get(service.encode()) for service in services)
        return tuple(cluster for inbox in inboxes if inbox is not None for cluster in inbox.rules.clusters)

    def log_check(self, service: str) -> LogCheck:
        """Return what the access logs of a service have lacked lately, as far as Envoys report their load."""
        clusters = self._inboxes[service.encode()].rules.clusters
        arms = {cluster.decode().removeprefix(f"{service}|"): cluster for cluster in clusters}
        return self.loads.check(arms, self._clock.monotonic())

    @property
    def origins(self) -> frozenset[str]:
        """Where pages come from whose browsers may send; empty: what comes over HTTP comes from servers."""
        return self._mesh.browsers

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """How much has arrived, by source and by what became of it: `accepted` or the reason why not."""
        return dict(self._counts)

    def depths(self) -> dict[str, int]:
        """Return the rows waiting, by service."""
        return {inbox.rules.name: inbox.n for inbox in self._inboxes.values()}

    def accepted(self) -> dict[str, int]:
        """Return the samples taken since the start, by service."""
        return {inbox.rules.name: inbox.accepted_n for inbox in self._inboxes.values()}

    def dropped(self) -> dict[str, int]:
        """Return the samples that a full queue has cost since the start, by service."""
        return {inbox.rules.name: inbox.dropped_n for inbox in self._inboxes.values()}

    def labels(self) -> dict[str, int]:
        """Return how many labels each service's vocabulary has."""
        return {inbox.rules.name: len(inbox.vocabulary.labels) for inbox in self._inboxes.values()}

    def labels_overflow(self) -> dict[str, int]:
        """Return the samples since the start whose label found no room and is `other`, by service."""
        return {
            inbox.rules.name: inbox.vocabulary.overflow_n + inbox.browser_labels.overflow_n
            for inbox in self._inboxes.values()
        }

    # --- inside

    def _reporter(self, node: als_pb2.Node) -> Reporter | None:
        """Return the Envoy that a stream's identifier names, in the role whose configuration it was sent."""
        name, cluster = node.id.decode("utf-8", "replace"), node.cluster.decode("utf-8", "replace")
        if not name:
            return None
        grant = access.current()
        grant.check_node(name)
        services = None if grant.services is None else frozenset(map(str.encode, grant.services))
        return Reporter(node=name, role=kind_of(self._mesh, name, cluster).role.encode(), services=services)

    def _telemetry(
        self,
        source: Source,
        resource: otlp_pb2.Resource,
        items: Iterable[_Item | None],
        decode: _Decode[_Item],
        jar: Jar | None,
    ) -> Outcomes:
        yield None
        attributes = attributes_of(resource.attributes)
        inbox = self._inboxes.get(attributes.get(b"service.name", b""))
        outcomes: Outcomes
        if inbox is None or is_envoy(attributes) or not access.current().sees(inbox.rules.name):
            reason = _refusal(inbox, attributes)
            outcomes = (None if item is None else reason for item in items)
        elif jar is None:
            version = inbox.rules.versions.get(attributes.get(b"service.version", b""), UNKNOWN)
            outcomes = self._from_server(inbox, version, items, decode)
        else:
            outcomes = self._from_browser(inbox, list(items), decode, jar)
        for outcome in outcomes:
            if outcome is not None:
                self._count(source, outcome, versioned=jar is None)
            yield outcome

    def _from_server(
        self, inbox: _Inbox, version: int, items: Iterable[_Item | None], decode: _Decode[_Item]
    ) -> Outcomes:
        now_unix_ns = self._clock.now_unix_ns()
        for item in items:
            if item is None:
                yield None
            else:
                row = decode(item, version, inbox.rules, inbox.vocabulary, self._hash_user)
                yield _queue(row, inbox, now_unix_ns)

    def _from_browser(self, inbox: _Inbox, items: Sequence[_Item | None], decode: _Decode[_Item], jar: Jar) -> Outcomes:
        """Take what a browser says, of the person whose cookie it has."""
        user = self._hash_user(cookie_in(jar, inbox.rules.cookie))
        rows = [
            None if item is None else decode(item, UNKNOWN, inbox.rules, inbox.browser_labels, lambda _: user)
            for item in items
        ]
        now_unix_ns = self._clock.now_unix_ns()
        newest_ns = max((row[0] for row in rows if isinstance(row, tuple)), default=0)
        off_ns = clock_is_off(newest_ns, now_unix_ns)
        for row in rows:
            if not isinstance(row, tuple):
                yield row
            elif row[8] == SampleKind.SPAN_ERROR:
                yield Drop.FROM_BROWSER
            elif not self._allowance.takes(user, now_unix_ns / _NS) or 2 * inbox.n > self._queue_limit:
                yield Drop.TOO_MANY  # access logs are worth more: browsers fill half of the queue at most
            else:
                yield _queue((row[0] - off_ns, *row[1:]), inbox, now_unix_ns)

    def _count(self, source: Source, outcome: Row | Drop, *, versioned: bool = True) -> None:
        if isinstance(outcome, Drop):
            self._counts[source, outcome] += 1
            return
        self._counts[source, ACCEPTED] += 1
        if versioned and outcome[6] == UNKNOWN:
            self._counts[source, NO_VERSION] += 1


def _members(groups: Iterable[Iterable[_Item]]) -> Iterator[_Item | None]:
    for group in groups:
        yield from group
        yield None


def _refusal(inbox: _Inbox | None, resource: Mapping[bytes, bytes]) -> Drop:
    if is_envoy(resource):
        return Drop.FROM_ENVOY
    return Drop.UNKNOWN_SERVICE if inbox is None else Drop.NOT_ALLOWED


def _reserve_labels(inbox: _Inbox) -> None:
    """Give the features and the goal that are judged their labels before a flood of paths has used them up."""
    for feature in sorted(inbox.rules.features):
        inbox.vocabulary.index(feature_label(feature))
    if inbox.rules.goal_path is not None:
        for what in ("page", "call"):
            inbox.vocabulary.index(f"{what} {path_template(inbox.rules.goal_path)}")


def _compare(logged: Logged, n: int, rules: DecodeRules, compared: Mapping[bytes, Series]) -> None:
    """Count `n` such entries beside what their Envoy reports of its load."""
    if logged.cluster:
        if (series := compared.get(logged.cluster)) is not None:
            series.logged(*upstream_requests(logged), n)
    elif logged.attempts > 1:
        # The last try found no host or no room, so no cluster is named: those before it were sent to one of these.
        for each in compared.keys() & rules.clusters.keys():
            compared[each].logged(0, logged.attempts - 1, n)


def _queue(row: Row | Drop, inbox: _Inbox, now_unix_ns: int) -> Row | Drop:
    if isinstance(row, Drop):
        return row
    age_ns = now_unix_ns - row[0]
    if age_ns < -MAX_AHEAD_S * _NS:
        return Drop.AHEAD
    if age_ns > MAX_AGE_S * _NS:
        return Drop.STALE
    inbox.put(row)
    return row
