"""The chance of each decision of a study that has not run: simulated studies, decided by the rule of `decision`.

A study is simulated by what its decision rests on (the mean of each arm and seed, the variance of each contrast over
prompts), not by its single scores, so thousands take milliseconds. `benchmarks/simulate.py` compares the chances with
those of simulated scores that go through the package's own stages; a test compares `decisions` with `decision.decide`.

Needs numpy alone: the workflow asks before anything trains, in an environment without scipy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .rule import POOLING_LEVEL, SEEDS_FOR_CLAIMS, seeds_that_agree

ENOUGH = 0.8  # the chance that a plan should have
UNLIMITED = 10**7  # prompts: what is left are the seeds
MOST_SEEDS = 50


@dataclass(frozen=True)
class Model:
    """What the scores of a study are like, in the metric's unit; A arms.

    score[a, seed, prompt] = mean[a] + prompt effect + seed effect + rest. prompt: float [A, A], covariance of the arms'
    prompt effects. seed: float [A, A], that of their seed effects, 0 for arms without training. rest: float [A],
    variance of the rest. correlation: of the prompt effects of two prompts of one cluster. step: grid of the scores (1
    of yes/no scores), None if they have none.
    """

    arms: tuple[str, ...]
    trained: np.ndarray
    mean: np.ndarray
    prompt: np.ndarray
    seed: np.ndarray
    rest: np.ndarray
    correlation: float = 0.0
    step: float | None = None


@dataclass(frozen=True)
class Rule:
    """How a study is decided (docs/statistics.md, 1.11), without guardrails. gain, cost: weights of arms by name.

    cost: None where only the gain is judged; GO is then "superior" and asks for no signs. margin: smallest difference
    that matters. method: whether claims are about the recipe where there are seeds enough. pool: one seed variance.
    """

    gain: Mapping[str, float]
    cost: Mapping[str, float] | None
    margin: float | None
    alpha: float = 0.05
    method: bool = True
    pool: bool = False


@dataclass(frozen=True)
class Chances:
    """Shares of the simulated studies: decisions (they add up to 1), and the components of GO on their own."""

    go: float
    hold: float
    no_go: float
    gain_superior: float
    cost_noninferior: float
    seeds_agree: float

    @property
    def decided(self) -> float:
        """GO or NO-GO."""
        return self.go + self.no_go


@dataclass(frozen=True)
class Studies:
    """R simulated studies with S seeds, as their decision sees them.

    means: float [R, S, A], of the arms for each seed. v_prompt: float [R, 2], variance over prompts of gain and cost,
    with df degrees of freedom.
    """

    model: Model
    means: np.ndarray
    v_prompt: np.ndarray
    df: float
    n_prompts: int


def guess(
    means: Mapping[str, float],
    untrained: frozenset[str],
    *,
    variance: float,
    seed_sd: float,
    same_prompt: float,
    same_arm: float,
    correlation: float = 0.0,
    step: float | None = None,
) -> Model:
    """A model from guesses.

    means: of the arms. variance: of one score over prompts and seeds, p (1 - p) for yes/no scores. seed_sd: SD over
    training seeds of an arm's mean. same_prompt: correlation of two arms' scores on a prompt. same_arm: the same of two
    seeds of one arm, at least as large.
    """
    arms = tuple(means)
    trained = np.array([arm not in untrained for arm in arms])
    shared = np.full((len(arms), len(arms)), same_prompt * variance)
    return Model(
        arms,
        trained,
        np.array([means[arm] for arm in arms], dtype=float),
        shared + np.eye(len(arms)) * (same_arm - same_prompt) * variance,
        np.diag(np.where(trained, seed_sd**2, 0.0)),
        np.full(len(arms), (1 - same_arm) * variance),
        correlation,
        step,
    )


def with_differences(model: Model, rule: Rule, gain: float, cost: float = 0.0) -> Model:
    """The model with means that make the contrasts of the rule these, and are no larger than they must be."""
    weights = _weights(model, rule)[: 1 if rule.cost is None else 2]
    means, *_ = np.linalg.lstsq(weights, np.array([gain, cost][: len(weights)]), rcond=None)
    return replace(model, mean=means)


def chances(
    model: Model, rule: Rule, n_prompts: int, n_seeds: int, *, n_clusters: int | None = None, reps: int = 4000, seed=0
) -> Chances:
    """The chances of a design's decisions. n_clusters: of equal size; None: every prompt is its own."""
    studies = simulate(model, rule, n_prompts, n_seeds, n_clusters or n_prompts, reps, np.random.default_rng(seed))
    found = decisions(studies, rule)
    share = {name: float(values.mean()) for name, values in found.items()}
    return Chances(**share)


