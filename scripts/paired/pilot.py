"""What a pilot's scores tell about the scores of another study: how much varies, never how large a difference is."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from .estimate import OVERALL, make_groups
from .files import ContractError
from .forecast import Model, Rule, guess
from .intervals import cluster_mean
from .pairwise_files import judged_contrasts, pairwise_scores, read_judgements
from .plan import STEPS, Plan
from .prompts import read_prompts
from .question import Weights
from .score_files import find_scores, read_scores
from .scores import Scores


def deciding(plan: Plan) -> dict[str, Weights]:
    """The contrasts that the plan decides by: gain and cost of its rule, or its first primary contrast."""
    named = plan.question.rule
    return {one: plan.contrasts[one] for one in ((named.gain, named.cost) if named else plan.primary_contrasts[:1])}


def rule_of(plan: Plan) -> Rule:
    """How a plan decides, or where it has no rule, what its first primary contrast shows.

    Outcomes of pairs say nothing of arms: the "arms" of their rule are the contrasts, each judged apart.
    """
    metric, contrasts = plan.metrics[plan.primary_metric], deciding(plan)
    judged = metric.kind == "pairwise"
    gain, *cost = ({name: 1} if judged else weights for name, weights in contrasts.items())
    pool = plan.pool_seed_variance and not judged
    return Rule(gain, cost[0] if cost else None, metric.margin, plan.alpha, plan.primary_scope == "method", pool)


def guessed_model(plan: Plan, *, variance: float, seed_sd: float, **others: float) -> Model:
    """The model of guesses, with means of 0; variance, seed_sd and others: of an arm's scores, see `forecast.guess`.

    Of outcomes of pairs an arm's score is its share of wins, and a net win rate twice that, less one.
    """
    metric = plan.metrics[plan.primary_metric]
    if metric.kind != "pairwise":
        means = dict.fromkeys(plan.arms, 0.0)
        return guess(means, plan.question.untrained, variance=variance, seed_sd=seed_sd, step=metric.step, **others)
    contrasts, double = deciding(plan), 2.0
    model = guess(
        dict.fromkeys(contrasts, 0.0), frozenset(),
        variance=double**2 * variance, seed_sd=double * seed_sd, step=double * STEPS["pairwise"], **others,
    )  # fmt: skip
    return replace(model, seed=_shared_seeds(contrasts, plan.question.untrained) * double**2 * seed_sd**2)


def _shared_seeds(contrasts: Mapping[str, Weights], untrained: frozenset[str]) -> np.ndarray:
    """float [C, C]: how the seed effects of contrasts go together, by the trained arms that they share."""
    arms = sorted({arm for weights in contrasts.values() for arm in weights} - untrained)
    weights = np.array([[float(own.get(arm, 0)) for arm in arms] for own in contrasts.values()])
    sizes = np.sqrt((weights**2).sum(axis=1, keepdims=True))
    weights /= np.where(sizes > 0, sizes, 1.0)
    return weights @ weights.T


def pilot_model(plan: Plan, scores: Sequence[str], prompts: str, seed_sd: float | None) -> Model:
    """The model of the plan's primary metric, with means of 0, from the scores of a pilot or of a finished study.

    seed_sd: SD over training seeds of an arm's mean, in place of the pilot's; needed where it has one seed. Raises
    ContractError for scores that cannot be read (`score_files.read_scores`, `pairwise_files.read_judgements`), one seed
    without a guess, or a contrast that decides and was not judged.
    """
    metric, frame = plan.metrics[plan.primary_metric], read_prompts(prompts)
    files = find_scores(scores, replace(plan, metrics={metric.name: metric}))[metric.name]
    read = _judged_pilot if metric.kind == "pairwise" else _scored_pilot
    model = read(files, plan, frame, seed_sd)
    if model is None:
        raise ContractError(f"{scores[0]}: fewer than two clusters of prompts with scores of all; that tells nothing")
    return model


def _scored_pilot(files: Sequence[Path], plan: Plan, prompts: pd.DataFrame, seed_sd: float | None) -> Model | None:
    scores = read_scores(files, plan, plan.metrics[plan.primary_metric], prompts)
    if len(scores.untrained) < len(plan.arms):
        _check_seeds(files, scores.n_seeds, seed_sd)
    group = next((one for one in make_groups(scores, prompts, plan) if one.name == OVERALL), None)
    return moments(scores, plan.arms, group.codes, seed_sd) if group is not None and group.n_clusters > 1 else None


def _judged_pilot(files: Sequence[Path], plan: Plan, prompts: pd.DataFrame, seed_sd: float | None) -> Model | None:
    judgements = read_judgements(files, plan, prompts)
    contrasts = judged_contrasts(judgements, replace(plan, contrasts=deciding(plan)))
    for name in deciding(plan):
        if name not in contrasts:
            raise ContractError(f"{files[0].parent}: no judgement of {name}, by which the plan decides")
    tables = pairwise_scores(judgements, plan.metrics[plan.primary_metric], contrasts, plan, common_seeds=False)
    _check_seeds(files, min(table.n_seeds for table in tables.values()), seed_sd)
    return judged_moments(tables, prompts, plan, seed_sd)


def _check_seeds(files: Sequence[Path], n_seeds: int, seed_sd: float | None) -> None:
    if n_seeds == 1 and seed_sd is None:
        raise ContractError(
            f"{files[0].parent}: one training seed, which tells nothing of how seeds vary; add --seed-sd with a guess"
        )


def moments(scores: Scores, arms: tuple[str, ...], codes: np.ndarray | None, seed_sd: float | None) -> Model:
    """The variances of arms, seeds and the rest by the mean squares of seeds x prompts (docs/statistics.md, 1.12).

    codes: int [n], clusters; None: every prompt is its own. Seeds get one variance, the mean over trained arms, since
    that of each rests on few.
    """
    values = {arm: scores.values(arm) for arm in arms}
    first = values[arms[0]].mean(axis=0)
    correlation = _correlation([values[arm].mean(axis=0) - first for arm in arms[1:]], codes)
    step = None if scores.metric.step is None else scores.metric.step / scores.n_samples
    return _moments(values, scores.untrained, seed_sd, correlation, step)


def judged_moments(
    tables: Mapping[str, Scores], prompts: pd.DataFrame, plan: Plan, seed_sd: float | None
) -> Model | None:
    """The same of the contrasts of a pairwise metric that decide, from the prompts that were judged for each.

    tables: by contrast, from `pairwise_files.pairwise_scores`. seed_sd: of an arm's share of wins. None where these
    prompts are fewer than two clusters.
    """
    kept = {name: table.prompts[table.kept] for name, table in tables.items()}
    common = functools.reduce(np.intersect1d, kept.values())
    codes, clusters = pd.factorize(prompts["cluster_id"].iloc[common])
    if len(clusters) < 2:
        return None
    contrasts = {name: plan.contrasts[name] for name in tables}
    values = {
        name: table.differences(contrasts[name])[:, np.isin(kept[name], common)] for name, table in tables.items()
    }
    means = [own.mean(axis=0) for own in values.values()]
    correlation = _correlation(means, codes if len(clusters) < len(common) else None)
    sd, samples = (None if seed_sd is None else 2 * seed_sd), max(table.n_samples for table in tables.values())
    model = _moments(values, frozenset(), sd, correlation, 2 * STEPS["pairwise"] / samples)
    return replace(model, seed=_shared_seeds(contrasts, plan.question.untrained) * float(model.seed.max()))


def _moments(
    values: Mapping[str, np.ndarray], untrained: frozenset[str], seed_sd: float | None, correlation: float,
    step: float | None,
) -> Model:  # fmt: skip
    """values: float [S_a, n], of arms that have seeds or of those `untrained`, which have one run."""
    means, rest, between = [], [], []
    for own in values.values():
        means.append(own.mean(axis=0))
        (runs, n), noise = own.shape, 0.0
        if runs > 1:
            residual = own - own.mean(axis=0) - own.mean(axis=1, keepdims=True) + own.mean()
            noise = float((residual**2).sum()) / ((runs - 1) * (n - 1))
            between.append(float(own.mean(axis=1).var(ddof=1)) - noise / n)
        rest.append((noise, runs))
    prompt = np.cov(np.array(means)).reshape(len(means), -1) - np.diag([noise / runs for noise, runs in rest])
    sd = max(sum(between) / len(between), 0.0) ** 0.5 if seed_sd is None and between else seed_sd or 0.0
    start = guess(
        dict.fromkeys(values, 0.0), untrained, variance=0.0, seed_sd=sd, same_prompt=0.0, same_arm=0.0,
        correlation=correlation, step=step,
    )  # fmt: skip
    return replace(start, prompt=prompt, rest=np.array([noise for noise, _ in rest]))


def _correlation(differences: Sequence[np.ndarray], codes: np.ndarray | None) -> float:
    """Of two prompts of a cluster in the differences between arms, from the design effect; 0 without clusters."""
    if codes is None:
        return 0.0
    sizes = np.bincount(codes)
    size = float((sizes**2).sum() / sizes.sum())
    effects = [cluster_mean(own, codes, len(sizes)).design_effect for own in differences]
    known = [(effect - 1) / (size - 1) for effect in effects if effect is not None]
    return min(max(float(np.mean(known)), 0.0), 1.0) if known else 0.0
