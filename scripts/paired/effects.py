"""Effect sizes of one row, and whether an effect differs between categories."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from .signflip import SMALLEST_P


@dataclass(frozen=True)
class EffectSizes:
    """Effect sizes of paired values; None where the denominator is zero, or there is one pair only.

    d_z: mean difference / sd of differences; g_z: the same with Hedges' exact J; d_av: mean difference / root mean
    variance of both sides (Cohen 1988). net_win_rate: mean sign. prob_superiority: P(first > second) + half the ties.
    rank_biserial: matched, zeros dropped (Kerby 2014). corr_ab: Pearson. variance_ratio: paired variance over
    unpaired, what pairing bought.
    """

    d_z: float | None = None
    g_z: float | None = None
    d_av: float | None = None
    net_win_rate: float | None = None
    prob_superiority: float | None = None
    rank_biserial: float | None = None
    corr_ab: float | None = None
    variance_ratio: float | None = None


def effect_sizes(first: np.ndarray, second: np.ndarray) -> EffectSizes:
    """Effect sizes of paired values, float [n] each (the two sides of a contrast, averaged over seeds)."""
    difference = first - second
    difference[np.abs(difference) <= 1e-12 * np.abs(difference).max(initial=0.0)] = 0.0
    n = len(difference)
    if n < 2:
        return EffectSizes()
    mean, sd = float(difference.mean()), _sd(difference)
    sd_first, sd_second = _sd(first), _sd(second)
    unpaired = sd_first**2 + sd_second**2
    signs = np.sign(difference)
    d_z = mean / sd if sd > 0 else None
    corr = None
    if min(sd_first, sd_second) > 0:
        # Plain sums: numpy's corrcoef calls BLAS, whose last bits depend on the number of threads.
        shared = float(((first - first.mean()) * (second - second.mean())).sum()) / (n - 1)
        corr = min(max(shared / (sd_first * sd_second), -1.0), 1.0)
    return EffectSizes(
        d_z=d_z,
        g_z=d_z * hedges_correction(n - 1) if d_z is not None else None,
        d_av=mean / np.sqrt(unpaired / 2) if unpaired > 0 else None,
        net_win_rate=float(signs.mean()),
        prob_superiority=float((signs.mean() + 1) / 2),
        rank_biserial=_rank_biserial(difference),
        corr_ab=corr,
        variance_ratio=sd**2 / unpaired if unpaired > 0 else None,
    )


def _sd(values: np.ndarray) -> float:
    """Standard deviation; exactly zero for values that differ by rounding only."""
    sd = float(values.std(ddof=1))
    return sd if sd > 1e-12 * float(np.abs(values).max()) else 0.0


def hedges_correction(df: int) -> float:
    """Hedges' (1981) exact J = Gamma(df/2) / (sqrt(df/2) Gamma((df - 1)/2)); 1 in the limit, 0 at df = 1."""
    if df < 2:
        return 0.0
    return float(np.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / np.sqrt(df / 2))


def _rank_biserial(difference: np.ndarray) -> float | None:
    nonzero = difference[difference != 0]
    if not len(nonzero):
        return None
    sizes = np.abs(nonzero)
    # Averages over seeds differ in the last bits: equal magnitudes must share a rank.
    ranks = stats.rankdata(np.round(sizes / sizes.max(), 12))
    return float((np.sign(nonzero) * ranks).sum() / ranks.sum())


@dataclass(frozen=True)
class Heterogeneity:
    """Welch-James test that the effect is the same in every category. i2: share of Q beyond its expectation."""

    q: float
    f: float
    df1: float
    df2: float
    p: float
    i2: float


def heterogeneity(estimates: np.ndarray, variances: np.ndarray, dfs: np.ndarray) -> Heterogeneity | None:
    """Welch-James F of category estimates, float [C] each; equals Welch's ANOVA when clusters are single prompts.

    Categories whose differences do not vary are left out; None for fewer than two others. p is never 0.
    """
    usable = variances > (1e-12 * estimates) ** 2
    estimates, variances, dfs = estimates[usable], variances[usable], dfs[usable]
    c = len(estimates)
    if c < 2:
        return None
    weights = 1 / variances
    pooled = (weights * estimates).sum() / weights.sum()
    q = float((weights * (estimates - pooled) ** 2).sum())
    spread = float(((1 - weights / weights.sum()) ** 2 / dfs).sum())
    f = q / (c - 1) / (1 + 2 * (c - 2) / (c**2 - 1) * spread)
    df1, df2 = c - 1.0, (c**2 - 1) / (3 * spread)
    i2 = max(0.0, (q - df1) / q) if q > 0 else 0.0
    return Heterogeneity(q, f, df1, df2, max(float(stats.f.sf(f, df1, df2)), SMALLEST_P), i2)