def what_go_takes(
    model: Model, rule: Rule, n_prompts: int, n_seeds: int, cluster_size: float
) -> tuple[int | None, int | None]:
    """(fewest prompts at these seeds, fewest seeds at these prompts) that end in GO with 80% chance; None: none do.

    Prompts to two digits: the chances are simulated. Seeds up to 50, and only for claims about the recipe.
    """

    def enough(n: int, seeds: int) -> bool:
        clusters = max(2, round(n / cluster_size))
        return chances(model, rule, n, seeds, n_clusters=clusters).go >= ENOUGH

    numbers = [digits * 10**power for power in range(6) for digits in range(10, 100)]
    prompts = [n for n in numbers if n >= 2 * cluster_size]
    seeds = range(max(n_seeds, SEEDS_FOR_CLAIMS), MOST_SEEDS + 1) if rule.method else ()
    return _first(prompts, lambda n: enough(n, n_seeds)), _first(seeds, lambda s: enough(n_prompts, s))


def _first(candidates: Sequence[int], enough: Callable[[int], bool]) -> int | None:
    """The first of rising candidates that is enough; None if the last is not."""
    if not candidates or not enough(candidates[-1]):
        return None
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(candidates[middle]) else (middle + 1, high)
    return candidates[low]


def simulate(
    model: Model, rule: Rule, n_prompts: int, n_seeds: int, n_clusters: int, reps: int, rng: np.random.Generator
) -> Studies:
    """Studies of one design, from normal distributions of the means and Wishart's of the variances."""
    arms = len(model.arms)
    weights = _weights(model, rule)
    inflation = 1 + (n_prompts / n_clusters - 1) * model.correlation
    prompt = model.prompt * inflation
    runs = np.where(model.trained, n_seeds, 1)
    # An arm without training has one run, whose noise all seeds share; it belongs to the prompts.
    shared = prompt + np.diag(np.where(model.trained, 0.0, model.rest))
    of_seeds = model.seed + np.diag(np.where(model.trained, model.rest, 0.0) / n_prompts)
    means = model.mean + rng.standard_normal((reps, 1, arms)) @ _root(shared / n_prompts)
    means = means + rng.standard_normal((reps, n_seeds, arms)) @ _root(of_seeds)
    covariance = weights @ (prompt + np.diag(model.rest / runs)) @ weights.T
    v_prompt = _sample_variances(covariance, n_clusters - 1, reps, rng) / n_prompts
    return Studies(model, means, v_prompt, n_clusters - 1, n_prompts)


def decisions(studies: Studies, rule: Rule) -> dict[str, np.ndarray]:
    """The decision of each study and its components: name of a field of `Chances` -> bool [R].

    p <= alpha is asked as half-width(alpha) <= distance, which is the same (`intervals.two_sided_p`).
    """
    model, n_seeds = studies.model, studies.means.shape[1]
    theta = studies.means @ _weights(model, rule).T
    gain, cost = theta.mean(axis=1).T
    method = rule.method and n_seeds >= SEEDS_FOR_CLAIMS
    seed_parts = _seed_components(studies, rule, theta) if method else []

    def half_width(which: int, alpha: float) -> np.ndarray:
        total = t_quantile(alpha, studies.df) ** 2 * studies.v_prompt[:, which]
        for variance, df in seed_parts:
            values, places = np.unique(df, return_inverse=True)
            total = total + np.array([t_quantile(alpha, one) ** 2 for one in values])[places] * variance[:, which]
        return np.sqrt(total)

    # The sign-flip test of a claim about checkpoints is exact, hence discrete: half a step of the statistic.
    lattice = 0.0 if method or model.step is None else model.step / (n_seeds * studies.n_prompts)
    differs = half_width(0, rule.alpha) <= np.abs(gain) - lattice
    one_sided = half_width(0, 2 * rule.alpha)
    never = np.zeros(len(gain), dtype=bool)
    negligible = never if rule.margin is None else one_sided <= rule.margin - np.abs(gain)
    superior = differs & (gain > 0) & ~negligible
    no_go = (differs & (gain < 0)) | (~differs & negligible)
    if rule.cost is None:
        noninferior = agree = ~never
    else:
        noninferior = never if rule.margin is None else half_width(1, 2 * rule.alpha) <= cost + rule.margin
        same = (np.sign(theta[:, :, 0]) == np.sign(gain)[:, None]).sum(axis=1)
        agree = same >= seeds_that_agree(n_seeds)
    go = superior & noninferior & agree
    return {
        "go": go,
        "hold": ~go & ~no_go,
        "no_go": no_go,
        "gain_superior": superior,
        "cost_noninferior": noninferior,
        "seeds_agree": agree,
    }


