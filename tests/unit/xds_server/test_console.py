from __future__ import annotations

import io

import pytest
from rich.console import Console

from xds_server.console import _connected, _doubts, endpoints_view, status_view
from xds_server.pb import control_pb2 as pb
from xds_server.pb import registry_pb2 as registry


@pytest.mark.parametrize(
    ("roles", "text"),
    [
        ((), "0 of 0 Envoys"),
        (("gateway", "sidecar"), "1 of 2 Envoys"),
        (("grpc",), "1 of 1 gRPC clients"),
        (("gateway", "grpc", "grpc"), "1 of 1 Envoys and 1 of 2 gRPC clients"),
    ],
)
def test_envoys_and_grpc_clients_are_counted_apart(roles: tuple[str, ...], text: str) -> None:
    """The last of several is not connected."""
    nodes = [pb.NodeStatus(role=role, connected=n == 0 or n < len(roles) - 1) for n, role in enumerate(roles)]
    assert _connected(nodes) == text


def test_what_is_wrong_with_endpoints_is_a_line_each() -> None:
    def lines(**of: object) -> list[str]:
        return list(_doubts(pb.VersionEndpoints(service="shop", version="v2", **of)))  # type: ignore[arg-type]

    assert lines(endpoints=2) == []
    assert lines() == ["shop v2 has no endpoints: nobody has registered"]
    assert lines(endpoints=2, stale=["10.0.0.1:80"]) == ["shop v2: 1 of 2 endpoints not renewed, and kept: 10.0.0.1:80"]
    assert lines(endpoints=2, refused="v2.txt: no such file") == ["shop v2 keeps its 2 endpoints: v2.txt: no such file"]


def test_endpoints_are_listed_with_where_they_come_from_and_what_is_left_of_their_lease() -> None:
    registered = [
        registry.Endpoint(address="10.0.0.1:80", since_unix_ns=10**18, lease_ms=30_000, left_ms=12_000),
        registry.Endpoint(address="10.0.0.2:80", since_unix_ns=10**18, lease_ms=30_000, stale=True),
    ]
    versions = [
        registry.Endpoints(service="shop", version="v2", source="registered", endpoints=registered),
        registry.Endpoints(service="shop", version="v3", source="file", refused="v3.txt: no such file"),
    ]
    console = Console(width=140, file=io.StringIO())
    console.print(endpoints_view(registry.ListReply(versions=versions)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for part in ("12 s of 30 s", "not renewed, kept", "none", "v3.txt: no such file", "2001-09-09 01:46:40Z"):
        assert part in text


def test_who_was_seen_in_each_segment_is_shown_and_who_has_not_been_for_long() -> None:
    def text(*requests: int, seen_s: float = 300.0) -> str:
        segments = [
            pb.SegmentStatus(segment=name, seen_requests=n, seen_people=n // 2)
            for name, n in zip(("beta", "power", "default"), requests, strict=True)
        ]
        console = Console(width=140, file=io.StringIO())
        status = pb.Status(services=[pb.ServiceStatus(service="shop", segments=segments, seen_s=seen_s)])
        console.print(status_view(status))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    shown = text(0, 10, 30)
    for part in ("0.0% 0", "25.0% 5", "75.0% 15", "nobody seen in beta for 5 minutes"):
        assert part in shown
    for quiet in (text(0, 0, 0), text(0, 10, 30, seen_s=30.0), text(1, 10, 30)):
        assert "nobody" not in quiet
