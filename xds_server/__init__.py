"""Serinus's shell: xDS, access logs, OTLP, HTTP, the event loop, the clock, files and the command line."""

__version__ = "0.1.0"
