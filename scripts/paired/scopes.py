"""Both scopes of claim: estimate, test and interval of one hypothesis, from one array of paired differences.

checkpoint: "these trained weights differ on prompts like these" (prompts are random).
method: "this recipe differs" (prompts and training seeds are random, crossed). Needs two seeds to compute and three
to claim anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from . import power, proportions
from .estimate import Estimate, Sample
from .intervals import (
    Components,
    Interval,
    MarginTests,
    SeedVariance,
    cluster_mean,
    interval,
    margin_tests,
    same_sign,
    seed_variance,
    two_sided_p,
)
from .plan import Plan
from .pooling import SeedPool
from .scores import macro_weights, without_residue
from .signflip import SignFlip, signflip

CHECKPOINT, METHOD = "checkpoint", "method"
Table = tuple[int, int, int]


@dataclass(frozen=True)
class Scope:
    """What paired differences say in one scope of claim, CHECKPOINT or METHOD; None marks what is not defined.

    p: two-sided. ci: the interval at the plan's level. components: of the variance; None where it is zero or not
    estimable. table: (n12, n21, n) where Tango's score test takes their place.
    """

    name: str
    estimate: float
    p: float | None = None
    ci: Interval | None = None
    components: Components | None = None
    table: Table | None = None

    def interval(self, alpha: float) -> Interval | None:
        """Two-sided 1 - alpha interval."""
        if self.table is not None:
            return proportions.tango_interval(*self.table, alpha)
        return interval(self.estimate, self.components, alpha) if self.components else None

    def margin_tests(self, margin: float, higher_is_better: bool) -> MarginTests:
        """Non-inferiority, equivalence and harm against a margin, positive differences oriented to be gains."""
        if self.table is not None:
            n12, n21, n = self.table if higher_is_better else (self.table[1], self.table[0], self.table[2])
            tost = proportions.tango_tost(n12, n21, n, margin)
            return MarginTests(tost["p_lower"], tost["p_tost"], 1 - tost["p_lower"])
        gain = self.estimate if higher_is_better else -self.estimate
        return margin_tests(self.components, gain, margin) if self.components else MarginTests()

    def detectable(self, alpha: float) -> float | None:
        """Smallest true difference that is found with 80% power, by the planning formula."""
        return power.detectable(self.components, alpha) if self.components else None

    def found(self, alpha: float) -> float | None:
        """The same at any alpha, by quadrature."""
        return power.difference_found(self.components, alpha) if self.components else None


@dataclass(frozen=True)
class Inference:
    """Everything that one set of paired differences says; None marks what is not defined.

    estimate: mean difference. flip: the sign-flip test. p_mid: its mid-p (1 where there are fewer than two clusters).
    theta: the estimate of each seed. se, df: CR2 and Bell-McCaffrey. ci_method: of the checkpoint interval, "tango" or
    "cr2_t". table: (n12, n21, n) of one-seed binary data. seeds: variance over seeds, None for one seed. excess: the
    method interval with the seeds' variance beyond prompt noise only, a diagnostic. flags: what a reader must know.
    """

    estimate: float
    n_prompts: int
    n_clusters: int
    n_seeds: int
    flip: SignFlip
    checkpoint: Scope
    method: Scope
    p_mid: float = 1.0
    theta: tuple[float, ...] = ()
    se: float | None = None
    df: float | None = None
    design_effect: float | None = None
    ci_method: str | None = None
    table: Table | None = None
    seeds: SeedVariance | None = None
    excess: Interval | None = None
    flags: tuple[str, ...] = ()

    def scope(self, name: str) -> Scope:
        """A scope by its name."""
        return self.method if name == METHOD else self.checkpoint

    @property
    def v_prompt(self) -> float | None:
        """Variance of the estimate over prompts."""
        return None if self.se is None else self.se**2

    @property
    def same_sign(self) -> int:
        """How many seeds share the sign of the mean; 1 for one seed."""
        return same_sign(np.array(self.theta))

    @property
    def design(self) -> power.Design | None:
        """What another number of prompts and seeds would give; None where the differences do not vary."""
        if self.checkpoint.components is None:
            return None
        (v_prompt, df), seeds = self.checkpoint.components[0], self.seeds
        if seeds is None or self.method.components is None:
            return power.Design.observed(v_prompt, df, 0.0, 0.0, self.n_prompts, self.n_seeds)
        v_seed, df_seed = self.method.components[1]
        share = df_seed / (self.n_seeds - 1)
        return power.Design.observed(v_prompt, df, v_seed, seeds.v_resid, self.n_prompts, self.n_seeds, share)


def infer(
    differences: np.ndarray,
    codes: np.ndarray | None = None,
    *,
    binary_pair: bool = False,
    binary: bool = False,
    lattice: float | None = None,
    category: np.ndarray | None = None,
    pooled: tuple[float, float] | None = None,
    alpha: float = 0.05,
    rng: np.random.Generator | None = None,
    draws: int = 19_999,
) -> Inference:
    """Both scopes of inference from paired differences.

    differences: float [S, n], seeds x prompts, samples averaged already. codes: int [n], cluster of each prompt
    (0 .. G - 1, none empty); None: every prompt is its own. binary_pair: the values are differences of two 0/1 scores
    (one sample, two arms), which with one seed and single-prompt clusters gives McNemar and Tango. binary: the metric
    is binary, which gives an interval even when nothing differs. lattice: see `signflip`, for cluster sums of the mean
    over seeds. category: int [n]; given, the estimate is the mean of category means (macro weighting). pooled: (V_seed,
    degrees of freedom) in place of the differences' own (`pooling`).

    The sign-flip statistic is the sum over prompts of their weight in the estimate.
    """
    differences = np.asarray(differences, dtype=float)
    codes = None if codes is None else np.asarray(codes)
    own_codes = np.arange(differences.shape[1]) if codes is None else codes
    found = _test(differences, codes, lattice, category, rng, draws)
    if binary_pair and found.n_seeds == 1 and codes is None and category is None:
        found = replace(found, table=(int((differences == 1).sum()), int((differences == -1).sum()), found.n_prompts))
    if found.n_clusters < 2:
        return replace(found, flags=("too_few_clusters",))
    largest = float(np.abs(differences).max())
    if found.flip.n_nonzero == 0 and largest == 0:
        return _no_difference(found, binary, alpha)
    found = replace(found, p_mid=found.flip.p_mid, checkpoint=replace(found.checkpoint, p=found.flip.p))
    if category is not None and any(len(np.unique(own_codes[category == one])) < 2 for one in np.unique(category)):
        return replace(found, flags=("category_of_one_cluster",))
    v_prompt, df, design_effect, seeds = _variances(differences, own_codes, found.n_clusters, category)
    found = replace(found, se=float(np.sqrt(v_prompt)), df=df, design_effect=design_effect, seeds=seeds)
    if seeds is not None:
        found = replace(found, theta=tuple(seeds.theta.tolist()))
    if np.sqrt(v_prompt) <= 1e-12 * largest:
        return _no_variance(found, alpha)
    return _both_scopes(found, v_prompt, df, pooled, alpha)


def _test(
    differences: np.ndarray,
    codes: np.ndarray | None,
    lattice: float | None,
    category: np.ndarray | None,
    rng: np.random.Generator | None,
    draws: int,
) -> Inference:
    """The estimate and its sign-flip test; whether that says anything, and how sure the estimate is, is still open."""
    n_seeds, n = differences.shape
    n_clusters = n if codes is None else int(codes.max()) + 1
    mean = without_residue(differences.mean(axis=0), np.abs(differences).mean(axis=0))
    weights = macro_weights(category) if category is not None else None
    weighted = mean if weights is None else mean * weights
    estimate = float(weighted.mean())
    sums = weighted
    if codes is not None:
        sums, scale = (np.bincount(codes, weights=w, minlength=n_clusters) for w in (weighted, np.abs(weighted)))
        sums = without_residue(sums, scale)
    by_seed = (differences if weights is None else differences * weights).mean(axis=1)
    return Inference(
        estimate=estimate,
        n_prompts=n,
        n_clusters=n_clusters,
        n_seeds=n_seeds,
        flip=signflip(sums, lattice=lattice if weights is None else None, rng=rng, draws=draws),
        checkpoint=Scope(CHECKPOINT, estimate, p=1.0),
        method=Scope(METHOD, estimate),
        theta=(estimate,) if n_seeds == 1 else tuple(by_seed.tolist()),
    )


def _no_difference(found: Inference, binary: bool, alpha: float) -> Inference:
    """Nothing differs anywhere. For binary data that is information: Tango with no discordant prompt."""
    table = (0, 0, found.n_clusters) if binary else None
    many = found.n_seeds > 1
    return replace(
        found,
        estimate=0.0,
        checkpoint=_by_table(replace(found.checkpoint, estimate=0.0), table, alpha),
        method=Scope(METHOD, 0.0, p=1.0 if many else None, table=table),
        theta=(0.0,) * found.n_seeds,
        ci_method="tango" if table else None,
        table=table,
        seeds=SeedVariance(np.zeros(found.n_seeds), 0.0, 0.0) if many else None,
        flags=("degenerate_zero_diff",),
    )


def _no_variance(found: Inference, alpha: float) -> Inference:
    """No cluster differs from the others: all by the same amount, or differences cancel within every cluster."""
    cancelled = found.flip.n_nonzero == 0
    estimate = 0.0 if cancelled else found.estimate
    return replace(
        found,
        estimate=estimate,
        checkpoint=_by_table(replace(found.checkpoint, estimate=estimate), found.table, alpha),
        method=Scope(METHOD, estimate, p=1.0 if cancelled and found.seeds is not None else None),
        theta=(estimate,) if found.seeds is None else found.theta,
        ci_method="tango" if found.table else None,
        flags=("degenerate_zero_diff" if cancelled else "degenerate_zero_variance",),
    )


def _both_scopes(
    found: Inference, v_prompt: float, df: float, pooled: tuple[float, float] | None, alpha: float
) -> Inference:
    """The usual case: prompts vary, and with more than one seed there are seeds that may."""
    components, seeds = [(v_prompt, df)], found.seeds
    ends = interval(found.estimate, components, alpha)
    if found.table is not None:
        ends = proportions.tango_interval(*found.table, alpha)
    found = replace(
        found,
        checkpoint=replace(found.checkpoint, ci=ends, components=components, table=found.table),
        ci_method="tango" if found.table else "cr2_t",
    )
    if seeds is not None:
        v_seed, df_seed = pooled or (seeds.v_seed, found.n_seeds - 1)
        both = [*components, (v_seed, df_seed)]
        beyond = [*components, (max(v_seed - seeds.v_resid, 0.0), df_seed)]
        method = Scope(
            METHOD,
            found.estimate,
            p=two_sided_p(both, found.estimate),
            ci=interval(found.estimate, both, alpha),
            components=both,
        )
        found = replace(found, method=method, excess=interval(found.estimate, beyond, alpha))
    disagree = (found.flip.p <= alpha) != (ends[0] > 0 or ends[1] < 0)
    return replace(found, flags=("ci_p_disagree",)) if disagree else found


def _by_table(scope: Scope, table: Table | None, alpha: float) -> Scope:
    """The scope with Tango's interval and tests where there is a table."""
    return scope if table is None else replace(scope, ci=proportions.tango_interval(*table, alpha), table=table)


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


