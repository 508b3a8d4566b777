from __future__ import annotations

import pytest

from xds_server.console import _connected
from xds_server.pb import control_pb2 as pb


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
