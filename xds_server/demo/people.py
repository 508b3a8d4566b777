"""Simulated people: sessions of requests sent through the mesh, and the truth about what befell them.

    python -m xds_server.demo.people --target 127.0.0.1:8000 --shops v1=127.0.0.1:9001,v2=127.0.0.1:9002 --fault all

Arrivals are open-loop: people come whether or not the shop answers. The fault is drawn and installed in here, directly
at the shops; what it was is written to `--report` when all is over, and told to nobody before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import aiohttp

from xds_server.demo.fault import (
    CAUSE_HEADER,
    CHOICES,
    DRAW_HEADER,
    NEWCOMER_VISITS,
    ONSET_S,
    P_ABANDONED,
    P_CHANCE_ERROR,
    P_WISHLIST,
    SEGMENTS,
    USER_HEADER,
    VERSION_HEADER,
    FaultPlan,
    plan_faults,
)

REQUESTS_PER_SESSION = 6.04  # on average, abandoned sessions and wishlists included
PATHS = ("/", "/search", "/product/7", "/cart", "/checkout", "/checkout/done")
ONWARD = b'rel="next"'
REQUEST_TIMEOUT_S = 10.0
DRAIN_S = 7.0  # longer than a session lasts
UNANSWERED = "none"  # the version of an answer that no shop gave

Cause = Literal["fault", "chance", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request of a session, and the pause before the next one."""

    method: str
    path: str
    think_s: float
    unlucky: bool = False  # meets a chance error


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """What a person sets out to do. Without a fault that is what happens."""

    segment: str
    headers: Mapping[str, str]
    visits: tuple[Visit, ...]

    @property
    def is_good(self) -> bool:
        """Whether, but for a fault, the person reaches the goal and meets no error."""
        return self.visits[-1].path == PATHS[-1] and not any(visit.unlucky for visit in self.visits)


def plan_session(rng: random.Random) -> SessionPlan:
    """Return a fresh person's session: 10 % are left at a random step before the goal, 0.5 % meet one error."""
    segment = rng.choice(SEGMENTS)
    n_pages = rng.randint(1, len(PATHS) - 1) if rng.random() < P_ABANDONED else len(PATHS)
    wishes = rng.random() < P_WISHLIST
    visits: list[Visit] = []
    for path in PATHS[:n_pages]:
        method = "POST" if path == "/checkout" else "GET"
        visits.append(Visit(method=method, path=path, think_s=rng.uniform(0.5, 0.95)))
        if wishes and path.startswith("/product/"):
            visits.append(Visit(method="POST", path="/api/wishlist", think_s=rng.uniform(0.1, 0.2)))
    if rng.random() < P_CHANCE_ERROR:
        i = rng.randrange(len(visits))
        visits[i] = Visit(method=visits[i].method, path=visits[i].path, think_s=visits[i].think_s, unlucky=True)
    return SessionPlan(segment=segment, headers=_headers(segment, rng), visits=tuple(visits))


def _headers(segment: str, rng: random.Random) -> dict[str, str]:
    """Return headers that put a fresh person in `segment`, and that say other things about them as well."""
    newcomer = segment == "newcomers" or (segment in ("power", "eu") and rng.random() < 0.3)
    european = segment == "eu" or (segment == "power" and rng.random() < 0.3)
    return {
        USER_HEADER: f"{rng.getrandbits(64):016x}",
        "x-plan": "pro" if segment == "power" else "free",
        "x-region": "eu" if european else "us",
        "x-visits": str(rng.randrange(NEWCOMER_VISITS) if newcomer else rng.randint(NEWCOMER_VISITS, 60)),
    }


@dataclass(slots=True)
class Tally:
    """What befell the people of one segment at one version.

    A session counts where it began, except that whomever the canary's fault met counts for the canary.
    """

    requests: int = 0
    failed: int = 0
    sessions: int = 0
    bad: int = 0  # any of the following
    error: int = 0
    slow: int = 0
    abandoned: int = 0
    faulty: int = 0  # met a faulty answer of any kind
    harmed: int = 0  # would have been good, and met the canary's fault


@dataclass(slots=True)
class Journey:
    """One session as it went. `planned_good`: it would have gone well but for a fault."""

    planned_good: bool = True
    began_at: str | None = None  # the version that gave the first answer
    struck_by_canary: bool = False
    error: bool = False
    slow: bool = False
    faulty: bool = False
    reached: bool = False
    left_canary_unix: float | None = None  # when the last answer from the canary came, while it is the latest


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    version: str
    status: int  # 0: none came
    cause: str | None
    onward: bool
    slow: bool
    why: str = ""


