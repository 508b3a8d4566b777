"""The Bayesian view of the same sums: how likely a variant is the better one, and what choosing it may cost.

Least squares of outcomes on variants, each stratum with a level of its own (so that neither the day nor moving shares
count for a variant), with the unit-information prior: a variant's deviation from the others is normal around 0 with the
variance of one person's outcome (Kass & Wasserman, JASA 1995), that is, the prior is worth one person. The posterior is
normal, with the sandwich's variance (Huber 1967; White 1980), so that variants may vary unequally. A credible interval
holds for one look under its prior; at many looks the confidence sequences hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from analysis.experiment.effects import Effects

Floats = npt.NDArray[np.float64]

DRAWS = 4_000
_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """Rows R: the segments, and last all of them together; M metrics; V variants.

    `mean` (R, M, V), `covariance` (R, M, V, V): of the variants' deviations, in the metric's unit; only differences
    mean something. `known` (R, M) bool: whether anything varied yet; without it everything is 0.
    """

    mean: Floats
    covariance: Floats
    known: npt.NDArray[np.bool_]
    signs: Floats  # (M,) 1 where up is better, -1 where down is

    def against_control(self) -> tuple[Floats, Floats]:
        """(R, M, V) mean and standard deviation of each variant minus the control."""
        spread = np.diagonal(self.covariance, axis1=-2, axis2=-1)
        variance = spread + spread[..., :1] - 2 * self.covariance[..., 0]
        return self.mean - self.mean[..., :1], np.sqrt(np.maximum(variance, 0.0))

    def credible(self) -> tuple[Floats, Floats]:
        """(R, M, V) ends of the central 95 % interval of each variant minus the control."""
        effect, deviation = self.against_control()
        return effect - _Z95 * deviation, effect + _Z95 * deviation

    def chance_to_beat(self) -> Floats:
        """(R, M, V) probability of being better than the control; 0.5 for itself and where nothing is known."""
        effect, deviation = self.against_control()
        z = np.divide(effect, deviation, out=np.zeros_like(effect), where=deviation > 0)
        chance: Floats = ndtr(self.signs[:, None] * z)
        return chance

    def expected_loss(self) -> Floats:
        """(R, M, V) expected disadvantage of taking the variant in place of the control, in the metric's unit, >= 0."""
        effect, deviation = self.against_control()
        gain = self.signs[:, None] * effect
        z = np.divide(gain, deviation, out=np.zeros_like(gain), where=deviation > 0)
        density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        loss: Floats = np.maximum(deviation * density - gain * ndtr(-z), 0.0)
        return loss

    def chance_best(self, metric: int, in_play: npt.NDArray[np.bool_], rng: np.random.Generator) -> Floats:
        """(R, V) how likely each variant in play (R, V) is the best by one metric, from DRAWS draws; rows sum to 1.

        A row of which nothing is known, or with nobody in play, has equal chances.
        """
        n = in_play.shape[1]
        values, vectors = np.linalg.eigh(self.covariance[:, metric])
        root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        noise = rng.standard_normal((DRAWS, n)) @ np.swapaxes(root, -1, -2)  # (R, DRAWS, V); rows share their draws
        drawn = self.signs[metric] * (self.mean[:, metric, None, :] + noise)
        best = np.where(in_play[:, None, :], drawn, -np.inf).argmax(axis=-1)
        counts = np.stack([(best == v).sum(axis=-1) for v in range(n)], axis=-1) + 0.5 * in_play  # no draws are proof
        counts = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 0.5)
        equal = np.where(in_play.any(axis=1, keepdims=True), in_play, True).astype(float)
        equal /= equal.sum(axis=1, keepdims=True)
        is_known = self.known[:, metric] & in_play.any(axis=1)
        chances: Floats = np.where(is_known[:, None], counts, equal)
        return chances


def posterior(effects: Effects) -> Posterior:
    """The posterior now."""
    design, score, noise, one = effects.regression()
    eye = np.eye(score.shape[-1])
    inverse = np.linalg.inv(design + eye)
    return Posterior(
        mean=(inverse @ score[..., None])[..., 0],
        covariance=inverse @ (noise + one[..., None, None] * eye) @ inverse,
        known=one > 0,
        signs=np.array([float(metric.better.sign) for metric in effects.experiment.metrics]),
    )
