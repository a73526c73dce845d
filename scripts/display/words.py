"""Names, units and numbers as figures, tables and sentences show them."""

from __future__ import annotations

import math
import re

from study.vocabulary import ALL_CONTRASTS, METRICS

ABOUT = {"method": "the recipe", "checkpoint": "these checkpoints"}  # what a claim in each scope is about


def metric_name(metric: str) -> str:
    """A metric as it is called in figures; one that is not the study's keeps its name."""
    return METRICS[metric][1] if metric in METRICS else metric


def contrast_words(contrast: str) -> tuple[str, str]:
    """A contrast's short name and the question that it answers; one that is not the study's has no question."""
    return ALL_CONTRASTS[contrast][1:] if contrast in ALL_CONTRASTS else (contrast, "")


def contrast_name(contrast: str) -> str:
    """A contrast as it is called in figures."""
    return contrast_words(contrast)[0]


def unit(metric: str, kind: str) -> tuple[float, str]:
    """(factor, unit) in which differences of a metric are shown; a metric that is not ours has no name for its unit."""
    if kind in ("binary", "pairwise"):
        return 100.0, "percentage points"
    return 1.0, METRICS[metric][2] if metric in METRICS else ""


def number(value: float, factor: float, signed: bool = True) -> str:
    """A difference or mean as text, with a true minus and no sign at zero: +12.3, −0.041, 0.0."""
    text = f"{value * factor:{'+' if signed else ''}.{1 if factor == 100 else 3}f}"
    return text.replace("-", "−") if text.strip("+-0.") else text.lstrip("+-")


def interval(low: float, high: float, factor: float, signed: bool = True) -> str:
    """An interval as text, a dash if there is none."""
    return "—" if math.isnan(low) else f"{number(low, factor, signed)} to {number(high, factor, signed)}"


def p_value(p: float, name: str = "") -> str:
    """A p-value for a table cell or, with name "p = ", for a sentence; nothing if it does not exist."""
    if math.isnan(p):
        return ""
    return f"{name.rstrip('= ')} < 0.001".strip() if p < 0.001 else f"{name}{p:.3f}" if p < 0.1 else f"{name}{p:.2f}"


def verdict_words(verdict: str) -> str:
    """A verdict as it is shown: "superior, negligible", "not testable"."""
    return verdict.replace("_negligible", ", negligible").replace("_", " ")


def recipe_words(label: str) -> str:
    """The label of another recipe, such as beta~0.3-loss_type~ipo, in words."""
    return re.sub(r"-(?=[a-z_]+~)", ", ", label).replace("~", " ").replace("_", " ")


def spelt_out(sentence: str) -> str:
    """A sentence of the statistics with the metrics' names in place of their keys."""
    return re.sub("|".join(METRICS), lambda key: metric_name(key[0]).lower(), sentence)


def listed(values) -> str:
    """Values in words: 8, 4 and 2."""
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last
