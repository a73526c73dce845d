"""From scores to estimates: the hypotheses of a metric, the paired differences of each, and what describes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from . import proportions
from .effects import EffectSizes, effect_sizes
from .intervals import Interval, cluster_mean, interval
from .plan import Metric, Plan
from .question import Weights
from .scores import Scores, complete_case, missing_bounds, weighted_mean
from .signflip import wilcoxon

OVERALL = "__all__"


@dataclass(frozen=True)
class Group:
    """Prompts that a hypothesis is about.

    kind: "overall" or "category". rows: int [n], positions among the metric's kept prompts. codes: int [n], their
    clusters, None if every prompt is its own. category: int [n] where the estimate weights categories equally, else
    None. design_rows and design_category: the same for all prompts of the metric, dropped ones included. tested: large
    enough.
    """

    kind: str
    name: str
    rows: np.ndarray
    codes: np.ndarray | None
    category: np.ndarray | None
    design_rows: np.ndarray
    design_category: np.ndarray | None
    tested: bool

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return len(self.rows) if self.codes is None else int(self.codes.max(initial=-1)) + 1


@dataclass(frozen=True)
class Hypothesis:
    """What is asked: one contrast of one metric on one group of prompts; tested: the group is large enough."""

    metric: Metric
    contrast: str
    weights: Weights
    group_kind: str
    group: str
    tested: bool

    @property
    def id(self) -> str:
        """Its name, which also keys its random numbers."""
        return hypothesis_id(self.metric.name, self.contrast, self.group_kind, self.group)

    @property
    def overall(self) -> bool:
        """Whether it is about all prompts of the metric."""
        return self.group_kind == "overall"


@dataclass(frozen=True)
class Sample:
    """The data of one hypothesis, as `scopes.infer` wants them (see there)."""

    differences: np.ndarray
    codes: np.ndarray | None
    category: np.ndarray | None
    binary_pair: bool
    binary: bool
    lattice: float | None


@dataclass(frozen=True)
class Missing:
    """What missing outputs may have done to an estimate (docs/statistics.md, 1.8); rates: of each side's outputs.

    any: whether the metric misses an output; if it does not, the estimate is that of complete cases and its own bound.
    """

    rate_pos: float
    rate_neg: float
    any: bool = False
    complete_case: float | None = None
    bounds: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class Estimate:
    """What describes the data of one hypothesis.

    mean_pos, mean_neg: means of both sides. both: prompts where both arms of one-seed 0/1 data are right.
    p_wilcoxon: None for binary metrics. seeds: training seeds that all arms have; empty if no arm has any.
    prompts_dropped, seeds_dropped: whether something of the design is left out.
    """

    hypothesis: Hypothesis
    mean_pos: float
    mean_neg: float
    effects: EffectSizes
    both: int
    p_wilcoxon: float | None
    missing: Missing
    seeds: tuple[int, ...]
    prompts_dropped: bool
    seeds_dropped: bool


@dataclass(frozen=True)
class ArmMean:
    """One arm on one group of prompts, pooled over seeds or of one seed: a row of the table arm_means.

    scope: of the interval, over prompts for these checkpoints.
    """

    metric: str
    group_kind: str
    group: str
    arm: str
    level: str
    train_seed: int | None
    mean: float
    ci_lo: float | None
    ci_hi: float | None
    ci_method: str | None
    n: int
    n_clusters: int
    n_seeds: int
    scope: str = "checkpoint"


def hypothesis_id(metric: str, contrast: str, group_kind: str, group: str) -> str:
    """The name of a hypothesis: "pref_acc/C1/overall"."""
    return f"{metric}/{contrast}/{group_kind}" + ("" if group_kind == "overall" else f"={group}")


def make_groups(scores: Scores, prompts: pd.DataFrame, plan: Plan) -> list[Group]:
    """Overall, then every category by name; a single category would only repeat the overall row.

    A category is tested from its size in the design, never from its outcomes. One whose every prompt was dropped is
    left out; the table of missing outputs tells why.
    """
    own = prompts.iloc[scores.prompts]
    categories, names = pd.factorize(own["category"], sort=True)
    clusters = pd.factorize(own["cluster_id"])[0]
    position = np.cumsum(scores.kept) - 1

    def group(kind: str, name: str, members: np.ndarray, tested: bool) -> Group:
        kept = members[scores.kept[members]]
        codes = pd.factorize(clusters[kept])[0]
        macro = kind == "overall" and plan.weighting == "macro"
        return Group(
            kind=kind,
            name=name,
            rows=position[kept],
            codes=None if codes.max(initial=-1) + 1 == len(kept) else codes,
            design_rows=members,
            category=categories[kept] if macro else None,
            design_category=categories[members] if macro else None,
            tested=tested,
        )

    groups = [group("overall", OVERALL, np.arange(len(own)), True)]
    if len(names) > 1:
        for code, name in enumerate(names):
            members = np.flatnonzero(categories == code)
            groups.append(group("category", str(name), members, len(members) >= plan.min_prompts_category))
    return [group for group in groups if len(group.rows)]


def estimates(scores: Scores, groups: list[Group], plan: Plan) -> Iterator[tuple[Estimate, Sample]]:
    """Every hypothesis of a metric, contrast by contrast: what describes its data, and the data."""
    binary = scores.metric.kind == "binary"
    for contrast, weights in plan.contrasts.items():
        differences = scores.differences(weights)
        sides = scores.side(weights, 1), scores.side(weights, -1)
        pair = binary and scores.n_samples == 1 and sorted(weights.values()) == [-1, 1]
        for group in groups:
            hypothesis = Hypothesis(scores.metric, contrast, weights, group.kind, group.name, group.tested)
            rows = slice(None) if hypothesis.overall else group.rows
            sample = Sample(differences[:, rows], group.codes, group.category, pair, binary, scores.lattice)
            yield _describe(scores, hypothesis, group, sample, *(side[rows] for side in sides)), sample


def _describe(
    scores: Scores, hypothesis: Hypothesis, group: Group, sample: Sample, first: np.ndarray, second: np.ndarray
) -> Estimate:
    """first, second: float [n], the two sides."""
    p_wilcoxon = None
    if not sample.binary:
        signed_rank = wilcoxon(sample.differences.mean(axis=0))
        p_wilcoxon = 1.0 if signed_rank is None else signed_rank.p
    one_seed_pair = sample.binary_pair and scores.n_seeds == 1
    return Estimate(
        hypothesis=hypothesis,
        mean_pos=weighted_mean(first, group.category),
        mean_neg=weighted_mean(second, group.category),
        effects=effect_sizes(first, second),
        both=int(((first == 1) & (second == 1)).sum()) if one_seed_pair else 0,
        p_wilcoxon=p_wilcoxon,
        missing=_missing(scores, hypothesis.weights, group),
        seeds=scores.seeds,
        prompts_dropped=len(group.rows) < len(group.design_rows),
        seeds_dropped=bool(scores.dropped_seeds),
    )


def _missing(scores: Scores, weights: Weights, group: Group) -> Missing:
    plus, minus = (
        float(np.mean([scores.missing_rates[arm] for arm, w in weights.items() if w * sign > 0])) for sign in (1, -1)
    )
    if scores.complete:
        return Missing(plus, minus)
    design = (group.design_rows, group.design_category)
    complete, _ = complete_case(scores, weights, *design)
    return Missing(plus, minus, True, complete, missing_bounds(scores, weights, *design))


def arm_means(scores: Scores, group: Group, plan: Plan) -> Iterator[ArmMean]:
    """The mean of every arm on a group, pooled over its seeds and seed by seed."""
    for arm in plan.arms:
        values = scores.values(arm)[:, group.rows]
        levels: list[tuple] = [("pooled", None, values.mean(axis=0), len(values))]
        levels += [("seed", seed, own, 1) for seed, own in zip(scores.seeds_of(arm), values, strict=True)]
        for level, seed, own, n_seeds in levels:
            mean = weighted_mean(own, group.category)
            ends, method = _mean_interval(scores, own, mean, group, n_seeds == 1, plan.alpha)
            yield ArmMean(
                metric=scores.metric.name,
                group_kind=group.kind,
                group=group.name,
                arm=arm,
                level=level,
                train_seed=seed,
                mean=mean,
                ci_lo=ends and ends[0],
                ci_hi=ends and ends[1],
                ci_method=method,
                n=len(own),
                n_clusters=group.n_clusters,
                n_seeds=n_seeds,
            )


def _mean_interval(
    scores: Scores, values: np.ndarray, mean: float, group: Group, one_seed: bool, alpha: float
) -> tuple[Interval | None, str | None]:
    """(interval, its name): Wilson's for 0/1 scores of one seed, else cluster-robust; None for a mean of categories."""
    if group.category is not None:
        return None, None
    binary = scores.metric.kind == "binary" and scores.n_samples == 1
    if binary and group.codes is None and (one_seed or mean in (0.0, 1.0)):
        return proportions.wilson_interval(round(mean * len(values)), len(values), alpha), "wilson"
    if group.n_clusters > 1:
        codes = np.arange(len(values)) if group.codes is None else group.codes
        robust = cluster_mean(values, codes, group.n_clusters)
        if robust.se_cr2 > 0:
            return interval(mean, robust.components, alpha), "cr2_t"
    return None, None
