"""The numbers of the rule that decides, for what decides and for what forecasts decisions; needs nothing."""

from __future__ import annotations

SEEDS_FOR_CLAIMS = 3  # training seeds that a claim about the recipe needs
POOLING_LEVEL = 0.05  # of the test that trained arms vary alike; benchmarks/simulation.md has the error rates with it


def seeds_that_agree(n_seeds: int) -> int:
    """How many training seeds must share the sign of the gain: two thirds, rounded up."""
    return -(-2 * n_seeds // 3)
