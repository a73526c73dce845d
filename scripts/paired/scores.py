"""The scores of one metric as dense arrays, and what a missing output counts as (docs/statistics.md, 1.8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .plan import LARGEST, Metric
from .question import Weights

STATUSES = ("ok", "empty", "truncated", "parse_fail", "error", "judge_fail")
MODEL_FAILURES = ("empty", "truncated", "parse_fail")
INFRA_FAILURES = ("error", "judge_fail")
NO_SEED = -1
RESIDUE = 1e-14


def value_faults(values: np.ndarray, metric: Metric) -> Iterator[tuple[np.ndarray, str]]:
    """What is wrong with scores of a metric: (bool [n], what, with {} for the value), rule by rule.

    values: float [n]; a missing one is NaN and breaks no rule but that of being finite.
    """
    yield np.abs(values) > LARGEST, f"{{}} is too large to compute with (at most {LARGEST:g})"
    if metric.kind == "binary":
        yield (values != 0) & (values != 1) & ~np.isnan(values), "{} in a binary metric, must be 0 or 1"
    if metric.bounds:
        low, high = metric.bounds
        yield (values < low) | (values > high), f"{{}} outside the bounds [{low:g}, {high:g}]"
    if metric.kind == "ordinal" and metric.step:
        steps = values / metric.step
        yield np.abs(steps - np.rint(steps)) > 1e-9, f"{{}} is no multiple of the step {metric.step:g}"


def unequal_seeds(seeds: Mapping[str, Iterable[int]], planned: Iterable[int] | None = None) -> str | None:
    """Which training seed which arm lacks, in words; None if every trained arm has those of the plan, or of any arm.

    >>> unequal_seeds({"base": [-1], "sft": [1, 2, 3], "dpo": [1, 2]})
    "seed 3 of 'dpo' is missing ('sft' has it)"
    """
    trained = {arm: set(found) for arm, found in seeds.items() if set(found) != {NO_SEED}}
    every = set(planned or ()).union(*trained.values()) if trained else set()
    for arm, found in trained.items():
        if absent := sorted(every - found):
            others = [repr(other) for other, own in trained.items() if absent[0] in own]
            where = f"{', '.join(others)} {'has' if len(others) == 1 else 'have'} it" if others else "the plan names it"
            numbers = ", ".join(map(str, absent))
            if len(absent) > 1:
                return f"seeds {numbers} of {arm!r} are missing ({where.replace(' it', ' them')})"
            return f"seed {numbers} of {arm!r} is missing ({where})"
    return None


@dataclass(frozen=True)
class Scores:
    """One metric as dense arrays.

    seeds: training seeds that every trained arm has. untrained: arms without training seeds.
    dropped_seeds: arm -> seeds left out because another arm lacks them.
    prompts: int [N], rows of the prompts table that are this metric's design. n_samples: K.
    cells: arm -> float [S_a, N, K], NaN where the output is missing; S_a is 1 for an arm without training seeds.
    status: arm -> int8 [S_a, N, K], index into STATUSES.
    identical: pairs of arms that gave the very same generations for a seed.
    """

    metric: Metric
    seeds: tuple[int, ...]
    untrained: frozenset[str]
    dropped_seeds: dict[str, tuple[int, ...]]
    prompts: np.ndarray
    n_samples: int
    cells: dict[str, np.ndarray]
    status: dict[str, np.ndarray]
    identical: list[tuple[str, str]]

    @property
    def n_seeds(self) -> int:
        """Training seeds (1 when no arm has any)."""
        return max(1, len(self.seeds))

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds along the first axis of an arm's arrays; (-1,) for an arm without training."""
        return (NO_SEED,) if arm in self.untrained else self.seeds

    def missing(self, arm: str) -> np.ndarray:
        """bool [S_a, N, K]: outputs without a value."""
        return np.isnan(self.cells[arm])

    @cached_property
    def complete(self) -> bool:
        """Whether no output is missing."""
        return not any(self.missing(arm).any() for arm in self.cells)

    @cached_property
    def kept(self) -> np.ndarray:
        """bool [N]: prompts that the estimates use (docs/statistics.md, 1.8).

        A failure of the infrastructure in any arm or seed drops the prompt; so does a failed output of a metric
        without bounds. If the plan counts all failures as the worst value, none is dropped.
        """
        kept = np.ones(len(self.prompts), dtype=bool)
        if not self.complete and self.metric.failed != "worst":
            dropping = INFRA_FAILURES if self.metric.bounds else INFRA_FAILURES + MODEL_FAILURES
            codes = [STATUSES.index(name) for name in dropping]
            for arm, status in self.status.items():
                kept &= ~(np.isin(status, codes) & self.missing(arm)).any(axis=(0, 2))
        return kept

    def sample_means(self, arm: str, fill: float | None = None) -> np.ndarray:
        """float [S_a, N]: mean over samples, missing outputs counted as `fill`; NaN where they are not filled."""
        cells = self.cells[arm]
        if fill is not None and not self.complete:
            cells = np.where(np.isnan(cells), fill, cells)
        return cells[:, :, 0] if self.n_samples == 1 else cells.mean(axis=2)

    def values(self, arm: str) -> np.ndarray:
        """float [S_a, kept prompts]: a model's missing output counts as the worst value, so silence cannot gain."""
        worst = None
        if self.metric.bounds:
            worst = self.metric.bounds[0 if self.metric.higher_is_better else 1]
        means = self.sample_means(arm, worst)
        return means if self.kept.all() else means[:, self.kept]

    @cached_property
    def missing_rates(self) -> dict[str, float]:
        """Arm -> share of its outputs that are missing for whatever reason."""
        return {arm: float(self.missing(arm).mean()) for arm in self.cells}

    def differences(self, weights: Weights) -> np.ndarray:
        """float [S, kept prompts]: a contrast for every seed and prompt; an arm without seeds counts for each."""
        values = [weight * self.values(arm) for arm, weight in weights.items()]
        total = without_residue(np.asarray(sum(values)), np.asarray(sum(map(np.abs, values))))
        return np.broadcast_to(total, (self.n_seeds, total.shape[1]))

    def side(self, weights: Weights, sign: int) -> np.ndarray:
        """float [kept prompts]: the arms on one side (1: plus, -1: minus) of a contrast, averaged over seeds."""
        arms = [arm for arm, weight in weights.items() if weight * sign > 0]
        return np.asarray(sum(abs(weights[arm]) * self.values(arm).mean(axis=0) for arm in arms))

    @property
    def lattice(self) -> float | None:
        """The factor that makes differences averaged over seeds and samples integers, known from the design."""
        step, bounds = self.metric.step, self.metric.bounds
        if not step:
            return None
        if bounds and any(abs(end / step - round(end / step)) > 1e-9 for end in bounds):
            return None
        return self.n_seeds * self.n_samples / step


