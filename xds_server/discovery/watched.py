"""Files of endpoints, looked at again and again: what they say, and why what they say now is not taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from xds_server.discovery.endpoint_file import (
    NO_LISTENERS,
    one_line,
    parse_endpoints,
    problem,
    read_text,
    unreadable,
)
from xds_server.file_signature import Signature, signature
from xds_server.mesh import Address
from xds_server.mesh_file import MeshError, Problem


@dataclass(slots=True)
class WatchedFile:
    """One file. Its methods do I/O: a thread may call them, one at a time.

    `endpoints`: the last ones that could be taken. `why_not`: why what is there now cannot be; empty: it is taken.
    """

    path: Path
    endpoints: tuple[Address, ...] = ()
    why_not: str = ""
    _taken: Signature | None = None  # of what was read last, right or wrong
    _seen: Signature | None = None

    def load(self, listeners: Mapping[Address, str]) -> None:
        """Take what is there; raises MeshError if that cannot be."""
        there = self._signature()
        self.endpoints = parse_endpoints(read_text(self.path), str(self.path), listeners)
        self._taken = self._seen = there

    def look(self, listeners: Mapping[Address, str]) -> bool:
        """Take what is there if it is new and right; return whether anything has changed by that.

        What is new must have stood still since the last look: it may be half written.
        """
        before = (self.endpoints, self.why_not)
        try:
            there = self._signature()
            if there != self._taken:
                self._take(there, listeners)
        except MeshError as error:
            self._taken, self.why_not = None, one_line(error.problems)
        return (self.endpoints, self.why_not) != before

    def _take(self, there: Signature, listeners: Mapping[Address, str]) -> None:
        if there != self._seen:
            self._seen = there
            return
        text = read_text(self.path)
        if self._signature() != there:
            return
        self._taken = there
        try:
            self.endpoints, self.why_not = parse_endpoints(text, str(self.path), listeners), ""
        except MeshError as error:
            self.why_not = one_line(error.problems)

    def _signature(self) -> Signature:
        try:
            return signature(self.path)
        except (OSError, ValueError) as error:
            self._seen = None
            raise MeshError([problem(str(self.path), unreadable(error))]) from None


OpenedFiles: TypeAlias = Mapping[str, WatchedFile]
"""By name."""


class WatchedFiles:
    """The files of a mesh, by name."""

    def __init__(self) -> None:
        self._files: OpenedFiles = {}
        self._listeners = NO_LISTENERS

    def opened(self, known: Mapping[str, tuple[Address, ...]], listeners: Mapping[Address, str]) -> OpenedFiles:
        """Read those of these files that are new here; nothing is changed. It may be called in a thread.

        `known`: by name, what each said the last time that it was right; or ().

        Raises
        ------
        MeshError
            A new file cannot be taken, and nothing is known of what it said.
        """
        problems: list[Problem] = []
        files = {name: self._files.get(name) or WatchedFile(Path(name), known[name]) for name in known}
        for name in [name for name in files if name not in self._files]:
            try:
                files[name].load(listeners)
            except MeshError as error:
                files[name].why_not = one_line(error.problems)
                if not known[name]:
                    problems += error.problems
        if problems:
            raise MeshError(problems)
        return files

    def adapt(self, files: OpenedFiles, listeners: Mapping[Address, str]) -> None:
        """Watch these files and no others."""
        self._files, self._listeners = files, listeners

    def look(self) -> list[WatchedFile]:
        """Look at every file, and return those with news. It may be called in a thread, one at a time."""
        return [file for file in tuple(self._files.values()) if file.look(self._listeners)]

    def __getitem__(self, name: str) -> WatchedFile:
        return self._files[name]

    def __iter__(self) -> Iterator[WatchedFile]:
        return iter(tuple(self._files.values()))
