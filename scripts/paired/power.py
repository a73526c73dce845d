"""Planning: how many prompts and seeds a difference needs, and what the present ones can detect.

`n_miller`, `n_mcnemar`, `mcnemar_power` and `n_paired_t` are for whoever plans a study before any score exists; the
tables use the others, which rest on observed variances (docs/statistics.md, 1.12).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats
from statsmodels.stats.power import TTestPower

from .intervals import Components

POWER = 0.8
MOST_PROMPTS = 10**8
MOST_SEEDS = 1000
QUANTILES = (np.arange(40) + 0.5) / 40


def n_miller(
    delta: float,
    omega2: float,
    sigma2_a: float,
    sigma2_b: float,
    k_a: int,
    k_b: int,
    alpha: float = 0.05,
    power: float = POWER,
) -> float:
    """Prompts for a paired difference `delta` (Miller 2024, eq. 9), not rounded.

    omega2: variance over prompts of the difference of means; sigma2_a, sigma2_b: sampling variance within a prompt,
    averaged over k_a and k_b samples.

    >>> math.ceil(n_miller(0.03, 1 / 9, 0, 0, 1, 1))
    969
    """
    return _normal_sum(alpha, power) ** 2 * (omega2 + sigma2_a / k_a + sigma2_b / k_b) / delta**2


def n_mcnemar(psi: float, delta: float, alpha: float = 0.05, power: float = POWER) -> float:
    """Prompts for McNemar's test, not rounded; psi: share of discordant pairs, delta: difference (Connor 1987)."""
    sf = stats.norm.isf
    return (sf(alpha / 2) * math.sqrt(psi) + sf(1 - power) * math.sqrt(psi - delta**2)) ** 2 / delta**2


def mcnemar_power(n: int, psi: float, delta: float, alpha: float = 0.05) -> tuple[float, float]:
    """Power of the (mid-p, exact) McNemar test at n prompts by enumeration over the number of discordant pairs."""
    p12 = (psi + delta) / (2 * psi)
    mid = exact = 0.0
    for discordant in range(n + 1):
        weight = stats.binom.pmf(discordant, n, psi)
        if weight < 1e-14:
            continue
        first = np.arange(discordant + 1)
        smaller = np.minimum(first, discordant - first)
        at_most = 2 * stats.binom.cdf(smaller, discordant, 0.5)
        equal = stats.binom.pmf(smaller, discordant, 0.5)
        tie = 2 * first == discordant
        chance = stats.binom.pmf(first, discordant, p12)
        exact += weight * chance[np.minimum(at_most, 1) <= alpha].sum()
        mid += weight * chance[np.where(tie, 1 - equal / 2, at_most - equal) <= alpha].sum()
    return float(mid), float(exact)


def n_paired_t(effect_dz: float, alpha: float = 0.05, power: float = POWER) -> float:
    """Prompts for a paired t test of a standardised difference d_z, not rounded (noncentral t)."""
    return float(TTestPower().solve_power(effect_size=effect_dz, alpha=alpha, power=power))


def _normal_sum(alpha: float, power: float) -> float:
    return float(stats.norm.isf(alpha / 2) + stats.norm.isf(1 - power))


def detectable(components: Components, alpha: float, power: float = POWER) -> float:
    """Smallest true difference found with `power`: sqrt(sum of (t(1 - alpha/2, df) + t(power, df))^2 V).

    It follows from the observed variance, not from the observed effect; within 6% of simulation at alpha = .05.
    """
    total = 0.0
    for variance, df in components:
        total += (special.stdtrit(df, 1 - alpha / 2) + special.stdtrit(df, power)) ** 2 * variance
    return math.sqrt(total)


