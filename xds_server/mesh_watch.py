"""The mesh file, read again whenever it changes or somebody asks for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from xds_server.errors import JournalError, RefusedError
from xds_server.file_signature import LOOK_EVERY_S, Watched
from xds_server.mesh import Mesh
from xds_server.settings import MeshError, load_mesh

log = logging.getLogger(__name__)


class MeshWatch:
    """Looks at one file, and at those that are part of it.

    `adopt` serves another mesh, or raises RefusedError or JournalError. `refuse` is told why a file is not served. What
    is wrong changes nothing, and is said once.
    """

    def __init__(
        self,
        path: Path,
        *,
        adopt: Callable[[Mesh], Awaitable[None]],
        refuse: Callable[[str], None],
        beside: Iterable[str] = (),
    ) -> None:
        self._path = path
        self._adopt = adopt
        self._refuse = refuse
        self._beside = tuple(beside)
        self._file = Watched(path, *map(Path, self._beside))
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Read the file now, changed or not (SIGHUP)."""
        self._asked.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._asked.wait()
            except TimeoutError:
                pass
            has_news = self._file.has_news() and self._file.is_there
            if not (has_news or self._asked.is_set()):
                continue  # as it was, or still being written
            self._asked.clear()
            self._file.take()
            await self.read()

    async def read(self) -> None:
        """Read the file and let it be served."""
        try:
            mesh = await asyncio.to_thread(load_mesh, self._path)
            if mesh.files != self._beside:
                self._beside = mesh.files
                self._file = Watched(self._path, *map(Path, self._beside))
            await self._adopt(mesh)
        except MeshError as error:
            first, *others = map(str, error.problems)
            self._refuse(first + (f" (and {len(others)} more; see `serinus validate`)" if others else ""))
        except (RefusedError, JournalError) as error:
            self._refuse(str(error))
        except Exception as error:  # a fault of ours, which a file has found: rollouts are steered all the same
            log.exception("%s cannot be served", self._path)
            self._refuse(f"it cannot be served ({type(error).__name__}: {error})")
