"""What a person may tell a running rollout to do."""

from __future__ import annotations

from enum import StrEnum


class Action(StrEnum):
    """A person's command; it outranks the engine."""

    PAUSE = "pause"  # the engine may still lower and roll back, never raise
    RESUME = "resume"
    SET = "set"  # sets the split; the engine goes on from there
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    FREEZE = "freeze"  # nothing moves, not even down, until resume
