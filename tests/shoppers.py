"""People in the demo's shop: a few with a real browser, the mass by scripts that send what its pages send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from tests import chromium

WALK = ("/", "/search", "/product/7", "/cart", "/checkout", "/checkout/done")
PAGES_SEEN = tuple(f"page {path}" for path in ("/", "/search", "/product/*", "/cart", "/checkout", "/checkout/done"))
BUTTON, FEATURE, ONWARD = "click wishlist", "feature wishlist", "click onward"
"""What they do, as Serinus calls it."""


async def shop_in_browser(person: chromium.Person, url: str) -> bool:
    """Go from page to page as people do, and press the button on the way; whether it did anything."""
    works = False
    await person.open(url + WALK[0])
    for path in WALK[1:]:
        await person.click("#onward", leads_on=True)
        assert await person.see("location.pathname") == path
        if path.startswith("/product"):
            await person.click("#wishlist")
            works = await _is_remembered(person)
    await asyncio.sleep(0.3)  # the last beacon leaves
    return works


async def _is_remembered(person: chromium.Person) -> bool:
    button = "document.querySelector('#wishlist')"
    if await person.see(f"{button}.disabled"):
        await asyncio.sleep(0.3)
        assert await person.see(f"{button}.textContent") == "Remember it"
        return False
    look = f"() => {button}.textContent === 'Remembered' ? done(true) : setTimeout(look, 20)"
    return bool(await person.see(f"new Promise(done => {{ const look = {look}; look(); }})"))


async def shop_by_script(url: str, beacon: str, *, think_s: float = 0.0) -> bool:
    """The same, without a browser: one request a page, and what the page's script would send."""
    works = False
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
        for path in WALK:
            async with client.get(url + path) as answer:
                page = await answer.text()
            events: list[tuple[str, str, str | None]] = [("browser.page_view", path, None)]
            if "<button id" in page:  # else there is none, or it is dead
                async with client.post(url + "/api/wishlist"):
                    works = True
                events.append(("app.widget.click", path, "wishlist"))
            if 'id="onward"' in page:
                events.append(("app.widget.click", path, "onward"))
            headers = {"origin": url, "content-type": "application/json"}
            async with client.post(beacon + "/v1/logs", data=beacon_of(*events), headers=headers) as answer:
                assert (answer.status, await answer.text()) == (200, "{}")
            await asyncio.sleep(think_s)
    return works


def beacon_of(*events: tuple[str, str, str | None]) -> bytes:
    """What `beacon.js` sends of these: name, path, element."""

    def text(**named: str | None) -> list[dict[str, Any]]:
        pairs = {name.replace("_", "."): value for name, value in named.items()}
        return [{"key": name, "value": {"stringValue": value}} for name, value in pairs.items() if value is not None]

    records = [
        {
            "timeUnixNano": str(time.time_ns() + i * 1_000_000),
            "eventName": name,
            "attributes": text(app_widget_id=element, url_path=path),
        }
        for i, (name, path, element) in enumerate(events)
    ]
    resource = {"attributes": text(service_name="shop")}
    return json.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]}).encode()


@contextlib.asynccontextmanager
async def crowd(url: str, beacon: str, *, rate: float, think_s: float = 0.05) -> AsyncIterator[list[bool]]:
    """Ever new people come, `rate` a second, each with a cookie of their own; for whom the button did something."""
    done: list[bool] = []

    async def one() -> None:
        with contextlib.suppress(aiohttp.ClientError):
            done.append(await shop_by_script(url, beacon, think_s=think_s))

    async def come() -> None:
        async with asyncio.TaskGroup() as people:
            began, n = time.monotonic(), 0
            while not over.is_set():
                people.create_task(one())
                n += 1
                await asyncio.sleep(max(began + n / rate - time.monotonic(), 0))

    over = asyncio.Event()
    coming = asyncio.create_task(come())
    try:
        yield done
    finally:
        over.set()
        await coming
