"""The composition root: builds every part of a control plane, runs them in one TaskGroup, ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import signal
import sys
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc

from xds_server import __version__
from xds_server.ads.cache import AdsCache
from xds_server.ads.csds import add_csds
from xds_server.ads.servicer import DRAIN_S, XdsService, add_ads
from xds_server.app_options import RunOptions
from xds_server.clock import SystemClock
from xds_server.control import add_control
from xds_server.discovery.servicer import add_registry
from xds_server.discovery.sources import EndpointSources
from xds_server.entrance import GRACE_S, Entrance, listen_on
from xds_server.flags.asking import Door
from xds_server.flags.evaluation import Flags
from xds_server.flags.growthbook import GrowthBook
from xds_server.flags.ofrep import Ofrep
from xds_server.garbage import settle
from xds_server.health import add_health
from xds_server.history_api import add_history
from xds_server.ingest import Ingest
from xds_server.ingest.als import FLUSH_S, add_als
from xds_server.ingest.lrs import add_lrs
from xds_server.ingest.otlp import add_otlp
from xds_server.ingest.otlp_http import OtlpHttp
from xds_server.learnt.servicer import add_authorization
from xds_server.mesh import Mesh, with_hold_secret
from xds_server.mesh_file import MeshError, Problem
from xds_server.mesh_watch import MeshWatch
from xds_server.reflection import MAIN_SERVICES, OTLP_SERVICES, add_reflection
from xds_server.rollout.controller import Controller
from xds_server.rollout.status import lost_shares
from xds_server.settings import load_mesh
from xds_server.snapshot import ResourceType
from xds_server.store.endpoints import EndpointStore
from xds_server.store.journal import Journal
from xds_server.telemetry import Telemetry
from xds_server.training import add_training
from xds_server.web.app import create_app
from xds_server.web.server import serve

log = logging.getLogger(__name__)

QUEUE_LIMIT = 200_000  # rows a service between two ticks; the oldest go first, and are counted
FORECAST_MODULE = "statsmodels.tsa.statespace.structural"


async def run(options: RunOptions) -> int:
    """Run a control plane until SIGTERM or SIGINT; returns the exit code.

    Raises MeshError for a wrong mesh file and SerinusError for a port or data directory that cannot be used, before
    anything has been served.
    """
    logging.basicConfig(
        level=options.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    mesh = load_mesh(options.mesh_path)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with contextlib.closing(Journal(options.data_dir)) as journal:
        hold_secret = journal.secret("segment_hold")
        mesh = with_hold_secret(mesh, hold_secret)
        clock, telemetry, cache = SystemClock(), Telemetry(__version__), AdsCache()
        entrance = Entrance.of(options, telemetry)
        entrance.check(mesh)
        entrance.access.change(mesh.access)
        ingest = Ingest(mesh, user_hash_key=journal.secret(), queue_limit=QUEUE_LIMIT, clock=clock)
        sources = EndpointSources(mesh, clock=clock, store=EndpointStore(journal))
        controller = Controller(
            mesh=mesh, journal=journal, cache=cache, ingest=ingest, telemetry=telemetry, clock=clock, sources=sources
        )

        async def adopt(read: Mesh) -> None:
            changed = with_hold_secret(read, hold_secret)
            entrance.check(changed)
            await controller.change_mesh(changed)
            entrance.access.change(changed.access)

        watch = MeshWatch(options.mesh_path, adopt=adopt, refuse=controller.refuse_mesh, beside=mesh.files)
        loop.add_signal_handler(signal.SIGHUP, watch.ask)
        parts = _Parts(
            entrance=entrance,
            cache=cache,
            ingest=ingest,
            telemetry=telemetry,
            sources=sources,
            controller=controller,
            watch=watch,
        )
        _watch(parts)
        try:
            await _serve(options, parts, stop)
        finally:
            telemetry.close()
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What a control plane is made of, beside what it serves on."""

    entrance: Entrance
    cache: AdsCache
    ingest: Ingest
    telemetry: Telemetry
    sources: EndpointSources
    controller: Controller
    watch: MeshWatch


def _watch(parts: _Parts) -> None:
    cache, ingest, controller, telemetry = parts.cache, parts.ingest, parts.controller, parts.telemetry
    telemetry.watch_ready(cache.ready.is_set)
    telemetry.watch_ingest(
        entries=lambda: ingest.counts, depth=ingest.depths, dropped=ingest.dropped, samples=ingest.accepted
    )
    telemetry.watch_labels(labels=ingest.labels, overflow=ingest.labels_overflow)
    telemetry.watch_sessions(
        begun=controller.begun_sessions,
        bots=controller.bot_sessions,
        followed=controller.open_sessions,
        evicted=controller.evicted_sessions,
    )
    telemetry.watch_xds(
        responses=lambda: dict(cache.counters.by_type),
        nodes=cache.connected_n,
    )
    telemetry.watch_profiles(sessions=controller.profiling.sessions, people=controller.profiling.people)
    telemetry.watch_history(
        rollouts=lambda: controller.past.kept.rollouts, stored_bytes=lambda: controller.past.kept.bytes
    )
    telemetry.watch_learned(lambda: {str(result): n for result, n in controller.resolver.counts.items()})
    sources = parts.sources
    telemetry.watch_endpoints(published=sources.published_n, stale=sources.stale_n, events=sources.events)


