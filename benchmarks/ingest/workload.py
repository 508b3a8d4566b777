"""Access logs as a busy Envoy sends them: all of its usual properties, and people who open pages."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass

from envoy.data.accesslog.v3.accesslog_pb2 import DownstreamEnd, HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from xds_server.stamp import TAG, Stamp

NODE = "edge-1"
MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    session: {goal: {path: /checkout/done}}
    versions:
      v1: {endpoints: ["127.0.0.1:9001"]}
      v2: {endpoints: ["127.0.0.1:9002"]}
    baseline: v1
    segments:
      power: {match: {headers: [{name: x-plan, exact: pro}]}}
      eu: {match: {headers: [{name: x-region, exact: eu}]}}
    kpis: {abandonment: {}}
gateways:
  edge-1: {listen: "127.0.0.1:8000", services: [shop]}
"""
SEGMENTS = ("power", "eu", "default")
BURST_S = 0.5  # in which a page and all that belongs to it are asked for
THINK_S = 8.0  # between two pages, on average
PAGES_N = 6  # of a visit, on average
SLOWNESS = (3.5, 0.7)  # of the logarithm of milliseconds: mean and standard deviation

_PAGES = ("/", "/product/{n}?colour=red", "/product/{n}", "/search?q=word{n}", "/cart", "/checkout", "/checkout/done")
_REST = (
    ("/static/app.{v}.js", "text/javascript"),
    ("/static/style.{v}.css", "text/css"),
    ("/img/{n}.webp", "image/webp"),
    ("/api/v2/items/{n}", "application/json"),
    ("/api/v2/prices?item={n}", "application/json"),
)


@dataclass(frozen=True, slots=True)
class Person:
    key: str
    segment: str
    version: str
    address: str
    user_agent: str


def entries(*, requests_per_s: float, start_s: float, seed: int) -> Iterator[HTTPAccessLogEntry]:
    """Finished requests in the order of their ends, for ever."""
    rng = random.Random(seed)
    visits_per_s = requests_per_s / (PAGES_N * (1 + len(_REST)))
    due: list[tuple[float, int, Person, str, str]] = []
    arrival_s, person_n, n = start_s, 0, 0
    while True:
        while not due or arrival_s <= due[0][0]:
            person_n += 1
            at_s = arrival_s
            person = _person(rng, person_n)
            for _ in range(1 + int(rng.expovariate(1 / PAGES_N))):
                page = rng.choice(_PAGES).format(n=rng.randrange(5_000))
                heapq.heappush(due, (at_s, n := n + 1, person, page, "text/html; charset=utf-8"))
                for path, kind in _REST:
                    part = path.format(n=rng.randrange(5_000), v=rng.randrange(3))
                    heapq.heappush(due, (at_s + rng.random() * BURST_S, n := n + 1, person, part, kind))
                at_s += BURST_S + rng.expovariate(1 / THINK_S)
            arrival_s += rng.expovariate(visits_per_s)
        at_s, number, person, path, kind = heapq.heappop(due)
        yield _entry(rng, at_s, number, person, path, kind)


def messages(
    n: int, *, per_message: int, requests_per_s: float, start_s: float, seed: int = 1, warm_up: int = 0
) -> list[bytes]:
    """Serialised `StreamAccessLogsMessage`s, the first with its sender. `warm_up`: requests before, left out."""
    source = entries(requests_per_s=requests_per_s, start_s=start_s, seed=seed)
    for _ in range(warm_up):
        next(source)
    result = []
    for i in range(n):
        message = StreamAccessLogsMessage()
        if i == 0:
            message.identifier.node.id = NODE
            message.identifier.log_name = "serinus"
        message.http_logs.log_entry.extend(next(source) for _ in range(per_message))
        result.append(message.SerializeToString())
    return result


def _person(rng: random.Random, n: int) -> Person:
    return Person(
        key=f"{rng.getrandbits(128):032x}",
        segment=rng.choices(SEGMENTS, (1, 3, 6))[0],
        version="v2" if rng.random() < 0.2 else "v1",
        address=f"10.{n // 62_500 % 250}.{n // 250 % 250}.{n % 250}",
        user_agent="Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
        f"Chrome/{rng.randrange(100, 150)}.0.{rng.randrange(10)}.0 Safari/537.36",
    )


def _entry(rng: random.Random, at_s: float, number: int, person: Person, path: str, kind: str) -> HTTPAccessLogEntry:
    entry = HTTPAccessLogEntry(protocol_version=HTTPAccessLogEntry.HTTPVersion.HTTP2)
    common, request, response = entry.common_properties, entry.request, entry.response
    addresses = (
        ("downstream_remote_address", person.address, 50_000 + number % 9_999),
        ("downstream_local_address", "10.255.0.1", 8_000),
        ("upstream_remote_address", "10.254.0.7", 9_001),
        ("upstream_local_address", "10.255.0.1", 40_000 + number % 9_999),
        ("downstream_direct_remote_address", person.address, 50_000 + number % 9_999),
    )
    for name, host, port in addresses:
        address = getattr(common, name).socket_address
        address.address, address.port_value = host, port
    common.start_time.FromNanoseconds(int(at_s * 1e9))
    took_ns = int(rng.lognormvariate(*SLOWNESS) * 1e6)
    points = (
        ("time_to_last_rx_byte", 0.01),
        ("time_to_first_upstream_tx_byte", 0.02),
        ("time_to_last_upstream_tx_byte", 0.03),
        ("time_to_first_upstream_rx_byte", 0.8),
        ("time_to_last_upstream_rx_byte", 0.9),
        ("time_to_first_downstream_tx_byte", 0.82),
        ("time_to_last_downstream_tx_byte", 0.98),
        ("duration", 1.0),
    )
    for name, share in points:
        getattr(common, name).FromNanoseconds(int(took_ns * share) + 1)
    common.upstream_cluster = f"shop|{person.version}"
    common.route_name = f"shop|{person.segment}|0"
    stamp = Stamp("shop", person.segment, "shop-v2-1", 17)
    failed = rng.random() < 0.005
    outcome = ("503", "UR") if failed else ("200", "-")
    said = ("gateway", "DownstreamEnd", *outcome, common.upstream_cluster, kind, "", "")
    common.custom_tags[TAG] = "\n".join((str(stamp), *said, person.key))
    common.upstream_request_attempt_count = 1
    common.stream_id = request.request_id = f"{number:08x}-0000-4000-8000-{rng.getrandbits(48):012x}"
    common.downstream_wire_bytes_sent, common.downstream_wire_bytes_received = rng.randrange(200, 90_000), 400
    common.upstream_wire_bytes_sent, common.upstream_wire_bytes_received = 500, rng.randrange(200, 90_000)
    common.access_log_type = DownstreamEnd
    request.request_method, request.scheme, request.authority, request.path = 1, "https", "shop.example.com", path
    request.user_agent, request.forwarded_for = person.user_agent, person.address
    request.request_headers_bytes, request.upstream_header_bytes_sent = 700, 800
    request.downstream_header_bytes_received = 400
    response.response_code.value = 503 if failed else 200
    if failed:
        common.response_flags.upstream_remote_reset = True
    response.response_headers_bytes, response.response_body_bytes = rng.randrange(150, 300), rng.randrange(90_000)
    response.response_code_details = "via_upstream"
    response.upstream_header_bytes_received, response.downstream_header_bytes_sent = 200, 180
    return entry
