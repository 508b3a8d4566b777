"""Whether a file is another one than before: one `stat`, taken again and again.

It sees renames and the links that Kubernetes swaps, on any file system.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeAlias

LOOK_EVERY_S: Final = 0.5
"""What has changed must stand still from one look to the next: it may be half written."""

Signature: TypeAlias = tuple[int, int, int, int]
"""Of what is in a file, and of who may read it: modified, changed (ns), inode, size."""


def signature(path: Path) -> Signature:
    """Look at a file; raises OSError, or ValueError of what cannot be a file name."""
    found = path.stat()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


class Watched:
    """Whether files are others than those that were taken, and have come to rest as that."""

    def __init__(self, *paths: Path) -> None:
        """What is there now counts as taken."""
        self._paths = paths
        self._taken = self._seen = self._look()

    def has_news(self) -> bool:
        """Look: something has changed since `take`, and nothing since the last look. A file may have gone."""
        before, self._seen = self._seen, self._look()
        return self._seen != self._taken and self._seen == before

    @property
    def is_there(self) -> bool:
        """Whether every file was there when it was looked last."""
        return None not in self._seen

    def take(self) -> None:
        """What was seen last is no news any more, be it right or wrong."""
        self._taken = self._seen

    def _look(self) -> tuple[Signature | None, ...]:
        return tuple(map(_signature, self._paths))


def _signature(path: Path) -> Signature | None:
    try:
        return signature(path)
    except (OSError, ValueError):
        return None
