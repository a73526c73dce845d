"""What varies: the seeds of each arm, and the shares of prompts, seeds and samples with what one more would buy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .estimate import ArmMean
from .families import Claim
from .intervals import half_width
from .plan import Plan
from .pooling import seed_pools
from .scopes import METHOD
from .scores import Scores


@dataclass(frozen=True)
class Sampling:
    """What is known of the samples of one metric.

    variance: arm -> variance of one sample around the mean of its prompt and seed; empty with one sample each.
    untrained: arms without training seeds.
    """

    metric: str
    variance: dict[str, float]
    n_samples: int
    untrained: frozenset[str]


@dataclass(frozen=True)
class SeedSpread:
    """How one trained arm varies over seeds on one group of prompts: a row of the table seed_spread.

    sd_seed: of its mean, prompt-by-seed noise included. share: of all arms' variance. p_equal: that none varies more
    than the others. pooled: "yes", or why not.
    """

    metric: str
    group_kind: str
    group: str
    arm: str
    n_seeds: int
    sd_seed: float
    share: float | None
    p_equal: float | None
    pooled: str


@dataclass(frozen=True)
class Variation:
    """One source of the uncertainty of one contrast over all prompts: a row of the table variation.

    scope: that the claim is about. source: prompts, seeds, prompts x seeds, samples. count: of it in this study. share:
    of the variance of the estimate, None where it is not known apart. half_width: of the interval in this scope, from
    parts that are not negative; half_width_one_more: with one more of the source.
    """

    metric: str
    contrast: str
    scope: str
    source: str
    count: int | None
    share: float | None
    half_width: float
    half_width_one_more: float | None


def seed_spreads(means: Sequence[ArmMean], plan: Plan) -> Iterator[SeedSpread]:
    """Every trained arm of every metric and group. means: rows of the table arm_means."""
    for key, pool in seed_pools(means).items():
        if not plan.pool_seed_variance:
            pooled = "no: not in the plan"
        elif pool.p_equal is None:
            pooled = "no: one trained arm"
        else:
            pooled = "yes" if pool.alike else f"no: {pool.largest} varies more"
        total = sum(sd**2 for sd in pool.sd.values())
        for arm, sd in pool.sd.items():
            share = sd**2 / total if total > 0 else None
            yield SeedSpread(*key, arm, pool.n_seeds, sd, share, pool.p_equal, pooled)


def sampling_of(scores: Scores) -> Sampling:
    """What the scores of one metric tell of samples."""
    found = {}
    if scores.n_samples > 1:
        for arm, cells in scores.cells.items():
            own = cells[:, scores.kept].reshape(-1, scores.n_samples)
            own = own[(~np.isnan(own)).sum(axis=1) > 1]  # a missing sample is none
            if len(own):
                found[arm] = float(np.nanvar(own, axis=1, ddof=1).mean())
    return Sampling(scores.metric.name, found, scores.n_samples, scores.untrained)


def variations(claim: Claim, sampling: Sampling) -> Iterator[Variation]:
    """The sources of one claim's uncertainty; none where its differences do not vary, or for a part of the prompts.

    An arm without training has one run, so its noise is that of prompts. Where samples are not known apart, they are
    part of prompts x seeds.
    """
    of, found = claim.hypothesis, claim.finding.inference
    design, n, n_seeds, samples = found.design, found.n_prompts, found.n_seeds, sampling.n_samples
    if design is None or not of.overall:
        return
    method = claim.scope.name == METHOD
    trained, fixed = (
        sum(
            w**2 * sampling.variance.get(arm, 0.0)
            for arm, w in of.weights.items()
            if (arm in sampling.untrained) == one
        )
        for one in (False, True)
    )
    noise, noise_fixed = trained / (samples * n * n_seeds), fixed / (samples * n)
    parts = {
        "prompts": max(design.prompt / n - noise_fixed, 0.0),
        "seeds": design.seed / n_seeds if method else 0.0,
        "prompts x seeds": max(design.resid / (n * n_seeds) - noise, 0.0),
        "samples": noise + noise_fixed,
    }
    total = sum(parts.values())

    def width(n: int, n_seeds: int, samples: int) -> float:
        fewer = 1 / sampling.n_samples - 1 / samples
        (v_prompt, df), (v_seed, df_seed) = design.components(n, max(n_seeds, 2))  # with one seed only the first counts
        less = trained * fewer / (n * n_seeds)
        components = [(max(v_prompt - less - fixed * fewer / n, 0.0), df)]
        return half_width([*components, (max(v_seed - less, 0.0), df_seed)] if method else components, claim.plan.alpha)

    one_more = {
        "prompts": (n, width(n + 1, n_seeds, samples)),
        "seeds": (n_seeds, width(n, n_seeds + 1, samples) if n_seeds > 1 else None),
        "prompts x seeds": (None, None),
        "samples": (samples, width(n, n_seeds, samples + 1) if sampling.variance else None),
    }
    for source, (count, then) in one_more.items():
        share = parts[source] / total if source != "samples" or sampling.variance else None
        names = of.metric.name, of.contrast, claim.scope.name, source
        yield Variation(*names, count, share, width(n, n_seeds, samples), then)
