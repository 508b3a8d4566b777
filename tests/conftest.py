"""What every test can say of itself: see `tests.conformance.table`."""

from __future__ import annotations

from tests.conformance.table import pytest_collection_modifyitems, pytest_terminal_summary

__all__ = ["pytest_collection_modifyitems", "pytest_terminal_summary"]
