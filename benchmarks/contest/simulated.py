"""The simulator as a world of the contest: what it counts of sessions, told as a metrics system tells of requests.

It knows sessions; a metrics system counts requests. So each session that begins makes requests in its tick: as many as
its segment's people make on average, failed ones in a row where it meets an error, each as long as the segment's
durations are at that time. Buckets are those of Istio's `istio_request_duration_milliseconds`.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from analysis.simulation.counts import CountSimulator
from analysis.simulation.counts import Tick as Counted
from analysis.simulation.rates import Now, Rates
from analysis.simulation.scenario import TAIL_SHARE, TAIL_Z, Scenario
from analysis.spec import TOTAL_BP, ServiceSpec
from benchmarks.contest.heat import Splits, Tick
from benchmarks.contest.metrics import Batch, Counts, Floats

EDGES_MS = np.array([0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000], dtype=float)
AHEAD_S = 30.0  # step of the harm that is still to come


class Truth:
    """What harm is, by a scenario's rates: for the oracle, and for what is left when nobody decides any more."""

    def __init__(self, spec: ServiceSpec, scenario: Scenario, load: float) -> None:
        self._scenario = scenario
        self._rates = Rates(spec, scenario)
        self._per_s = load * np.array([group.share for group in scenario.groups])

    def at(self, at_s: float, exposed_s: Floats, split: Floats) -> Now:
        return self._rates.at(at_s, exposed_s=exposed_s, split=split)

    def harm_per_s(self, now: Now, at_s: float) -> Floats:
        """(B, S) expected excess of bad sessions a second, if the canary had everybody."""
        first, later = (self._rates.excess_harm(shares, now) for shares in (now.first, now.later))
        excess = (1 - now.seen) * first + now.seen * later
        harm: Floats = self._per_s * self._scenario.traffic.rate_times(at_s) * now.routed * excess
        return harm


