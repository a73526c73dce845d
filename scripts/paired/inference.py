"""One hypothesis: estimate, tests and intervals in both scopes of claim, from one array of paired differences.

checkpoint: "these trained weights differ on prompts like these" (prompts are random).
method: "this recipe differs" (prompts and training seeds are random, crossed). Needs two seeds to compute and three
to claim anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import proportions
from .intervals import (
    Components,
    MarginTests,
    SeedVariance,
    cluster_mean,
    interval,
    margin_tests,
    seed_variance,
    two_sided_p,
)
from .signflip import SignFlip, signflip

Interval = tuple[float, float]


@dataclass(frozen=True)
class Inference:
    """Everything that one set of paired differences says; None marks what is not defined.

    estimate: mean difference. flip: the sign-flip test, p_ckpt its p (1 where there are fewer than two clusters).
    se_ckpt, df_ckpt: CR2 and Bell-McCaffrey. ci_ckpt_method: "tango" or "cr2_t". table: (n12, n21, n) of one-seed
    binary data. seeds: variance over seeds, None for one seed. checkpoint, method: components of both scopes, None
    where the variance is zero or not estimable. flags: names of what a reader must know.
    """

    estimate: float
    n_prompts: int
    n_clusters: int
    n_seeds: int
    flip: SignFlip
    p_ckpt: float
    p_ckpt_mid: float
    se_ckpt: float | None = None
    df_ckpt: float | None = None
    design_effect: float | None = None
    ci_ckpt: Interval | None = None
    ci_ckpt_method: str | None = None
    table: tuple[int, int, int] | None = None
    seeds: SeedVariance | None = None
    p_method: float | None = None
    ci_method: Interval | None = None
    ci_method_excess: Interval | None = None
    checkpoint: Components | None = None
    method: Components | None = None
    flags: list[str] = field(default_factory=list)

    def interval(self, scope: str, alpha: float) -> Interval | None:
        """Two-sided 1 - alpha interval in a scope."""
        if scope == "checkpoint" and self.table is not None and self.n_clusters >= 2:
            return proportions.tango_interval(*self.table, alpha)
        components = self.components(scope)
        return interval(self.estimate, components, alpha) if components else None

    def components(self, scope: str) -> Components | None:
        """Variance components of a scope."""
        return self.method if scope == "method" else self.checkpoint

    def p(self, scope: str) -> float | None:
        """Two-sided p in a scope."""
        return self.p_method if scope == "method" else self.p_ckpt

    def margin_tests(self, scope: str, margin: float, higher_is_better: bool) -> MarginTests | None:
        """Non-inferiority, equivalence and harm against a margin, positive differences oriented to be gains.

        By Tango's score test for one-seed binary data (and for binary data without any difference), else by the
        scope's interval; None where that is not defined.
        """
        if self.table is not None and (scope == "checkpoint" or "degenerate_zero_diff" in self.flags):
            n12, n21, n = self.table if higher_is_better else (self.table[1], self.table[0], self.table[2])
            if n < 2:
                return None
            tost = proportions.tango_tost(n12, n21, n, margin)
            return MarginTests(tost["p_lower"], tost["p_tost"], 1 - tost["p_lower"])
        components = self.components(scope)
        gain = self.estimate if higher_is_better else -self.estimate
        return margin_tests(components, gain, margin) if components else None


def infer(
    differences: np.ndarray,
    codes: np.ndarray | None = None,
    *,
    binary_pair: bool = False,
    binary: bool = False,
    lattice: float | None = None,
    category: np.ndarray | None = None,
    alpha: float = 0.05,
    rng: np.random.Generator | None = None,
    draws: int = 19_999,
) -> Inference:
    """Both scopes of inference from paired differences.

    differences: float [S, n], seeds x prompts, samples averaged already. codes: int [n], cluster of each prompt
    (0 .. G - 1, none empty); None: every prompt is its own. binary_pair: the values are differences of two 0/1 scores
    (one sample, two arms), which with one seed and single-prompt clusters gives McNemar and Tango. binary: the metric
    is binary, which gives an interval even when nothing differs. lattice: see `signflip`, for cluster sums of the mean
    over seeds. category: int [n]; given, the estimate is the mean of category means (macro weighting).

    The sign-flip statistic is the sum over prompts of their weight in the estimate.
    """
    differences = np.asarray(differences, dtype=float)
    n_seeds, n = differences.shape
    singletons = codes is None
    codes = np.arange(n) if singletons else np.asarray(codes)
    n_clusters = n if singletons else int(codes.max()) + 1
    mean = differences.mean(axis=0)
    weights = macro_weights(category) if category is not None else None
    weighted = mean if weights is None else mean * weights
    estimate = float(weighted.mean())
    sums = weighted if singletons else np.bincount(codes, weights=weighted, minlength=n_clusters)
    flip = signflip(sums, lattice=lattice if weights is None else None, rng=rng, draws=draws)
    table = None
    if binary_pair and n_seeds == 1 and singletons and weights is None:
        table = (int((mean == 1).sum()), int((mean == -1).sum()), n)
    common = {"n_prompts": n, "n_clusters": n_clusters, "n_seeds": n_seeds, "flip": flip, "table": table}
    if n_clusters < 2:
        return Inference(estimate, **common, p_ckpt=1.0, p_ckpt_mid=1.0, flags=["too_few_clusters"])
    largest = float(np.abs(differences).max())
    if flip.n_nonzero == 0 and largest == 0:
        # Nothing differs anywhere. For binary data that is information: Tango with no discordant prompt.
        table = (0, 0, n_clusters) if binary else None
        return Inference(
            0.0,
            **(common | {"table": table}),
            p_ckpt=1.0,
            p_ckpt_mid=1.0,
            ci_ckpt=proportions.tango_interval(0, 0, n_clusters, alpha) if table else None,
            ci_ckpt_method="tango" if table else None,
            seeds=SeedVariance(np.zeros(n_seeds), 0.0, 0.0) if n_seeds > 1 else None,
            p_method=1.0 if n_seeds > 1 else None,
            flags=["degenerate_zero_diff"],
        )
    common |= {"p_ckpt": flip.p, "p_ckpt_mid": flip.p_mid}
    if category is not None and any(len(np.unique(codes[category == one])) < 2 for one in np.unique(category)):
        return Inference(estimate, **common, flags=["category_of_one_cluster"])
    v_prompt, df, design_effect, seeds = _variances(differences, codes, n_clusters, category)
    common |= {
        "se_ckpt": float(np.sqrt(v_prompt)),
        "df_ckpt": df,
        "design_effect": design_effect,
        "seeds": seeds,
    }
    if np.sqrt(v_prompt) <= 1e-12 * largest:
        # No cluster differs from the others: all by the same amount, or differences cancel within every cluster.
        cancelled = flip.n_nonzero == 0
        return Inference(
            0.0 if cancelled else estimate,
            **common,
            ci_ckpt=proportions.tango_interval(*table, alpha) if table else None,
            ci_ckpt_method="tango" if table else None,
            p_method=1.0 if cancelled and seeds is not None else None,
            flags=["degenerate_zero_diff" if cancelled else "degenerate_zero_variance"],
        )
    checkpoint = [(v_prompt, df)]
    method = excess = None
    if seeds is not None:
        method = [*checkpoint, (seeds.v_seed, n_seeds - 1)]
        excess = [*checkpoint, (max(seeds.v_seed - seeds.v_resid, 0.0), n_seeds - 1)]
    result = Inference(
        estimate,
        **common,
        ci_ckpt=proportions.tango_interval(*table, alpha) if table else interval(estimate, checkpoint, alpha),
        ci_ckpt_method="tango" if table else "cr2_t",
        p_method=two_sided_p(method, estimate) if method else None,
        ci_method=interval(estimate, method, alpha) if method else None,
        ci_method_excess=interval(estimate, excess, alpha) if excess else None,
        checkpoint=checkpoint,
        method=method,
    )
    low, high = result.ci_ckpt
    if (flip.p <= alpha) != (low > 0 or high < 0):
        result.flags.append("ci_p_disagree")
    return result


def macro_weights(category: np.ndarray) -> np.ndarray:
    """float [n], mean 1: weights that make the mean over prompts the mean over categories (int [n])."""
    counts = np.bincount(category)
    return (len(category) / ((counts > 0).sum() * counts.clip(1)))[category]


def _variances(
    differences: np.ndarray, codes: np.ndarray, n_clusters: int, category: np.ndarray | None
) -> tuple[float, float, float | None, SeedVariance | None]:
    """V_prompt, its df, the design effect, and the seed variance (None for one seed).

    Macro: variances of category means add up over C^2, with Satterthwaite's df; seeds from the macro seed means.
    Every category then needs two clusters.
    """
    n_seeds = len(differences)
    if category is None:
        whole = cluster_mean(differences.mean(axis=0), codes, n_clusters)
        seeds = seed_variance(differences, codes, n_clusters) if n_seeds > 1 else None
        return whole.se_cr2**2, whole.df, whole.design_effect, seeds
    v_prompt = v_resid = spread = 0.0
    theta = np.zeros(n_seeds)
    present = np.unique(category)
    for one in present:
        rows = category == one
        own, labels = np.unique(codes[rows], return_inverse=True)
        part = differences[:, rows]
        theta += part.mean(axis=1) / len(present)
        within = cluster_mean(part.mean(axis=0), labels, len(own))
        share = within.se_cr2**2 / len(present) ** 2
        v_prompt += share
        spread += share**2 / within.df
        if n_seeds > 1:
            v_resid += seed_variance(part, labels, len(own)).v_resid / len(present) ** 2
    seeds = SeedVariance(theta, float(theta.var(ddof=1)) / n_seeds, v_resid) if n_seeds > 1 else None
    return v_prompt, v_prompt**2 / spread if spread > 0 else 1.0, None, seeds
