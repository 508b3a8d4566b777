"""Who asks for flags over HTTP, and what they may be told.

The port is like that of OTLP: either it is in a network of your own, and whoever asks may ask for anybody. Or browsers
reach it (the mesh lists origins of pages), or gRPC asks for certificates, which HTTP does not bring: then anybody may
be asking. Versions are told to all; segments to nobody; and who is in a learned segment only to the person's cookie.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from xds_server.flags.context import (
    KEY,
    Context,
    ErrorCode,
    FlagError,
    missing_key,
    read_context,
)
from xds_server.flags.evaluation import Evaluation, Flags
from xds_server.http_requests import PREFLIGHT_S, RETRY_S, Pace, RefusedError, read_body
from xds_server.ingest.browsers import cookie_in
from xds_server.mesh import CookieIdentity

log = logging.getLogger(__name__)

MAX_BYTES: Final = 64 << 10  # of a body: the headers of a request are seldom more than 8 KiB
JSON: Final = "application/json"
TOLD_TO_ANYBODY: Final = ("rollout", "generation", "bucket")

Answering = Callable[[Request], Awaitable[Response]]


@dataclass(slots=True, kw_only=True)
class Door:
    """Lets requests in. `origins`: of pages whose browsers may ask; `asks_certificates`: the gRPC ports do."""

    flags: Flags
    origins: Callable[[], frozenset[str]]
    asks_certificates: bool = False
    pace: Pace = field(default_factory=Pace)

    @property
    def is_public(self) -> bool:
        """Whether anybody may be asking."""
        return self.asks_certificates or bool(self.origins())

    def opened(self, answer: Answering, *, methods: str) -> Answering:
        """Answer with what browsers need to hear; what goes wrong here is said as OFREP says it (status 500)."""

        async def answered(request: Request) -> Response:
            try:
                self._admit(request)
                response = _permission(methods) if request.method == "OPTIONS" else await answer(request)
            except RefusedError as refused:
                response = _refusal(refused)
            except Exception:
                log.exception("a flag is not evaluated")
                response = told({"errorDetails": "an error of Serinus, which is in its log"}, 500)
            origin = request.headers.get("origin")
            if origin in self.origins():
                response.headers["access-control-allow-origin"] = origin
                response.headers["access-control-allow-credentials"] = "true"
                response.headers["access-control-expose-headers"] = "etag, retry-after"
            response.headers["vary"] = "Origin"
            return response

        return answered

    def _admit(self, request: Request) -> None:
        origin = request.headers.get("origin")
        if origin is not None and origin not in self.origins():
            raise RefusedError(403, "this origin is not among `browsers` in the mesh file")
        if self.is_public and not self.pace.is_calm():
            raise RefusedError(429, "too many requests")

    async def context(self, request: Request, where: str, also_key: str = KEY) -> Context:
        """Read the context that a body has under `where`, with the person's key there or under `also_key`.

        What a browser sends of cookies is known without its saying so. Raises FlagError, RefusedError.
        """
        given = (await _object(request)).get(where, {})
        if not isinstance(given, dict):
            raise FlagError(ErrorCode.INVALID_CONTEXT, f"{where}: no object; legal: an object")
        context = read_context({**given, KEY: given.get(also_key) if given.get(KEY) is None else given[KEY]})
        if not self.is_public:
            if context.key is None:
                raise missing_key()
        elif context.jar is None:
            return context.with_jar(request.headers.getlist("cookie"))
        return context

    def evaluate(self, request: Request, flag: str, context: Context) -> Evaluation:
        """Evaluate as whoever asks may be told. Raises FlagError."""
        if not self.is_public:
            return self.flags.evaluate(flag, context)
        own = self._own_key(request, flag)
        is_proven = own is not None and context.key in (None, own)
        person = context if context.key is not None or own is None else replace(context, key=own)
        found = self.flags.evaluate(flag, person, is_proven=is_proven)
        return replace(
            found, metadata={name: found.metadata[name] for name in TOLD_TO_ANYBODY if name in found.metadata}
        )

    def _own_key(self, request: Request, flag: str) -> str | None:
        """The key in the cookie that came along, where a service knows people by one."""
        service = self.flags.told(flag)
        names = [each.cookie for each in service[0].identity if isinstance(each, CookieIdentity)] if service else []
        jar = [line.encode("latin-1") for line in request.headers.getlist("cookie")]
        value = cookie_in(jar, names[0].encode()) if names else b""
        return value.decode("utf-8", "surrogateescape") or None


async def _object(request: Request) -> Mapping[str, Any]:
    """The body, which is to be a JSON object."""
    body = await read_body(request, MAX_BYTES)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FlagError(ErrorCode.PARSE_ERROR, "the body is no JSON") from error
    if not isinstance(found, dict):
        raise FlagError(ErrorCode.PARSE_ERROR, "the body is no JSON object")
    return found


def told(content: Mapping[str, Any], status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(json.dumps(content, separators=(",", ":")), status, media_type=JSON)


def unless_known(request: Request, response: Response) -> Response:
    """The answer, or 304 where the client says that it has it already (RFC 9110, section 13.1.2: weak comparison)."""
    etag = f'"{hashlib.blake2b(bytes(response.body), digest_size=16).hexdigest()}"'
    given = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if etag in given or "*" in given:
        response = Response(status_code=304)
    response.headers["etag"] = etag
    return response


def _permission(methods: str) -> Response:
    """The answer to a browser's question whether a page may ask."""
    headers = {
        "access-control-allow-methods": methods,
        "access-control-allow-headers": "content-type, if-none-match, authorization, x-api-key",
        "access-control-max-age": str(PREFLIGHT_S),
    }
    return Response(status_code=204, headers=headers)


def _refusal(refused: RefusedError) -> Response:
    response = told({"errorCode": ErrorCode.GENERAL, "errorDetails": str(refused)}, refused.status)
    if refused.status == 429:
        response.headers["retry-after"] = str(RETRY_S)
    return response