def without_residue(sums: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """`sums` with 0 where no more than rounding is left of terms whose absolute values sum to `scale`: float, alike.

    0.1 + 0.2 - 0.3 is no difference between models.
    """
    return np.where(np.abs(sums) <= RESIDUE * scale, 0.0, sums)


def missing_bounds(
    scores: Scores, weights: Weights, rows: np.ndarray, category: np.ndarray | None = None
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
        ends.append(weighted_mean(total, category))
    return ends[0], ends[1]


def complete_case(
    scores: Scores, weights: Weights, rows: np.ndarray, category: np.ndarray | None = None
) -> tuple[float | None, int]:
    """(estimate, prompts) over the prompts with no missing output in the contrast's arms; see `missing_bounds`."""
    complete = np.ones(len(rows), dtype=bool)
    for arm in weights:
        complete &= ~scores.missing(arm)[:, rows].any(axis=(0, 2))
    if not complete.any():
        return None, 0
    rows = rows[complete]
    total = sum(weight * scores.sample_means(arm)[:, rows].mean(axis=0) for arm, weight in weights.items())
    return weighted_mean(total, None if category is None else category[complete]), len(rows)


def macro_weights(category: np.ndarray) -> np.ndarray:
    """float [n], mean 1: weights that make the mean over prompts the mean over categories (int [n])."""
    counts = np.bincount(category)
    return (len(category) / ((counts > 0).sum() * counts.clip(1)))[category]


def weighted_mean(values: np.ndarray, category: np.ndarray | None) -> float:
    """Mean over prompts, or over category means where the estimate is weighted so."""
    return float(values.mean() if category is None else (values * macro_weights(category)).mean())
