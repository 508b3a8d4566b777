"""Files that change under our eyes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xds_server.discovery.watched import WatchedFile, WatchedFiles
from xds_server.mesh_file import MeshError

A, B = ("10.0.0.1", 80), ("10.0.0.2", 80)


@pytest.fixture
def file(tmp_path: Path) -> WatchedFile:
    path = tmp_path / "v1.txt"
    path.write_text("10.0.0.1:80\n")
    watched = WatchedFile(path)
    watched.load({})
    return watched


def looks(file: WatchedFile, n: int) -> list[bool]:
    return [file.look({}) for _ in range(n)]


def test_what_is_new_is_taken_once_it_stands_still(file: WatchedFile) -> None:
    assert looks(file, 2) == [False, False]
    file.path.write_text("10.0.0.1:80\n10.0.0.2:")  # half written
    assert looks(file, 1) == [False]
    file.path.write_text("10.0.0.1:80\n10.0.0.2:80\n")
    assert looks(file, 3) == [False, True, False]
    assert (file.endpoints, file.why_not) == ((A, B), "")


def test_a_file_that_is_renamed_over_it_is_seen(file: WatchedFile) -> None:
    """As editors write: of the same size, and with the time of the old one."""
    other = file.path.with_name("new")
    other.write_text("10.0.0.2:80\n")
    before = file.path.stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(file.path)
    assert looks(file, 2) == [False, True]
    assert file.endpoints == (B,)


def test_a_link_that_is_swapped_is_seen(tmp_path: Path) -> None:
    """As Kubernetes does with a ConfigMap: `..data` is another directory."""
    for name, text in (("one", "10.0.0.1:80"), ("two", "10.0.0.2:80")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "v1.txt").write_text(text)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "v1.txt").symlink_to("..data/v1.txt")
    file = WatchedFile(tmp_path / "v1.txt")
    file.load({})
    assert file.endpoints == (A,)
    (tmp_path / "..next").symlink_to("two")
    (tmp_path / "..next").rename(tmp_path / "..data")
    assert looks(file, 2) == [False, True]
    assert file.endpoints == (B,)


@pytest.mark.parametrize(("text", "says"), [("", "no endpoints"), ("10.0.0.1:80\nnonsense", "nonsense: not host:port")])
def test_what_is_broken_is_refused_once_and_what_was_said_before_stays(file: WatchedFile, text: str, says: str) -> None:
    file.path.write_text(text)
    assert looks(file, 4) == [False, True, False, False]
    assert file.endpoints == (A,)
    assert says in file.why_not
    file.path.write_text("10.0.0.2:80")
    assert looks(file, 3) == [False, True, False]
    assert (file.endpoints, file.why_not) == ((B,), "")


def test_a_file_that_is_gone_changes_nothing_and_may_come_back_as_it_was(file: WatchedFile) -> None:
    aside = file.path.rename(file.path.with_name("aside"))
    assert looks(file, 3) == [True, False, False]
    assert (file.endpoints, "no such file" in file.why_not) == ((A,), True)
    aside.rename(file.path)
    assert looks(file, 3) == [False, True, False]
    assert (file.endpoints, file.why_not) == ((A,), "")


def test_a_file_that_cannot_be_read_is_read_once_it_can(file: WatchedFile) -> None:
    file.path.unlink()
    file.path.mkdir()
    assert looks(file, 4) == [False, True, False, False]
    assert "cannot be read: Is a directory" in file.why_not
    file.path.rmdir()
    file.path.write_text("10.0.0.2:80")
    assert looks(file, 3) == [False, True, False]
    assert (file.endpoints, file.why_not) == ((B,), "")


def test_a_file_that_nothing_is_known_of_must_be_right(tmp_path: Path) -> None:
    files = WatchedFiles()
    with pytest.raises(MeshError, match=r"v1.txt: no such file; legal: one or more endpoints"):
        files.adapt(files.opened({str(tmp_path / "v1.txt"): ()}, {}), {})
    assert list(files) == []
    files.adapt(files.opened({str(tmp_path / "v1.txt"): (A,)}, {}), {})
    (file,) = files
    assert (file.endpoints, "no such file" in file.why_not) == ((A,), True)
    (tmp_path / "v1.txt").write_text("10.0.0.2:80")
    assert [files.look(), files.look()] == [[], [file]]
    assert file.endpoints == (B,)


def test_what_is_known_already_is_not_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "v1.txt"
    path.write_text("10.0.0.1:80")
    files = WatchedFiles()
    files.adapt(files.opened({str(path): ()}, {}), {})
    path.write_text("broken")
    files.adapt(files.opened({str(path): ()}, {}), {})
    assert files[str(path)].endpoints == (A,)
    files.adapt(files.opened({}, {}), {})
    assert files.look() == []
