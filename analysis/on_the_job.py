"""Learning on the job: what a running rollout teaches the policy `learned`, within bounds (`learn_bounded`).

Transitions are those of training: from one tick at which a segment may rise to the next, the reward of each tick in
between discounted. The action is the share of the step that was really taken, whoever decided: in mode observe a
person, or nobody. Watkins' update is off-policy and learns from either.

What is learnt is the residual to the shipped values, and it is bounded: of a value D = learnt - shipped the error is
x + discount·D(following) - D, where x is by how much the rewards in between differ from those that the shipped values
rest on. (The value of a policy is linear in its rewards, so the residual is the value of the differing ones.) What the
shipped values leave unexplained of themselves, which is far more than one rollout could tell, so teaches nothing.

Of a reward only what the decision has changed counts: a reward is a worth times the split, so what a hold would have
gained is known; x is the worth, less the usual one, of those people who came beyond the decision's split. A control
variate, as training takes the mean of other rollouts: it hangs on the state and the release and not on the action
(Greensmith et al. 2004, section 3).

What is learnt changes nothing in the rollout that teaches it: the next one chooses by it. The cap is not its affair.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.errors import StateError
from analysis.guard import SUSPICIOUS, UNKNOWN_CEILING_BP
from analysis.policy import PolicyView, QValues
from analysis.policy.closed_form import budgeted_share
from analysis.policy.learned import (
    DECIMALS,
    DRIFT_MAX,
    N_TILES,
    SHARES,
    TILINGS,
    WHOLE,
    State,
    Transition,
    discounted,
    learn_bounded,
    state_of,
)
from analysis.spec import TOTAL_BP, ServiceSpec
from analysis.splits import worth_bp

RATE = 0.05
"""Of one update: a tenth of a tick of full progress more or less moves each of its six values by 0.0008."""
LONGEST_TICKS = 3.0  # a tick that has lasted longer was none: nobody watched, and what is under way teaches nothing
USUAL_WORTH = 0.95
"""Of a tick at a split of 1 where there is a choice, over releases as training draws them, as a share of that of a good
one: 0.98 on average over decisions, 0.94 ± 0.03 over releases (83 of 120 drawn, four rollouts each)."""
WORST = -1.0  # … and the least that counts, since harm that is dear has no bound

Floats = npt.NDArray[np.float64]


def has_a_choice(view: PolicyView, spec: ServiceSpec) -> bool:
    """Whether the guard would let the split rise if all of the room were used; as `guard` has it."""
    split_bp = round(view.split * TOTAL_BP)
    return view.suspicion < SUSPICIOUS and _ceiling_bp(view, spec) - split_bp >= worth_bp(split_bp)


def _ceiling_bp(view: PolicyView, spec: ServiceSpec) -> float:
    ceiling_bp = min(view.cap * TOTAL_BP, spec.rollout.bake_split_bp)
    return ceiling_bp if view.healthy else min(ceiling_bp, UNKNOWN_CEILING_BP)


def _whole_step(view: PolicyView, spec: ServiceSpec) -> float:
    """The step that the closed form would take, as far as the guard would let it; in (0, 1] where there is a choice."""
    step = view.using(budgeted_share(view)) - view.split
    return min(step, _ceiling_bp(view, spec) / TOTAL_BP - view.split, spec.rollout.max_step_bp / TOTAL_BP)


def fingerprint(values: QValues) -> str:
    """Tells one artefact from another."""
    return hashlib.blake2b(values.to_json().encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """How far values are from the shipped ones: by `farthest` at most, `values` of them at all, of `of` that there are.

    `leaning`: mean move of the whole step's values less that of smaller ones', where either has moved; above 0: towards
    larger steps.
    """

    updates: int
    values: int
    of: int
    farthest: float
    leaning: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """The values of one service after `updates` on the job, and the shipped ones that they must keep to."""

    values: QValues
    shipped: QValues
    updates: int = 0

    @classmethod
    def nothing(cls, shipped: QValues) -> Learnt:
        """As shipped."""
        return cls(values=shipped, shipped=shipped)

    @property
    def moved(self) -> Moved:
        moves = self.values.values - self.shipped.values
        whole, smaller = moves[:, WHOLE], moves[:, :WHOLE]
        return Moved(
            updates=self.updates,
            values=int(np.count_nonzero(moves)),
            of=moves.size,
            farthest=float(np.abs(moves).max()),
            leaning=_mean_move(whole) - _mean_move(smaller),
        )

    @property
    def chosen_by(self) -> QValues:
        """What a policy chooses by: trusted is what training has seen, and not what was tried on the job."""
        return replace(self.values, visits=self.shipped.visits)

    def rounded(self) -> Learnt:
        """As it is read again once it has been kept."""
        return Learnt.from_json(self.to_json(), self.shipped)

    def to_json(self) -> str:
        """The artefact's text, which also says what it was learnt from."""
        about = {"updates": self.updates, "shipped": fingerprint(self.shipped)}
        return replace(self.values, origin={**self.shipped.origin, "on_the_job": about}).to_json()

    @classmethod
    def from_json(cls, text: str, shipped: QValues) -> Learnt:
        """Read what `to_json` gave. Raises StateError on damage, or where other values are shipped by now."""
        values = QValues.from_json(text)
        try:
            about = values.origin["on_the_job"]
            updates, learnt_from = int(about["updates"]), about["shipped"]  # type: ignore[index]
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"policy values learnt on the job cannot be read: {error!r}") from error
        return cls(
            values=_within(values.values, values.visits, shipped, str(learnt_from)), shipped=shipped, updates=updates
        )


def _mean_move(moves: Floats) -> float:
    some = moves[moves != 0]
    return float(some.mean()) if len(some) else 0.0


