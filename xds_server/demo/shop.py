"""One version of a small shop: a real HTTP server, whose faults are installed while it runs.

    python -m xds_server.demo.shop --version v2 --port 9002 --otlp 127.0.0.1:4317

Under `/_demo/` it is told what shall be wrong with it, and says what it has seen. That is for whoever reaches it
directly: what comes through an Envoy finds nothing there.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aiohttp import web

from xds_server.demo.fault import (
    CAUSE_HEADER,
    DRAW_HEADER,
    SEGMENTS,
    USER_HEADER,
    VERSION_HEADER,
    Fault,
    FaultKind,
    segment_of,
)
from xds_server.demo.shop_telemetry import Telemetry

FEATURE = "wishlist"

BUTTON = f"""<button id="{FEATURE}" onclick="remember(this)">Remember it</button>
<script>
async function remember(button) {{
  const answer = await fetch("/api/{FEATURE}", {{ method: "POST" }});
  if (answer.ok) button.textContent = "Remembered";
}}
</script>"""

PAGES: Mapping[str, tuple[str, str | None]] = {
    # page: (title, where its way on leads; None: the goal, there is no further)
    "home": ("Everything for canaries", "/search"),
    "search": ("Found 12 things", "/product/7"),
    "product": ("A swing with a bell", "/cart"),
    "cart": ("Your cart", "/checkout"),
    "checkout": ("How would you like to pay?", "/checkout/done"),
    "done": ("Thank you!", None),
}


BEACON = Path(__file__).with_name("beacon.js").read_text("utf-8")
COOKIE = "sid"
"""By which a visitor is known who brings no `USER_HEADER`; a mesh may let Envoy mint it."""


def html(page: str, *, dead_end: bool = False, button_works: bool = True, beacon: str | None = None) -> bytes:
    """Return the page; a dead end is the same page without its way on.

    `beacon`: where the page tells what is seen and clicked. A button that does not work looks as it always does.
    """
    title, onward = PAGES[page]
    link = "" if onward is None or dead_end else f'<a id="onward" rel="next" href="{onward}">Go on</a>'
    button = BUTTON if page == "product" else ""
    if not button_works:
        button = button.replace("<button ", '<button disabled style="color: buttontext" ')
    script = (
        "" if beacon is None else f'<script src="/beacon.js" data-to="{beacon}" data-service="shop" async></script>'
    )
    return f"<!doctype html><title>{title}</title><h1>{title}</h1>{button}{link}{script}".encode()


@dataclass(slots=True)
class Seen:
    """What this server saw of one segment's people. Times are unix seconds."""

    requests: int = 0
    faulty: int = 0
    first_unix: float | None = None
    last_unix: float | None = None
    first_fault_unix: float | None = None


@dataclass(slots=True)
class Shop:
    """One version of the shop: its faults, and its books. Used from one event loop."""

    version: str
    telemetry: Telemetry
    rng: random.Random
    beacon: str | None = None
    button_works: bool = True
    faults: list[Fault] = field(default_factory=list)
    seen: dict[str, Seen] = field(default_factory=lambda: {segment: Seen() for segment in SEGMENTS})

    def strikes(self, page: str, segment: str, user: str) -> Fault | None:
        """Return the fault that this request meets, if any. Draws from the shop's generator."""
        for fault in self.faults:
            if fault.concerns(segment) and self._is_struck(fault, page, user):
                return fault
        return None

    def _is_struck(self, fault: Fault, page: str, user: str) -> bool:
        match fault.kind:
            case FaultKind.ABANDONMENT:
                return page == "checkout" and person_share(user) < fault.size
            case FaultKind.FEATURE:
                return page == FEATURE and person_share(user) < fault.size
            case _:
                return self.rng.random() < fault.size

    async def answer(self, request: web.Request, page: str) -> web.Response:
        """Answer one person's request for a page, or for the wishlist, and account for it."""
        start_ns = time.time_ns()
        user = request.headers.get(USER_HEADER) or request.cookies.get(COOKIE, "")
        segment = segment_of(request.headers)
        chance = request.headers.get(DRAW_HEADER) == "error"
        fault = self.strikes(page, segment, user)
        delay_ms = 2 + self.rng.expovariate(1 / 5)
        if fault is not None:
            delay_ms += fault.delay_ms
        await asyncio.sleep(min(delay_ms, 2_000) / 1_000)
        response = self._response(page, fault, chance=chance)
        response.headers[VERSION_HEADER] = self.version
        if response.status == 500:
            response.headers[CAUSE_HEADER] = "chance"
        elif fault is not None:
            response.headers[CAUSE_HEADER] = "fault"
        if user:
            self._account(segment, start_ns / 1e9, faulty=fault is not None)
        self._tell(request, page, user, response.status, fault, start_ns)
        return response

    def _response(self, page: str, fault: Fault | None, *, chance: bool) -> web.Response:
        if fault is not None and fault.kind in (FaultKind.ERRORS, FaultKind.CRASH):
            return web.Response(status=503, text="Something is broken.\n")
        if chance:
            return web.Response(status=500, text="Bad luck.\n")
        if page == FEATURE:
            return web.json_response({"ok": True})
        dead_end = fault is not None and fault.kind is FaultKind.ABANDONMENT
        body = html(page, dead_end=dead_end, button_works=self.button_works, beacon=self.beacon)
        return web.Response(body=body, content_type="text/html")

    def _account(self, segment: str, at_unix: float, *, faulty: bool) -> None:
        seen = self.seen[segment]
        seen.requests += 1
        seen.first_unix = at_unix if seen.first_unix is None else seen.first_unix
        seen.last_unix = at_unix
        if faulty:
            seen.faulty += 1
            seen.first_fault_unix = at_unix if seen.first_fault_unix is None else seen.first_fault_unix

    def _tell(
        self, request: web.Request, page: str, user: str, status: int, fault: Fault | None, start_ns: int
    ) -> None:
        end_ns = time.time_ns()
        self.telemetry.request(
            method=request.method,
            path=request.path,
            user=user,
            status=status,
            start_unix_ns=start_ns,
            end_unix_ns=end_ns,
        )
        if status != 200:
            return
        if page != FEATURE:
            self.telemetry.page_view(path=request.path, user=user, at_unix_ns=end_ns)
        elif fault is None or fault.kind is not FaultKind.FEATURE:
            self.telemetry.feature_used(feature=FEATURE, user=user, at_unix_ns=end_ns)


