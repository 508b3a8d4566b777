"""All endpoints that the mesh file does not list: what they are now, and who is told when they change."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from xds_server.clock import Clock
from xds_server.discovery.endpoint_file import ordered, read_address
from xds_server.discovery.registrations import Registrations
from xds_server.discovery.registry import Key, Registration
from xds_server.discovery.watched import OpenedFiles, WatchedFile, WatchedFiles
from xds_server.errors import BadRequestError, JournalError, SteeringError
from xds_server.file_signature import LOOK_EVERY_S
from xds_server.mesh import Address, EndpointFile, EndpointSource, Mesh, Registered
from xds_server.resources.clusters import cluster_name, needs_dns
from xds_server.snapshot.builder import NO_ENDPOINTS, Endpoints
from xds_server.store.endpoints import EndpointStore
from xds_server.units import WrongValueError, show

log = logging.getLogger(__name__)

EXPIRE_EVERY_S: Final = 0.5
GATHER_S: Final = 0.05
"""Changes that come so close together go out as one: when a service starts, all of its instances register."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionEndpoints:
    """What is known of one version's endpoints. `source`: mesh, file or registered.

    `why_not`: why what is in its file now is not taken. `registrations`: empty unless it is registered.
    """

    service: str
    version: str
    source: str
    endpoints: tuple[Address, ...]
    why_not: str = ""
    registrations: tuple[Registration, ...] = ()

    @property
    def stale(self) -> tuple[Registration, ...]:
        """Registrations whose lease has run out, and which are kept all the same."""
        return tuple(registration for registration in self.registrations if registration.is_stale)


