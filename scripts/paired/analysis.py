"""The whole analysis: what a score passes on its way to a verdict, each stage once.

plan -> prompts -> scores -> estimate -> scopes -> families -> decision -> words -> tables. Each hypothesis is inferred
on its own (its random numbers are keyed by its name), so the result does not depend on the order of rows, files or
metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa

from .caveats import failed_outputs, left_out, outside, pooling
from .decision import ScoreFacts, decide
from .estimate import ArmMean, arm_means, estimates, make_groups
from .families import Claim, make_claims
from .files import ContractError
from .plan import Plan
from .pooling import seed_pools
from .scopes import Finding, find
from .score_files import find_scores, read_scores, unplanned_metric
from .scores import Scores
from .tables import MissingOutputs, make_tables, missing_outputs
from .variation import Sampling, sampling_of, seed_spreads
from .words import in_words


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
    progress. Raises ContractError (see `score_files.read_scores`).

    Scores of a metric that the plan does not name are analysed too, as a family of their own, and flagged exploratory;
    gates and the other families are those of the plan.
    """
    files = find_scores(scores, plan)
    planned = tuple(plan.metrics)
    unplanned = {name: unplanned_metric(name, files[name]) for name in files if name not in plan.metrics}
    plan = replace(plan, metrics={**plan.metrics, **unplanned})
    facts: dict[str, ScoreFacts] = {}
    findings: list[Finding] = []
    means: list[ArmMean] = []
    missing: list[MissingOutputs] = []
    sampling: list[Sampling] = []
    for name, metric in plan.metrics.items():
        table = read_scores(files[name], plan, metric, prompts, common_seeds=common_seeds)
        say(
            f"{name}: {len(table.prompts)} prompts, {len(plan.arms)} arms, {table.n_seeds} seed(s), "
            f"{table.n_samples} sample(s)"
        )
        facts[name] = ScoreFacts(name, table.seeds, table.dropped_seeds, table.identical, table.missing_rates)
        missing += missing_outputs(table)
        sampling.append(sampling_of(table))
        more_means, more_findings = _one_metric(table, prompts, plan)
        means += more_means
        findings += more_findings
        del table  # before the next one is read
    claims = make_claims(findings, plan, exploratory=bool(plan_changes))
    decision = decide(plan, claims, {name: facts[name] for name in planned}, plan_changes)
    spreads = list(seed_spreads(means, plan))
    caveats = [
        *left_out(facts.values()),
        *pooling(spreads, plan),
        *failed_outputs(missing, plan.metrics),
        *outside(unplanned),
        *caveats,
    ]
    return Analysis(
        claims=claims,
        tables=make_tables(claims, means, missing, spreads, sampling),
        decision=in_words(plan, claims, decision, facts, plan_changes, caveats),
    )


def _one_metric(scores: Scores, prompts: pd.DataFrame, plan: Plan) -> tuple[list[ArmMean], list[Finding]]:
    if not scores.kept.any():
        name = scores.metric.name
        raise ContractError(f"metric {name!r}: every prompt has a failed output (see its status), none is left")
    groups = make_groups(scores, prompts, plan)
    means = [mean for group in groups for mean in arm_means(scores, group, plan)]
    pools = seed_pools(means) if plan.pool_seed_variance else {}
    found = []
    for estimate, sample in estimates(scores, groups, plan):
        of = estimate.hypothesis
        found.append(find(estimate, sample, plan, pools.get((of.metric.name, of.group_kind, of.group))))
    return means, found
