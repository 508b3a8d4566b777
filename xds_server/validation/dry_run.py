"""Lets a real Envoy check a configuration that no Envoy has been sent: `envoy --mode validate`."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from xds_server.resources import Resources
from xds_server.validation.static_bootstrap import static_bootstrap

TIMEOUT_S = 10.0
"""Ample: 500 services take under a second."""

Item = TypeVar("Item")

_LONGEST_LINE = 400
_PREFIX = re.compile(r"error initializing configuration '[^']*': ")
# The whole message that breaks a rule is printed in front of what is said about it.
_BROKEN_RULE = re.compile(r"Proto constraint validation failed \((?P<chain>.*)\)\s*\Z", re.DOTALL)
_DUMP = re.compile(r":?\s*goo\.gle/debug\w*\s.*", re.DOTALL)
_STEP = re.compile(r"\w*ValidationError\.(?P<field>[^:]*): (?P<reason>.*)", re.DOTALL)
_ONEOF = re.compile(r'field: "(?P<field>\w+)", reason: (?P<reason>.*)', re.DOTALL)


def envoy_binary() -> str | None:
    """Return the Envoy on PATH or beside this Python, None if there is none."""
    return shutil.which("envoy") or shutil.which("envoy", path=str(Path(sys.executable).parent))


async def refusal(built: Resources, *, timeout_s: float = TIMEOUT_S) -> str | None:
    """Ask Envoy whether it would take these resources. None: it would, or there is no Envoy to ask; else why not.

    The answer is one line: where as exactly as could be found out in time, and Envoy's own words. To find out where,
    ever smaller parts are checked, which takes about ten times as long as the check itself.

    Raises
    ------
    TimeoutError
        Envoy did not come to an end in time; it has been killed.
    OSError
        Envoy could not be started.
    """
    envoy = envoy_binary()
    if envoy is None:
        return None
    deadline = asyncio.get_running_loop().time() + timeout_s
    async with asyncio.timeout_at(deadline):
        complaint = await _complaint(envoy, built)
    if complaint is None:
        return None

    async def is_refused(part: Resources) -> bool:
        return await _complaint(envoy, part) is not None

    place = ""
    with contextlib.suppress(OSError):  # of which TimeoutError is one: what was found until then is good enough
        async with asyncio.timeout_at(deadline):
            async for narrower in _places(built, is_refused):
                place = f"{narrower}: "
    return place + complaint


# --- One run ----------------------------------------------------------------------------------------------------------


async def _complaint(envoy: str, built: Resources) -> str | None:
    with tempfile.TemporaryDirectory(prefix="serinus-") as directory:
        file = Path(directory, "bootstrap.pb")
        await _to_the_end(asyncio.to_thread(_write, file, built))
        process = await asyncio.create_subprocess_exec(
            envoy,
            *("--mode", "validate", "--config-path", str(file), "--log-level", "critical", "--log-format", "%v"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, said = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()  # not `wait`: that never ends while there is something left to read
    if process.returncode == 0:
        return None
    return essence(said.decode(errors="replace")) or f"envoy ended with {process.returncode} and said nothing"


def _write(file: Path, built: Resources) -> None:
    file.write_bytes(static_bootstrap(built).SerializeToString())


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for a thread even if cancelled, so that it is out of the directory when that is removed."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def essence(said: str) -> str:
    """Return the one line of what Envoy says that matters, without the configuration that it repeats."""
    text = _PREFIX.split(said, maxsplit=1)[-1]
    broken = _BROKEN_RULE.search(text)
    text = _broken_rule(broken["chain"]) if broken else _DUMP.sub("", text)
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 3] + "..."


def _broken_rule(chain: str) -> str:
    """Join the path that is told message by message: `StaticResources.Clusters[0].Name: value length must be …`."""
    path: list[str] = []
    reason = ""
    for link in (link.strip() for link in chain.split(" | caused by ")):
        step = _STEP.fullmatch(link) or _ONEOF.fullmatch(link)
        if step is None:
            return chain
        path.append(step["field"])
        reason = step["reason"]
    return f"{'.'.join(path)}: {reason}"


# --- Where it is ------------------------------------------------------------------------------------------------------


async def _places(built: Resources, is_refused: Callable[[Resources], Awaitable[bool]]) -> AsyncIterator[str]:
    """Name what is refused, ever more exactly. Ends where only several parts together are."""
    without = replace(built, listeners=(), routes=())
    if await is_refused(without):
        cluster = await _culprit(built.clusters, lambda some: is_refused(replace(without, clusters=tuple(some))))
        if cluster is not None:
            yield f"CDS {cluster.name}"
        return
    # There is nothing wrong with the clusters: routes need no more of them than the name.
    built = replace(built, clusters=tuple(type(each)(name=each.name) for each in built.clusters))
    listener = await _culprit(built.listeners, lambda some: is_refused(replace(built, listeners=tuple(some))))
    if listener is None:
        return
    yield f"LDS {listener.name}"
    alone = replace(built, listeners=(listener,))
    config = await _culprit(built.routes, lambda some: is_refused(replace(alone, routes=tuple(some))))
    if config is None:
        return
    async for place in _places_in_routes(config, lambda part: is_refused(replace(alone, routes=(part,)))):
        yield place


async def _places_in_routes(config: Any, is_refused: Callable[[Any], Awaitable[bool]]) -> AsyncIterator[str]:
    yield f"RDS {config.name}"
    host = await _culprit(config.virtual_hosts, lambda some: is_refused(_with(config, "virtual_hosts", some)))
    if host is None:
        return
    yield f"RDS {config.name}, virtual host {host.name}"

    def with_routes(some: Sequence[Any]) -> Any:
        return _with(config, "virtual_hosts", [_with(host, "routes", some)])

    route = await _culprit(host.routes, lambda some: is_refused(with_routes(some)))
    if route is not None:
        yield f"RDS {config.name}, route {route.name}"


def _with(message: Any, field: str, items: Sequence[Any]) -> Any:
    """Copy a message, with these items in that field."""
    copy = type(message)()
    copy.CopyFrom(message)
    copy.ClearField(field)
    getattr(copy, field).extend(items)
    return copy


async def _culprit(items: Sequence[Item], is_refused: Callable[[Sequence[Item]], Awaitable[bool]]) -> Item | None:
    """Find one item that is refused by itself, by halving. None: it takes several, or what is around them is wrong."""
    if await is_refused([]):
        return None
    is_known = True  # that these items are refused
    while len(items) > 1:
        first, second = items[: len(items) // 2], items[len(items) // 2 :]
        is_known = await is_refused(first)
        items = first if is_known else second
    return items[0] if items and (is_known or await is_refused(items)) else None