class EndpointSources:
    """Where endpoints come from: watched files and registrations. All methods belong to the loop's thread.

    `on_change`: called after `current` has changed, by `run`.

    Raises
    ------
    MeshError
        A file of endpoints cannot be taken, and nothing is known of what it said.
    """

    def __init__(self, mesh: Mesh, *, clock: Clock, store: EndpointStore | None = None) -> None:
        self.on_change: Callable[[], None] | None = None
        self.file_events: Counter[str] = Counter()
        self._clock = clock
        self._store = store
        self._known = store.known() if store is not None else {}
        self._files = WatchedFiles()
        self._mesh = mesh
        self._sources: dict[Key, EndpointSource] = {}
        self._listeners: Mapping[Address, str] = {}
        self._current: Endpoints = NO_ENDPOINTS
        self._dirty: set[Key] = set()
        self._stirred = asyncio.Event()
        self._told = asyncio.Event()
        self._told.set()
        self._registrations = Registrations(_terms(mesh), clock=clock, store=store, on_change=self._changed)
        self.adapt(mesh, self._opened(mesh, self._known))
        self._last_told = self.current

    # --- the mesh file

    def opened(self, mesh: Mesh) -> OpenedFiles:
        """Read the files of another mesh that are new here; nothing is changed. It may be called in a thread.

        Raises
        ------
        MeshError
            A new file of endpoints cannot be taken.
        """
        return self._opened(mesh, {})

    def _opened(self, mesh: Mesh, known: Mapping[Key, tuple[Address, ...]]) -> OpenedFiles:
        files: dict[str, tuple[Address, ...]] = {}
        for key, source in _sources(mesh).items():
            if isinstance(source, EndpointFile):
                files[source.path] = files.get(source.path) or known.get(key, ())
        return self._files.opened(files, _listeners(mesh))

    def adapt(self, mesh: Mesh, files: OpenedFiles) -> None:
        """Take another mesh with the files `opened` for it; `current` fits it from then on.

        A version that becomes registered keeps the IP addresses that it had, as if they had registered just now.
        """
        before = {file.path for file in self._files}
        self._mesh, self._listeners = mesh, _listeners(mesh)
        self._files.adapt(files, self._listeners)
        for file in self._files:
            if file.why_not and file.path not in before:
                self._refused(file)
        self._sources = _sources(mesh)
        self._registrations.adapt(_terms(mesh))
        self._adopt()
        self._learn()
        self._dirty |= self._sources.keys()
        names = {cluster_name(*key) for key in self._sources}
        if not self._current.keys() <= names:
            self._current = MappingProxyType({n: found for n, found in self._current.items() if n in names})

    def _adopt(self) -> None:
        """Let versions that have become registered keep what they had; a version is not emptied by that."""
        for key, source in self._sources.items():
            if isinstance(source, Registered) and (known := self._known.get(key)) and not self._registrations.of(key):
                self._registrations.adopt(key, known, source.lease_s)

    def _learn(self) -> None:
        """Keep in mind what lists and files say; of those that register the registry knows more."""
        now: dict[Key, tuple[Address, ...]] = {}
        for service in self._mesh.services.values():
            for version in service.versions.values():
                addresses = version.endpoints
                if isinstance(version.source, EndpointFile):
                    addresses = self._files[version.source.path].endpoints
                if addresses and not needs_dns(addresses):
                    now[service.name, version.name] = addresses
        news: dict[Key, tuple[Address, ...] | None] = {k: a for k, a in now.items() if self._known.get(k) != a}
        news |= dict.fromkeys(self._known.keys() - now.keys())
        self._known = now
        if self._store is None or not news:
            return
        try:
            self._store.learn(news)
        except JournalError as error:
            log.error("what endpoint files say is not stored: %s", error)  # noqa: TRY400 -- one line

    # --- what they are now

    @property
    def current(self) -> Endpoints:
        """Endpoints by cluster, of every version that does not list them; another object only if they are others."""
        if self._dirty:
            keys, self._dirty = self._dirty & self._sources.keys(), set()
            found = {cluster_name(*key): self._endpoints(key) for key in keys}
            changed = {name: at for name, at in found.items() if self._current.get(name) != at}
            if changed:
                self._current = MappingProxyType({**self._current, **changed})
        return self._current

    def _endpoints(self, key: Key) -> tuple[Address, ...]:
        source = self._sources[key]
        if isinstance(source, EndpointFile):
            return self._files[source.path].endpoints
        return ordered(registration.address for registration in self._registrations.of(key))

    def lacking(self, service: str, version: str) -> str:
        """Say what is missing of a version that has no endpoints; empty: it has some."""
        key = (service, version)
        if key not in self._sources or self._endpoints(key):
            return ""
        return f"no endpoints of {version} are registered"

    def view(self, service: str | None = None) -> Iterator[VersionEndpoints]:
        """What is known of each version's endpoints, of one service or of all."""
        for name, found in self._mesh.services.items():
            if service is not None and name != service:
                continue
            for version in found.versions.values():
                key, source = (name, version.name), version.source
                if source is None:
                    yield VersionEndpoints(service=name, version=key[1], source="mesh", endpoints=version.endpoints)
                elif isinstance(source, EndpointFile):
                    file = self._files[source.path]
                    yield VersionEndpoints(
                        service=name, version=key[1], source="file", endpoints=file.endpoints, why_not=file.why_not
                    )
                else:
                    held = self._registrations.of(key)
                    yield VersionEndpoints(
                        service=name,
                        version=key[1],
                        source="registered",
                        endpoints=ordered(registration.address for registration in held),
                        registrations=held,
                    )

    def published_n(self) -> dict[tuple[str, str], int]:
        """How many endpoints each version has, of those that the mesh file does not list."""
        return {key: len(self._endpoints(key)) for key in self._sources}

    def stale_n(self) -> dict[tuple[str, str], int]:
        """How many of a version's registrations have run out and are kept all the same."""
        registered = (key for key, source in self._sources.items() if isinstance(source, Registered))
        return {key: sum(r.is_stale for r in self._registrations.of(key)) for key in registered}

    def events(self) -> dict[tuple[str, str], int]:
        """What has happened since the start, by source and event."""
        found = {("file", event): n for event, n in self.file_events.items()}
        return found | {("registered", event): n for event, n in self._registrations.events.items()}

    # --- registration

    def register(self, service: str, version: str, address: str, *, lease_s: float, who: str) -> Registration:
        """Take an endpoint in. `lease_s` 0: as long as the mesh file says.

        Raises
        ------
        SteeringError, JournalError
            It cannot be; nothing has been changed.
        """
        try:
            return self._registrations.register((service, version), self._address(address), lease_s=lease_s, who=who)
        except (SteeringError, JournalError):
            self._registrations.events["refused"] += 1
            raise

    def renew(self, lease: str) -> Registration:
        """Begin a lease anew; raises LostLeaseError."""
        return self._registrations.renew(lease)

    def deregister(self, lease: str) -> Registration:
        """Take an endpoint out, be it the last one; raises LostLeaseError."""
        return self._registrations.deregister(lease)

    def remove(
        self, service: str, version: str, address: str | None, *, who: str, reason: str
    ) -> tuple[Registration, ...]:
        """Obey a person who takes out an endpoint, or with None all stale ones of a version; raises SteeringError."""
        at = None if address is None else self._address(address)
        return self._registrations.remove((service, version), at, who=who, reason=reason)

    def _address(self, text: str) -> Address:
        try:
            return read_address(text, self._listeners)
        except WrongValueError as wrong:
            raise BadRequestError(f"{show(text)}: {wrong.message}; legal: {wrong.legal}") from wrong

    # --- life

    async def run(self) -> None:
        """Look at files and leases, and tell of changes, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._forever(self._look_at_files, LOOK_EVERY_S), name="endpoint files")
            tasks.create_task(self._forever(self._look_at_leases, EXPIRE_EVERY_S), name="leases")
            tasks.create_task(self._tell_forever(), name="changes of endpoints")

    async def _forever(self, look: Callable[[], Awaitable[None]], every_s: float) -> None:
        while True:
            try:
                await look()
            except Exception:
                log.exception("endpoints are not looked at")
            await self._clock.sleep(every_s)

    async def _look_at_files(self) -> None:
        for file in await asyncio.to_thread(self._files.look):
            if file.why_not:
                self._refused(file)
                continue
            self.file_events["accepted"] += 1
            log.info("%s: %d endpoints", file.path, len(file.endpoints))
            for key, source in self._sources.items():
                if isinstance(source, EndpointFile) and source.path == str(file.path):
                    self._changed(key)
            self._learn()

    def _refused(self, file: WatchedFile) -> None:
        self.file_events["refused"] += 1
        log.error("%s; what it said before is kept", file.why_not)

    async def _look_at_leases(self) -> None:
        self._registrations.expire()

    async def _tell_forever(self) -> None:
        while True:
            await self._stirred.wait()
            await self._clock.sleep(GATHER_S)
            self._stirred.clear()
            now = self.current
            if now is not self._last_told and self.on_change is not None:
                try:
                    self.on_change()
                except Exception:
                    log.exception("a change of endpoints is not published")
            self._last_told = now
            if not self._stirred.is_set():
                self._told.set()

    async def told(self) -> None:
        """Wait until `on_change` has heard of all that has happened."""
        await self._told.wait()

    def _changed(self, key: Key) -> None:
        self._dirty.add(key)
        self._told.clear()
        self._stirred.set()


def _terms(mesh: Mesh) -> dict[Key, float]:
    """How long registration lasts, at most, for each version that takes it."""
    return {key: source.lease_s for key, source in _sources(mesh).items() if isinstance(source, Registered)}


def check_files(mesh: Mesh) -> None:
    """Look whether the mesh's files of endpoints are right; raises MeshError if any is not."""
    files = {source.path: () for source in _sources(mesh).values() if isinstance(source, EndpointFile)}
    WatchedFiles().opened(files, _listeners(mesh))


def _sources(mesh: Mesh) -> dict[Key, EndpointSource]:
    """Where the endpoints of each version come from that the mesh file does not list."""
    return {
        (service.name, version.name): version.source
        for service in mesh.services.values()
        for version in service.versions.values()
        if version.source is not None
    }


def _listeners(mesh: Mesh) -> dict[Address, str]:
    """Where the mesh's Envoys listen, each in words."""
    gateways = {gateway.listen: f"gateway {gateway.node}" for gateway in mesh.gateways.values()}
    return gateways | {sidecar.listen: f"sidecar {sidecar.node}" for sidecar in mesh.sidecars.values()}
