"""Access log entries, as rows of `SAMPLE_DTYPE`: many messages at once, in columns. Pure and total.

Whatever arrives becomes a row or a `Drop`; nothing here raises on what a peer has sent. A column is filled by one pass
over all entries or by one look-up in what this batch has shown already, since in Python the loop is what costs. Sticky
keys live no longer than the batch.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import compress, islice, repeat
from operator import add, attrgetter, not_
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash
from google.protobuf.message import DecodeError

from analysis.sample import NO_BUCKET, NO_STEP, SAMPLE_DTYPE, UNKNOWN, SampleKind
from analysis.spec import TOTAL_BP
from xds_server.ingest.bots import is_bot
from xds_server.ingest.instants import instants
from xds_server.ingest.memory import Memory
from xds_server.ingest.rows import DecodeRules, Drop
from xds_server.ingest.templates import Templates
from xds_server.pb import als_pb2
from xds_server.stamp import TAG, Stamp, read_stamp

GRPC_UNKNOWN = 2
GRPC_FAILING = frozenset({GRPC_UNKNOWN, 4, 12, 13, 14, 15})
"""gRPC statuses that are the server's fault.

UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS. The others tell the caller something, as
4xx do (OpenTelemetry semantic conventions for gRPC, server spans).
"""

_TAG_START: Final = bytes((0x0A, len(TAG))) + TAG.encode() + b"\x12"
_LINES_BEFORE_KEY = 9

_PERIODIC = b"DownstreamPeriodic"
_END = b"DownstreamEnd"
_NO_FLAGS = b"-"

_NO_STEP_TYPES = (
    *(b"image/", b"font/", b"video/", b"audio/", b"text/css", b"text/javascript"),
    *(b"application/javascript", b"application/x-javascript"),
    *(b"application/font", b"application/x-font", b"application/vnd.ms-fontobject"),
)
_PAGE_TYPES = (b"text/html", b"application/xhtml+xml")
_STREAM_TYPE = b"text/event-stream"
_SWITCHING_PROTOCOLS = 101
_WELL_ENDED = frozenset({"UC"})

CHUNK = 2_048
"""Entries decoded at once: enough that arrays pay, few enough that most of what is made of them stays in a cache."""

REMEMBERED = 4_096
"""User agents, and tags without their keys, that are remembered."""

_NS = 1_000_000_000
_LAST_SECOND = (1 << 63) // _NS - 3

MAX_AHEAD_S = 60
MAX_AGE_S = 24 * 3600

ACCEPTED = "accepted"
NO_VERSION = "no_version"
"""Counted besides `accepted`: the row names none of the service's versions."""

_DROPS = (None, *Drop)
_CODE = {drop: code for code, drop in enumerate(_DROPS)}

Rows = npt.NDArray[np.void]
"""Of dtype SAMPLE_DTYPE."""

_Codes = npt.NDArray[np.intp]
_Bools = npt.NDArray[np.bool_]

