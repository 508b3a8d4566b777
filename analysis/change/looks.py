"""How small a probability must be, when many places are looked at, tick after tick."""

from __future__ import annotations

import math

FALSE_ALARM = 0.01  # chance that anything at all is found of a release that changes nothing, by one kind of evidence


def corrected(log_p: float, *, n_places: int, look: int) -> float:
    """The probability in [0, 1] after all that was looked at; found where it is at most FALSE_ALARM.

    Look 1, 2, … at one of `n_places` may use 1/look² of what all looks may (they add up to π²/6), and each place its
    share (Bonferroni).
    """
    return math.exp(min(log_p + math.log(math.pi**2 / 6 * max(n_places, 1) * look**2), 0.0))
