"""The whole analysis: what a score passes on its way to a verdict, each stage once.

plan -> prompts -> scores -> estimate -> scopes -> families -> decision -> words -> tables. Each hypothesis is inferred
on its own (its random numbers are keyed by its name), so the result does not depend on the order of rows, files or
metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa

from .caveats import failed_outputs, judged, left_out, outside, pooling
from .decision import ScoreFacts, decide
from .estimate import ArmMean, Group, arm_means, estimates, make_groups
from .families import Claim, make_claims
from .files import ContractError
from .forecast import Model
from .pairwise import Preference, Strength, preference, strengths
from .pairwise_files import judged_contrasts, pairwise_scores, read_judgements
from .pilot import judged_moments, moments
from .plan import Metric, Plan
from .pooling import seed_pools
from .scopes import Finding, find
from .score_files import find_scores, read_scores, unplanned_metric
from .scores import Scores
from .tables import MissingOutputs, make_tables, missing_outputs, record_table
from .variation import Sampling, sampling_of, seed_spreads
from .words import in_words, what_go_takes


@dataclass(frozen=True)
class Analysis:
    """Claims sorted by hypothesis, tables by name (see `tables`), and the decision as a JSON object."""

    claims: list[Claim]
    tables: dict[str, pa.Table]
    decision: dict


def analyse(
    plan: Plan,
    scores: Sequence[str | Path],
    prompts: pd.DataFrame,
    *,
    plan_changes: Sequence[str] | None = None,
    caveats: Sequence[str] = (),
    common_seeds: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Analysis:
    """Analyse a study: one claim for each hypothesis, in families, with verdicts.

    scores: folders of metric=<name>/part-*.parquet, or such files. prompts: from `prompts.read_prompts`. plan_changes:
    what was changed in the plan after the first scores existed; anything marks everything exploratory. None: the plan
    was not put on record, so nothing is said about it. caveats: sentences for the decision's banner. common_seeds: use
    the training seeds that all arms have, instead of an error where an arm lacks one. say: called with lines of
    progress. Raises ContractError (see `score_files.read_scores`, `pairwise_files.read_judgements`).

    Scores of a metric that the plan does not name are analysed too, as a family of their own, and flagged exploratory;
    gates and the other families are those of the plan.
    """
    files = find_scores(scores, plan)
    planned = tuple(plan.metrics)
    unplanned = {name: unplanned_metric(name, files[name]) for name in files if name not in plan.metrics}
    plan = replace(plan, metrics={**plan.metrics, **unplanned})
    study = _Gathered()
    for name, metric in plan.metrics.items():
        gather = _judgements if metric.kind == "pairwise" else _scores
        say(gather(study, files[name], plan, metric, prompts, common_seeds))
    claims = make_claims(study.findings, plan, exploratory=bool(plan_changes))
    decision = decide(plan, claims, {name: study.facts[name] for name in planned}, plan_changes)
    if decision.result == "HOLD" and study.design is not None:
        decision = replace(decision, reasons=[*decision.reasons, *what_go_takes(plan, *study.design)])
    spreads = list(seed_spreads(study.means, plan))
    caveats = [
        *left_out(study.facts.values()),
        *pooling(spreads, plan, [own for own in study.facts.values() if plan.metrics[own.metric].kind == "pairwise"]),
        *failed_outputs(study.missing, plan.metrics),
        *outside(unplanned),
        *judged(study.preferences, plan.alpha),
        *caveats,
    ]
    tables = make_tables(claims, study.means, study.missing, spreads, study.sampling)
    if study.preferences:
        tables["preferences"] = record_table(Preference, study.preferences, "metric", "contrast")
        tables["strengths"] = record_table(Strength, study.strengths, "metric", "arm")
    return Analysis(claims, tables, in_words(plan, claims, decision, study.facts, plan_changes, caveats))


@dataclass
class _Gathered:
    """What the metrics of a study gave, one after the other."""

    facts: dict[str, ScoreFacts] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    means: list[ArmMean] = field(default_factory=list)
    missing: list[MissingOutputs] = field(default_factory=list)
    sampling: list[Sampling] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)
    strengths: list[Strength] = field(default_factory=list)
    design: tuple[Model, Group, int] | None = None  # of the primary metric: what varies, all its prompts, its seeds


def _scores(
    study: _Gathered, files: Sequence[Path], plan: Plan, metric: Metric, prompts: pd.DataFrame, common_seeds: bool
) -> str:
    """Gather a metric that scores each output; what was read, as a line."""
    table = read_scores(files, plan, metric, prompts, common_seeds=common_seeds)
    study.facts[metric.name] = ScoreFacts(
        metric.name, table.seeds, table.dropped_seeds, table.identical, table.missing_rates
    )
    study.missing += missing_outputs(table)
    study.sampling.append(sampling_of(table))
    groups = _groups(table, prompts, plan)
    decides = metric.name == plan.primary_metric and plan.question.rule is not None
    if decides and plan.weighting == "micro" and groups[0].n_clusters > 1:
        study.design = moments(table, plan.arms, groups[0].codes, None), groups[0], table.n_seeds
    means = [mean for group in groups for mean in arm_means(table, group, plan)]
    pools = seed_pools(means) if plan.pool_seed_variance else {}
    study.means += means
    for estimate, sample in estimates(table, groups, plan):
        of = estimate.hypothesis
        study.findings.append(find(estimate, sample, plan, pools.get((of.metric.name, of.group_kind, of.group))))
    return (
        f"{metric.name}: {len(table.prompts)} prompts, {len(plan.arms)} arms, {table.n_seeds} seed(s), "
        f"{table.n_samples} sample(s)"
    )


def _judgements(
    study: _Gathered, files: Sequence[Path], plan: Plan, metric: Metric, prompts: pd.DataFrame, common_seeds: bool
) -> str:
    """Gather a metric that judges answers in pairs, contrast by contrast; what was read, as a line."""
    judgements = read_judgements(files, plan, prompts)
    contrasts = judged_contrasts(judgements, plan)
    if not contrasts:
        raise ContractError(f"metric {metric.name!r}: no judgement belongs to a contrast of the plan")
    tables = pairwise_scores(judgements, metric, contrasts, plan, common_seeds)
    if metric.name == plan.primary_metric:
        study.design = _judged_design(tables, plan, prompts)
    for contrast, table in tables.items():
        study.missing += [
            replace(row, arm=contrast) for row in missing_outputs(table) if row.arm == next(iter(table.cells))
        ]
        only = replace(plan, contrasts={contrast: contrasts[contrast]})
        for estimate, sample in estimates(table, _groups(table, prompts, only), only):
            study.findings.append(find(estimate, sample, plan))
        study.preferences.append(preference(judgements, metric.name, contrast, contrasts[contrast], plan.alpha))
    study.strengths += strengths(judgements, metric.name, plan.alpha)
    seeds = max((table.seeds for table in tables.values()), key=len)
    dropped = {arm: lost for table in tables.values() for arm, lost in table.dropped_seeds.items()}
    rates = {contrast: max(table.missing_rates.values()) for contrast, table in tables.items()}
    study.facts[metric.name] = ScoreFacts(metric.name, seeds, dropped, [], rates)
    study.sampling.append(Sampling(metric.name, {}, max(table.n_samples for table in tables.values()), frozenset()))
    return f"{metric.name}: {len(judgements)} judgements, {len(tables)} contrasts, {max(1, len(seeds))} seed(s)"


def _judged_design(tables: Mapping[str, Scores], plan: Plan, prompts: pd.DataFrame) -> tuple[Model, Group, int] | None:
    """What varies in the contrasts that decide; None where the plan has no rule, or one of them was not judged."""
    rule = plan.question.rule
    if rule is None or plan.weighting != "micro" or not {rule.gain, rule.cost} <= tables.keys():
        return None
    own = {name: tables[name] for name in (rule.gain, rule.cost)}
    if not all(table.kept.any() for table in own.values()):
        return None  # an error says so next
    model = judged_moments(own, prompts, plan, None)
    return None if model is None else (model, _groups(own[rule.gain], prompts, plan)[0], own[rule.gain].n_seeds)


def _groups(scores: Scores, prompts: pd.DataFrame, plan: Plan) -> list[Group]:
    if not scores.kept.any():
        name = scores.metric.name
        raise ContractError(f"metric {name!r}: every prompt has a failed output (see its status), none is left")
    return make_groups(scores, prompts, plan)
