"""The tables of the statistics as data frames, and the order in which everything shows their rows."""

from __future__ import annotations

from pathlib import Path

from arms.job.files import UserError
from display.words import unit
from study.vocabulary import ADDED_CONTRASTS, ALL_ARMS, METRICS


def read_frame(path: str | Path):
    """A parquet table as a data frame; UserError if it is missing or not parquet."""
    import pandas
    import pyarrow

    try:
        return pandas.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the rule before this one makes it") from None
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a parquet file ({error}); delete it and run Snakemake again") from None


def units(contrasts, primary: str) -> dict[str, tuple[float, str]]:
    """Metric -> (factor, unit) of its differences, in the order of figures and tables: `primary`, the study's, others.

    contrasts: contrasts.parquet.
    """
    ranks = {primary: -1} | {name: i for i, name in enumerate(METRICS) if name != primary}
    kinds = contrasts.groupby("metric")["kind"].first()
    metrics = sorted(kinds.index, key=lambda name: (ranks.get(name, len(ranks)), name))
    return {metric: unit(metric, kinds[metric]) for metric in metrics}


def contrast_order(rows) -> list[str]:
    """The contrasts among rows of contrasts.parquet: primary ones, then others in order of their names, then added."""
    primary, added = set(rows.loc[rows["family"] == "primary", "contrast"]), list(ADDED_CONTRASTS)
    place = {name: added.index(name) for name in rows["contrast"].unique() if name in added}
    return sorted(rows["contrast"].unique(), key=lambda name: (name not in primary, place.get(name, -1), name))


def arms_in(found) -> list[str]:
    """The study's arms among `found`, in the order of figures and tables."""
    return [arm for arm in ALL_ARMS if arm in set(found)]


def of_kind(table, group_kind: str):
    """Rows over all prompts ("overall") or by category ("category")."""
    return table[table["group_kind"] == group_kind]
