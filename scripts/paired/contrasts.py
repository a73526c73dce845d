"""The whole study: every contrast of every metric, overall and by category, in families, as tables.

The order is fixed: read a metric, infer each hypothesis on its own (its random numbers are keyed by its name), then
adjust within families and give verdicts. So the result does not depend on the order of rows, files or metrics.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from . import adjust, effects, power, proportions, verdict
from .contract import NO_SEED, STATUSES, ContractError, Metric, Plan, Scores, find_scores, read_scores
from .inference import Inference, infer, macro_weights
from .intervals import cluster_mean, interval
from .signflip import wilcoxon

OVERALL = "__all__"
SEEDS_FOR_CLAIMS = 3
MOST_MISSING = 0.02
MOST_MISSING_GAP = 0.01
PROJECTED_PROMPTS = (0.5, 1, 2, 4)
PROJECTED_SEEDS = (3, 5, 8, 10)

TEXT, NUMBER, COUNT = pa.string(), pa.float64(), pa.int64()

CONTRAST_COLUMNS = {
    "hypothesis_id": TEXT, "metric": TEXT, "kind": TEXT, "contrast": TEXT, "group_kind": TEXT, "group": TEXT,
    "role": TEXT, "family": TEXT, "scope": TEXT,
    "n_prompts": COUNT, "n_clusters": COUNT, "n_seeds": COUNT, "n_nonzero": COUNT, "n12": COUNT, "n21": COUNT,
    "mean_pos": NUMBER, "mean_neg": NUMBER, "estimate": NUMBER, "gain": NUMBER,
    "se_ckpt": NUMBER, "df_ckpt": NUMBER, "ci_ckpt_lo": NUMBER, "ci_ckpt_hi": NUMBER, "ci_ckpt_method": TEXT,
    "p_ckpt": NUMBER, "p_ckpt_method": TEXT, "p_ckpt_mid": NUMBER, "p_min_attainable": NUMBER,
    "V_prompt": NUMBER, "V_seed": NUMBER, "V_resid": NUMBER, "sd_seed": NUMBER,
    "theta_seed": pa.list_(NUMBER), "seeds_same_sign": COUNT,
    "ci_method_lo": NUMBER, "ci_method_hi": NUMBER, "p_method": NUMBER,
    "ci_method_excess_lo": NUMBER, "ci_method_excess_hi": NUMBER,
    "p_wilcoxon": NUMBER, "ci_newcombe_lo": NUMBER, "ci_newcombe_hi": NUMBER,
    "d_z": NUMBER, "g_z": NUMBER, "d_av": NUMBER, "net_win_rate": NUMBER, "prob_superiority": NUMBER,
    "rank_biserial": NUMBER, "cohens_g": NUMBER, "odds_ratio": NUMBER, "odds_ratio_lo": NUMBER,
    "odds_ratio_hi": NUMBER, "corr_ab": NUMBER, "variance_ratio": NUMBER, "design_effect": NUMBER,
    "margin": NUMBER, "p_tost": NUMBER, "p_noninferior": NUMBER, "p_harm": NUMBER,
    "p_adj": NUMBER, "p_adj_method": TEXT, "p_adj_holm": NUMBER, "p_adj_bh": NUMBER, "p_adj_by": NUMBER,
    "p_adj_method_scope_bh": NUMBER, "p_tost_adj": NUMBER, "ci_fcr_lo": NUMBER, "ci_fcr_hi": NUMBER,
    "mde_ckpt": NUMBER, "mde_method": NUMBER, "target_difference": NUMBER, "n_required": COUNT,
    "seeds_required": COUNT,
    "rate_missing_pos": NUMBER, "rate_missing_neg": NUMBER, "estimate_complete_case": NUMBER,
    "bounds_lo": NUMBER, "bounds_hi": NUMBER,
    "verdict": TEXT, "words": TEXT, "flags": pa.list_(TEXT), "rng_key": TEXT, "plan_sha256": TEXT,
}  # fmt: skip
ARM_COLUMNS = {
    "metric": TEXT, "group_kind": TEXT, "group": TEXT, "arm": TEXT, "level": TEXT, "train_seed": COUNT,
    "mean": NUMBER, "ci_lo": NUMBER, "ci_hi": NUMBER, "ci_method": TEXT, "n": COUNT, "n_clusters": COUNT,
    "n_seeds": COUNT,
}  # fmt: skip
SEED_COLUMNS = {
    "hypothesis_id": TEXT, "metric": TEXT, "contrast": TEXT, "group_kind": TEXT, "group": TEXT, "train_seed": COUNT,
    "estimate": NUMBER, "n_prompts": COUNT,
}  # fmt: skip
VARIANCE_COLUMNS = {
    "hypothesis_id": TEXT, "metric": TEXT, "contrast": TEXT, "group_kind": TEXT, "group": TEXT, "n_prompts": COUNT,
    "n_seeds": COUNT, "V_prompt": NUMBER, "V_seed": NUMBER, "V_resid": NUMBER, "sd_prompt": NUMBER,
    "sd_seed": NUMBER, "sd_resid": NUMBER, "share_prompt": NUMBER, "share_seed": NUMBER, "share_resid": NUMBER,
}  # fmt: skip
PROJECTION_COLUMNS = {
    "hypothesis_id": TEXT, "metric": TEXT, "contrast": TEXT, "n_prompts": COUNT, "n_seeds": COUNT,
    "prompts_factor": NUMBER, "V_prompt": NUMBER, "V_seed": NUMBER, "mde_ckpt": NUMBER, "mde_method": NUMBER,
}  # fmt: skip
HETEROGENEITY_COLUMNS = {
    "metric": TEXT, "contrast": TEXT, "n_groups": COUNT, "Q": NUMBER, "F": NUMBER, "df1": NUMBER, "df2": NUMBER,
    "p": NUMBER, "p_adj_bh": NUMBER, "I2": NUMBER,
}  # fmt: skip
MISSING_COLUMNS = {
    "metric": TEXT, "arm": TEXT, "train_seed": COUNT, "n_outputs": COUNT, **dict.fromkeys(STATUSES, COUNT),
    "rate_missing": NUMBER, "n_prompts": COUNT, "n_prompts_dropped": COUNT,
}  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Prompts that a hypothesis is about.

    rows: int [n], positions among the metric's kept prompts. codes: int [n], their clusters, None if every prompt is
    its own. category: int [n] where the estimate weights categories equally, else None. design_rows and
    design_category: the same for all prompts of the metric, dropped ones included. tested: large enough.
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
class Study:
    """Tables by name (see the *_COLUMNS of this module) and the decision as a JSON object."""

    tables: dict[str, pa.Table]
    decision: dict


def analyse(
    plan: Plan,
    scores: Sequence[str | Path],
    prompts: pd.DataFrame,
    *,
    plan_changes: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Study:
    """Analyse a study: one row for each hypothesis, in families, with verdicts.

    scores: folders of metric=<name>/part-*.parquet, or such files. prompts: from `contract.read_prompts`.
    plan_changes: what was changed in the plan after the first scores existed; anything marks everything exploratory.
    None: the plan was not put on record, so nothing is said about it. say: called with lines of progress. Raises
    ContractError (see contract.read_scores).
    """
    files = find_scores(scores, plan)
    builder = _Tables(plan)
    for metric in plan.metrics.values():
        table = read_scores(files[metric.name], plan, metric, prompts)
        say(
            f"{metric.name}: {len(table.prompts)} prompts, {len(plan.arms)} arms, {table.n_seeds} seed(s), "
            f"{table.n_samples} sample(s)"
        )
        builder.add(table, prompts)
    return builder.finish(plan_changes)


def hypothesis_id(metric: str, contrast: str, group_kind: str, group: str) -> str:
    """The name of a hypothesis, which also keys its random numbers: "pref_acc/C1/overall"."""
    return f"{metric}/{contrast}/{group_kind}" + ("" if group_kind == "overall" else f"={group}")


def random_generator(seed: int, name: str) -> tuple[np.random.Generator, str]:
    """(generator, key): PCG64 seeded by the plan's seed and the first four uint32 of sha256(hypothesis)."""
    digest = hashlib.sha256(name.encode()).digest()
    key = np.frombuffer(digest[:16], dtype=">u4")
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=tuple(int(word) for word in key))
    return np.random.Generator(np.random.PCG64(sequence)), digest[:16].hex()


