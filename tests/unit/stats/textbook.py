"""The textbook's methods for one paired 2 x 2 table: second routes, and what the package does not do."""

import numpy as np
from scipy import stats

from paired.signflip import SMALLEST_P


def mcnemar(n12: int, n21: int) -> dict[str, float]:
    """McNemar's test of n12 against n21: exact, mid-p (Fagerland 2013), and both chi-square forms.

    chi2_cc is Edwards' (|n12 - n21| - 1)^2 / (n12 + n21) as published, also where both counts are equal. With no
    discordant pair every p is 1 (statsmodels gives 0 there); no p is 0.
    """
    discordant, smaller = n12 + n21, min(n12, n21)
    if discordant == 0:
        return {"p_exact": 1.0, "p_mid": 1.0, "chi2": 0.0, "p_asymptotic": 1.0, "chi2_cc": 0.0, "p_cc": 1.0}
    at_most = 2 * stats.binom.cdf(smaller, discordant, 0.5)
    equal = stats.binom.pmf(smaller, discordant, 0.5)
    chi2 = (n12 - n21) ** 2 / discordant
    corrected = (abs(n12 - n21) - 1) ** 2 / discordant
    p = {
        "p_exact": min(1.0, at_most),
        "p_mid": 1 - equal / 2 if n12 == n21 else at_most - equal,
        "p_asymptotic": stats.chi2.sf(chi2, 1),
        "p_cc": stats.chi2.sf(corrected, 1),
    }
    return {"chi2": chi2, "chi2_cc": corrected} | {name: max(float(value), SMALLEST_P) for name, value in p.items()}


def bonett_price_interval(n12: int, n21: int, n: int, alpha: float) -> tuple[float, float]:
    """Bonett and Price (2012): a Wald interval after adding one to each discordant cell; conservative."""
    first, second = (n12 + 1) / (n + 2), (n21 + 1) / (n + 2)
    width = stats.norm.isf(alpha / 2) * np.sqrt((first + second - (first - second) ** 2) / (n + 2))
    return max(first - second - width, -1.0), min(first - second + width, 1.0)


def wald_interval(n12: int, n21: int, n: int, alpha: float) -> tuple[float, float]:
    """The textbook interval, which covers 78% at n = 20: for comparison only."""
    difference = (n12 - n21) / n
    width = stats.norm.isf(alpha / 2) * np.sqrt(((n12 + n21) / n - difference**2) / n)
    return difference - width, difference + width