@dataclass(slots=True)
class Books:
    """The truth of a run, kept by whoever lives through it."""

    baseline: str
    canary: str
    tallies: dict[str, dict[str, Tally]] = field(default_factory=lambda: {segment: {} for segment in SEGMENTS})
    failed: dict[Cause, int] = field(default_factory=lambda: {"fault": 0, "chance": 0, "other": 0})
    others: list[str] = field(default_factory=list)
    flips: list[dict[str, object]] = field(default_factory=list)
    started: int = 0
    complete: int = 0
    abandoned: int = 0
    cut: int = 0

    def tally(self, segment: str, version: str) -> Tally:
        return self.tallies[segment].setdefault(version, Tally())

    def request(self, segment: str, journey: Journey, answer: Answer) -> None:
        tally = self.tally(segment, answer.version)
        tally.requests += 1
        if answer.status >= 400 or answer.status == 0:
            tally.failed += 1
            journey.error = True
            self._failure(answer)
        journey.slow |= answer.slow
        journey.faulty |= answer.cause == "fault"
        journey.struck_by_canary |= answer.cause == "fault" and answer.version == self.canary
        journey.began_at = journey.began_at or answer.version
        self._move(segment, journey, answer.version)

    def _failure(self, answer: Answer) -> None:
        cause: Cause = "fault" if answer.cause == "fault" else "chance" if answer.cause == "chance" else "other"
        self.failed[cause] += 1
        if cause == "other" and len(self.others) < 20:
            self.others.append(f"{answer.version} {answer.status} {answer.why}".strip())

    def _move(self, segment: str, journey: Journey, version: str) -> None:
        now = time.time()
        if version == self.baseline:
            if journey.left_canary_unix is not None:
                self.flips.append({"segment": segment, "from_unix": journey.left_canary_unix, "to_unix": now})
            journey.left_canary_unix = None
        elif version == self.canary:
            journey.left_canary_unix = now

    def session(self, segment: str, journey: Journey) -> None:
        on_canary = journey.struck_by_canary or journey.began_at == self.canary
        tally = self.tally(segment, self.canary if on_canary else self.baseline)
        tally.sessions += 1
        tally.error += journey.error
        tally.slow += journey.slow
        tally.abandoned += not journey.reached
        tally.faulty += journey.faulty
        tally.harmed += journey.struck_by_canary and journey.planned_good
        tally.bad += journey.error or journey.slow or journey.faulty or not journey.reached
        self.complete += journey.reached
        self.abandoned += not journey.reached


@dataclass(slots=True)
class People:
    """Everybody who visits the shop in one run."""

    target: str
    host: str
    client: aiohttp.ClientSession
    books: Books
    slow_ms: float

    async def walk(self, plan: SessionPlan) -> None:
        """Live through one session. An error does not end it; a page that leads nowhere does."""
        journey = Journey(planned_good=plan.is_good)
        self.books.started += 1
        try:
            for i, visit in enumerate(plan.visits):
                answer = await self._ask(plan, visit)
                self.books.request(plan.segment, journey, answer)
                if visit.path == PATHS[-1] and answer.status == 200:
                    journey.reached = True
                dead_end = visit.path in PATHS and answer.status == 200 and not answer.onward
                if dead_end or i == len(plan.visits) - 1:
                    break
                await asyncio.sleep(visit.think_s)
        except asyncio.CancelledError:
            self.books.cut += 1
            raise
        self.books.session(plan.segment, journey)

    async def _ask(self, plan: SessionPlan, visit: Visit) -> Answer:
        headers = {**plan.headers, "host": self.host}
        if visit.unlucky:
            headers[DRAW_HEADER] = "error"
        began = time.perf_counter()
        try:
            async with self.client.request(visit.method, self.target + visit.path, headers=headers) as response:
                body = await response.read()
                return Answer(
                    version=response.headers.get(VERSION_HEADER, UNANSWERED),
                    status=response.status,
                    cause=response.headers.get(CAUSE_HEADER),
                    onward=ONWARD in body,
                    slow=(time.perf_counter() - began) * 1_000 > self.slow_ms,
                    why=body[:80].decode(errors="replace") if response.status >= 400 else "",
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            return Answer(version=UNANSWERED, status=0, cause=None, onward=False, slow=True, why=repr(error))


@dataclass(slots=True)
class Installed:
    """The faults of a run as they were installed."""

    plan: FaultPlan
    onset_unix: float | None = None
    shops: Mapping[str, str] = field(default_factory=dict)

    async def install(self, client: aiohttp.ClientSession) -> None:
        await asyncio.sleep(self.plan.onset_s)
        for fault in self.plan.faults:
            url = f"http://{self.shops[fault.version]}/_demo/fault"
            async with client.post(url, json=fault.as_dict()) as response:
                response.raise_for_status()
                self.onset_unix = float((await response.json())["installed_unix"])

    def as_dict(self) -> list[dict[str, object]]:
        return [
            {**fault.as_dict(), "excess": round(fault.excess(), 4), "onset_unix": self.onset_unix}
            for fault in self.plan.faults
        ]


async def _arrive(people: People, rng: random.Random, *, rate: float, duration_s: float) -> None:
    """Send people in, `rate` requests a second on average, then let the last of them finish."""
    loop = asyncio.get_running_loop()
    sessions: set[asyncio.Task[None]] = set()
    began = due = loop.time()
    try:
        while due - began < duration_s:
            await asyncio.sleep(due - loop.time())
            session = asyncio.create_task(people.walk(plan_session(rng)))
            sessions.add(session)
            session.add_done_callback(sessions.discard)
            due += rng.expovariate(rate / REQUESTS_PER_SESSION)
        if sessions:
            await asyncio.wait(sessions, timeout=DRAIN_S)
    finally:
        for session in sessions:
            session.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)


