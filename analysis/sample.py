"""One observed request, span error or feature event, as rows of a NumPy structured array.

The shell decodes access logs and OTLP into these rows; the core never sees a protobuf.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt


class SampleKind(IntEnum):
    REQUEST = 0  # a finished request, from the access log of the reporting hop
    SPAN_ERROR = 1  # a server span with status ERROR: the request failed whatever its HTTP status says
    FEATURE = 2  # an OTLP event: the person managed to use a feature
    PAGE = 3  # an OTLP event: a page or screen seen
    CLICK = 4  # an OTLP event: a click or tap
    ALIVE = 5  # a request that goes on (WebSocket, SSE, stream): its person is still there at `start_unix_ns`


UNKNOWN = 0xFFFF
"""Segment or version of a row that does not carry one (events are joined to the person's session)."""

NO_STEP = 0xFFFF
"""Label of a row that is no step of a click path (an image, a script, the end of a stream)."""

NO_BUCKET = 0xFFFF
"""Bucket of a row that was routed while no rollout was running."""

SAMPLE_DTYPE = np.dtype(
    [
        ("start_unix_ns", np.int64),  # event time: when the request started
        ("duration_ms", np.float32),  # user-visible; NaN: not to be judged (streams); 0 for events
        ("first_byte_ms", np.float32),  # until the upstream's first byte; NaN: none came, or not known
        ("user", np.uint64),  # keyed hash of the person's sticky key; 0: nobody known
        ("bucket", np.uint16),  # salted hash modulo 10,000 under the rollout that routed it, or NO_BUCKET
        ("segment", np.uint16),  # index into ServiceSpec.segments, or UNKNOWN
        ("version", np.uint16),  # index into ServiceSpec.versions, or UNKNOWN
        ("label", np.uint16),  # index into the service's Vocabulary of what was done, or NO_STEP
        ("kind", np.uint8),  # SampleKind
        ("error", np.bool_),  # the request failed, by the service's own definition of an error
        ("goal", np.bool_),  # the request's path is the session's goal and it succeeded
        ("bot", np.bool_),  # it says of itself that it is a machine
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleBatch:
    """Rows of one service. `rows` has shape (n,) and dtype SAMPLE_DTYPE, in order of arrival."""

    service: str
    rows: npt.NDArray[np.void]


class Vocabulary:
    """Bounded mapping of labels to small integers; the rest is `OTHER`.

    A label is what was done and to what: `page /cart`, `call /api/items/*`, `click buy`, `screen Cart`,
    `feature voucher`.
    """

    OTHER = 0

    def __init__(self, limit: int = 512) -> None:
        self._limit = limit
        self._ids: dict[str, int] = {"other": self.OTHER}
        self.overflow_n = 0

    def index(self, label: str) -> int:
        """Index of `label`; a new label beyond the limit counts in `overflow_n` and is `OTHER`."""
        known = self._ids.get(label)
        if known is not None:
            return known
        if len(self._ids) >= self._limit:
            self.overflow_n += 1
            return self.OTHER
        self._ids[label] = len(self._ids)
        return self._ids[label]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self._ids)
