"""Envoy's runtime: the dead-man switch.

Routes to a canary match only while the runtime says `serinus.canary: 100`, which is sent with a lifetime and again and
again before that is over. When the control plane is gone for longer, the key is gone as well, the routes match no more
and everybody gets the baseline. No other type can do that: what Envoy does when RDS, EDS, CDS or LDS run out is to go
on, to answer 503, to close the port, or to crash.
"""

from __future__ import annotations

from envoy.config.core.v3.base_pb2 import RuntimeFractionalPercent
from envoy.service.runtime.v3.rtds_pb2 import Runtime
from envoy.type.v3.percent_pb2 import FractionalPercent

from xds_server.resources.parts import numbers

LAYER = "serinus"
"""Name of the resource and of the layer in every bootstrap."""

CANARY_KEY = "serinus.canary"


def runtime(*, canary: bool) -> Runtime:
    """The layer, with or without the word that canaries go on."""
    return Runtime(name=LAYER, layer=numbers({CANARY_KEY: 100.0} if canary else {}))


def while_canary_goes_on() -> RuntimeFractionalPercent:
    """The condition of a route to a canary: all or nobody, so that no person is drawn by chance."""
    nobody = FractionalPercent(numerator=0, denominator=FractionalPercent.HUNDRED)
    return RuntimeFractionalPercent(default_value=nobody, runtime_key=CANARY_KEY)
