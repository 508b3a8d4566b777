"""Many questions at once: which answers stand, over all metrics and variants."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def e_bh(log_e: npt.ArrayLike, alpha: float) -> Flags:
    """Which of K hypotheses to reject with a false discovery rate of at most alpha, (K,) bool.

    e-BH: the k largest, for the largest k whose k-th e-value is at least K/(k·alpha) (Wang & Ramdas, JRSS-B 2022). It
    holds under any dependence, and at any stopping time if the e-values are the e-processes' values then, not their
    maxima. NaN counts as no evidence.
    """
    values = np.nan_to_num(np.asarray(log_e, float).ravel(), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    n = len(values)
    order = np.argsort(-values, kind="stable")
    needed = np.log(n / (alpha * np.arange(1, n + 1))) if n else np.zeros(0)
    enough = np.flatnonzero(values[order] >= needed)
    rejected = np.zeros(n, bool)
    if len(enough):
        rejected[order[: enough[-1] + 1]] = True
    return rejected


def closed(log_e: npt.ArrayLike) -> Floats:
    """Logs of K e-values after closed testing with means, (K,): each at least 1/alpha only with FWER alpha.

    The evidence against hypothesis i is the least mean of any set that contains it, which is reached by joining the
    smallest others to it (Vovk & Wang, Ann. Stat. 2021, Algorithm 1). Of e-processes it is one, so that the family-wise
    error rate holds at all times at once. NaN counts as an e-value of 0.
    """
    values = np.nan_to_num(np.asarray(log_e, float).ravel(), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    n = len(values)
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    sums = np.logaddexp.accumulate(ascending)  # of the k smallest
    result = np.empty(n)
    for place in range(n):
        # others smaller than this one only: a larger one would raise the mean
        joined = np.logaddexp(ascending[place], sums[:place]) if place else np.zeros(0)
        means = joined - np.log(np.arange(2, place + 2))
        result[order[place]] = min(ascending[place], float(means.min(initial=np.inf)))
    return result