def _within(values: Floats, visits: npt.NDArray[np.int64], shipped: QValues, learnt_from: str) -> QValues:
    """The values, if they were learnt from these shipped ones and within bounds. Raises StateError."""
    if learnt_from != fingerprint(shipped):
        raise StateError("policy values learnt on the job are of other shipped values than this version's")
    moves = np.abs(values - shipped.values)
    if not (moves <= DRIFT_MAX + 0.5 * 10.0**-DECIMALS).all() or (visits < 0).any():
        raise StateError("policy values learnt on the job are out of bounds")
    return replace(shipped, values=values, visits=visits)


@dataclass(slots=True)
class _Pending:
    """A decision that nothing has followed yet. `action`: None until it is seen what was done. `gained`: x, so far."""

    state: State
    split: float
    whole: float
    action: int | None = None
    gained: float = 0.0
    discount: float = 1.0

    def go_on(self, split: float, unusual: float, ticks: float) -> None:
        """`ticks` more at a split, of which one at a split of 1 is worth so much more than usual."""
        if self.action is None:
            taken = (split - self.split) / self.whole
            self.action = int(np.argmin(np.abs(np.array(SHARES) - taken)))
        beyond = max(split - self.split, 0.0)
        gain, discount = discounted(np.array([unusual * beyond * ticks if beyond > 0 else 0.0]), ticks)
        self.gained += self.discount * gain
        self.discount *= discount


class OnTheJob:
    """Learns from one rollout, segment by segment in the specification's order; begins with what was learnt before."""

    def __init__(self, spec: ServiceSpec, before: Learnt) -> None:
        self._spec = spec
        self.learnt = before
        self._pending: list[_Pending | None] = [None] * len(spec.segments)

    def see(self, segment: int, view: PolicyView, *, rises: bool, worth: float, ticks: float) -> None:
        """One tick of a segment: what its last decision has come to, and the next one where there is a choice.

        `rises`: the segment is in a phase in which its split may rise. `worth`: of a tick of this segment at a split of
        1, in ticks of full progress of the whole rollout; NaN: not known, and then a rise teaches nothing. `ticks`: how
        long the newest tick was, in intervals: a shorter one, as in a closer watch, is a part of one.
        """
        if ticks > LONGEST_TICKS:
            self._pending[segment] = None
        pending = self._pending[segment]
        if pending is not None and ticks > 0:
            unusual = np.clip(worth, WORST * view.share, view.share) - USUAL_WORTH * view.share
            pending.go_on(view.split, float(unusual), ticks)
        if rises and has_a_choice(view, self._spec):
            state = state_of(view)
            self._learn(pending, state)
            whole = _whole_step(view, self._spec)
            self._pending[segment] = _Pending(state, view.split, whole) if whole > 0 else None

    def end(self, segment: int) -> None:
        """Nothing is decided for a segment any more."""
        self._learn(self._pending[segment], None)
        self._pending[segment] = None

    def _learn(self, pending: _Pending | None, following: State | None) -> None:
        if pending is None or pending.action is None:
            return
        before, shipped = self.learnt.values, self.learnt.shipped
        expected = float(shipped.of(pending.state)[pending.action])  # of rewards, by the shipped values
        if following is not None:
            best = int(before.of(following).argmax())
            expected -= pending.discount * float(shipped.of(following)[best])
        seen = Transition(
            state=pending.state,
            action=pending.action,
            gained=expected + pending.gained,
            discount=pending.discount,
            following=following,
        )
        values = learn_bounded(before, shipped, seen, rate=RATE)
        if values is not before:
            self.learnt = replace(self.learnt, values=values, updates=self.learnt.updates + 1)

    # -- restarts ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as JSON-able values."""
        values, shipped = self.learnt.values, self.learnt.shipped
        moved = np.flatnonzero((values.values != shipped.values) | (values.visits != shipped.visits))
        return {
            "shipped": fingerprint(shipped),
            "updates": self.learnt.updates,
            "moved": [moved.tolist(), values.values.ravel()[moved].tolist(), values.visits.ravel()[moved].tolist()],
            "pending": [None if pending is None else _kept(pending) for pending in self._pending],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state` gave. Raises StateError on damage, or where other values are shipped by now."""
        shipped = self.learnt.shipped
        values, visits = shipped.values.copy(), shipped.visits.copy()
        try:
            which, moved, seen = state["moved"]
            values.ravel()[which], visits.ravel()[which] = moved, seen
            updates, pending = int(state["updates"]), [_restored(each) for each in state["pending"]]
            if len(pending) != len(self._pending):
                raise StateError(f"decisions under way of {len(pending)} segments, not of {len(self._pending)}")
            within = _within(values, visits, shipped, str(state["shipped"]))
        except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise StateError(f"what was being learnt on the job cannot be read: {error!r}") from error
        self.learnt, self._pending = Learnt(values=within, shipped=shipped, updates=updates), pending


def _kept(pending: _Pending) -> list[object]:
    gained = pending.gained if np.isfinite(pending.gained) else None
    return [list(pending.state), pending.split, pending.whole, pending.action, gained, pending.discount]


def _restored(kept: list[Any] | None) -> _Pending | None:
    if kept is None:
        return None
    state, split, whole, action, gained, discount = kept
    if len(state) != len(TILINGS) or not all(0 <= tile < N_TILES for tile in state) or not whole > 0:
        raise ValueError(f"a decision in {state!r}")
    if action is not None and action not in range(len(SHARES)):
        raise ValueError(f"action {action!r}")
    return _Pending(
        tuple(map(int, state)), float(split), float(whole), action, float("nan") if gained is None else float(gained),
        float(discount),
    )  # fmt: skip
