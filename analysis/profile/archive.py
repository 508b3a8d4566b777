"""Arrays and a header as bytes that last: a zip of NumPy arrays and JSON, no pickle, no time of writing."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.errors import StateError

Arrays = Mapping[str, npt.NDArray[Any]]

MOST_BYTES = 1 << 30  # of one archive, inflated: a few hundred kilobytes can claim more than there is memory

DAMAGE = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,  # an array may claim any shape
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,  # a flipped bit may say that a member is encrypted
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading damaged bytes, or arrays that do not fit together, raises."""


def pack(kind: str, version: int, header: Mapping[str, Any], arrays: Arrays) -> bytes:
    """The same content gives the same bytes."""
    head = json.dumps({"kind": kind, "format": version, **header}, separators=(",", ":")).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        _add(archive, "header.json", head)
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            _add(archive, f"{name}.npy", member.getvalue())
    return out.getvalue()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name)  # dated 1980
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)


def unpack(data: bytes, kind: str, version: int) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Header and arrays of `pack`. Raises StateError where the data are damaged, of another kind or another format."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())  # no more than that is ever inflated
            if size > MOST_BYTES:
                raise StateError(f"{kind} has {size} bytes, inflated; legal: {MOST_BYTES} at most")
            head = json.loads(archive.read("header.json"))
            if head["kind"] != kind or head["format"] != version:
                raise StateError(f"{kind} has format {head['format']!r}; this version reads {version}")
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            arrays = {
                name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
                for name in names
            }
    except DAMAGE as error:
        raise StateError(f"{kind} cannot be read: {error!r}") from error
    return head, arrays
