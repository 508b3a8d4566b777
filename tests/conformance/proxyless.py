"""A proxyless gRPC client that calls a service which does not exist: how it failed, as JSON.

`python proxyless.py XDS_PORT NAME`, with gRPC's xDS switches in the environment.
"""

from __future__ import annotations

import json
import os
import sys
import time

import grpc


def main(port: str, name: str) -> None:
    bootstrap = {
        "xds_servers": [
            {
                "server_uri": f"127.0.0.1:{port}",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": "proxyless"},
    }
    os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = json.dumps(bootstrap)
    answers = []
    for _ in range(2):  # the first call also pays for the connection
        with grpc.insecure_channel(f"xds:///{name}") as channel:
            began = time.monotonic()
            try:
                channel.unary_unary("/any.Service/Method")(b"", timeout=20)
            except grpc.RpcError as error:
                answers.append({"code": error.code().name, "says": error.details(), "s": time.monotonic() - began})
    print(json.dumps(answers))  # noqa: T201 -- read by the test


if __name__ == "__main__":
    main(*sys.argv[1:])
