from __future__ import annotations

import pytest

from xds_server.ads.nack import blamed

GRPC = (
    "xDS response validation errors: [resource index 1: shop: INVALID_ARGUMENT: errors validating ApiListener: "
    "[field:api_listener error:shop:80 is odd; really]; resource index 2: shop:80: INVALID_ARGUMENT: …]"
)


@pytest.mark.parametrize(
    ("message", "names"),
    [
        (GRPC, {"shop", "shop:80"}),
        (GRPC.replace("resource index 1: shop:", "resource index 0: blog:"), {"blog", "shop:80"}),
        (GRPC.replace("index 2", "index 7"), {"shop"}),
        (GRPC.replace("index 2: shop:80", "index 0"), {"shop", "blog"}),  # what cannot be read has no name
        ("Error adding/updating listener(s) shop:80: …", {"shop", "shop:80"}),  # Envoy's: names, as far as one can see
        ("no idea", set()),
        ("", set()),
    ],
)
def test_grpc_names_the_place_of_each_and_others_are_searched_for_names(message: str, names: set[str]) -> None:
    assert blamed(message, ["blog", "shop", "shop:80"]) == names
