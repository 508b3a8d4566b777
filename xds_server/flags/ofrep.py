"""The OpenFeature Remote Evaluation Protocol (github.com/open-feature/protocol, service/openapi.yaml): single and bulk.

Of its optional parts the key of a client (bearer, X-API-Key) is not looked at, and there is no stream of changes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from xds_server.flags.asking import Door, told, unless_known
from xds_server.flags.context import ErrorCode, FlagError
from xds_server.flags.evaluation import Evaluation

PATH: Final = "/ofrep/v1/evaluate/flags"
AT_ONCE: Final = 100  # flags of a bulk evaluation, before others have their turn


@dataclass(frozen=True, slots=True)
class Ofrep:
    """Answers OpenFeature's providers."""

    door: Door

    def routes(self) -> list[Route]:
        """Return what is served."""
        methods = ["POST", "OPTIONS"]
        return [
            Route(PATH + "/{key:path}", self.door.opened(self._single, methods="POST"), methods=methods),
            Route(PATH, self.door.opened(self._bulk, methods="POST"), methods=methods),
        ]

    async def _single(self, request: Request) -> Response:
        key = request.path_params["key"]
        try:
            context = await self.door.context(request, "context")
            return told(_success(self.door.evaluate(request, key, context)))
        except FlagError as error:
            return told(_failure(key, error), 404 if error.code is ErrorCode.FLAG_NOT_FOUND else 400)

    async def _bulk(self, request: Request) -> Response:
        """All flags. Where nobody is asked for at all the request is wrong, not each of its flags."""
        try:
            context = await self.door.context(request, "context")
        except FlagError as error:
            return told({"errorCode": error.code, "errorDetails": str(error)}, 400)
        flags = []
        for n, name in enumerate(list(self.door.flags.names()), start=1):
            try:
                flags.append(_success(self.door.evaluate(request, name, context)))
            except FlagError as error:
                if error.code is not ErrorCode.FLAG_NOT_FOUND:  # gone meanwhile
                    flags.append(_failure(name, error))
            if n % AT_ONCE == 0:
                await asyncio.sleep(0)
        return unless_known(request, told({"flags": flags}))


def _success(found: Evaluation) -> dict[str, Any]:
    return {
        "key": found.flag,
        "value": found.version,
        "variant": found.version,
        "reason": found.reason,
        "metadata": found.metadata,
    }


def _failure(key: str, error: FlagError) -> dict[str, Any]:
    return {"key": key, "errorCode": error.code, "errorDetails": str(error)}
