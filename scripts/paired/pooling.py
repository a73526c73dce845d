"""One seed variance for all trained arms, if they vary alike: an option of the plan (docs/statistics.md, 1.5).

With S seeds a contrast's own seed variance has S - 1 degrees of freedom, few at three seeds. Trained arms that vary
alike can share one: it has (A - 1)(S - 1) for A arms, not A(S - 1), since an arm may start from another of its seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from .estimate import ArmMean
from .question import Weights
from .rule import POOLING_LEVEL
from .scores import NO_SEED


@dataclass(frozen=True)
class SeedPool:
    """How the trained arms of one metric vary over seeds, on one group of prompts.

    sd: arm -> standard deviation over seeds of its mean, in the unit of the metric (prompt-by-seed noise included).
    p_equal: Cochran's test that no arm varies more than the others (Cochran 1941); None with one arm.
    """

    sd: Mapping[str, float]
    n_seeds: int
    p_equal: float | None

    @property
    def alike(self) -> bool:
        """Whether the arms may share one variance: two or more, and none stands out."""
        return self.p_equal is not None and self.p_equal > POOLING_LEVEL

    @property
    def largest(self) -> str:
        """The arm that varies most."""
        return max(self.sd, key=lambda arm: self.sd[arm])

    def component(self, weights: Weights) -> tuple[float, float]:
        """(V_seed, degrees of freedom) of a contrast; arms without training do not vary over seeds."""
        pooled = float(np.mean([sd**2 for sd in self.sd.values()]))
        squares = sum(weight**2 for arm, weight in weights.items() if arm in self.sd)
        return squares * pooled / self.n_seeds, (len(self.sd) - 1) * (self.n_seeds - 1)


def pool_seeds(means: Mapping[str, np.ndarray]) -> SeedPool | None:
    """The seed variance of trained arms; None without arms or with fewer than two seeds.

    means: arm -> float [S], its mean over prompts for each seed.

    The largest variance of A, divided by their sum, is Beta((S-1)/2, (A-1)(S-1)/2) for each arm if they vary alike;
    p is Bonferroni's bound, exact where the largest holds more than half of the sum. Arms whose seeds are correlated
    make the test conservative.
    """
    n_seeds = min(map(len, means.values()), default=0)
    if n_seeds < 2:
        return None
    variances = {arm: float(own.var(ddof=1)) for arm, own in means.items()}
    total, arms, df = sum(variances.values()), len(variances), n_seeds - 1
    p_equal = None
    if arms > 1:
        share = max(variances.values()) / total if total > 0 else 1 / arms
        p_equal = min(1.0, arms * float(special.betainc((arms - 1) * df / 2, df / 2, 1 - share)))
    return SeedPool({arm: v**0.5 for arm, v in variances.items()}, n_seeds, p_equal)


def seed_pools(means: Iterable[ArmMean]) -> dict[tuple[str, str, str], SeedPool]:
    """(metric, group_kind, group) -> how its trained arms vary over seeds, from the rows of the table arm_means."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in means:
        if row.level == "seed" and row.train_seed != NO_SEED:
            arms = found.setdefault((row.metric, row.group_kind, row.group), {})
            arms.setdefault(row.arm, []).append(row.mean)
    pools = {key: pool_seeds({arm: np.array(own) for arm, own in arms.items()}) for key, arms in found.items()}
    return {key: pool for key, pool in pools.items() if pool is not None}
