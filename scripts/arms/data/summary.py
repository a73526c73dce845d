"""What the audit of a data file says of it: numbers, and warnings in words. Nothing here is an error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arms.data.audit import Table
from arms.data.leakage import NEAR

MANY = 50  # pairs of a category whose lengths are judged alone
LEVELS = {"min": 0, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1}


def summary_of(table: Table) -> dict:
    """Rows, counts by category (and negative), distinct prompts, characters of every text, what length alone tells."""
    summary: dict = {
        "rows": len(table),
        "distinct_prompts": len(np.unique(table.prompts)),
        "categories": dict(sorted(table.categories.items())),
        "characters": {name: quantiles(lengths) for name, lengths in table.lengths.items()},
    }
    if table.kind == "pairs":
        summary["negatives"] = dict(sorted((name, count) for name, count in table.negatives.items() if name))
        summary["longer_wins"] = round(longer_wins(table), 4)
        summary["longer_wins_by_category"] = {
            name: round(longer_wins(table, name), 4) for name in sorted(table.categories)
        }
        summary["share_first_word_differs"] = round(table.early / len(table), 4)
    return summary


def quantiles(values: Sequence[int]) -> dict[str, float]:
    """Minimum, quartiles, 95 % point and maximum, linearly interpolated (numpy's default, Hyndman-Fan type 7).

    >>> quantiles([1, 2, 3, 4])["median"]
    2.5
    """
    found = np.quantile(np.asarray(values, dtype="int64"), list(LEVELS.values()))
    return {name: round(float(value), 2) for name, value in zip(LEVELS, found, strict=True)}


def longer_wins(table: Table, category: str | None = None) -> float:
    """How often "the longer answer is the chosen one" is right: its accuracy as a classifier; ties count half."""
    found = {sign: 0 for sign in (-1, 0, 1)}
    for (name, sign), count in table.by_length.items():
        found[sign] += count if category in (None, name) else 0
    return (found[1] + found[0] / 2) / sum(found.values())


def suspicion_words(table: Table, suspicion: dict) -> str:
    """A kind of suspicious rows in one line: file, how many, the first of them, what is odd."""
    rows, first = suspicion["rows"], [entry["id"] for entry in suspicion["first"][:3]]
    names = ", ".join(first) + (f" and {rows - len(first)} more" if rows > len(first) else "")
    return f"{Path(table.path).name}: {rows} row{'s' * (rows > 1)} ({names}): {suspicion['words']}"


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
        longer, early = longer_wins(training), training.early / len(training)
        if not 0.2 <= longer <= 0.8:
            found.append(
                f"{name}: the longer answer is the chosen one in {longer:.0%} of the pairs; "
                "length alone tells them apart, and DPO can learn just that"
            )
        else:
            found += _unequal_categories(training)
        if early > 0.5:
            found.append(
                f"{name}: {early:.0%} of the pairs differ in the first word; "
                "DPO tends to lower the likelihood of both answers there (likelihood displacement)"
            )
    return found


def _unequal_categories(training: Table) -> list[str]:
    """A warning about categories of at least MANY pairs in which length alone tells chosen and rejected apart."""
    many = (name for name, count in sorted(training.categories.items()) if count >= MANY)
    shares = {name: longer_wins(training, name) for name in many}
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if not 0.1 <= share <= 0.9)
    words = "the longer answer is nearly always, or nearly never, the chosen one in some categories"
    return [f"{Path(training.path).name}: {words}: {told}"] if told else []
