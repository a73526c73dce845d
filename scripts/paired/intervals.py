"""Variances and intervals of a mean of paired differences, for two scopes of claim.

A scope is a list of (variance, degrees of freedom) components. `checkpoint` has one, the prompts:
[(V_prompt, df)]. `method` has two, prompts and training seeds: [(V_prompt, df), (V_seed, S - 1)], joined as in
MOVER (Zou and Donner 2008): half-width^2 = sum of t^2(1 - alpha/2, df) V. With one component that is the t interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

SMALLEST_LOG_ALPHA = -207.0  # 1e-90: beyond, scipy's t quantiles run into a limit of their own

Components = list[tuple[float, float]]
Interval = tuple[float, float]


@dataclass(frozen=True)
class ClusterMean:
    """Mean of n values in G clusters with its standard errors, in the unit of the values.

    se_naive ignores clusters; se_cr0, se_cr1 and se_cr2 are the sandwich estimators (CR0 and CR1 are what other tools
    report; only CR2 is used here); df is Bell-McCaffrey's for CR2.
    design_effect = (se_cr2 / se_naive)^2, None where the values do not vary.
    """

    mean: float
    n: int
    n_clusters: int
    se_naive: float
    se_cr0: float
    se_cr1: float
    se_cr2: float
    df: float
    design_effect: float | None

    @property
    def components(self) -> Components:
        """The checkpoint scope."""
        return [(self.se_cr2**2, self.df)]


def cluster_mean(values: np.ndarray, codes: np.ndarray, n_clusters: int) -> ClusterMean:
    """Cluster-robust mean: CR2 with Bell-McCaffrey degrees of freedom (Bell and McCaffrey 2002).

    values: float [n]. codes: int [n], the cluster of each value, 0 .. n_clusters - 1. Needs n_clusters >= 2.

    >>> one = cluster_mean(np.array([1.0, 3, 5]), np.arange(3), 3)
    >>> round(one.se_cr2, 4), round(one.df, 4)
    (1.1547, 2.0)
    """
    n = len(values)
    sizes = np.bincount(codes, minlength=n_clusters).astype(float)
    mean = float(values.mean())
    deviations = np.bincount(codes, weights=values, minlength=n_clusters) - sizes * mean
    naive = float(((values - mean) ** 2).sum()) / (n - 1) / n
    cr0 = float((deviations**2).sum()) / n**2
    cr2 = float((deviations**2 / (1 - sizes / n)).sum()) / n**2
    varies = naive > (1e-12 * float(np.abs(values).max())) ** 2
    return ClusterMean(
        mean=mean,
        n=n,
        n_clusters=n_clusters,
        se_naive=np.sqrt(naive),
        se_cr0=np.sqrt(cr0),
        se_cr1=np.sqrt(cr0 * n_clusters / (n_clusters - 1)),
        se_cr2=np.sqrt(cr2),
        df=bell_mccaffrey_df(sizes),
        design_effect=cr2 / naive if varies else None,
    )


def bell_mccaffrey_df(sizes: np.ndarray) -> float:
    """Satterthwaite degrees of freedom of the CR2 variance of a mean under independence; sizes: [G], G >= 2."""
    n = sizes.sum()
    weights = 1 / (n**2 * (1 - sizes / n))
    own = sizes - sizes**2 / n
    shared = sizes**2 / n
    numerator = (weights * own).sum() ** 2
    denominator = (weights * shared).sum() ** 2 + (weights**2 * (own**2 - shared**2)).sum()
    return float(numerator / denominator)


@dataclass(frozen=True)
class SeedVariance:
    """Variance components of a seeds x prompts array of differences.

    theta: float [S], the estimate of each seed. v_seed = Var(theta) / S. v_resid: what v_seed holds of
    prompt-by-seed noise. Variances are of the overall mean, in squared units.
    """

    theta: np.ndarray
    v_seed: float
    v_resid: float

    @property
    def n_seeds(self) -> int:
        """Number of training seeds."""
        return len(self.theta)

    @property
    def sd_seed(self) -> float:
        """Standard deviation between seeds beyond prompt noise, in the unit of the metric."""
        return float(np.sqrt(self.n_seeds * max(self.v_seed - self.v_resid, 0.0)))

    @property
    def same_sign(self) -> int:
        """How many seeds share the sign of the mean; zero, up to rounding, is a sign of its own."""
        return same_sign(self.theta)


def same_sign(theta: np.ndarray) -> int:
    """How many of the estimates, float [S], share the sign of their mean; see `SeedVariance`."""
    all_values = np.append(theta, theta.mean())
    all_values[np.abs(all_values) <= 1e-12 * np.abs(theta).max()] = 0.0
    return int((np.sign(all_values[:-1]) == np.sign(all_values[-1])).sum())


def seed_variance(differences: np.ndarray, codes: np.ndarray, n_clusters: int) -> SeedVariance:
    """Seed and residual variance of crossed seeds x prompts (docs/statistics.md, 1.5).

    differences: float [S, n], S >= 2. codes: int [n]. n_clusters >= 2. If balanced: the ANOVA's mean squares.
    """
    n_seeds, n = differences.shape
    theta = differences.mean(axis=1)
    sizes = np.bincount(codes, minlength=n_clusters)
    mean = differences.mean(axis=0)
    shared = np.bincount(codes, weights=mean, minlength=n_clusters) - sizes * theta.mean()
    squares = 0.0
    for own, seed_mean in zip(differences, theta, strict=True):
        excess = np.bincount(codes, weights=own, minlength=n_clusters) - sizes * seed_mean - shared
        squares += float((excess**2).sum())
    v_resid = n_clusters / (n_clusters - 1) * squares / (n**2 * n_seeds * (n_seeds - 1))
    return SeedVariance(theta, float(theta.var(ddof=1)) / n_seeds, v_resid)


def half_width(components: Components, alpha: float) -> float:
    """Half-width of the two-sided 1 - alpha interval: sqrt(sum of t^2(1 - alpha/2, df) V)."""
    return float(np.sqrt(sum(special.stdtrit(df, alpha / 2) ** 2 * variance for variance, df in components)))


def interval(estimate: float, components: Components, alpha: float) -> Interval:
    """Two-sided 1 - alpha interval around `estimate`."""
    width = half_width(components, alpha)
    return estimate - width, estimate + width


def two_sided_p(components: Components, estimate: float) -> float:
    """The alpha at which the interval just touches zero; 1 for a zero estimate, never 0."""
    size = abs(estimate)
    if size < 1e-12:
        return 1.0
    components = [(variance, df) for variance, df in components if variance > 0]
    if not components:
        raise ValueError("no variance: p is not defined")
    if len(components) == 1:
        variance, df = components[0]
        return max(float(2 * special.stdtr(df, -size / np.sqrt(variance))), 1e-300)

    def excess(log_alpha: float) -> float:
        with np.errstate(over="ignore"):  # at one degree of freedom the widest interval may be infinite
            return half_width(components, np.exp(log_alpha)) - size

    if excess(SMALLEST_LOG_ALPHA) < 0:
        return float(np.exp(SMALLEST_LOG_ALPHA))
    if excess(0.0) >= 0:  # no more than rounding is left of the estimate
        return 1.0
    return float(np.exp(optimize.brentq(excess, SMALLEST_LOG_ALPHA, 0.0, xtol=1e-13, rtol=1e-13)))


def one_sided_p(components: Components, distance: float) -> float:
    """p of H0: true distance <= 0, from the same intervals (half the two-sided p on the positive side)."""
    p = two_sided_p(components, distance)
    return p / 2 if distance > 0 else 1 - p / 2


@dataclass(frozen=True)
class MarginTests:
    """One-sided p against a margin: not inferior by it, equivalent within it (TOST), harmful beyond it; None: none."""

    noninferior: float | None = None
    tost: float | None = None
    harm: float | None = None


def margin_tests(components: Components, gain: float, margin: float) -> MarginTests:
    """Non-inferiority, equivalence and harm of `gain` (positive is better) against margin > 0 (Schuirmann 1987)."""
    lower, upper = one_sided_p(components, gain + margin), one_sided_p(components, margin - gain)
    return MarginTests(lower, max(lower, upper), one_sided_p(components, -(gain + margin)))
