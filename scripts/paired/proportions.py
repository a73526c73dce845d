"""One-seed binary data: the paired 2 x 2 table.

n12 counts the prompts where the first arm is right and the second wrong, n21 the reverse; the difference of
proportions is (n12 - n21) / n. The interval is Tango's, with Newcombe's beside it. The exact McNemar test is the
sign-flip test of such data (`signflip`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.proportion import proportion_confint

from .signflip import SMALLEST_P


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


def wilson_interval(successes: int, n: int, alpha: float) -> tuple[float, float]:
    """Wilson's score interval of one proportion."""
    low, high = proportion_confint(successes, n, alpha=alpha, method="wilson")
    return float(low), float(high)


@dataclass(frozen=True)
class OddsRatio:
    """Odds ratio given the discordant pairs, its Clopper-Pearson interval, and Cohen's g; None where not defined."""

    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    cohens_g: float | None = None


def conditional_odds_ratio(n12: int, n21: int, alpha: float) -> OddsRatio:
    """Odds ratio n12 / n21; infinite where n21 is zero, nothing where both are."""
    discordant = n12 + n21
    if discordant == 0:
        return OddsRatio()
    low = stats.beta.ppf(alpha / 2, n12, n21 + 1) if n12 else 0.0
    high = stats.beta.ppf(1 - alpha / 2, n12 + 1, n21) if n21 else 1.0
    return OddsRatio(
        ratio=n12 / n21 if n21 else np.inf,
        low=float(low / (1 - low)),
        high=float(high / (1 - high)) if high < 1 else np.inf,
        cohens_g=n12 / discordant - 0.5,
    )
