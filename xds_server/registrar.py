"""Beside an instance: registers it while it answers, renews that, and takes it out before it goes."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from xds_server.client import TIMEOUT_S, Client
from xds_server.errors import ServerError
from xds_server.mesh import Address
from xds_server.pb import registry_pb2 as pb

LOOK_EVERY_S: Final = 1.0
LOOK_FOR_S: Final = 0.5  # until a connection counts as refused
DEAD_AFTER: Final = 2  # looks in a row that found nobody
WAIT_S: Final = 10.0  # for Envoys to acknowledge that an endpoint is gone
LATE: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"})
"""What may be otherwise a little later; everything else is a refusal."""


@dataclass(slots=True, kw_only=True)
class Registrar:
    """Keeps one endpoint registered. `wait(seconds)` waits, and says whether it is time to end.

    `looks`: whether to see, before it is registered and from then on, that the instance takes connections.
    `drain_s`: how long the end waits once Envoys have acknowledged it, for their workers and for requests under way.
    """

    client: Client
    service: str
    version: str
    address: Address
    shown: str  # the address, as given
    wait: Callable[[float], bool]
    say: Callable[[str], None]
    lease_ms: int = 0
    looks: bool = True
    drain_s: float = 1.0
    _lease: pb.Lease | None = None
    _renew_at: float = 0.0
    _silent: int = 0  # looks in a row that found nobody
    _told: str = ""
    _was_admitted: bool = False

    def run(self) -> None:
        """Go on until told to end.

        Raises
        ------
        ServerError
            The control plane refuses the endpoint, the first time that it is asked.
        """
        pause_s = 0.0
        while not self.wait(pause_s):
            pause_s = LOOK_EVERY_S
            if self.looks and not self._is_there():
                continue
            if time.monotonic() >= self._renew_at:
                self._register_or_renew()
        self._leave("ending", wait_s=WAIT_S)
        time.sleep(self.drain_s if self._was_admitted else 0.0)

    def _is_there(self) -> bool:
        """Whether the instance takes connections; if it no longer does, its endpoint is taken out."""
        try:
            socket.create_connection(self.address, timeout=LOOK_FOR_S).close()
        except OSError as error:
            self._silent += 1
            if self._silent >= DEAD_AFTER and self._lease is not None:
                self._leave(f"nobody takes connections at {self.shown}", wait_s=0.0)
            self._say_once(f"waiting until somebody takes connections at {self.shown} ({error.strerror or error})")
            return self._lease is not None
        self._silent = 0
        return True

    def _register_or_renew(self) -> None:
        try:
            lease = self._register() if self._lease is None else self._renew(self._lease)
        except ServerError as error:
            self._failed(error)
            return
        self._lease, self._told, self._was_admitted = lease, "", True
        # A third of the lease, so that two renewals may get lost; not all instances at the same moment.
        self._renew_at = time.monotonic() + lease.lease_ms / 3_000 * random.uniform(0.9, 1.0)

    def _register(self) -> pb.Lease:
        lease: pb.Lease = self.client.call(
            "Register",
            pb.RegisterRequest(service=self.service, version=self.version, address=self.shown, lease_ms=self.lease_ms),
        )
        self.say(f"{self.shown} is an endpoint of {self.service} {self.version}; lease {lease.lease_ms / 1_000:g} s")
        return lease

    def _renew(self, lease: pb.Lease) -> pb.Lease:
        renewed: pb.Lease = self.client.call("Renew", pb.RenewRequest(lease=lease.lease))
        return renewed

    def _failed(self, error: ServerError) -> None:
        self._renew_at = 0.0  # at the next look
        if error.code == "NOT_FOUND" and self._lease is not None:
            self._lease = None
            self.say(str(error))
            return
        if error.code not in LATE and not self._was_admitted:
            raise error
        self._say_once(f"{error}; trying on")

    def _leave(self, why: str, *, wait_s: float) -> None:
        """Take the endpoint out, and wait so long at most until no Envoy sends requests to it any more."""
        if self._lease is None:
            return
        request = pb.DeregisterRequest(lease=self._lease.lease, wait_ms=round(wait_s * 1_000))
        self._lease, self._renew_at = None, 0.0
        try:
            removal = self.client.call("Deregister", request, timeout_s=wait_s + TIMEOUT_S)
        except ServerError as error:
            self.say(f"{why}; not deregistered: {error}")
            return
        late = f"; not acknowledged by {', '.join(removal.waiting_for)}" if wait_s and removal.waiting_for else ""
        self.say(f"{why}; {removal.message}{late}")

    def _say_once(self, text: str) -> None:
        if text != self._told:
            self.say(text)
        self._told = text
