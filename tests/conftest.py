"""For all tests. What each can say of itself: see `tests.conformance.table`."""

from __future__ import annotations

from hypothesis import settings

from tests.conformance.table import pytest_collection_modifyitems, pytest_terminal_summary

__all__ = ["pytest_collection_modifyitems", "pytest_terminal_summary"]

# How long an example takes says something about the machine that day, nothing about what is tested.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
