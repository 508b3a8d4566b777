"""What a gRPC client must be told before it can ask Serinus for the rest: the file that GRPC_XDS_BOOTSTRAP names."""

from __future__ import annotations

from typing import Any, Final

from xds_server.mesh import Address

NODE_CLUSTER: Final = "grpc"


def grpc_bootstrap(node: str, *, xds: Address) -> dict[str, Any]:
    """Return the bootstrap of the gRPC client called `node`, as the mapping that its JSON holds (gRFC A27).

    Clients may share one: they are told apart by their streams, and only shown under one name.
    """
    host, port = xds
    return {
        "xds_servers": [
            {
                "server_uri": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],  # clients from before 1.50 ask for version 2 without it
            }
        ],
        "node": {"id": node, "cluster": NODE_CLUSTER},
    }