@dataclass(frozen=True)
class PairedTable:
    """One-seed binary data: discordant prompts, Newcombe's interval, and the conditional odds ratio."""

    n12: int
    n21: int
    newcombe: Interval
    odds: proportions.OddsRatio


@dataclass(frozen=True)
class Finding:
    """A hypothesis with all that its own data say: nothing here depends on another hypothesis.

    table: None but for one-seed binary pairs whose prompts are all clusters of their own. rng_key: of its random
    numbers.
    """

    estimate: Estimate
    inference: Inference
    table: PairedTable | None
    rng_key: str

    @property
    def gain(self) -> float:
        """The estimate, positive where it is to the good."""
        value = self.inference.estimate
        return value if self.estimate.hypothesis.metric.higher_is_better else -value

    @property
    def complete_case(self) -> float | None:
        """The estimate over the prompts without a missing output."""
        return self.estimate.missing.complete_case if self.estimate.missing.any else self.inference.estimate

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Lowest and highest estimate, whatever the missing outputs were."""
        return self.estimate.missing.bounds if self.estimate.missing.any else (self.inference.estimate,) * 2


def find(estimate: Estimate, sample: Sample, plan: Plan, pool: SeedPool | None = None) -> Finding:
    """What the data of one hypothesis say in both scopes. pool: of its group of prompts, if the plan asks for it."""
    rng, rng_key = random_generator(plan.seed, estimate.hypothesis.id)
    inference = infer(
        sample.differences,
        sample.codes,
        binary_pair=sample.binary_pair,
        binary=sample.binary,
        lattice=sample.lattice,
        category=sample.category,
        pooled=pool.component(estimate.hypothesis.weights) if pool is not None and pool.alike else None,
        alpha=plan.alpha,
        rng=rng,
        draws=plan.draws,
    )
    table = None
    if pool is not None and not pool.alike:
        inference = replace(inference, flags=(*inference.flags, "seeds_not_pooled"))
    if sample.binary_pair and inference.table is not None and sample.codes is None and inference.n_seeds == 1:
        n12, n21, n = inference.table
        both = estimate.both
        newcombe = proportions.newcombe_interval(both, n12, n21, n - both - n12 - n21, plan.alpha)
        table = PairedTable(n12, n21, newcombe, proportions.conditional_odds_ratio(n12, n21, plan.alpha))
    return Finding(estimate, inference, table, rng_key)


def random_generator(seed: int, name: str) -> tuple[np.random.Generator, str]:
    """(generator, key): PCG64 seeded by the plan's seed and the first four uint32 of sha256(hypothesis)."""
    digest = hashlib.sha256(name.encode()).digest()
    key = np.frombuffer(digest[:16], dtype=">u4")
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=tuple(int(word) for word in key))
    return np.random.Generator(np.random.PCG64(sequence)), digest[:16].hex()
