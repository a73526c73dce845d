"""What a pilot's scores tell about the scores of another study: how much varies, never how large a difference is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .estimate import OVERALL, make_groups
from .files import ContractError
from .forecast import Model, Rule, guess
from .intervals import cluster_mean
from .plan import Plan
from .prompts import read_prompts
from .score_files import find_scores, read_scores
from .scores import Scores


def rule_of(plan: Plan) -> Rule:
    """How a plan decides, or where it has no rule, what its first primary contrast shows."""
    named, metric = plan.question.rule, plan.metrics[plan.primary_metric]
    gain = plan.contrasts[named.gain if named else plan.primary_contrasts[0]]
    cost = plan.contrasts[named.cost] if named else None
    return Rule(gain, cost, metric.margin, plan.alpha, plan.primary_scope == "method", plan.pool_seed_variance)


def pilot_model(plan: Plan, scores: Sequence[str], prompts: str, seed_sd: float | None) -> Model:
    """The model of the plan's primary metric, with means of 0, from the scores of a pilot or of a finished study.

    seed_sd: SD over training seeds of an arm's mean, in place of the pilot's; needed where it has one seed. Raises
    ContractError for scores that cannot be read (`score_files.read_scores`), or one seed without a guess.
    """
    metric, frame = plan.metrics[plan.primary_metric], read_prompts(prompts)
    if metric.kind == "pairwise":
        raise ContractError(
            f"{scores[0]}: {metric.name} is judged in pairs, which tell nothing of arms; leave out --scores"
        )
    files = find_scores(scores, replace(plan, metrics={metric.name: metric}))
    table = read_scores(files[metric.name], plan, metric, frame)
    if table.n_seeds == 1 and len(table.untrained) < len(plan.arms) and seed_sd is None:
        raise ContractError(
            f"{scores[0]}: one training seed, which tells nothing of how seeds vary; add --seed-sd with a guess"
        )
    group = next(one for one in make_groups(table, frame, plan) if one.name == OVERALL)
    return moments(table, plan.arms, group.codes, seed_sd)


def moments(scores: Scores, arms: tuple[str, ...], codes: np.ndarray | None, seed_sd: float | None) -> Model:
    """The variances of arms, seeds and the rest by the mean squares of seeds x prompts (docs/statistics.md, 1.12).

    codes: int [n], clusters; None: every prompt is its own. Seeds get one variance, the mean over trained arms, since
    that of each rests on few.
    """
    n = int(scores.kept.sum())
    means, rest, between = [], [], []
    for arm in arms:
        values = scores.values(arm)
        means.append(values.mean(axis=0))
        runs, noise = len(values), 0.0
        if runs > 1:
            residual = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
            noise = float((residual**2).sum()) / ((runs - 1) * (n - 1))
            between.append(float(values.mean(axis=1).var(ddof=1)) - noise / n)
        rest.append((noise, runs))
    prompt = np.cov(np.array(means)) - np.diag([noise / runs for noise, runs in rest])
    sd = max(sum(between) / len(between), 0.0) ** 0.5 if seed_sd is None and between else seed_sd or 0.0
    start = guess(
        dict.fromkeys(arms, 0.0), scores.untrained, variance=0.0, seed_sd=sd, same_prompt=0.0, same_arm=0.0,
        correlation=_correlation(np.array(means), codes), step=_step(scores),
    )  # fmt: skip
    return replace(start, prompt=prompt, rest=np.array([noise for noise, _ in rest]))


def _correlation(means: np.ndarray, codes: np.ndarray | None) -> float:
    """Of two prompts of a cluster in the differences between arms, from the design effect; 0 without clusters."""
    if codes is None:
        return 0.0
    sizes = np.bincount(codes)
    size = float((sizes**2).sum() / sizes.sum())
    effects = [cluster_mean(own - means[0], codes, len(sizes)).design_effect for own in means[1:]]
    known = [(effect - 1) / (size - 1) for effect in effects if effect is not None]
    return min(max(float(np.mean(known)), 0.0), 1.0) if known else 0.0


def _step(scores: Scores) -> float | None:
    return None if scores.metric.step is None else scores.metric.step / scores.n_samples
