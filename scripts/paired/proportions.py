"""One-seed binary data: the paired 2 x 2 table.

n12 counts the prompts where the first arm is right and the second wrong, n21 the reverse; the difference of
proportions is (n12 - n21) / n. The primary interval is Tango's; Wald is here because the tests show why not.
"""

from __future__ import annotations

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.proportion import proportion_confint

from .signflip import SMALLEST_P


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


def tango_z(n12: int, n21: int, n: int, difference: float) -> float:
    """Tango's (1998) score statistic of H0: true difference = `difference`, -1 < difference < 1."""
    a = 2 * n
    b = -n12 - n21 + (2 * n - n12 + n21) * difference
    c = -n21 * difference * (1 - difference)
    q21 = (np.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * q21 + difference * (1 - difference))
    numerator = n12 - n21 - n * difference
    if variance <= 0:
        return 0.0 if numerator == 0 else float(np.copysign(np.inf, numerator))
    return float(numerator / np.sqrt(variance))


def tango_interval(n12: int, n21: int, n: int, alpha: float) -> tuple[float, float]:
    """Score interval of the paired difference: all differences that `tango_z` does not reject. Never of zero width.

    >>> [round(end, 4) for end in tango_interval(6, 16, 161, 0.05)]  # Fagerland 2017, the Cavo data
    [-0.124, -0.0054]
    """
    critical = stats.norm.isf(alpha / 2)
    edge = 1 - 1e-12
    estimate = np.clip((n12 - n21) / n, -edge, edge)

    def solve(target: float, low: float, high: float, at_limit: float) -> float:
        def excess(difference: float) -> float:
            return min(max(tango_z(n12, n21, n, difference), -1e6), 1e6) - target

        if excess(low) * excess(high) > 0:
            return at_limit
        return float(optimize.brentq(excess, low, high, xtol=1e-14))

    return solve(critical, -edge, estimate, -1.0), solve(-critical, estimate, edge, 1.0)


def tango_tost(n12: int, n21: int, n: int, margin: float) -> dict[str, float]:
    """Equivalence within +-margin by two score tests: z and one-sided p at each end, p_tost the larger."""
    z_lower, z_upper = tango_z(n12, n21, n, -margin), tango_z(n12, n21, n, margin)
    p_lower, p_upper = (max(float(stats.norm.sf(z)), SMALLEST_P) for z in (z_lower, -z_upper))
    return {
        "z_lower": z_lower,
        "z_upper": z_upper,
        "p_lower": p_lower,
        "p_upper": p_upper,
        "p_tost": max(p_lower, p_upper),
    }


def newcombe_interval(n11: int, n12: int, n21: int, n22: int, alpha: float) -> tuple[float, float]:
    """Newcombe's (1998) method 10: square-and-add of two Wilson intervals with the corrected phi correlation."""
    n = n11 + n12 + n21 + n22
    first, second = (n11 + n12) / n, (n11 + n21) / n
    low1, high1 = wilson_interval(n11 + n12, n, alpha)
    low2, high2 = wilson_interval(n11 + n21, n, alpha)
    product = n11 * n22 - n12 * n21
    scale = float(n11 + n12) * (n21 + n22) * (n11 + n21) * (n12 + n22)
    corrected = max(product - n / 2, 0.0) if product > 0 else product
    phi = corrected / np.sqrt(scale) if scale > 0 else 0.0

    def width(of_first: float, of_second: float) -> float:
        return float(np.sqrt(max(of_first**2 - 2 * phi * of_first * of_second + of_second**2, 0.0)))

    difference = first - second
    return difference - width(first - low1, high2 - second), difference + width(high1 - first, second - low2)


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


def wilson_interval(successes: int, n: int, alpha: float) -> tuple[float, float]:
    """Wilson's score interval of one proportion."""
    low, high = proportion_confint(successes, n, alpha=alpha, method="wilson")
    return float(low), float(high)


def conditional_odds_ratio(n12: int, n21: int, alpha: float) -> dict[str, float | None]:
    """Odds ratio n12 / n21 given the discordant pairs, its Clopper-Pearson interval, and Cohen's g.

    Infinite where n21 is zero; all None where both are.
    """
    discordant = n12 + n21
    if discordant == 0:
        return {"odds_ratio": None, "odds_ratio_lo": None, "odds_ratio_hi": None, "cohens_g": None}
    low = stats.beta.ppf(alpha / 2, n12, n21 + 1) if n12 else 0.0
    high = stats.beta.ppf(1 - alpha / 2, n12 + 1, n21) if n21 else 1.0
    return {
        "odds_ratio": n12 / n21 if n21 else np.inf,
        "odds_ratio_lo": float(low / (1 - low)),
        "odds_ratio_hi": float(high / (1 - high)) if high < 1 else np.inf,
        "cohens_g": n12 / discordant - 0.5,
    }
