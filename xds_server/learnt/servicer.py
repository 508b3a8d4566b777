"""Envoy's external authorization service. Nobody is ever denied: the answer is a segment and a cookie.

Whatever goes wrong here, the request is served as if its person were in no learned segment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from xds_server import access
from xds_server.learnt.cookies import set_cookie
from xds_server.learnt.resolver import Resolver, Result
from xds_server.pb import authz_pb2 as pb
from xds_server.resources.parts import KEY_HEADER, SEGMENT_HEADER

SERVICE: Final = "envoy.service.auth.v3.Authorization"
_KEY: Final = KEY_HEADER.encode()


def add_authorization(server: grpc.aio.Server, resolver: Resolver) -> None:
    """Serve `Check` on `server`."""
    methods = {"Check": grpc.unary_unary_rpc_method_handler(method(resolver))}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))


def method(resolver: Resolver) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]:
    """The method `Check`, from bytes to bytes."""

    async def check(raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            request = pb.CheckRequest.FromString(raw)
        except DecodeError:
            resolver.counts[Result.MALFORMED] += 1
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a CheckRequest")
        service = request.attributes.context_extensions["service"]
        access.current().check_service(service)
        return answered(resolver, service, request).SerializeToString()

    return check


def answered(resolver: Resolver, service: str, request: pb.CheckRequest) -> pb.CheckResponse:
    """The answer to one question: `said` in the metadata is for `learned.lua`, which takes its absence for none."""
    headers = {header.key: header.raw_value for header in request.attributes.request.http.header_map.headers}
    response = pb.CheckResponse(status=pb.Status())
    answer = resolver.answer(service, headers.get(_KEY, b""))
    if answer is None:
        return response
    is_secure = headers.get(b"x-forwarded-proto") == b"https"
    line = set_cookie(service, answer.cookie, max_age_s=answer.counts_s, secure=is_secure)
    response.ok_response.response_headers_to_add.add(header=pb.Header(key="set-cookie", value=line))
    if answer.name:
        response.ok_response.headers.add(header=pb.Header(key=SEGMENT_HEADER, value=answer.name))
    response.dynamic_metadata["said"] = f"{answer.table} {answer.expires_s} {answer.name}"
    return response