class SimulatedWorld:
    """`with_durations`: whether anybody looks at them; they take most of the time."""

    edges_ms = EDGES_MS

    def __init__(
        self, spec: ServiceSpec, scenario: Scenario, load: float, n_runs: int, rng: np.random.Generator, *,
        with_durations: bool = True,
    ) -> None:  # fmt: skip
        self.n_runs, self.n_segments = n_runs, len(scenario.groups)
        assert [group.name for group in scenario.groups] == [segment.name for segment in spec.segments]
        self.spec, self.truth = spec, Truth(spec, scenario, load)
        self._simulator = CountSimulator(spec, scenario, load=load, n_runs=n_runs, rng=rng)
        self._rng = rng
        self._with_durations = with_durations
        self._exposed_at_s = np.full((n_runs, self.n_segments), np.inf)
        habits = [group.habits for group in scenario.groups]
        self._requests = np.array([h.requests * (1 - h.abandoned / 2) for h in habits])  # left: half way, on average
        self._in_a_row = float(np.mean([h.errors_in_a_row for h in habits]))
        self._log_ms = np.log([h.latency_ms for h in habits])
        self._sigma = np.array([h.latency_sigma for h in habits])

    def advance(self, split_bp: Splits) -> Tick:
        self._note_exposure(split_bp)
        counted = self._simulator.advance(split_bp)
        return Tick(batch=self._batch(counted), harm=counted.harm, window=counted)

    def _note_exposure(self, split_bp: Splits) -> None:
        self._exposed_at_s[(split_bp > 0) & np.isinf(self._exposed_at_s)] = self._simulator.now_s

    def exposed_s(self, at_s: float) -> Floats:
        """(B, S) since the first exposure; before it minus infinity."""
        return at_s - self._exposed_at_s

    def harm_ahead(self, split_bp: Splits, since_s: float, until_s: float) -> Floats | None:
        """Rows with the same splits and nearly the same exposure have the same harm ahead of them."""
        harm = np.zeros(self.n_runs)
        rows, inverse = np.unique(split_bp, axis=0, return_inverse=True)
        for k, row in enumerate(rows):
            members = np.flatnonzero(inverse.ravel() == k)
            if row.any():
                harm[members] = self._harm_of_row(row, self._exposed_at_s[members[:1]], since_s, until_s)
        return harm

    def _harm_of_row(self, split_bp: Splits, exposed_at_s: Floats, since_s: float, until_s: float) -> float:
        split = split_bp[None] / TOTAL_BP
        total, at_s = 0.0, since_s
        while at_s < until_s:
            step_s = min(AHEAD_S, until_s - at_s)
            middle_s = at_s + step_s / 2
            now = self.truth.at(middle_s, middle_s - exposed_at_s, split)
            total += float((split * self.truth.harm_per_s(now, middle_s)).sum()) * step_s
            at_s += step_s
        return total

    # -- what a metrics system counts ----------------------------------------------------------------------------------

    def _batch(self, counted: Counted) -> Batch:
        sessions = self._sessions(counted)
        more = np.maximum(self._requests - 1, 0.0)[:, None] * sessions
        requests = counted.sessions + self._rng.poisson(more.sum(axis=1))
        again = self._rng.poisson(counted.with_errors * max(self._in_a_row - 1, 0.0))
        durations, duration_ms = self._durations(counted, sessions, requests)
        return Batch(
            requests=requests,
            failed=np.minimum(counted.with_errors + again, requests),
            durations=durations,
            duration_ms=duration_ms,
            users=counted.new,
            users_bad=counted.new_with_errors,
            sessions=counted.sessions,
            abandoned=counted.abandoned,
        )

    @staticmethod
    def _sessions(counted: Counted) -> Counts:
        """(B, S, 2)"""
        canary = counted.window.exposed
        sessions: Counts = np.stack([counted.window.arrived - canary, canary], axis=-1)
        return sessions

    def _durations(self, counted: Counted, sessions: Counts, requests: Counts) -> tuple[Counts, Floats]:
        """(B, 2, L) requests by bucket, and (B, 2) the sum of how long they last."""
        if not self._with_durations:
            return np.zeros((self.n_runs, 2, len(EDGES_MS) + 1), np.int64), np.zeros((self.n_runs, 2))
        times, tail_times = counted.latency_times, counted.tail_times
        if (times == times[:1]).all() and (tail_times == tail_times[:1]).all():
            times, tail_times = times[:1], tail_times[:1]  # the same in all runs
        by_bucket, mean_ms, square_ms = self._laws(times, tail_times)
        weight = sessions * self._requests[:, None]
        share = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)  # (B, S, 2)
        law = np.einsum("bsa,bsal->bal", share, np.broadcast_to(by_bucket, (*share.shape, by_bucket.shape[-1])))
        law[..., 0] += np.maximum(1 - law.sum(axis=-1), 0.0)  # where nobody is
        counts: Counts = self._rng.multinomial(requests, law / law.sum(axis=-1, keepdims=True))
        mean, square = (share * mean_ms).sum(axis=1), (share * square_ms).sum(axis=1)
        noise = self._rng.normal(size=mean.shape) * np.sqrt(np.maximum(square - mean**2, 0.0) * requests)
        return counts, np.maximum(mean * requests + noise, 0.0)

    def _laws(self, times: Floats, tail_times: Floats) -> tuple[Floats, Floats, Floats]:
        """Of a segment's requests (., S, 2): chances of the buckets, mean and mean square in ms.

        Lognormal; the slowest `TAIL_SHARE` of requests last `tail_times` as long on top of `times`.
        """
        median = self._log_ms[:, None] + np.log(times)
        sigma = self._sigma[:, None]
        z = (np.log(EDGES_MS) - median[..., None]) / sigma[..., None]
        within_tail = z - (np.log(tail_times) / sigma)[..., None]
        below = np.where(z < TAIL_Z, ndtr(z), np.maximum(ndtr(within_tail), 1 - TAIL_SHARE))
        edges = np.concatenate([np.zeros_like(below[..., :1]), below, np.ones_like(below[..., :1])], axis=-1)
        moments = []
        for power in (1, 2):
            whole = np.exp(power * median + (power * sigma) ** 2 / 2)
            tail = ndtr(power * sigma - TAIL_Z)  # share of the moment that the tail has
            moments.append(whole * (1 - tail + tail * tail_times**power))
        return np.diff(edges, axis=-1), moments[0], moments[1]
