"""What is exported comes in again as it was, in either format; damaged files are refused in one line."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import RecordError
from analysis.history import archive
from analysis.history.record import RolloutRecord
from tests.deployments import deployment, deployments
from xds_server.errors import HistoryTableError
from xds_server.history_table import read_tables, write_tables
from xds_server.history_table.writing import FORMATS


@pytest.mark.parametrize("ending", FORMATS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_export_and_import_give_the_same_records(ending: str, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text("abc", min_size=1), max_size=3, unique=True))
    records = [data.draw(deployments(name)) for name in names]
    with TemporaryDirectory() as directory:
        write_tables(records, Path(directory), ending)
        assert read_tables([Path(directory)]) == records


@settings(max_examples=40, deadline=None)
@given(record=deployments("a"))
def test_stored_records_are_the_same_again(record: RolloutRecord) -> None:
    assert archive.from_bytes(archive.to_bytes(record)) == record


@settings(max_examples=150, deadline=None)
@given(at=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_records_are_refused_in_one_line_or_read(at: float, byte: int, *, cut: bool) -> None:
    whole = archive.to_bytes(deployment())
    place = int(at * (len(whole) - 1))
    said = ""
    try:
        archive.from_bytes(whole[:place] if cut else whole[:place] + bytes([byte]) + whole[place + 1 :])
    except RecordError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("table", ["rollouts", "series", "decisions"])
@settings(max_examples=20, deadline=None)
@given(at=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_files_are_refused_in_one_line_or_read(
    table: str, ending: str, at: float, byte: int, *, cut: bool
) -> None:
    with TemporaryDirectory() as directory:
        write_tables([deployment()], Path(directory), ending)
        path = Path(directory) / f"{table}.{ending}"
        whole = path.read_bytes()
        place = int(at * (len(whole) - 1))
        path.write_bytes(whole[:place] if cut else whole[:place] + bytes([byte]) + whole[place + 1 :])
        said = ""
        try:
            read_tables([Path(directory)])
        except HistoryTableError as error:
            said = str(error)
        assert "\n" not in said