def person_share(user: str) -> float:
    """Return where this person stands in [0, 1): the same for all of their requests."""
    return zlib.crc32(user.encode()) / 2**32


SHOP = web.AppKey("shop", Shop)


def make_app(shop: Shop) -> web.Application:
    """Return the shop as an application; its telemetry is closed with it."""
    app = web.Application()
    app[SHOP] = shop
    for path, page in (
        ("/", "home"),
        ("/search", "search"),
        ("/product/{id}", "product"),
        ("/cart", "cart"),
        ("/checkout", "checkout"),
        ("/checkout/done", "done"),
        ("/api/wishlist", FEATURE),
    ):
        app.router.add_get(path, _page_handler(page))
        app.router.add_post(path, _page_handler(page))
    app.router.add_get("/beacon.js", _beacon)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/_demo/stats", _stats)
    app.router.add_post("/_demo/fault", _install)
    app.router.add_delete("/_demo/fault", _heal)
    app.on_cleanup.append(_close)
    return app


def _page_handler(page: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await request.app[SHOP].answer(request, page)

    return answer


async def _beacon(_request: web.Request) -> web.StreamResponse:
    return web.Response(text=BEACON, content_type="text/javascript", headers={"cache-control": "max-age=3600"})


async def _healthz(request: web.Request) -> web.StreamResponse:
    return web.Response(text="ok\n", headers={VERSION_HEADER: request.app[SHOP].version})


def _refuse_strangers(request: web.Request) -> None:
    if any(name.lower().startswith(("x-envoy-", "x-forwarded-", "x-serinus-")) for name in request.headers):
        raise web.HTTPNotFound


async def _stats(request: web.Request) -> web.StreamResponse:
    _refuse_strangers(request)
    shop = request.app[SHOP]
    seen = {segment: asdict(entry) for segment, entry in shop.seen.items()}
    return web.json_response({"version": shop.version, "segments": seen})


async def _install(request: web.Request) -> web.StreamResponse:
    _refuse_strangers(request)
    try:
        fault = Fault.from_dict(await request.json())
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{error}\n") from error
    request.app[SHOP].faults.append(fault)
    return web.json_response({"installed_unix": time.time()})


async def _heal(request: web.Request) -> web.StreamResponse:
    _refuse_strangers(request)
    request.app[SHOP].faults.clear()
    return web.json_response({})


async def _close(app: web.Application) -> None:
    await asyncio.to_thread(app[SHOP].telemetry.close)


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="shop", description="One version of the demo's shop.")
    parser.add_argument("--version", required=True, help="what this server says it is, such as v1")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--otlp", metavar="HOST:PORT", help="where spans and events go (OTLP over gRPC)")
    parser.add_argument("--beacon", metavar="URL", help="where pages send what is seen and clicked (OTLP over HTTP)")
    parser.add_argument("--dead-button", action="store_true", help="the button on the product's page does nothing")
    parser.add_argument("--seed", type=int, default=0, help="of the shop's own chance")
    options = parser.parse_args(argv)
    try:
        telemetry = Telemetry(options.version, options.otlp)
    except ImportError as error:
        # Another distribution ships an older copy of the same modules, and the last one installed wins.
        print(f"shop: {error}; `pip install --force-reinstall --no-deps opentelemetry-proto` mends it", file=sys.stderr)
        return 1
    shop = Shop(
        version=options.version,
        telemetry=telemetry,
        rng=random.Random(f"{options.version}:{options.seed}"),
        beacon=options.beacon,
        button_works=not options.dead_button,
    )
    try:
        web.run_app(
            make_app(shop), host=options.host, port=options.port, print=None, access_log=None, shutdown_timeout=1
        )
    except OSError as error:
        print(f"shop {options.version}: cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