async def run(options: argparse.Namespace) -> dict[str, object]:
    """Return the truth about a whole run, which ends after its duration or on SIGTERM or SIGINT."""
    shops = dict(shop.split("=", 1) for shop in options.shops.split(","))
    baseline, canary = tuple(shops)[:2]
    installed = Installed(plan=plan_faults(options.fault, options.seed, options.onset), shops=shops)
    books = Books(baseline=baseline, canary=canary)
    started = time.time()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        skip_auto_headers=("user-agent", "accept", "accept-encoding", "content-type"),
    ) as client:
        people = People(
            target=f"http://{options.target}",
            host=options.host,
            client=client,
            books=books,
            slow_ms=options.slow_ms,
        )
        crowd = asyncio.create_task(
            _arrive(people, random.Random(f"people:{options.seed}"), rate=options.rate, duration_s=options.duration)
        )
        fault = asyncio.create_task(installed.install(client))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, crowd.cancel)
        await asyncio.wait({crowd})
        fault.cancel()
        await asyncio.gather(crowd, fault, return_exceptions=True)
    for task in (crowd, fault):
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
    return _report(options, books, installed, started)


def _report(options: argparse.Namespace, books: Books, installed: Installed, started_unix: float) -> dict[str, object]:
    return {
        "choice": options.fault,
        "seed": options.seed,
        "rate": options.rate,
        "started_unix": started_unix,
        "ended_unix": time.time(),
        "onset_s": installed.plan.onset_s,
        "faults": installed.as_dict(),
        "requests": sum(tally.requests for versions in books.tallies.values() for tally in versions.values()),
        "failed": books.failed,
        "failed_examples": books.others,
        "sessions": {
            "started": books.started,
            "complete": books.complete,
            "abandoned": books.abandoned,
            "cut": books.cut,
        },
        "segments": {
            segment: {version: asdict(tally) for version, tally in sorted(versions.items())}
            for segment, versions in books.tallies.items()
        },
        "flips": books.flips,
    }


def main(argv: list[str] | None = None) -> int:
    """Simulate people, and write the truth when they have gone."""
    parser = argparse.ArgumentParser(prog="people", description="Simulated people of the demo's shop.")
    parser.add_argument("--target", required=True, metavar="HOST:PORT", help="the edge gateway")
    parser.add_argument("--host", default="shop", help="the domain that people ask for")
    parser.add_argument(
        "--shops", required=True, metavar="V1=HOST:PORT,V2=…", help="the shops themselves, baseline first"
    )
    parser.add_argument("--fault", choices=CHOICES, default="all")
    parser.add_argument("--onset", type=float, default=ONSET_S, help="seconds until the fault (`random` draws its own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--duration", type=float, default=180.0, help="seconds during which people arrive")
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second")
    parser.add_argument("--slow-ms", type=float, default=700.0, help="what people themselves find slow")
    parser.add_argument("--report", type=Path, help="where the truth is written (JSON)")
    options = parser.parse_args(argv)
    truth = json.dumps(asyncio.run(run(options)), indent=1)
    if options.report is None:
        print(truth)
    else:
        options.report.write_text(truth + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
