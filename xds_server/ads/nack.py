"""What a client says of a response that it does not take."""

from __future__ import annotations

import re
from collections.abc import Sequence

_INDEX = re.compile(r"(?:\[|; )resource index (\d{1,6}): ")


def blamed(message: str, sent: Sequence[str]) -> frozenset[str]:
    """Which of the resources that were sent, by name and in order, a client's message is about; empty: it does not say.

    gRPC gives the place of each: `xDS response validation errors: [resource index 1: shop|v2: INVALID_ARGUMENT: …]`.
    Of other clients' messages nothing is known but that they may hold names.

    Examples
    --------
    >>> blamed("xDS response validation errors: [resource index 1: shop:80: INVALID_ARGUMENT: …]", ["shop", "shop:80"])
    frozenset({'shop:80'})
    >>> blamed("Error adding/updating cluster(s) b: …", ["a", "b"])
    frozenset({'b'})
    """
    indices = [int(index) for index in _INDEX.findall(message)]
    if indices:
        return frozenset(sent[index] for index in indices if index < len(sent))
    return frozenset(name for name in sent if name in message)
