"""OTLP over HTTP, in protobuf and in JSON: `POST /v1/traces`, `/v1/logs` and `/v1/metrics`.

From servers or from browsers, of which metrics are not believed.

HTTP brings no certificate here. So either the port is in a network of your own, and what comes is a server's; or the
mesh lists origins of pages, browsers reach the port, and with them everybody: then all that comes is a browser's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.message import DecodeError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from xds_server.http_requests import PREFLIGHT_S, RETRY_S, Pace, RefusedError, read_body
from xds_server.ingest.ingest import Ingest
from xds_server.ingest.otlp import EVENTS, GAUGES, SPANS, Signal, in_turns, response, why
from xds_server.ingest.rows import Drop
from xds_server.pb import otlp_pb2

JSON: Final = "application/json"
PROTOBUF: Final = "application/x-protobuf"
MAX_BYTES: Final = 4 << 20  # of a body, also unpacked
MAX_BROWSER_BYTES: Final = 64 << 10  # as many as browsers send of a page that is being left
MAX_BYTES_AT_ONCE: Final = 64 << 20  # of the bodies being read and taken: 16 from servers, 1,024 from browsers
_ASIDE_BYTES = 16 << 10  # a body larger than that is read in another thread
_GZIP = 16 + zlib.MAX_WBITS


@dataclass(slots=True, kw_only=True)
class OtlpHttp:
    """Answers exporters. `asks_certificates`: both gRPC ports do, so servers are sent there.

    `until`: from then on exporters are told to come again. `answers`: how many, by status.
    """

    ingest: Ingest
    asks_certificates: bool = False
    until: asyncio.Event = field(default_factory=asyncio.Event)
    pace: Pace = field(default_factory=Pace)
    answers: Counter[str] = field(default_factory=Counter)
    _under_way: int = 0

    def routes(self) -> list[Route]:
        """Return what is served."""
        paths = (("/v1/traces", SPANS), ("/v1/logs", EVENTS), ("/v1/metrics", GAUGES))
        return [Route(path, self._endpoint(signal), methods=["POST", "OPTIONS"]) for path, signal in paths]

    def _endpoint(self, signal: Signal) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await self._answer(request, signal)

        return answer

    async def _answer(self, request: Request, signal: Signal) -> Response:
        media_type = _media_type(request)
        try:
            answer = _permission() if request.method == "OPTIONS" else None
            self._admit(request)
            if answer is None:
                answer = await self._take(request, media_type, signal)
        except RefusedError as refused:
            answer = _refusal(refused, JSON if media_type != PROTOBUF else PROTOBUF)
        origin = request.headers.get("origin")
        if origin in self.ingest.origins:
            answer.headers["access-control-allow-origin"] = origin
            answer.headers["access-control-allow-credentials"] = "true"
        answer.headers["vary"] = "Origin"
        self.answers[str(answer.status_code)] += 1
        return answer

    def _admit(self, request: Request) -> None:
        """Refuse who may not send at all."""
        origin = request.headers.get("origin")
        if origin is not None and origin not in self.ingest.origins:
            raise RefusedError(403, "this origin is not among `browsers` in the mesh file")
        if not self.ingest.origins and self.asks_certificates:
            raise RefusedError(403, "HTTP brings no certificate: send OTLP over gRPC")

    async def _take(self, request: Request, media_type: str, signal: Signal) -> Response:
        if media_type not in (JSON, PROTOBUF):
            raise RefusedError(415, f"Content-Type must be {PROTOBUF} or {JSON}")
        if request.headers.get("content-encoding", "identity").lower() not in ("identity", "gzip"):
            raise RefusedError(415, "Content-Encoding must be gzip, if any")
        from_browser = bool(self.ingest.origins)
        limit = MAX_BROWSER_BYTES if from_browser else MAX_BYTES
        with self._turn(limit, from_browser=from_browser):
            body = await read_body(request, limit)
            try:
                message = await _message(request, body, limit, signal, media_type)
            except (DecodeError, ValueError) as error:
                self.ingest.unreadable(signal.source)
                raise RefusedError(400, "not an OTLP export request") from error
            jar = request.headers.getlist("cookie") if from_browser else None
            cookies = None if jar is None else [cookie.encode("latin-1") for cookie in jar]
            rejected = await in_turns(signal.take(self.ingest, message, cookies))
        if media_type == PROTOBUF:
            return Response(response(rejected), media_type=PROTOBUF)
        return Response(json.dumps(_told(rejected, signal)), media_type=JSON)

    @contextlib.contextmanager
    def _turn(self, limit: int, *, from_browser: bool) -> Iterator[None]:
        """Refuse for now who comes at the end, or when there is too much to do."""
        if self.until.is_set():
            raise RefusedError(503, "the control plane is ending")
        if from_browser and not self.pace.is_calm():
            raise RefusedError(429, "too many requests")
        if self._under_way >= MAX_BYTES_AT_ONCE // limit:
            raise RefusedError(503, "too many requests at once")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _permission() -> Response:
    """The answer to a browser's question whether a page may send."""
    headers = {
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "content-type, content-encoding",
        "access-control-max-age": str(PREFLIGHT_S),
    }
    return Response(status_code=204, headers=headers)


def _refusal(refused: RefusedError, media_type: str) -> Response:
    body: bytes | str
    if media_type == PROTOBUF:
        body = otlp_pb2.Refusal(message=str(refused).encode()).SerializeToString()
    else:
        body = json.dumps({"message": str(refused)})
    headers = {"retry-after": str(RETRY_S)} if refused.status in (429, 503) else None
    return Response(body, refused.status, headers, media_type)


def _told(rejected: Counter[Drop], signal: Signal) -> dict[str, Any]:
    if not rejected:
        return {}
    return {"partialSuccess": {signal.rejected: str(rejected.total()), "errorMessage": why(rejected)}}


async def _message(request: Request, body: bytes, limit: int, signal: Signal, media_type: str) -> Any:
    """Read the request, beside the event loop where that takes long."""
    is_packed = request.headers.get("content-encoding", "").lower() == "gzip"
    read = signal.from_json if media_type == JSON else signal.from_protobuf

    def message() -> Any:
        return read(_unpacked(body, limit) if is_packed else body)

    return await asyncio.to_thread(message) if is_packed or len(body) > _ASIDE_BYTES else message()


def _unpacked(body: bytes, limit: int) -> bytes:
    unpacking = zlib.decompressobj(_GZIP)
    try:
        plain = unpacking.decompress(body, limit + 1)
    except zlib.error as error:
        raise ValueError("not gzip") from error
    if len(plain) > limit:
        raise RefusedError(413, f"more than {limit} bytes when unpacked")
    if not unpacking.eof or unpacking.unused_data:
        raise ValueError("not one whole gzip member")
    return plain