_COMMON = attrgetter(
    "custom_tags",
    "start_time",
    "time_to_last_downstream_tx_byte",
    "time_to_first_upstream_rx_byte",
)
_REQUEST = attrgetter("path", "original_path", "user_agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """The Envoy at the other end of an access log stream. `role`: gateway or sidecar.

    `services`: those that its certificate lets it report of; None: all.
    """

    node: str
    role: bytes
    services: frozenset[bytes] | None = None


class Arrived(NamedTuple):
    """One serialised `StreamAccessLogsMessage` and who sent it; None: nobody has said.

    `is_compared`: what it logs is wanted beside what the Envoy reports of its load.
    """

    message: bytes
    reporter: Reporter | None
    is_compared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRows:
    """Rows of one service, in terms of its `rules`, without their labels.

    `label`: of each row, its index into `labels`; -1: no step.
    """

    rules: DecodeRules
    rows: Rows
    label: _Codes
    labels: Sequence[str]


class Logged(NamedTuple):
    """Requests of one service that took the same cluster, tries and flags."""

    service: str
    cluster: bytes
    attempts: int
    flags: bytes


@dataclass(slots=True, kw_only=True)
class Decoded:
    """What many messages come to.

    `counts`: entries by what became of them. `seen`: by (service, node) that have split, the generation of the newest
    routes, None: it cannot be read; in the order of their last entries. `logged`: for the comparison, by node.
    """

    counts: Counter[str] = field(default_factory=Counter)
    rows: list[ServiceRows] = field(default_factory=list)
    seen: dict[tuple[str, str], int | None] = field(default_factory=dict)
    logged: dict[str, Counter[Logged]] = field(default_factory=dict)


class _Part(NamedTuple):
    """`n` entries in a row of one Envoy."""

    n: int
    reporter: Reporter
    is_compared: bool


class _Wanted(NamedTuple):
    """Columns of the entries that may become rows."""

    place: _Codes
    entries: Sequence[Any]
    commons: Sequence[Any]
    keys: Sequence[bytes]
    starts: Sequence[bytes]
    lasts: Sequence[bytes]
    firsts: Sequence[bytes]


class _Place(NamedTuple):
    """What the lines before the key say, as one Envoy sends them, in terms of the rules.

    `key_length` None: they are no tag of ours. `drop`: why its entries are no rows. `seen`: whether they show all the
    same that the node splits. `logged`: what they count as beside what the Envoy reports of its load; without the
    tries. `service`: index into the rules of the batch. `salt`: empty: no rollout.
    """

    key_length: int | None
    drop: Drop | None
    seen: bool = False
    node: str = ""
    stamp: Stamp | None = None
    logged: Logged | None = None
    service: int = 0
    segment: int = UNKNOWN
    version: int = UNKNOWN
    salt: bytes = b""
    is_alive: bool = False
    is_page: bool = False
    is_step: bool = True
    is_judged: bool = True
    failed: bool = False
    succeeded: bool = False


class Decoder:
    """Decodes messages by the rules of the services. One owner at a time: it remembers what comes again and again.

    `hash_key`: of the keyed hash that stands for a person, at most 64 bytes.
    """

    def __init__(self, *, hash_key: bytes) -> None:
        self._hash = hashlib.blake2b(digest_size=8, key=hash_key)
        self._templates = Templates()
        self._places = _Places({})
        self._bots: Memory[bytes, bool] = Memory(is_bot, REMEMBERED)

    def decode(self, batch: Iterable[Arrived], rules: Mapping[bytes, DecodeRules], now_unix_ns: int) -> Decoded:
        """Return what these messages come to, in order of arrival.

        Missing parts: no upstream cluster (refused before one was chosen), or one that is not the service's: version
        UNKNOWN, the error still counts. No time of the last byte to the client: the whole duration, else 0 ms. No
        sticky key: user 0 and no bucket. No response code (the client left): status 0, no error by itself.
        """
        decoded = Decoded()
        places = self._places
        if places.rules is not rules or len(places.each) > REMEMBERED or places.has_odd:
            places = self._places = _Places(rules)
        entries: list[Any] = []
        parts: list[_Part] = []
        for message, reporter, is_compared in batch:
            found = _read(message, decoded.counts)
            if reporter is None:
                _count(decoded.counts, Drop.NO_NODE, len(found))
                continue
            for at in range(0, len(found), CHUNK):
                some = found[at : at + CHUNK]
                entries += some
                parts.append(_Part(len(some), reporter, is_compared))
                if len(entries) >= CHUNK:
                    self._decode(entries, parts, places, decoded, now_unix_ns)
                    entries, parts = [], []
        if entries:
            self._decode(entries, parts, places, decoded, now_unix_ns)
        return decoded

    def _decode(
        self, entries: list[Any], parts: list[_Part], places: _Places, decoded: Decoded, now_unix_ns: int
    ) -> None:
        """Decode a chunk: first what drops an entry unseen, in the order of what is said of it, then what is left."""
        commons = [entry.common_properties for entry in entries]
        tags, starts, lasts, firsts = zip(*map(_COMMON, commons), strict=True)
        heads, _, keys = zip(*[tag.rpartition(b"\n") for tag in tags], strict=True)
        place = places.find(heads, parts)
        table = places.columns()
        is_ours = np.fromiter(map(len, keys), np.int64, len(entries)) == table.key_length[place]
        outcome = np.where(is_ours, table.drop[place], _CODE[Drop.MALFORMED])
        showing = is_ours & table.seen[place]
        _note_seen(decoded, place[showing], places)
        if any(part.is_compared for part in parts):
            _note_logged(decoded, parts, [places.each[i] for i in place], showing, commons)
        wanted = outcome == 0
        _count_drops(decoded.counts, outcome[~wanted])
        columns: tuple[Sequence[Any], ...] = (entries, commons, keys, starts, lasts, firsts)
        if not wanted.all():
            columns = tuple(list(compress(column, wanted)) for column in columns)
        if len(columns[0]):
            self._fill(_Wanted(place[wanted], *columns), places, table, decoded, now_unix_ns)

    def _fill(self, wanted: _Wanted, places: _Places, table: _Columns, decoded: Decoded, now_unix_ns: int) -> None:
        """Add the rows of what may be rows, and count what is none all the same."""
        place, m = wanted.place, len(wanted.entries)
        service = table.service[place]
        paths, originals, agents = zip(*[_REQUEST(entry.request) for entry in wanted.entries], strict=True)
        if any(originals):
            paths = tuple(original or path for original, path in zip(originals, paths, strict=True))
        is_alive = table.is_alive[place]
        unix_ns, duration_ms, first_byte_ms, bad_time = _times(wanted, is_alive, now_unix_ns)
        good = _sift(decoded.counts, unix_ns, bad_time, now_unix_ns)
        if not good.any():
            return
        rows = np.empty(m, SAMPLE_DTYPE)
        rows["start_unix_ns"] = unix_ns
        rows["duration_ms"] = np.where(table.is_judged[place], duration_ms, np.nan)
        rows["first_byte_ms"] = first_byte_ms
        rows["user"], rows["bucket"] = self._people(wanted.keys, place, places)
        rows["segment"] = table.segment[place]
        rows["version"] = table.version[place]
        rows["label"] = NO_STEP
        rows["kind"] = SampleKind.REQUEST
        rows["error"] = table.failed[place]
        rows["goal"] = _reaches(paths, service, places) & table.succeeded[place]
        rows["bot"] = np.fromiter(map(self._bots.__getitem__, agents), np.bool_, m)
        label, labels = self._labels(paths, place, table)
        label[is_alive] = -1
        _mark_alive(rows, is_alive)
        _count(decoded.counts, ACCEPTED, int(good.sum()))
        _count(decoded.counts, NO_VERSION, int((good & (rows["version"] == UNKNOWN)).sum()))
        for i, mine in _by_service(service, good, len(places.services)):
            each = ServiceRows(rules=places.services[i], rows=rows[mine], label=label[mine], labels=labels)
            decoded.rows.append(each)

    def _people(
        self, keys: Sequence[bytes], place: _Codes, places: _Places
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint16]]:
        """Return the keyed hash of each key, and its bucket, as `assign.bucket` has it."""
        numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        number = np.fromiter(map(numbers.__getitem__, keys), np.intp, len(keys))
        salts = dict.fromkeys(each.salt for each in places.each if each.seen)
        if len(salts) == 1:
            buckets = _buckets(numbers, repeat(*salts))[number]
        else:
            each_salt = [each.salt for each in places.each]
            buckets = _buckets(keys, map(each_salt.__getitem__, place.tolist()))
        return self._users(numbers)[number], buckets

    def _users(self, keys: Collection[bytes]) -> npt.NDArray[np.uint64]:
        """`rows.user_hash` of each, as one array."""
        copy, digests = self._hash.copy, []
        for key in keys:
            keyed = copy()
            keyed.update(key)
            digests.append(keyed.digest())
        users = np.frombuffer(b"".join(digests), "<u8").copy()
        users[users == 0] = 1
        if b"" in keys:
            users[list(keys).index(b"")] = 0
        return users

    def _labels(self, paths: Sequence[bytes], place: _Codes, table: _Columns) -> tuple[_Codes, Sequence[str]]:
        """Return for each path the index of its label, or -1, and the labels."""
        template, names = self._templates(paths)
        label = 2 * template + table.is_page[place]
        label[~table.is_step[place]] = -1
        used = np.unique(label[label >= 0])
        labels = [f"{('call', 'page')[number % 2]} {names[number // 2]}" for number in used.tolist()]
        return np.where(label < 0, -1, np.searchsorted(used, label)), labels


def _read(message: bytes, counts: Counter[str]) -> Sequence[Any]:
    try:
        logs = als_pb2.StreamAccessLogsMessage.FromString(message)
    except DecodeError:
        _count(counts, Drop.MALFORMED, 1)
        return []
    _count(counts, Drop.NOT_HTTP, len(logs.tcp_logs.log_entry))
    return logs.http_logs.log_entry


def length(message: bytes) -> int:
    """Return how many things a serialised message counts as: its entries; 1 if it cannot be read."""
    try:
        logs = als_pb2.StreamLength.FromString(message)
    except DecodeError:
        return 1
    return len(logs.http_logs.log_entry) + len(logs.tcp_logs.log_entry)


def _count(counts: Counter[str], what: str, n: int) -> None:
    if n:
        counts[what] += n


def _count_drops(counts: Counter[str], codes: _Codes) -> None:
    for code, n in enumerate(np.bincount(codes).tolist()):
        drop = _DROPS[code]
        if drop is not None:
            _count(counts, drop, n)


# --- who routed it, and as what


class _Columns(NamedTuple):
    """The places, one array a field."""

    drop: _Codes
    key_length: _Codes
    service: _Codes
    segment: _Codes
    version: _Codes
    seen: _Bools
    is_alive: _Bools
    is_page: _Bools
    is_step: _Bools
    is_judged: _Bools
    failed: _Bools
    succeeded: _Bools


_NUMBERS = ("service", "segment", "version")
_MARKS = ("seen", "is_alive", "is_page", "is_step", "is_judged", "failed", "succeeded")


class _Places:
    """The places that have been seen by these rules, numbered as they came; and the services that they are of.

    `has_odd`: among them is what is no tag of ours. Nobody knows what that holds, so it is not kept for long.
    """

    def __init__(self, rules: Mapping[bytes, DecodeRules]) -> None:
        self.rules = rules
        self.has_odd = False
        self._numbers: dict[Reporter, Memory[bytes, int]] = {}  # REMEMBERED, and as many as a batch has entries
        self._services: dict[str, int] = {}
        self.each: list[_Place] = []
        self.services: list[DecodeRules] = []
        self._columns: _Columns | None = None

    def find(self, heads: Sequence[bytes], parts: Iterable[_Part]) -> _Codes:
        """Return the number of the place of each entry, given the tags up to the key."""
        numbers: list[int] = []
        at = 0
        for n, reporter, _ in parts:
            known = self._numbers.get(reporter)
            if known is None:
                known = self._numbers[reporter] = Memory(partial(self._number, reporter), sys.maxsize)
            numbers += map(known.__getitem__, heads[at : at + n])
            at += n
        return np.array(numbers, np.intp)

    def columns(self) -> _Columns:
        if self._columns is None or len(self._columns.drop) != len(self.each):
            self._columns = self._tabulate()
        return self._columns

    def _tabulate(self) -> _Columns:
        n = len(self.each)

        def column(name: str, dtype: type) -> Any:
            return np.fromiter(map(attrgetter(name), self.each), dtype, n)

        return _Columns(
            np.array([_CODE[place.drop] for place in self.each], np.intp),
            np.array([-1 if place.key_length is None else place.key_length for place in self.each], np.intp),
            *(column(name, np.intp) for name in _NUMBERS),
            *(column(name, np.bool_) for name in _MARKS),
        )

    def _service(self, rules: DecodeRules) -> int:
        if rules.name not in self._services:
            self._services[rules.name] = len(self.services)
            self.services.append(rules)
        return self._services[rules.name]

    def _number(self, reporter: Reporter, head: bytes) -> int:
        self.each.append(self._place(head, reporter))
        return len(self.each) - 1

    def _place(self, head: bytes, reporter: Reporter) -> _Place:
        if not head:
            return _Place(0, Drop.FORWARDING_HOP)  # no tag at all
        read = _lines(head)
        if read is None:
            self.has_odd = True
            return _Place(None, Drop.MALFORMED)
        key_length, (said, hop, kind, code, flags, cluster, content_type, *grpc) = read
        stamp = _stamp(said)
        is_alive = kind == _PERIODIC and stamp.is_stream
        if kind != _END and not is_alive:
            return _Place(key_length, Drop.UNFINISHED)
        if not stamp.service:
            return _Place(key_length, Drop.FORWARDING_HOP)
        rules = self.rules.get(stamp.service.encode())
        if rules is None:
            return _Place(key_length, Drop.UNKNOWN_SERVICE)
        if reporter.services is not None and stamp.service.encode() not in reporter.services:
            return _Place(key_length, Drop.NOT_ALLOWED)
        segment = rules.segments.get(stamp.segment.encode())
        status = int(code) if code.isdigit() and len(code) <= 3 else None
        drop = Drop.MALFORMED if status is None else None
        if segment is None:
            drop = Drop.UNKNOWN_SEGMENT
        # The first splitting hop writes its role into the request, and no later one overwrites it. An entry without it
        # was answered by this Envoy before it could write: nobody has split before, so it is this one's to report. A
        # later hop splits as well, by the same hash: it does not count, but a new split must have reached it.
        if hop and hop != reporter.role:
            drop = Drop.LATER_HOP
        media = content_type.lstrip().lower()
        switched = status == _SWITCHING_PROTOCOLS
        failed = is_error(rules, status=status or 0, flags=response_flags(flags), grpc_status=grpc_status_of(*grpc))
        return _Place(
            key_length=key_length,
            drop=drop,
            seen=True,
            node=reporter.node,
            stamp=stamp,
            logged=None if is_alive else Logged(stamp.service, cluster, 0, flags),
            service=self._service(rules),
            segment=UNKNOWN if segment is None else segment,
            version=rules.clusters.get(cluster, UNKNOWN),
            salt=f"{stamp.rollout}:".encode() if stamp.rollout else b"",
            is_alive=is_alive,
            is_page=media.startswith(_PAGE_TYPES),
            is_step=not media.startswith(_NO_STEP_TYPES),
            is_judged=not (stamp.is_stream or switched or media.startswith(_STREAM_TYPE)),
            failed=failed,
            succeeded=not failed and 200 <= (status or 0) < 400,
        )


def is_error(rules: DecodeRules, *, status: int, flags: frozenset[str], grpc_status: int | None) -> bool:
    """Return whether a request failed, as the service defines it.

    What the client does (DC: it hung up) is an error only for a service that lists the flag. A connection that has
    become a WebSocket ends, well or not, when one side closes it: no error that it was the upstream (UC).
    """
    if status == _SWITCHING_PROTOCOLS:
        flags -= _WELL_ENDED
    if status in rules.failing_status or not flags.isdisjoint(rules.failing_flags):
        return True
    return rules.grpc_failing and grpc_status in GRPC_FAILING


def response_flags(said: bytes) -> frozenset[str]:
    """Return Envoy's short response flags."""
    return frozenset() if said in (b"", _NO_FLAGS) else frozenset(said.decode("utf-8", "replace").split(","))


def _lines(head: bytes) -> tuple[int, list[bytes]] | None:
    """Return how long the key after it must be and the lines in a serialised tag; None: it is not ours."""
    if not head.startswith(_TAG_START):
        return None
    at, size = len(_TAG_START), 0
    for shift in range(0, 35, 7):
        if at == len(head):
            return None
        octet = head[at]
        at += 1
        size |= (octet & 0x7F) << shift
        if octet < 0x80:
            break
    lines = head[at:].split(b"\n")
    key_length = size - (len(head) - at) - 1
    return (key_length, lines) if len(lines) == _LINES_BEFORE_KEY and key_length >= 0 else None


@lru_cache(maxsize=1024)
def _stamp(text: bytes) -> Stamp:
    """Bytes that are no UTF-8 name nothing that a mesh has."""
    return read_stamp(text.decode("utf-8", "replace"))


def grpc_status_of(header: bytes, trailer: bytes) -> int | None:
    """Return the gRPC status that a response carries, None if it carries none.

    It comes in the trailers, or in the headers if there is nothing else to send. What is not a number is UNKNOWN
    (gRPC over HTTP/2, "Responses").
    """
    said = trailer or header
    if not said:
        return None
    return int(said) if said.isdigit() and len(said) <= 3 else GRPC_UNKNOWN


def _note_seen(decoded: Decoded, place: _Codes, places: _Places) -> None:
    for i in reversed(dict.fromkeys(reversed(place.tolist()))):
        each = places.each[i]
        assert each.stamp is not None  # noqa: S101 -- those that are seen have one
        key = each.stamp.service, each.node
        known = decoded.seen.pop(key, None)
        decoded.seen[key] = each.stamp.generation if each.stamp.generation is not None else known


def _note_logged(
    decoded: Decoded, parts: Iterable[_Part], places: Sequence[_Place], showing: _Bools, commons: Sequence[Any]
) -> None:
    at = 0
    for n, reporter, is_compared in parts:
        for i in (at + np.flatnonzero(showing[at : at + n])).tolist() if is_compared else ():
            logged = places[i].logged
            if logged is not None:
                what = logged._replace(attempts=commons[i].upstream_request_attempt_count)
                decoded.logged.setdefault(reporter.node, Counter())[what] += 1
        at += n


def upstream_requests(logged: Logged) -> tuple[int, int]:
    """Return how many requests to an upstream host a finished request stands for, at least and at most.

    Envoy logs the number of tries, those included that never got a connection. It says only of the last one what became
    of it; a request without any flag was answered by its upstream host.
    """
    tries = logged.attempts or 1  # 0: an Envoy from before it was logged
    flags = response_flags(logged.flags)
    if not flags:
        return 1, tries
    return 0, tries - 1 if "UF" in flags else tries


# --- who asked


def _buckets(keys: Collection[bytes], salts: Iterable[bytes]) -> npt.NDArray[np.uint16]:
    """Return the bucket of each key under the rollout that `salts` is the salt of."""
    n = len(keys)
    salts = list(islice(salts, n))
    hashes = np.fromiter(map(xxhash.xxh64_intdigest, map(add, salts, keys)), np.uint64, n)
    buckets = (hashes % np.uint64(TOTAL_BP)).astype(np.uint16)
    if not all(salts):
        buckets[np.fromiter(map(not_, salts), np.bool_, n)] = NO_BUCKET
    if not all(map(bytes.isascii, keys)) or b"" in keys:
        # A key that is no text: Envoy hashed other bytes than it is able to log.
        buckets[~np.fromiter(map(_is_text, keys), np.bool_, n)] = NO_BUCKET
    return buckets


def _is_text(key: bytes) -> bool:
    try:
        return bool(key.decode())
    except UnicodeDecodeError:
        return False


# --- what came of it


def _sift(counts: Counter[str], unix_ns: npt.NDArray[np.int64], bad_time: _Bools, now_unix_ns: int) -> _Bools:
    """Return what is whole and of our days, and count the rest."""
    outcome = np.zeros(len(unix_ns), np.intp)
    age_ns = now_unix_ns - unix_ns
    outcome[age_ns > MAX_AGE_S * _NS] = _CODE[Drop.STALE]
    outcome[age_ns < -MAX_AHEAD_S * _NS] = _CODE[Drop.AHEAD]
    outcome[unix_ns <= 0] = _CODE[Drop.NO_TIME]
    outcome[bad_time] = _CODE[Drop.MALFORMED]
    good: _Bools = outcome == 0
    _count_drops(counts, outcome[~good])
    return good


def _times(
    wanted: _Wanted, is_alive: _Bools, now_unix_ns: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64], _Bools]:
    """Return when each started (0: no such time), how long it took, its first byte, and which times are malformed."""
    _, _, commons, _, starts, lasts, firsts = wanted
    m = len(starts)
    if not all(lasts):
        lasts = [last or common.duration for last, common in zip(lasts, commons, strict=True)]
    seconds, nanos, malformed = instants([*starts, *lasts, *firsts])
    ms = np.maximum(0.0, seconds[m:] * 1e3 + nanos[m:] / 1e6)
    is_time = (seconds[:m] >= -3) & (seconds[:m] <= _LAST_SECOND)
    unix_ns = np.where(is_time, seconds[:m], 0) * _NS + nanos[:m]
    unix_ns[~is_time] = 0
    first_byte_ms = ms[m:]
    if not all(firsts):
        first_byte_ms[np.fromiter((not first for first in firsts), np.bool_, m)] = np.nan
    for i in np.flatnonzero(is_alive).tolist():
        # What is wanted is the time of the entry. Envoy 1.40 logs only when the request began, and no duration before
        # its end; but an entry is on its way for no longer than its buffer is kept.
        if not commons[i].duration:
            unix_ns[i] = now_unix_ns if unix_ns[i] > 0 else 0
            continue
        (s, *_), (ns, *_), (bad, *_) = (column.tolist() for column in instants([commons[i].duration]))
        malformed[i] |= bad
        at = int(unix_ns[i]) + s * _NS + ns
        unix_ns[i] = min(at, now_unix_ns) if unix_ns[i] > 0 and s >= 0 else 0
    return unix_ns, ms[:m], first_byte_ms, malformed[:m] | malformed[m : 2 * m] | malformed[2 * m :]


