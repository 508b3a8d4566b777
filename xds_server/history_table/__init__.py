"""Deployments as tidy tables, which other tools can write and read: docs/history.md has the format."""

from xds_server.history_table.reading import read_tables
from xds_server.history_table.writing import write_tables

__all__ = ["read_tables", "write_tables"]
