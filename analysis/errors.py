"""Errors that the core raises.

AnalysisError
├── SpecError        a specification that contradicts itself
├── StateError       stored state that cannot be read (other format, damaged)
├── RecordError      a record of a deployment that contradicts itself, or cannot be read
└── ReplayError      a recorded rollout that cannot be decided again

Missing or thin data is never an error: it is a value (`decision.Insufficient`).
"""


class AnalysisError(Exception):
    """Base of every error raised by `analysis`."""


class SpecError(AnalysisError, ValueError):
    """A specification that contradicts itself; the message names the field and what is legal."""


class StateError(AnalysisError):
    """Stored state whose format version or content cannot be read."""


class RecordError(AnalysisError, ValueError):
    """A record of a deployment that contradicts itself or cannot be read; the message names which and why."""


class ReplayError(AnalysisError):
    """A recorded rollout that cannot be decided again here; the message names what is another one, in one line."""