def _reaches(paths: Sequence[bytes], service: _Codes, places: _Places) -> _Bools:
    goals: list[bytes | tuple[bytes, ...]] = [
        () if rules.goal_path is None else rules.goal_path for rules in places.services
    ]
    m = len(paths)
    if not any(goals):
        return np.zeros(m, np.bool_)
    mine: Iterable[Any] = repeat(goals[0], m) if len(goals) == 1 else map(goals.__getitem__, service.tolist())
    return np.fromiter(map(bytes.startswith, paths, mine), np.bool_, m)


def _mark_alive(rows: Rows, is_alive: _Bools) -> None:
    if is_alive.any():
        rows["kind"][is_alive] = SampleKind.ALIVE
        for name in ("error", "goal"):
            rows[name][is_alive] = False
        for name in ("duration_ms", "first_byte_ms"):
            rows[name][is_alive] = np.nan


def _by_service(service: _Codes, good: _Bools, n: int) -> Iterator[tuple[int, Any]]:
    """Which rows are of which service."""
    if n == 1:
        yield 0, slice(None) if good.all() else good
        return
    kept = np.flatnonzero(good)
    order = kept[np.argsort(service[kept], kind="stable")]
    for mine in np.split(order, np.flatnonzero(np.diff(service[order])) + 1):
        if len(mine):
            yield int(service[mine[0]]), mine