def make_groups(scores: Scores, prompts: pd.DataFrame, plan: Plan) -> list[Group]:
    """Overall, then every category by name; a single category would only repeat the overall row.

    A category is tested from its size in the design, never from its outcomes.
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
    return groups


def paired_differences(scores: Scores, weights: dict[str, int]) -> np.ndarray:
    """float [S, kept prompts]: the contrast for every seed and prompt; an arm without seeds counts for each of them."""
    total = sum(weight * scores.values(arm) for arm, weight in weights.items())
    return np.broadcast_to(total, (scores.n_seeds, total.shape[1]))


def missing_bounds(
    scores: Scores, weights: dict[str, int], rows: np.ndarray, category: np.ndarray | None = None
) -> tuple[float | None, float | None]:
    """(lowest, highest) estimate if every missing output had its worst or best value (Manski); None if unbounded.

    rows: int [n], positions among all prompts of the metric, dropped ones included. category: int [n] for macro
    weighting.
    """
    if scores.metric.bounds is None and not scores.complete:
        return None, None
    low, high = scores.metric.bounds or (None, None)
    ends = []
    for for_plus, for_minus in ((low, high), (high, low)):
        total = sum(
            weight * scores.sample_means(arm, for_plus if weight > 0 else for_minus)[:, rows].mean(axis=0)
            for arm, weight in weights.items()
        )
        ends.append(_mean(total, category))
    return ends[0], ends[1]


def complete_case(
    scores: Scores, weights: dict[str, int], rows: np.ndarray, category: np.ndarray | None = None
) -> tuple[float | None, int]:
    """(estimate, prompts) over the prompts whose every output of the contrast's arms is ok; see `missing_bounds`."""
    complete = np.ones(len(rows), dtype=bool)
    for arm in weights:
        complete &= (scores.status[arm][:, rows] == 0).all(axis=(0, 2))
    if not complete.any():
        return None, 0
    rows = rows[complete]
    total = sum(weight * scores.sample_means(arm)[:, rows].mean(axis=0) for arm, weight in weights.items())
    return _mean(total, None if category is None else category[complete]), len(rows)


