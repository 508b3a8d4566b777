"""People with a real browser: headless Chromium, driven over its own protocol (CDP)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.waiting import until

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
    "--remote-debugging-port=0",
)  # fmt: skip
PATIENCE_S = 30.0


@dataclass(slots=True)
class Chromium:
    """One running browser, in which any number of people have a profile of their own."""

    socket: aiohttp.ClientWebSocketResponse
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _answers: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    _people: dict[str, Person] = field(default_factory=dict)

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        await self.socket.send_str(json.dumps(message if session is None else {**message, "sessionId": session}))
        async with asyncio.timeout(PATIENCE_S):
            return await answer

    async def listen(self) -> None:
        async for raw in self.socket:
            message = json.loads(raw.data)
            answer = self._answers.pop(message.get("id", 0), None)
            if answer is not None and not answer.done():
                if "error" in message:
                    answer.set_exception(AssertionError(message["error"]["message"]))
                else:
                    answer.set_result(message["result"])
            elif (person := self._people.get(message.get("sessionId", ""))) is not None:
                person.happened(message["method"], message.get("params", {}))

    async def person(self) -> Person:
        """Somebody who has never been here: no cookie, no cache."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        person = self._people[attached["sessionId"]] = Person(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            await person.call(f"{domain}.enable")
        return person


@dataclass(slots=True)
class Person:
    """Somebody at a page. `errors`: what the browser's console complains of."""

    browser: Chromium
    session: str
    errors: list[str] = field(default_factory=list)
    _loaded: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, method: str, **parameters: Any) -> Any:
        return await self.browser.call(method, self.session, **parameters)

    def happened(self, what: str, told: dict[str, Any]) -> None:
        if what == "Page.loadEventFired":
            self._loaded.set()
        elif what == "Log.entryAdded" and told["entry"]["level"] == "error" and "favicon" not in str(told):
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif what == "Runtime.exceptionThrown":
            self.errors.append(str(told["exceptionDetails"].get("text")))

    async def open(self, url: str) -> None:
        """Type an address, and wait until the page is there."""
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        await self._arrive()

    async def click(self, selector: str, *, leads_on: bool = False) -> None:
        """Press the mouse where an element is. `leads_on`: wait for the next page."""
        self._loaded.clear()
        where = f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
        x, y = await self.see(where + " return [r.x + r.width / 2, r.y + r.height / 2]; })()")
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        if leads_on:
            await self._arrive()

    async def see(self, expression: str) -> Any:
        """What an expression comes to on the page."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def _arrive(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._loaded.wait()


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Chromium]:
    """Run a browser with a profile that is thrown away."""
    assert BINARY is not None
    with tempfile.TemporaryDirectory(prefix="serinus-chromium-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            BINARY, *OPTIONS, f"--user-data-dir={profile}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port, path = await _devtools(Path(profile) / "DevToolsActivePort", process)
            async with (
                aiohttp.ClientSession() as client,
                client.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0) as socket,
            ):
                browser = Chromium(socket)
                listening = asyncio.create_task(browser.listen())
                try:
                    yield browser
                finally:
                    with contextlib.suppress(TimeoutError, ConnectionError):
                        async with asyncio.timeout(5):
                            await browser.call("Browser.close")
                    listening.cancel()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 5)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _devtools(address: Path, process: asyncio.subprocess.Process) -> tuple[str, str]:
    """Where it has chosen to be driven."""

    def said() -> list[str]:
        assert process.returncode is None, "Chromium has ended"
        return address.read_text().split() if address.exists() else []

    await until(lambda: len(said()) == 2, PATIENCE_S)
    port, path = said()
    return port, path