def _seed_components(studies: Studies, rule: Rule, theta: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(V_seed float [R, 2], degrees of freedom [R])]: pooled in the studies where the plan and the arms allow it."""
    model, n_seeds = studies.model, theta.shape[1]
    own, df = theta.var(axis=1, ddof=1) / n_seeds, np.full(len(theta), n_seeds - 1)
    arms = int(model.trained.sum())
    if not rule.pool or arms < 2:
        return [(own, df)]
    variances = studies.means[:, :, model.trained].var(axis=1, ddof=1)
    alike = variances.max(axis=1) <= largest_share(arms, n_seeds, POOLING_LEVEL) * variances.sum(axis=1)
    squares = (_weights(model, rule)[:, model.trained] ** 2).sum(axis=1)
    pooled = variances.mean(axis=1)[:, None] * squares / n_seeds
    return [(np.where(alike[:, None], pooled, own), np.where(alike, (arms - 1) * (n_seeds - 1), df))]


def _weights(model: Model, rule: Rule) -> np.ndarray:
    """float [2, A]: gain and cost; the gain twice where there is no cost."""
    return np.array([[w.get(arm, 0.0) for arm in model.arms] for w in (rule.gain, rule.cost or rule.gain)])


def _root(covariance: np.ndarray) -> np.ndarray:
    """A matrix M with M'M = covariance, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return np.sqrt(values.clip(0))[:, None] * vectors.T


def _sample_variances(covariance: np.ndarray, df: int, reps: int, rng: np.random.Generator) -> np.ndarray:
    """float [reps, 2]: the diagonal of W / df, W of Wishart's distribution (Bartlett's decomposition)."""
    lower = _root(covariance).T
    first, second = np.sqrt(rng.chisquare(df, reps)), np.sqrt(rng.chisquare(max(df - 1, 1), reps))
    cross = rng.standard_normal(reps)
    rows = lower[:, 0, None] * first + lower[:, 1, None] * cross, lower[:, 1, None] * second
    return ((rows[0] ** 2 + rows[1] ** 2) / df).T


@functools.cache
def t_quantile(alpha: float, df: float) -> float:
    """Student's t that |T| exceeds with probability alpha; relative error below 1e-6 for df up to 10^6."""
    return math.sqrt(df) * math.tan(_angle(0.0, df - 1, alpha))


def largest_share(arms: int, n_seeds: int, level: float) -> float:
    """The share of the largest variance in the sum that `pooling` allows: its p is `level` there."""
    df = n_seeds - 1
    return math.sin(_angle(df - 1, (arms - 1) * df - 1, level / arms)) ** 2


def _angle(power_of_sine: float, power_of_cosine: float, tail: float) -> float:
    """The angle that a variable with density sin^p cos^q on (0, pi/2) exceeds with probability `tail`.

    sin^2 of it is Beta((p + 1) / 2, (q + 1) / 2) distributed; with p = 0 and q = df - 1, sqrt(df) tan of it is |t|.
    """
    # Even steps of the square: dense near 0, where a large power of the cosine has its mass.
    angles = (np.linspace(0.0, 1.0, 100_001) ** 2) * (math.pi / 2)
    with np.errstate(divide="ignore"):
        density = np.sin(angles) ** power_of_sine * np.abs(np.cos(angles)) ** power_of_cosine
    density[~np.isfinite(density)] = 0.0
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(angles))])
    return float(np.interp((1 - tail) * mass[-1], mass, angles))
