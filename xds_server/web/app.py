"""What Serinus answers over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from xds_server.telemetry import CONTENT_TYPE


def create_app(
    *, not_ready: Callable[[], str | None], metrics: Callable[[], bytes], more: Iterable[BaseRoute] = ()
) -> Starlette:
    """Return the application.

    Parameters
    ----------
    not_ready
        Returns why Serinus cannot do its work yet, or None once it can.
    metrics
        Returns all metrics in the Prometheus text format.
    more
        What else is served.
    """

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(_request: Request) -> Response:
        reason = not_ready()
        return PlainTextResponse("ready\n") if reason is None else PlainTextResponse(f"{reason}\n", status_code=503)

    async def show_metrics(_request: Request) -> Response:
        return Response(metrics(), media_type=CONTENT_TYPE)

    return Starlette(
        routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", show_metrics), *more],
    )
