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