async def _serve(options: RunOptions, parts: _Parts, stop: asyncio.Event) -> None:
    cache, controller, telemetry = parts.cache, parts.controller, parts.telemetry
    listener = listen_on(options.http_host, options.http_port)
    otlp_http = OtlpHttp(ingest=parts.ingest, asks_certificates=options.tls_client_ca is not None, until=stop)
    telemetry.watch_otlp_http(lambda: otlp_http.answers)
    flags = Flags(told=controller.told, names=controller.names, learned=controller.learned_segment)
    telemetry.watch_flags(lambda: {str(result): n for result, n in flags.answers.items()})
    door = Door(flags=flags, origins=lambda: parts.ingest.origins, asks_certificates=options.tls_client_ca is not None)
    app = create_app(
        not_ready=lambda: None if cache.ready.is_set() else "nothing has been published yet",
        metrics=telemetry.render,
        more=[*otlp_http.routes(), *Ofrep(door).routes(), *GrowthBook(door).routes()],
    )
    http_port = listener.getsockname()[1]
    with contextlib.closing(listener):
        async with (
            parts.entrance.open(options.grpc_host, options.grpc_port) as (main, grpc_port),
            parts.entrance.open(options.grpc_host, options.otlp_port) as (otlp, otlp_port),
        ):
            xds = _add_services(main, otlp, parts, stop)
            controller.restore()
            await _check(options.mesh_path, controller)
            settle()
            await main.start()
            await otlp.start()
            host = options.grpc_host
            log.info("xDS, ALS, control and registry on %s:%d, OTLP on %s:%d", host, grpc_port, host, otlp_port)
            log.info("HTTP on %s:%d", options.http_host, http_port)
            await _until(stop, parts, serve(app, listener, stop))
            log.info("ending")
            # GOAWAY first: who comes back goes elsewhere, or waits, while streams end one after the other.
            going = asyncio.create_task(main.stop(DRAIN_S + GRACE_S))
            await xds.drain()
            await going


def _add_services(main: grpc.aio.Server, otlp: grpc.aio.Server, parts: _Parts, stop: asyncio.Event) -> XdsService:
    cache, controller, ingest, telemetry = parts.cache, parts.controller, parts.ingest, parts.telemetry
    xds = add_ads(main, cache)
    logs = add_als(main, ingest, until=stop)
    loads = add_lrs(main, ingest, rolling=controller.rolling, until=stop)
    add_control(main, controller, until=stop)
    add_history(main, controller.past)
    add_training(main, controller.risk)
    laggards = partial(cache.laggards, ResourceType.EDS)
    add_registry(main, parts.sources, laggards, clock=SystemClock(), until=stop)
    add_csds(main, cache, until=stop)
    add_authorization(main, controller.resolver)
    for server, services in ((main, MAIN_SERVICES), (otlp, OTLP_SERVICES)):
        add_otlp(server, ingest, until=stop)
        add_health(server, services, ready=cache.ready, until=stop)
        add_reflection(server, services, until=stop)
    telemetry.watch_refusals(lambda: {str(reason): n for reason, n in xds.refusals.items()})
    telemetry.watch_access_logs(waiting_bytes=lambda: logs.waiting_bytes, waiting=lambda: logs.waiting_n)
    telemetry.watch_loads(
        lost=lambda: lost_shares(controller.log_checks()),
        streams=lambda: loads.streams,
        nodes=lambda: len(ingest.loads.nodes),
    )
    return xds


async def _check(path: Path, controller: Controller) -> None:
    """Refuse to begin with a mesh that Envoy would reject; what our own checks find has been refused before."""
    refusal = await controller.refusal()
    if refusal is not None:
        raise MeshError([Problem(file=str(path), line=None, key="", message=refusal, legal="")])


async def _until(stop: asyncio.Event, parts: _Parts, web: Coroutine[None, None, None]) -> None:
    """Run the loop and the HTTP side until told to stop."""
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(web)
        ticking = tasks.create_task(parts.controller.run())
        looking = [tasks.create_task(part.run()) for part in (parts.sources, parts.watch)]
        if parts.entrance.certificate is not None:
            looking.append(tasks.create_task(parts.entrance.certificate.run()))
        # The forecast's library takes seconds to import. A daemon, so that an early end need not wait for it.
        threading.Thread(target=_load_forecasts, daemon=True).start()
        await stop.wait()
        for task in looking:
            task.cancel()
        await asyncio.sleep(FLUSH_S)  # what has arrived is still taken up
        ticking.cancel()
        await serving


def _load_forecasts() -> None:
    importlib.import_module(FORECAST_MODULE)
    gc.freeze()  # it is there to stay as well
