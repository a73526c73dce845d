"""What the audit of a data file says of it: numbers, and warnings in words. Nothing here is an error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arms.data.audit import Table
from arms.data.leakage import NEAR

LEVELS = {"min": 0, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1}


def summary_of(table: Table) -> dict:
    """Rows, counts by category (and negative), distinct prompts, and lengths in characters of every text column."""
    summary = {
        "rows": len(table),
        "distinct_prompts": len(np.unique(table.prompts)),
        "categories": dict(sorted(table.categories.items())),
        "characters": {name: quantiles(lengths) for name, lengths in table.lengths.items()},
    }
    if table.kind == "pairs":
        summary["negatives"] = dict(sorted((name, count) for name, count in table.negatives.items() if name))
        summary["share_chosen_longer"] = round(table.longer / len(table), 4)
        summary["share_first_word_differs"] = round(table.early / len(table), 4)
    return summary


def quantiles(values: Sequence[int]) -> dict[str, float]:
    """Minimum, quartiles, 95 % point and maximum, linearly interpolated (numpy's default, Hyndman-Fan type 7).

    >>> quantiles([1, 2, 3, 4])["median"]
    2.5
    """
    found = np.quantile(np.asarray(values, dtype="int64"), list(LEVELS.values()))
    return {name: round(float(value), 2) for name, value in zip(LEVELS, found, strict=True)}


def warnings(training: Table, heldout: Sequence[Table], near: Sequence[dict]) -> list[str]:
    """What a reader of the results should know about a training file beside the held-out ones."""
    name = Path(training.path).name
    found = []
    if near:
        found.append(
            f"{len(near)} held-out prompts nearly are training prompts (word 5-gram similarity >= {NEAR}); "
            f"the closest: {near[0]['heldout_id']} and {near[0]['training_id']}"
        )
    for table in heldout:
        unseen = sorted(set(table.categories) - set(training.categories))
        if unseen:
            found.append(f"{Path(table.path).name}: categories that are not in {name}: {', '.join(unseen)}")
    if training.kind == "pairs":
        longer, early = training.longer / len(training), training.early / len(training)
        if not 0.2 <= longer <= 0.8:
            found.append(
                f"{name}: chosen is longer in {longer:.0%} of the pairs; "
                "length alone tells them apart, and DPO can learn just that"
            )
        if early > 0.5:
            found.append(
                f"{name}: {early:.0%} of the pairs differ in the first word; "
                "DPO tends to lower the likelihood of both answers there (likelihood displacement)"
            )
    return found
