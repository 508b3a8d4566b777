"""Ports for servers that a test starts a moment later, in another process."""

from __future__ import annotations

import os
import random
import socket

LOWEST, HIGHEST = 10_240, 32_000
"""Below those that the system gives to outgoing connections, of which tests beside this one open thousands."""

_given: set[int] = set()
_rng = random.Random(os.urandom(8))


def free_port() -> int:
    """A port that nobody listens on, and that this process has not given before."""
    while True:
        port = _rng.randrange(LOWEST, HIGHEST)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
