from __future__ import annotations

import pytest

from xds_server.grpc_bootstrap import grpc_bootstrap


@pytest.mark.parametrize(
    ("host", "uri"),
    [("10.0.0.1", "10.0.0.1:18000"), ("serinus.internal", "serinus.internal:18000"), ("::1", "[::1]:18000")],
)
def test_a_client_is_told_where_serinus_is_and_what_it_is_called(host: str, uri: str) -> None:
    built = grpc_bootstrap("app-1", xds=(host, 18_000))
    (server,) = built["xds_servers"]
    assert (server["server_uri"], server["channel_creds"]) == (uri, [{"type": "insecure"}])
    assert built["node"] == {"id": "app-1", "cluster": "grpc"}
