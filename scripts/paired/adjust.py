"""Multiplicity: adjusted p-values of a family, and intervals for what was selected from it.

A null p (NaN) marks a hypothesis that cannot be tested: it is not counted in the family and stays null.
"""

from __future__ import annotations

import numpy as np
from statsmodels.stats.multitest import multipletests

METHODS = {"holm": "holm", "bh": "fdr_bh", "by": "fdr_by"}


def adjusted_p(p: np.ndarray, method: str) -> np.ndarray:
    """Adjusted p-values, float [m], NaN where p is NaN; an empty family gives an empty array.

    method: "holm" (Holm 1979, family-wise), "bh" (Benjamini and Hochberg 1995, false discovery rate) or "by"
    (Benjamini and Yekutieli 2001, the same under any dependence).
    """
    p = np.asarray(p, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        adjusted[tested] = multipletests(p[tested], method=METHODS[method])[1]
    return adjusted


def fcr_alpha(adjusted_bh: np.ndarray, q: float) -> float | None:
    """The alpha of false-coverage-rate intervals for the selected (Benjamini and Yekutieli 2005): R q / m.

    adjusted_bh: BH-adjusted p of the family; the R of m at or below q are selected. None if nothing was.
    """
    tested = adjusted_bh[~np.isnan(adjusted_bh)]
    selected = int((tested <= q).sum())
    return selected * q / len(tested) if selected else None
