"""The tables: one row for each claim, arm, seed or design, with fixed columns and types, as parquet and csv."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .adjust import adjusted_p
from .effects import heterogeneity
from .estimate import ArmMean
from .families import Claim
from .files import atomic_path, write_json
from .scopes import CHECKPOINT, METHOD
from .scores import NO_SEED, STATUSES, Scores
from .variation import Sampling, SeedSpread, Variation, variations
from .words import Sentence, difference_test

PROJECTED_PROMPTS = (0.5, 1, 2, 4)
PROJECTED_SEEDS = (3, 5, 8, 10)

Columns = dict[str, tuple[pa.DataType, Callable[[Any], object]]]  # name -> type, and where a row has the value

TEXT, NUMBER, COUNT = pa.string(), pa.float64(), pa.int64()
TYPES = {"str": TEXT, "float": NUMBER, "int": COUNT}  # of a record's fields

CONTRAST_COLUMNS: Columns = {
    "hypothesis_id": (TEXT, lambda c: c.hypothesis.id),
    "metric": (TEXT, lambda c: c.hypothesis.metric.name),
    "kind": (TEXT, lambda c: c.hypothesis.metric.kind),
    "contrast": (TEXT, lambda c: c.hypothesis.contrast),
    "group_kind": (TEXT, lambda c: c.hypothesis.group_kind),
    "group": (TEXT, lambda c: c.hypothesis.group),
    "role": (TEXT, lambda c: c.hypothesis.metric.role),
    "family": (TEXT, lambda c: c.family),
    "scope": (TEXT, lambda c: c.scope.name),
    "n_prompts": (COUNT, lambda c: c.finding.inference.n_prompts),
    "n_clusters": (COUNT, lambda c: c.finding.inference.n_clusters),
    "n_seeds": (COUNT, lambda c: c.finding.inference.n_seeds),
    "n_nonzero": (COUNT, lambda c: c.finding.inference.flip.n_nonzero),
    "n12": (COUNT, lambda c: c.finding.table and c.finding.table.n12),
    "n21": (COUNT, lambda c: c.finding.table and c.finding.table.n21),
    "mean_pos": (NUMBER, lambda c: c.finding.estimate.mean_pos),
    "mean_neg": (NUMBER, lambda c: c.finding.estimate.mean_neg),
    "estimate": (NUMBER, lambda c: c.finding.inference.estimate),
    "gain": (NUMBER, lambda c: c.finding.gain),
    "se_ckpt": (NUMBER, lambda c: c.finding.inference.se),
    "df_ckpt": (NUMBER, lambda c: c.finding.inference.df),
    "ci_ckpt_lo": (NUMBER, lambda c: _low(c.finding.inference.checkpoint.ci)),
    "ci_ckpt_hi": (NUMBER, lambda c: _high(c.finding.inference.checkpoint.ci)),
    "ci_ckpt_method": (TEXT, lambda c: c.finding.inference.ci_method),
    "p_ckpt": (NUMBER, lambda c: c.finding.inference.checkpoint.p),
    "p_ckpt_method": (TEXT, difference_test),
    "p_ckpt_mid": (NUMBER, lambda c: c.finding.inference.p_mid),
    "p_min_attainable": (NUMBER, lambda c: c.finding.inference.flip.p_min_attainable),
    "V_prompt": (NUMBER, lambda c: c.finding.inference.v_prompt),
    "V_seed": (NUMBER, lambda c: c.finding.inference.seeds and c.finding.inference.seeds.v_seed),
    "V_resid": (NUMBER, lambda c: c.finding.inference.seeds and c.finding.inference.seeds.v_resid),
    "sd_seed": (NUMBER, lambda c: c.finding.inference.seeds and c.finding.inference.seeds.sd_seed),
    "theta_seed": (pa.list_(NUMBER), lambda c: list(c.finding.inference.theta)),
    "seeds_same_sign": (COUNT, lambda c: c.finding.inference.same_sign),
    "ci_method_lo": (NUMBER, lambda c: _low(c.finding.inference.method.ci)),
    "ci_method_hi": (NUMBER, lambda c: _high(c.finding.inference.method.ci)),
    "p_method": (NUMBER, lambda c: c.finding.inference.method.p),
    "ci_method_excess_lo": (NUMBER, lambda c: _low(c.finding.inference.excess)),
    "ci_method_excess_hi": (NUMBER, lambda c: _high(c.finding.inference.excess)),
    "p_wilcoxon": (NUMBER, lambda c: c.finding.estimate.p_wilcoxon),
    "ci_newcombe_lo": (NUMBER, lambda c: c.finding.table and c.finding.table.newcombe[0]),
    "ci_newcombe_hi": (NUMBER, lambda c: c.finding.table and c.finding.table.newcombe[1]),
    "d_z": (NUMBER, lambda c: c.finding.estimate.effects.d_z),
    "g_z": (NUMBER, lambda c: c.finding.estimate.effects.g_z),
    "d_av": (NUMBER, lambda c: c.finding.estimate.effects.d_av),
    "net_win_rate": (NUMBER, lambda c: c.finding.estimate.effects.net_win_rate),
    "prob_superiority": (NUMBER, lambda c: c.finding.estimate.effects.prob_superiority),
    "rank_biserial": (NUMBER, lambda c: c.finding.estimate.effects.rank_biserial),
    "cohens_g": (NUMBER, lambda c: c.finding.table and c.finding.table.odds.cohens_g),
    "odds_ratio": (NUMBER, lambda c: c.finding.table and c.finding.table.odds.ratio),
    "odds_ratio_lo": (NUMBER, lambda c: c.finding.table and c.finding.table.odds.low),
    "odds_ratio_hi": (NUMBER, lambda c: c.finding.table and c.finding.table.odds.high),
    "corr_ab": (NUMBER, lambda c: c.finding.estimate.effects.corr_ab),
    "variance_ratio": (NUMBER, lambda c: c.finding.estimate.effects.variance_ratio),
    "design_effect": (NUMBER, lambda c: c.finding.inference.design_effect),
    "margin": (NUMBER, lambda c: c.hypothesis.metric.margin),
    "p_tost": (NUMBER, lambda c: c.margins.tost),
    "p_noninferior": (NUMBER, lambda c: c.margins.noninferior),
    "p_harm": (NUMBER, lambda c: c.margins.harm),
    "p_adj": (NUMBER, lambda c: c.adjusted.p),
    "p_adj_method": (TEXT, lambda c: c.adjusted.method),
    "p_adj_holm": (NUMBER, lambda c: c.adjusted.holm),
    "p_adj_bh": (NUMBER, lambda c: c.adjusted.bh),
    "p_adj_by": (NUMBER, lambda c: c.adjusted.by),
    "p_adj_method_scope_bh": (NUMBER, lambda c: c.adjusted.method_scope_bh),
    "p_tost_adj": (NUMBER, lambda c: c.adjusted.tost),
    "ci_fcr_lo": (NUMBER, lambda c: _low(c.adjusted.fcr)),
    "ci_fcr_hi": (NUMBER, lambda c: _high(c.adjusted.fcr)),
    "mde_ckpt": (NUMBER, lambda c: c.finding.inference.checkpoint.detectable(c.plan.alpha)),
    "mde_method": (NUMBER, lambda c: c.finding.inference.method.detectable(c.plan.alpha)),
    "target_difference": (NUMBER, lambda c: c.planning.target),
    "n_required": (COUNT, lambda c: c.planning.prompts),
    "seeds_required": (COUNT, lambda c: c.planning.seeds),
    "rate_missing_pos": (NUMBER, lambda c: c.finding.estimate.missing.rate_pos),
    "rate_missing_neg": (NUMBER, lambda c: c.finding.estimate.missing.rate_neg),
    "estimate_complete_case": (NUMBER, lambda c: c.finding.complete_case),
    "bounds_lo": (NUMBER, lambda c: c.finding.bounds[0]),
    "bounds_hi": (NUMBER, lambda c: c.finding.bounds[1]),
    "verdict": (TEXT, lambda c: c.verdict),
    "words": (TEXT, lambda c: str(Sentence(c))),
    "flags": (pa.list_(TEXT), lambda c: list(c.flags)),
    "rng_key": (TEXT, lambda c: c.finding.rng_key),
    "plan_sha256": (TEXT, lambda c: c.plan.sha256),
}


def _low(ends: tuple[float, float] | None) -> float | None:
    return None if ends is None else ends[0]


def _high(ends: tuple[float, float] | None) -> float | None:
    return None if ends is None else ends[1]


VARIANCE_COLUMNS = {
    **{name: CONTRAST_COLUMNS[name] for name in ("hypothesis_id", "metric", "contrast", "group_kind", "group")},
    **{name: CONTRAST_COLUMNS[name] for name in ("n_prompts", "n_seeds", "V_prompt", "V_seed", "V_resid")},
    "sd_prompt": (NUMBER, lambda c: _sd(c, "prompt")),
    "sd_seed": (NUMBER, lambda c: _sd(c, "seed") if c.finding.inference.seeds else None),
    "sd_resid": (NUMBER, lambda c: _sd(c, "resid") if c.finding.inference.seeds else None),
    "share_prompt": (NUMBER, lambda c: _share(c, "prompt")),
    "share_seed": (NUMBER, lambda c: _share(c, "seed")),
    "share_resid": (NUMBER, lambda c: _share(c, "resid")),
}


def _sd(claim: Claim, part: str) -> float:
    """Standard deviation of one part of the design: per prompt, per seed, per cell."""
    return float(np.sqrt(getattr(claim.finding.inference.design, part)))


def _share(claim: Claim, part: str) -> float | None:
    """Its share of the variance."""
    design = claim.finding.inference.design
    total = sum(getattr(design, name) for name in ("prompt", "seed", "resid"))
    return getattr(design, part) / total if claim.finding.inference.seeds and total > 0 else None


@dataclass(frozen=True)
class SeedEffect:
    """The estimate of one claim for one training seed."""

    hypothesis_id: str
    metric: str
    contrast: str
    group_kind: str
    group: str
    train_seed: int
    estimate: float
    n_prompts: int


@dataclass(frozen=True)
class Projection:
    """What another number of prompts or seeds would detect ("buy prompts or seeds?")."""

    hypothesis_id: str
    metric: str
    contrast: str
    n_prompts: int
    n_seeds: int
    prompts_factor: float
    V_prompt: float
    V_seed: float | None
    mde_ckpt: float
    mde_method: float | None


@dataclass(frozen=True)
class CategoryTest:
    """Whether a contrast differs between the categories of prompts: a row of the table heterogeneity."""

    metric: str
    contrast: str
    n_groups: int
    Q: float
    F: float
    df1: float
    df2: float
    p: float
    p_adj_bh: float
    I2: float
    scope: str = CHECKPOINT


@dataclass(frozen=True)
class MissingOutputs:
    """The outputs of one run by status: a row of the table missing."""

    metric: str
    arm: str
    train_seed: int
    n_outputs: int
    ok: int
    empty: int
    truncated: int
    parse_fail: int
    error: int
    judge_fail: int
    rate_missing: float
    n_prompts: int
    n_prompts_dropped: int


def missing_outputs(scores: Scores) -> Iterator[MissingOutputs]:
    """Counts of every arm and seed."""
    for arm, status in scores.status.items():
        for seed, own, missing in zip(scores.seeds_of(arm), status, scores.missing(arm), strict=True):
            counts = np.bincount(own.reshape(-1), minlength=len(STATUSES)).tolist()
            yield MissingOutputs(
                metric=scores.metric.name,
                arm=arm,
                train_seed=seed,
                n_outputs=own.size,
                **dict(zip(STATUSES, counts, strict=True)),
                rate_missing=float(1 - (~missing).sum() / own.size),
                n_prompts=len(scores.prompts),
                n_prompts_dropped=int((~scores.kept).sum()),
            )


def seed_effects(claim: Claim) -> Iterator[SeedEffect]:
    """The estimates of a claim, seed by seed."""
    of, inference = claim.hypothesis, claim.finding.inference
    names = of.id, of.metric.name, of.contrast, of.group_kind, of.group
    for seed, theta in zip(claim.finding.estimate.seeds or (NO_SEED,), inference.theta, strict=True):
        yield SeedEffect(*names, seed, theta, inference.n_prompts)


def projections(claim: Claim) -> Iterator[Projection]:
    """What a claim about all prompts would detect in other designs; none where its differences do not vary."""
    of, inference, alpha = claim.hypothesis, claim.finding.inference, claim.plan.alpha
    design = inference.design
    if design is None or not of.overall:
        return
    several = sorted({*PROJECTED_SEEDS, inference.n_seeds}) if inference.seeds is not None else [inference.n_seeds]
    for factor, n_seeds in product(PROJECTED_PROMPTS, several):
        n = max(2, round(factor * inference.n_prompts))
        known = inference.seeds is not None and n_seeds > 1
        yield Projection(
            *(of.id, of.metric.name, of.contrast, n, n_seeds, factor),
            V_prompt=design.components(n, n_seeds)[0][0],
            V_seed=design.components(n, n_seeds)[1][0] if known else None,
            mde_ckpt=design.detectable(n, n_seeds, alpha, CHECKPOINT),
            mde_method=design.detectable(n, n_seeds, alpha, METHOD) if known else None,
        )


def category_tests(claims: Sequence[Claim]) -> list[CategoryTest]:
    """For each metric and contrast with two categories or more: whether they differ; p adjusted over all of these."""
    groups: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        of = claim.hypothesis
        if not of.overall and of.tested:
            groups.setdefault((of.metric.name, of.contrast), []).append(claim)
    found = []
    for key, own in groups.items():
        scopes = [claim.finding.inference.checkpoint for claim in own]
        usable = [(scope.estimate, *scope.components[0]) for scope in scopes if scope.components]
        test = heterogeneity(*np.array(usable).T) if len(usable) > 1 else None
        if test is not None:
            found.append((key, len(usable), test))
    adjusted = adjusted_p(np.array([test.p for *_, test in found]), "bh")
    return [
        CategoryTest(*key, n, test.q, test.f, test.df1, test.df2, test.p, float(p), test.i2)
        for (key, n, test), p in zip(found, adjusted, strict=True)
    ]


def make_tables(
    claims: Sequence[Claim],
    arm_means: Sequence[ArmMean],
    missing: Sequence[MissingOutputs],
    spreads: Sequence[SeedSpread],
    sampling: Sequence[Sampling],
) -> dict[str, pa.Table]:
    """Every table of a study by its name. claims: sorted by hypothesis. sampling: of each metric."""
    samples = {own.metric: own for own in sampling}
    varied = [row for claim in claims for row in variations(claim, samples[claim.hypothesis.metric.name])]
    varying = [claim for claim in claims if claim.finding.inference.design is not None]
    effects = [row for claim in claims for row in seed_effects(claim)]
    projected = [row for claim in claims for row in projections(claim)]
    return {
        "contrasts": _table(CONTRAST_COLUMNS, claims),
        "arm_means": record_table(ArmMean, arm_means, "metric", "group_kind", "group", "arm", "level", "train_seed"),
        "seed_effects": record_table(SeedEffect, effects, "hypothesis_id", "train_seed"),
        "variance": _table(VARIANCE_COLUMNS, varying),
        "projection": record_table(Projection, projected, "hypothesis_id", "n_prompts", "n_seeds"),
        "heterogeneity": record_table(CategoryTest, category_tests(claims), "metric", "contrast"),
        "seed_spread": record_table(SeedSpread, spreads, "metric", "group_kind", "group", "arm"),
        "variation": record_table(Variation, varied, "metric", "contrast", "source"),
        "missing": record_table(MissingOutputs, missing, "metric", "arm", "train_seed"),
    }


def _table(columns: Columns, rows: Sequence) -> pa.Table:
    """One row for each of `rows`."""
    arrays = [pa.array([_clean(value(row)) for row in rows], kind) for kind, value in columns.values()]
    return pa.Table.from_arrays(arrays, schema=pa.schema([(name, kind) for name, (kind, _) in columns.items()]))


def record_table(record: type, rows: Sequence, *by: str) -> pa.Table:
    """Records of one type as a table whose columns are its fields, sorted."""
    rows = sorted(rows, key=lambda row: tuple((value is not None, value) for value in attrgetter(*by)(row)))
    kinds = {one.name: TYPES[str(one.type).removesuffix(" | None")] for one in dataclasses.fields(record)}
    return _table({name: (kind, attrgetter(name)) for name, kind in kinds.items()}, rows)


def _clean(value: object) -> object:
    """NaN becomes null."""
    return None if isinstance(value, float) and np.isnan(value) else value


def write_table(table: pa.Table, path: Path) -> None:
    """One table as parquet or, with the suffix .csv, as text; the bytes depend on nothing but the table."""
    if path.suffix != ".csv":
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        return
    frame = table.to_pandas()
    for column in frame.columns[[str(field.type).startswith("list") for field in table.schema]]:
        frame[column] = [None if cell is None else ";".join(map(str, cell)) for cell in frame[column]]
    for column in frame.columns[[str(field.type) == "int64" for field in table.schema]]:
        frame[column] = frame[column].astype("Int64")
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


def write_tables(tables: dict[str, pa.Table], decision: dict, folder: Path) -> None:
    """Each table as parquet and csv, and decision.json."""
    for name, table in tables.items():
        write_table(table, folder / f"{name}.parquet")
        write_table(table, folder / f"{name}.csv")
    write_json(folder / "decision.json", decision)
