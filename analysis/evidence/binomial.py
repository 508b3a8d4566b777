"""E-values for two groups of yes/no outcomes against equal rates, whatever the rates are.

Given x = x_c + x_b bad outcomes of both arms, the canary's number is hypergeometric if the rates are equal. Its share
of them is then, on average, its share n_c/n of all outcomes: the base rate cancels. The bet that the canary's odds are
e^d times as high pays the binomial likelihood ratio of q = w·e^d/(w·e^d + 1 - w) against w = n_c/n (Lindon & Malek
2022, arXiv 2011.03567, for a fixed w). The binomial in place of the hypergeometric keeps it an e-value: the payout is
convex in x_c, and draws without replacement spread no wider (Hoeffding 1963, theorem 4). It only loses power where bad
outcomes are common. If the canary's rate is the lower one, the expected payout is lower still.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def log_ratio_e(
    n_c: npt.ArrayLike, bad_c: npt.ArrayLike, n_b: npt.ArrayLike, bad_b: npt.ArrayLike, log_odds: npt.ArrayLike
) -> Floats:
    """Log of the e-value of one block against `the canary's rate is at most the baseline's`.

    All arguments broadcast. `log_odds` > 0: the effect bet on. 0 where an arm is empty.
    """
    n_c, n_b, bad_c, bad_b = (np.asarray(x, float) for x in (n_c, n_b, bad_c, bad_b))
    total = n_c + n_b
    share = np.divide(n_c, total, out=np.zeros_like(total), where=total > 0)
    ratio: Floats = bad_c * np.asarray(log_odds) - (bad_c + bad_b) * np.log1p(share * np.expm1(log_odds))
    return np.where((n_c > 0) & (n_b > 0), ratio, 0.0)
