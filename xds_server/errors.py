"""Errors that the shell raises and that a person has to read. Each message is one line.

SerinusError
├── JournalError             the data directory or the journal in it cannot be used
│   ├── JournalLockedError   another control plane has it
│   ├── JournalDamagedError  the file is damaged, or not Serinus's
│   └── JournalTooNewError   written by a newer Serinus
├── HistoryError             what is kept of a past deployment cannot be read
├── HistoryTableError        a table of deployments that cannot be read or written
├── TableError               a table of an experiment that cannot be read (experiment_table)
├── PlotError                plots need what is not installed (experiment_page)
├── ListenError              a port cannot be listened on
├── TlsError                 a certificate, key or certificate authority cannot be used
├── ServerError              the control plane does not answer, or refuses (raised in clients)
└── SteeringError            a command, of a person or an instance, that cannot be obeyed
    ├── UnknownNameError     no such service, segment, version or rollout
    ├── LostLeaseError       a lease that is no more
    ├── RefusedError         not in this state
    └── BadRequestError      contradicts itself or is out of range

A wrong mesh file is `settings.MeshError`; what the core raises is in `analysis.errors`.
"""

from __future__ import annotations

from collections.abc import Iterable


class SerinusError(Exception):
    """Base of the shell's errors; `str()` is one line for people."""


class JournalError(SerinusError):
    """The data directory or the journal in it cannot be used."""


class JournalLockedError(JournalError):
    """Another control plane uses the data directory."""


class JournalDamagedError(JournalError):
    """The journal is damaged, or is another application's file."""


class JournalTooNewError(JournalError):
    """The journal was written by a newer Serinus."""


class HistoryError(SerinusError):
    """What is kept of a past deployment cannot be read: damaged, or of another version; the message says which."""


class HistoryTableError(SerinusError):
    """A table of deployments cannot be read or written; the message names file, row, cause and what is legal."""


class ListenError(SerinusError):
    """A port cannot be listened on; the message names address and cause."""


class TlsError(SerinusError):
    """A certificate, its key or a certificate authority cannot be used; the message names the file and the cause."""


class ServerError(SerinusError):
    """The control plane does not answer, or refuses; raised in clients. `code`: gRPC's name for it."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class SteeringError(SerinusError):
    """A command, of a person or an instance, that cannot be obeyed."""


class UnknownNameError(SteeringError):
    """No such service, segment, version or rollout; the message lists those that there are."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        listed = ", ".join(sorted(known))
        super().__init__(f"no {kind} '{name}'; " + (f"known: {listed}" if listed else "there is none"))


class LostLeaseError(SteeringError):
    """The lease is no more; whoever held it should register again."""


class RefusedError(SteeringError):
    """The command does not fit the state that things are in; the message says which and what to do."""


class BadRequestError(SteeringError):
    """The command contradicts itself or names a value out of range; the message says what is legal."""