class _Tables:
    """The rows of all tables while metrics are being added."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows: list[dict] = []
        self.inferences: dict[str, Inference] = {}
        self.arm_means: list[dict] = []
        self.seed_effects: list[dict] = []
        self.variance: list[dict] = []
        self.projection: list[dict] = []
        self.heterogeneity: list[dict] = []
        self.missing: list[dict] = []
        self.seeds: dict[str, tuple[int, ...]] = {}
        self.dropped: dict[str, dict[str, tuple[int, ...]]] = {}
        self.identical: list[str] = []
        self.rates: dict[str, dict[str, float]] = {}

    def add(self, scores: Scores, prompts: pd.DataFrame) -> None:
        metric = scores.metric
        self.seeds[metric.name] = scores.seeds
        self.rates[metric.name] = {arm: scores.missing_rate(arm) for arm in self.plan.arms}
        self.identical += [f"{metric.name}: {first} and {second}" for first, second in scores.identical]
        if scores.dropped_seeds:
            self.dropped[metric.name] = scores.dropped_seeds
        self._add_missing(scores)
        if not scores.kept.any():
            raise ContractError(
                f"metric {metric.name!r}: every prompt has a failed output (see its status), none is left"
            )
        # A category whose every prompt was dropped has no rows; the table of missing outputs tells why.
        groups = [group for group in make_groups(scores, prompts, self.plan) if len(group.rows)]
        for group in groups:
            self._add_arm_means(scores, group)
        for name, weights in self.plan.contrasts.items():
            differences = paired_differences(scores, weights)
            sides = tuple(
                sum(abs(w) * scores.values(arm).mean(axis=0) for arm, w in weights.items() if w * sign > 0)
                for sign in (1, -1)
            )
            for group in groups:
                self._add_hypothesis(scores, name, weights, group, differences, sides)
            self._add_heterogeneity(metric, name, groups)

    def _add_hypothesis(
        self,
        scores: Scores,
        contrast: str,
        weights: dict[str, int],
        group: Group,
        differences: np.ndarray,
        sides: tuple[np.ndarray, np.ndarray],
    ) -> None:
        plan, metric = self.plan, scores.metric
        name = hypothesis_id(metric.name, contrast, group.kind, group.name)
        rng, rng_key = random_generator(plan.seed, name)
        everything = group.kind == "overall"
        own = differences if everything else differences[:, group.rows]
        first, second = (side if everything else side[group.rows] for side in sides)
        binary_pair = metric.kind == "binary" and scores.n_samples == 1 and sorted(weights.values()) == [-1, 1]
        result = infer(
            own,
            group.codes,
            binary_pair=binary_pair,
            binary=metric.kind == "binary",
            lattice=_lattice(scores),
            category=group.category,
            alpha=plan.alpha,
            rng=rng,
            draws=plan.draws,
        )
        family = self._family(metric, contrast, group)
        scope = self._scope(family, result.n_seeds)
        row = dict.fromkeys(CONTRAST_COLUMNS)
        row |= {
            "hypothesis_id": name, "metric": metric.name, "kind": metric.kind, "contrast": contrast,
            "group_kind": group.kind, "group": group.name, "role": metric.role, "family": family, "scope": scope,
            "mean_pos": _mean(first, group.category), "mean_neg": _mean(second, group.category),
            "gain": result.estimate if metric.higher_is_better else -result.estimate, "margin": metric.margin,
            "rng_key": rng_key, "plan_sha256": plan.sha256,
            "flags": [*result.flags, *self._row_flags(scores, group, family, result)],
        }  # fmt: skip
        row |= _inference_columns(result) | effects.effect_sizes(first, second)
        if binary_pair and result.table is not None and group.codes is None and result.n_seeds == 1:
            row |= self._table_columns(result.table, first, second)
        if metric.kind != "binary":
            signed_rank = wilcoxon(own.mean(axis=0))
            row["p_wilcoxon"] = 1.0 if signed_rank is None else signed_rank.p
        if metric.margin is not None:
            tests = result.margin_tests(scope, metric.margin, metric.higher_is_better)
            if tests is not None:
                row |= {"p_tost": tests.tost, "p_noninferior": tests.noninferior, "p_harm": tests.harm}
        row |= self._planning(result, metric, scope)
        row |= self._missing_columns(scores, weights, group, result.estimate)
        self.inferences[name] = result
        self.rows.append(row)
        self._add_seed_effects(row, scores.seeds)
        self._add_variance(row, result)

    def _table_columns(self, table: tuple[int, int, int], first: np.ndarray, second: np.ndarray) -> dict:
        n12, n21, n = table
        n11 = int(((first == 1) & (second == 1)).sum())
        newcombe = proportions.newcombe_interval(n11, n12, n21, n - n11 - n12 - n21, self.plan.alpha)
        ratio = proportions.conditional_odds_ratio(n12, n21, self.plan.alpha)
        return {"n12": n12, "n21": n21} | _ends("ci_newcombe", newcombe) | ratio

    def _family(self, metric: Metric, contrast: str, group: Group) -> str | None:
        if metric.role == "exploratory":
            return "exploratory" if group.tested else None
        primary = metric.name == self.plan.primary_metric and contrast in self.plan.primary_contrasts
        if primary and group.kind == "overall":
            return "primary"
        return "secondary" if group.tested else None

    def _scope(self, family: str | None, n_seeds: int) -> str:
        """The scope whose p enters the family: the planned one, or checkpoint with too few seeds for the method."""
        planned = self.plan.primary_scope if family == "primary" else self.plan.secondary_scope
        return planned if n_seeds >= SEEDS_FOR_CLAIMS else "checkpoint"

    def _row_flags(self, scores: Scores, group: Group, family: str | None, result: Inference) -> list[str]:
        flags = []
        if family is None:
            flags.append("descriptive")
        if scores.dropped_seeds:
            flags.append("dropped_seeds")
        if family == "primary" and self._scope(family, result.n_seeds) != self.plan.primary_scope:
            flags.append("scope_fallback")
        if family == "exploratory":
            flags.append("exploratory")
        if len(group.rows) < len(group.design_rows):
            flags.append("prompts_dropped")
        if result.flip.p_min_attainable > self.plan.alpha and result.n_clusters >= 2 and result.flip.n_nonzero:
            flags.append("cannot_reach_alpha")
        return flags

    def _planning(self, result: Inference, metric: Metric, scope: str) -> dict:
        target = metric.margin if metric.margin is not None else abs(result.estimate)
        columns: dict = {"target_difference": target or None}
        design = _design(result)
        if design is None:
            return columns
        alpha = self.plan.alpha
        columns["mde_ckpt"] = power.detectable(result.checkpoint, alpha)
        if result.seeds is not None:
            columns["mde_method"] = power.detectable(result.method, alpha)
        if target:
            columns["n_required"] = design.prompts_required(target, alpha, scope)
            if result.seeds is not None:
                columns["seeds_required"] = design.seeds_required(target, alpha)
        return columns

    def _missing_columns(self, scores: Scores, weights: dict[str, int], group: Group, estimate: float) -> dict:
        rates = self.rates[scores.metric.name]
        columns: dict = {
            "rate_missing_pos": float(np.mean([rates[arm] for arm, w in weights.items() if w > 0])),
            "rate_missing_neg": float(np.mean([rates[arm] for arm, w in weights.items() if w < 0])),
        }
        if scores.complete:
            return columns | dict.fromkeys(("estimate_complete_case", "bounds_lo", "bounds_hi"), estimate)
        design = (group.design_rows, group.design_category)
        ends = missing_bounds(scores, weights, *design)
        columns["estimate_complete_case"] = complete_case(scores, weights, *design)[0]
        return columns | {"bounds_lo": ends[0], "bounds_hi": ends[1]}

    def _add_seed_effects(self, row: dict, seeds: tuple[int, ...]) -> None:
        shared = {
            name: row[name] for name in ("hypothesis_id", "metric", "contrast", "group_kind", "group", "n_prompts")
        }
        for seed, theta in zip(seeds or (NO_SEED,), row["theta_seed"], strict=True):
            self.seed_effects.append(shared | {"train_seed": seed, "estimate": theta})

    def _add_variance(self, row: dict, result: Inference) -> None:
        design = _design(result)
        if design is None:
            return
        keys = (*list(VARIANCE_COLUMNS)[:7], "V_prompt", "V_seed", "V_resid")
        parts = {"prompt": design.prompt, "seed": design.seed, "resid": design.resid}
        total = sum(parts.values())
        one = {key: row[key] for key in keys}
        one["sd_prompt"] = float(np.sqrt(design.prompt))
        if result.seeds is not None:
            one |= {f"sd_{part}": float(np.sqrt(value)) for part, value in parts.items()}
            one |= {f"share_{part}": value / total for part, value in parts.items() if total > 0}
        self.variance.append(one)
        if row["group_kind"] != "overall":
            return
        for factor in PROJECTED_PROMPTS:
            for seeds in sorted({*PROJECTED_SEEDS, result.n_seeds}) if result.seeds is not None else [result.n_seeds]:
                n = max(2, round(factor * result.n_prompts))
                components = design.components(n, seeds)
                known = result.seeds is not None and seeds > 1
                self.projection.append(
                    {key: row[key] for key in ("hypothesis_id", "metric", "contrast")}
                    | {
                        "n_prompts": n,
                        "n_seeds": seeds,
                        "prompts_factor": factor,
                        "V_prompt": components[0][0],
                        "V_seed": components[1][0] if known else None,
                        "mde_ckpt": design.detectable(n, seeds, self.plan.alpha, "checkpoint"),
                        "mde_method": design.detectable(n, seeds, self.plan.alpha, "method") if known else None,
                    }
                )

    def _add_heterogeneity(self, metric: Metric, contrast: str, groups: list[Group]) -> None:
        results = [
            self.inferences[hypothesis_id(metric.name, contrast, group.kind, group.name)]
            for group in groups
            if group.kind == "category" and group.tested
        ]
        usable = [result for result in results if result.checkpoint]
        if len(usable) < 2:
            return
        test = effects.heterogeneity(
            np.array([result.estimate for result in usable]),
            np.array([result.checkpoint[0][0] for result in usable]),
            np.array([result.checkpoint[0][1] for result in usable]),
        )
        self.heterogeneity.append(
            {"metric": metric.name, "contrast": contrast, "n_groups": len(usable), "Q": test.q, "F": test.f}
            | {"df1": test.df1, "df2": test.df2, "p": test.p, "I2": test.i2}
        )

    def _add_arm_means(self, scores: Scores, group: Group) -> None:
        for arm in self.plan.arms:
            values = scores.values(arm)[:, group.rows]
            levels = [("pooled", None, values.mean(axis=0), len(values))]
            levels += [("seed", seed, own, 1) for seed, own in zip(scores.seeds_of(arm), values, strict=True)]
            for level, seed, own, n_seeds in levels:
                self.arm_means.append(
                    {"metric": scores.metric.name, "group_kind": group.kind, "group": group.name, "arm": arm}
                    | {"level": level, "train_seed": seed, "n": len(own), "n_clusters": group.n_clusters}
                    | {"n_seeds": n_seeds}
                    | self._mean_interval(scores, own, group, wilson=n_seeds == 1)
                )

    def _mean_interval(self, scores: Scores, values: np.ndarray, group: Group, wilson: bool) -> dict:
        alpha = self.plan.alpha
        mean = _mean(values, group.category)
        if group.category is not None:
            return {"mean": mean, "ci_lo": None, "ci_hi": None, "ci_method": None}
        binary = scores.metric.kind == "binary" and scores.n_samples == 1
        if binary and group.codes is None and (wilson or mean in (0.0, 1.0)):
            ends, method = proportions.wilson_interval(round(mean * len(values)), len(values), alpha), "wilson"
        else:
            ends, method = None, None
            if group.n_clusters > 1:
                codes = np.arange(len(values)) if group.codes is None else group.codes
                robust = cluster_mean(values, codes, group.n_clusters)
                if robust.se_cr2 > 0:
                    ends, method = interval(mean, robust.components, alpha), "cr2_t"
        return {"mean": mean, "ci_method": method} | _ends("ci", ends)

    def _add_missing(self, scores: Scores) -> None:
        for arm, status in scores.status.items():
            for seed, own in zip(scores.seeds_of(arm), status, strict=True):
                counts = np.bincount(own.reshape(-1), minlength=len(STATUSES))
                self.missing.append(
                    {"metric": scores.metric.name, "arm": arm, "train_seed": seed, "n_outputs": own.size}
                    | dict(zip(STATUSES, counts.tolist(), strict=True))
                    | {"rate_missing": float(1 - counts[0] / own.size), "n_prompts": len(scores.prompts)}
                    | {"n_prompts_dropped": int((~scores.kept).sum())}
                )

    def finish(self, plan_changes: Sequence[str] | None) -> Study:
        """Adjust within families, give verdicts and words, decide, and make the tables."""
        self.rows.sort(key=lambda row: row["hypothesis_id"])
        for family in ("primary", "secondary", "exploratory"):
            self._adjust([row for row in self.rows if row["family"] == family], family)
        tests = {
            column: Counter(row["family"] for row in self.rows if row[column] is not None)
            for column in ("p_adj", "p_tost_adj")
        }
        for row in self.rows:
            self._judge(row, tests)
            if plan_changes and "exploratory" not in row["flags"]:
                row["flags"].append("exploratory")
        p = adjust.adjusted_p([one["p"] for one in self.heterogeneity], "bh")
        for one, adjusted in zip(self.heterogeneity, p, strict=True):
            one["p_adj_bh"] = float(adjusted)
        tables = {
            "contrasts": (self.rows, CONTRAST_COLUMNS, None),
            "arm_means": (self.arm_means, ARM_COLUMNS, ("metric", "group_kind", "group", "arm", "level", "train_seed")),
            "seed_effects": (self.seed_effects, SEED_COLUMNS, ("hypothesis_id", "train_seed")),
            "variance": (self.variance, VARIANCE_COLUMNS, ("hypothesis_id",)),
            "projection": (self.projection, PROJECTION_COLUMNS, ("hypothesis_id", "n_prompts", "n_seeds")),
            "heterogeneity": (self.heterogeneity, HETEROGENEITY_COLUMNS, ("metric", "contrast")),
            "missing": (self.missing, MISSING_COLUMNS, ("metric", "arm", "train_seed")),
        }
        return Study(
            tables={name: _arrow(rows, columns, by) for name, (rows, columns, by) in tables.items()},
            decision=self._decide(plan_changes),
        )

    def _adjust(self, rows: list[dict], family: str) -> None:
        """Adjusted p of one family: Holm for the primary, BH with BY beside it for the others, in place."""
        method = "holm" if family == "primary" else "bh"
        p = np.array([row["p_method" if row["scope"] == "method" else "p_ckpt"] for row in rows], dtype=float)
        of_method = np.array([row["p_method"] for row in rows], dtype=float)
        tost = np.array([row["p_tost"] for row in rows], dtype=float)
        columns = {f"p_adj_{name}": adjust.adjusted_p(p, name) for name in adjust.METHODS}
        columns["p_adj"] = columns[f"p_adj_{method}"]
        columns["p_adj_method_scope_bh"] = adjust.adjusted_p(of_method, "bh")
        columns["p_tost_adj"] = adjust.adjusted_p(tost, method)
        for i, row in enumerate(rows):
            row["p_adj_method"] = method
            row |= {name: None if np.isnan(values[i]) else float(values[i]) for name, values in columns.items()}
            if row["p_adj_bh"] is not None and (row["p_adj_bh"] <= self.plan.q) != (row["p_adj_by"] <= self.plan.q):
                row["flags"].append("depends_on_dependence")
        fcr = adjust.fcr_alpha(columns["p_adj_bh"], self.plan.q) if rows and family != "primary" else None
        for row in rows if fcr else []:
            if row["p_adj_bh"] is not None and row["p_adj_bh"] <= self.plan.q:
                row |= _ends("ci_fcr", self.inferences[row["hypothesis_id"]].interval(row["scope"], fcr))

    def _judge(self, row: dict, tests: dict[str, Counter]) -> None:
        level = self.plan.alpha if row["family"] == "primary" else self.plan.q
        row["verdict"] = verdict.verdict(row["gain"], row["p_adj"], row["p_tost_adj"], level)
        metric = self.plan.metrics[row["metric"]]
        unit_interval = metric.kind == "binary"
        weights = self.plan.contrasts[row["contrast"]]
        adjusted_for = tests["p_tost_adj" if row["verdict"] == "equivalent" else "p_adj"][row["family"]]
        row["words"] = str(verdict.Sentence(row, weights, unit_interval, self.plan.alpha, level, adjusted_for))

    def _decide(self, plan_changes: Sequence[str] | None) -> dict:
        plan = self.plan
        by_id = {row["hypothesis_id"]: row for row in self.rows}

        def overall(metric: str, contrast: str) -> dict | None:
            return by_id.get(hypothesis_id(metric, contrast, "overall", OVERALL))

        primary = {name: overall(plan.primary_metric, name) for name in plan.primary_contrasts}
        primary = {name: row for name, row in primary.items() if row is not None}
        used = next((row["scope"] for row in primary.values()), plan.primary_scope)
        n_seeds = max(1, len(self.seeds[plan.primary_metric]))
        gates, notes = self._gates(plan_changes)
        result, reasons = None, ["the plan does not hold C1 and C2, so there is no GO or NO-GO to decide"]
        c1, c2 = overall(plan.primary_metric, "C1"), overall(plan.primary_metric, "C2")
        if c1 is not None and c2 is not None:
            guards = [
                {"name": name, **{key: row[key] for key in ("p_noninferior", "p_harm")}}
                for name, metric in plan.metrics.items()
                if metric.role == "guardrail" and (row := overall(name, "C1")) is not None
            ]
            result, reasons = verdict.decision(
                gates, c1["verdict"], c2["p_noninferior"], guards, n_seeds, c1["seeds_same_sign"], plan.alpha
            )
            if result == "HOLD":
                reasons += [row["words"] for row in (c1, c2) if row["verdict"] == "inconclusive"]
        unit_interval = plan.metrics[plan.primary_metric].kind == "binary"
        if {"C1", "C2", "C3"} <= set(primary):
            answer = verdict.headline(primary, unit_interval, used, plan.alpha)
        else:
            answer = " ".join(row["words"] for row in primary.values())
        if plan_changes:
            answer = f"Exploratory: {answer}"
        return {
            "decision": result,
            "reasons": reasons,
            "headline": answer,
            "primary": [
                {key: row[key] for key in ("contrast", "verdict", "estimate", "p_adj", "words")}
                | {"ci": [row[f"ci_{'method' if used == 'method' else 'ckpt'}_{end}"] for end in ("lo", "hi")]}
                for row in primary.values()
            ],
            "primary_metric": plan.primary_metric,
            "confidence": 1 - plan.alpha,
            "primary_scope": {"planned": plan.primary_scope, "used": used},
            "banner": self._banner(used, n_seeds),
            "exploratory": list(plan_changes or ()),
            "gates": gates,
            "gate_notes": notes,
            "seeds": {metric: list(seeds) for metric, seeds in sorted(self.seeds.items())},
            "dropped_seeds": {
                metric: {arm: list(seeds) for arm, seeds in sorted(found.items())}
                for metric, found in sorted(self.dropped.items())
            },
            "families": {
                family: sum(row["family"] == family for row in self.rows)
                for family in ("primary", "secondary", "exploratory")
            },
            "plan_sha256": plan.sha256,
        }

    def _gates(self, plan_changes: Sequence[str] | None) -> tuple[dict[str, bool], list[str]]:
        notes = []
        for metric, rates in sorted(self.rates.items()):
            worst, gap = max(rates.values()), max(rates.values()) - min(rates.values())
            if worst > MOST_MISSING or gap > MOST_MISSING_GAP + 1e-12:
                shown = ", ".join(f"{arm} {rate:.1%}" for arm, rate in rates.items())
                notes.append(f"coverage: missing outputs of {metric}: {shown}")
        covered = not notes
        notes += [f"distinct_outputs: the same generations in {pair}" for pair in self.identical]
        notes += [f"plan_hash: after scores existed, {change}" for change in plan_changes or ()]
        # Leakage is a contract error: scores of a prompt that is not held out never get this far.
        gates = {"coverage": covered, "distinct_outputs": not self.identical, "no_leakage": True}
        return gates if plan_changes is None else gates | {"plan_hash": not plan_changes}, notes

    def _banner(self, used: str, n_seeds: int) -> str | None:
        parts = []
        if used != self.plan.primary_scope:
            parts.append(
                f"The plan asks for claims about the recipe, which need {SEEDS_FOR_CLAIMS} training seeds; there "
                f"{'is' if n_seeds == 1 else 'are'} {n_seeds}. All claims are about these checkpoints only."
            )
        elif n_seeds == 1:
            parts.append("One run of each: all claims are about these checkpoints only.")
        if self.dropped:
            parts.append("Training seeds that not all arms have were left out (dropped_seeds).")
        planned = set(self.plan.train_seeds or ())
        if absent := planned.difference(*self.seeds.values()):
            parts.append(f"Planned training seeds without scores: {', '.join(map(str, sorted(absent)))}.")
        return " ".join(parts) or None


def _inference_columns(result: Inference) -> dict:
    """What an inference says, under the names of the table."""
    seeds = result.seeds
    columns = {
        "n_prompts": result.n_prompts, "n_clusters": result.n_clusters, "n_seeds": result.n_seeds,
        "n_nonzero": result.flip.n_nonzero, "estimate": result.estimate,
        "se_ckpt": result.se_ckpt, "df_ckpt": result.df_ckpt, "ci_ckpt_method": result.ci_ckpt_method,
        "p_ckpt": result.p_ckpt, "p_ckpt_mid": result.p_ckpt_mid,
        "p_ckpt_method": "mcnemar_exact" if result.table and result.flip.n_nonzero else result.flip.method,
        "p_min_attainable": result.flip.p_min_attainable, "p_method": result.p_method,
        "V_prompt": None if result.se_ckpt is None else result.se_ckpt**2, "design_effect": result.design_effect,
        "theta_seed": [result.estimate], "seeds_same_sign": 1,
    }  # fmt: skip
    if seeds is not None:
        columns |= {"V_seed": seeds.v_seed, "V_resid": seeds.v_resid, "sd_seed": seeds.sd_seed}
        columns |= {"theta_seed": seeds.theta.tolist(), "seeds_same_sign": seeds.same_sign}
    ends = {"ci_ckpt": result.ci_ckpt, "ci_method": result.ci_method, "ci_method_excess": result.ci_method_excess}
    for name, values in ends.items():
        columns |= _ends(name, values)
    return columns


def _lattice(scores: Scores) -> float | None:
    """The factor that makes differences averaged over seeds and samples integers, known from the design."""
    step, bounds = scores.metric.step, scores.metric.bounds
    if not step:
        return None
    if bounds and any(abs(end / step - round(end / step)) > 1e-9 for end in bounds):
        return None
    return scores.n_seeds * scores.n_samples / step


def _design(result: Inference) -> power.Design | None:
    if result.checkpoint is None:
        return None
    (v_prompt, df), seeds = result.checkpoint[0], result.seeds
    v_seed, v_resid = (seeds.v_seed, seeds.v_resid) if seeds is not None else (0.0, 0.0)
    return power.Design.observed(v_prompt, df, v_seed, v_resid, result.n_prompts, result.n_seeds)


def _ends(name: str, ends: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = ends or (None, None)
    return {f"{name}_lo": low, f"{name}_hi": high}


def _mean(values: np.ndarray, category: np.ndarray | None) -> float:
    """Mean over prompts, or over category means where the estimate is weighted so."""
    return float(values.mean() if category is None else (values * macro_weights(category)).mean())


def _arrow(rows: list[dict], columns: dict[str, pa.DataType], by: tuple[str, ...] | None) -> pa.Table:
    """Rows as an arrow table with fixed columns and types, sorted; NaN becomes null."""
    if by is not None:
        rows = sorted(rows, key=lambda row: tuple((row[name] is not None, row[name]) for name in by))

    def clean(value: object) -> object:
        return None if isinstance(value, float) and np.isnan(value) else value

    arrays = [pa.array([clean(row.get(name)) for row in rows], kind) for name, kind in columns.items()]
    return pa.Table.from_arrays(arrays, schema=pa.schema(list(columns.items())))
