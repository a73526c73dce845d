"""The tables of the statistics as rows of text, for the page.

Every function here gets `metrics`, metric -> (factor, unit) of its differences (see `frames.units`).
"""

from __future__ import annotations

from pathlib import Path

from display.frames import arms_in, contrast_order, of_kind, read_frame
from display.words import ABOUT, contrast_words, interval, number, p_value, recipe_words, spelt_out, verdict_words
from study.vocabulary import ALL_ARMS, PRIMARY_CONTRASTS

SOURCES = ("prompts", "seeds", "prompts x seeds", "samples")  # of uncertainty, as the table variation names them

Metrics = dict[str, tuple[float, str]]


def contrast_rows(contrasts, group_kind: str, metrics: Metrics) -> list[dict]:
    """Rows of contrasts.parquet of one kind of group, by metric, category and contrast (primary ones first)."""
    names, order = contrast_order(contrasts), list(metrics)
    rows = of_kind(contrasts, group_kind).itertuples()
    rows = sorted(rows, key=lambda row: (order.index(row.metric), row.group, names.index(row.contrast)))
    return [contrast_row(row, *metrics[row.metric]) for row in rows]


def contrast_row(row, factor: float, unit: str) -> dict:
    """A row of contrasts.parquet in the form that the page shows."""
    name, question = contrast_words(row.contrast)
    return {key: getattr(row, key) for key in ("metric", "contrast", "group", "family", "n_prompts")} | {
        "name": name,
        "question": question,
        "estimate": number(row.estimate, factor),
        "p": p_value(row.p_adj) or "—",
        "unit": "points" if factor == 100 else unit,
        "ci_method": interval(row.ci_method_lo, row.ci_method_hi, factor),
        "ci_ckpt": interval(row.ci_ckpt_lo, row.ci_ckpt_hi, factor),
        "verdict": verdict_words(row.verdict),
        "about": ABOUT[row.scope],
        "kind": row.verdict.partition("_")[0],
        "words": spelt_out(row.words),
    }


def category_cells(contrasts, metrics: Metrics) -> dict[str, dict]:
    """Metric -> category -> a cell for each of the first three contrasts."""
    shown = contrast_order(contrasts)[:3]
    found: dict[str, dict] = {}
    for row in contrast_rows(contrasts, "category", metrics):
        if row["contrast"] in shown:
            found.setdefault(row["metric"], {}).setdefault(row["group"], []).append(row)
    return found


def variant(path: str, metrics: Metrics) -> dict:
    """Name and primary contrasts of another recipe; its folder is stats-<key>~<value>[-<key>~<value>...]."""
    rows = contrast_rows(read_frame(path), "overall", metrics)
    return {
        "name": recipe_words(Path(path).parent.name.removeprefix("stats-")),
        "rows": [row for row in rows if row["family"] == "primary"],
    }


def arm_rows(table, metrics: Metrics) -> list[dict]:
    """Each arm with a cell for each metric. table: arm_means.parquet."""
    overall, found = of_kind(table, "overall"), []
    for arm in arms_in(overall["arm"]):
        own = overall[overall["arm"] == arm]
        shown = [metric for metric in metrics if metric in set(own["metric"])]  # judges see pairs, not arms
        cells = [arm_cell(own[own["metric"] == metric], metrics[metric][0]) for metric in shown]
        found.append({"arm": arm, "name": ALL_ARMS[arm], "cells": cells})
    return found


def arm_cell(rows, factor: float) -> dict[str, str]:
    """One arm's mean over seeds with its interval, and the mean of every seed (the base has none)."""
    pooled = rows[rows["level"] == "pooled"].iloc[0]
    seeds = rows[(rows["level"] == "seed") & (rows["arm"] != "base")].sort_values("train_seed")["mean"]
    return {
        "mean": number(pooled["mean"], factor, signed=False),
        "ci": interval(pooled["ci_lo"], pooled["ci_hi"], factor, signed=False),
        "seeds": ", ".join(number(mean, factor, signed=False) for mean in seeds),
    }


def variation_rows(table, metrics: Metrics) -> list[dict]:
    """A row for each metric and primary contrast: shares of its sources, and interval now and with one more of each.

    table: variation.parquet.
    """
    found = []
    own = table[table["contrast"].isin(PRIMARY_CONTRASTS)]
    for (metric, contrast), rows in own.groupby(["metric", "contrast"], sort=True):
        factor, sources = metrics[metric][0], rows.set_index("source")
        shares = [sources.loc[source, "share"] for source in SOURCES]
        widths = [sources.loc[source, "half_width_one_more"] for source in SOURCES if source != "prompts x seeds"]
        scope = sources["scope"].iloc[0]
        found.append(
            {
                "metric": metric,
                "name": contrast_words(contrast)[0],
                "about": ABOUT[scope],
                "shares": ["—" if share != share else f"{share:.0%}" for share in shares],
                "now": narrowed(sources["half_width"].iloc[0], factor),
                "one_more": ["—" if width != width else narrowed(width, factor) for width in widths],
            }
        )
    return sorted(found, key=lambda row: list(metrics).index(row["metric"]))


def narrowed(width: float, factor: float) -> str:
    """A half-width to one digit more than differences have: one more prompt changes little."""
    return f"{width * factor:.{2 if factor == 100 else 4}f}"