def chance(components: Components, difference: float, alpha: float) -> float:
    """How often a true difference is found, two-sided at alpha: P(sum of t^2(1 - alpha/2, df) V <= estimate^2).

    The estimate is normal with variance sum of V, each V its expectation times chi2(df) / df; by quadrature over their
    quantiles. Unlike `detectable` it holds at any alpha: few seeds at a small one need more than that adds up.
    """
    squares = np.zeros(1)
    for variance, df in components:
        spread = 2 * special.gammaincinv(df / 2, QUANTILES) / df
        squares = np.add.outer(squares, special.stdtrit(df, alpha / 2) ** 2 * variance * spread).ravel()
    sd = math.sqrt(sum(variance for variance, _ in components))
    if sd == 0:
        return float(difference != 0)
    width = np.sqrt(squares)
    return float((special.ndtr((difference - width) / sd) + special.ndtr((-difference - width) / sd)).mean())


def difference_found(components: Components, alpha: float, power: float = POWER) -> float:
    """The true difference that is found with `power`, by `chance`."""
    start = detectable(components, alpha, power)
    if start == 0:
        return 0.0
    high = start
    while chance(components, high, alpha) < power:
        high *= 2
    return float(optimize.brentq(lambda one: chance(components, one, alpha) - power, 0.0, high, rtol=1e-4))


@dataclass(frozen=True)
class Design:
    """Variance components per prompt, per seed and per cell, which say what another design would give.

    prompt, seed, resid: squared units of the metric. df_share: degrees of freedom per prompt (below 1 when prompts
    come in clusters). n, n_seeds: the design that they were estimated from. df_seed: degrees of freedom of the seeds
    for each of n_seeds - 1; more than 1 where arms share a seed variance.
    """

    prompt: float
    seed: float
    resid: float
    df_share: float
    n: int
    n_seeds: int
    df_seed: float = 1.0

    @classmethod
    def observed(
        cls, v_prompt: float, df: float, v_seed: float, v_resid: float, n: int, n_seeds: int, df_seed: float = 1.0
    ) -> Design:
        """Components from variances of the mean: V_prompt = prompt/n + resid/(nS), V_seed = seed/S + resid/(nS)."""
        return cls(
            prompt=n * max(v_prompt - v_resid, 0.0),
            seed=n_seeds * max(v_seed - v_resid, 0.0),
            resid=v_resid * n * n_seeds,
            df_share=df / max(n - 1, 1),
            n=n,
            n_seeds=n_seeds,
            df_seed=df_seed,
        )

    def components(self, n: int, n_seeds: int) -> Components:
        """The method scope with n prompts and n_seeds >= 2 seeds; its first entry is the checkpoint scope."""
        noise = self.resid / (n * n_seeds)
        df = max(self.df_share * (n - 1), 1.0)
        return [(self.prompt / n + noise, df), (self.seed / n_seeds + noise, self.df_seed * (n_seeds - 1))]

    def detectable(self, n: int, n_seeds: int, alpha: float, scope: str) -> float:
        """MDE at 80% power of the design, for scope "checkpoint" or "method"."""
        components = self.components(n, n_seeds)
        return detectable(components if scope == "method" else components[:1], alpha)

    def finds(self, n: int, n_seeds: int, difference: float, alpha: float, scope: str) -> bool:
        """Whether the design finds a true difference with 80% power."""
        components = self.components(n, n_seeds)
        return chance(components if scope == "method" else components[:1], difference, alpha) >= POWER

    def prompts_required(self, difference: float, alpha: float, scope: str) -> int | None:
        """Fewest prompts, at the present seeds, that find `difference`; None where no number of prompts does."""
        return _fewest(lambda n: self.finds(n, self.n_seeds, difference, alpha, scope), 2, MOST_PROMPTS)

    def seeds_required(self, difference: float, alpha: float) -> int | None:
        """Fewest seeds (3 or more), at the present prompts, that find `difference`; None if no number does."""
        return _fewest(lambda s: self.finds(self.n, s, difference, alpha, "method"), 3, MOST_SEEDS)


def _fewest(enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """Smallest integer in [low, high] for which the monotone condition holds."""
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
