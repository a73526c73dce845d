"""The forest plot: paired differences with both intervals, adjusted p and verdict beside them."""

from __future__ import annotations

import math
from pathlib import Path

from display.frames import contrast_order, units
from display.style import GREY, INK, MARGIN, save, use_style
from display.words import contrast_words, metric_name, number, p_value, verdict_words
from study.vocabulary import ALL_CONTRASTS

# Places across the figure, as shares of its width: the panels, and the columns of text beside them.
PLACES = {"left": 0.285, "right": 0.66, "name": 0.012, "difference": 0.675, "adj. p": 0.755, "verdict": 0.83}
LONGEST_NAME = 0.4  # of a metric, as a share of the figure's width


def save_forest(contrasts, decision: dict, folder: Path) -> None:
    """The forest plot of a comparison outside the workflow: its contrasts, and with a single one also every category.

    contrasts: contrasts.parquet. Writes FOLDER/forest.svg and forest.png.
    """
    use_style()
    overall = contrasts["group_kind"] == "overall"
    rows, labels = contrasts[overall], {}
    for name in rows["contrast"].unique():
        plus, _, minus = name.partition(" − ")
        # Of other models than the study's, each gets a line: "model-b" above "− model-a".
        labels[name] = contrast_words(name) if name in ALL_CONTRASTS else (plus, f"− {minus}" if minus else "")
    if contrasts["contrast"].nunique() == 1:
        rows = contrasts.assign(contrast=contrasts["contrast"].where(overall, contrasts["group"]))
        for group, sizes in rows[~overall].groupby("contrast")["n_prompts"]:
            labels[group] = group.replace("_", " "), f"n = {' or '.join(map(str, sorted(set(sizes))))}"
    figure = draw_forest(rows, decision, units(contrasts, decision["primary_metric"]), labels)
    save(figure, folder / "forest.svg", folder / "forest.png")


def draw_forest(rows, decision: dict, metrics: dict[str, tuple[float, str]], labels: dict | None = None):
    """Differences with both intervals, one panel a metric; adjusted p and verdict stand beside each row.

    rows: of contrasts.parquet. decision: of the same study. metrics: see `frames.units`. labels: contrast -> two lines,
    by default the study's names and questions.
    """
    from matplotlib import pyplot

    names = contrast_order(rows)
    labels = labels or {name: contrast_words(name) for name in names}
    head, foot, key = 0.42, 0.5, 0.74 if decision["exploratory"] else 0.6  # inches
    bodies = {metric: 0.33 * ((rows["metric"] == metric).sum() + 0.2) for metric in metrics}
    height = sum(head + body + foot for body in bodies.values()) + key
    figure, bottom = pyplot.figure(figsize=(8.2, height)), height + foot
    for metric, shown_in in metrics.items():
        body = bodies[metric]
        bottom -= foot + head + body
        axis = figure.add_axes((PLACES["left"], bottom / height, PLACES["right"] - PLACES["left"], body / height))
        own = rows[rows["metric"] == metric]
        own = own.sort_values("contrast", key=lambda values: values.map(names.index))
        draw_panel(axis, own, labels, *shown_in)
        n, seeds = own["n_prompts"].max(), own["n_seeds"].iloc[0]
        top = {"y": (bottom + body + 0.1) / height, "va": "baseline"}
        name = figure.text(PLACES["name"], s=metric_name(metric), weight="bold", fontsize=9, **top)
        size = f"n = {n} prompts, {f'{seeds} training seeds' if seeds > 1 else 'one run of each'}"
        figure.text(max(PLACES["left"], right_of(name)), s=size, color=GREY, fontsize=7, **top)
        for column in ("difference", "adj. p", "verdict"):
            figure.text(PLACES[column], s=column, color=GREY, fontsize=7, **top)
    figure.text(PLACES["name"], 0.1 / height, key_text(rows, decision), fontsize=7, color=GREY, linespacing=1.4)
    return figure


def right_of(text) -> float:
    """Where a text beside `text` begins, as a share of the figure's width; a long one is made to leave room for it."""
    width = text.figure.bbox.width
    share = text.get_window_extent().width / width
    if share > LONGEST_NAME:
        text.set_fontsize(text.get_fontsize() * LONGEST_NAME / share)
    return text.get_window_extent().x1 / width + PLACES["name"]


def draw_panel(axis, rows, labels: dict[str, tuple[str, str]], factor: float, unit: str) -> None:
    """One metric: a row for each contrast, primary ones above the line."""
    from matplotlib.transforms import blended_transform_factory

    margin = rows["margin"].iloc[0]
    note = "" if math.isnan(margin) else f"; shaded: ±{margin * factor:g}, too small to matter"
    if note:
        axis.axvspan(-margin * factor, margin * factor, color=MARGIN, alpha=0.28, lw=0)
    axis.axvline(0, color=INK, lw=0.7)
    beside = blended_transform_factory(axis.figure.transFigure, axis.transData)
    for place, row in enumerate(rows.itertuples()):
        draw_row(axis, place, row, factor, beside, labels[row.contrast])
    primary = (rows["family"] == "primary").sum()
    if 0 < primary < len(rows):
        ends = [PLACES["name"], 1 - PLACES["name"]]
        axis.plot(ends, [primary - 0.5] * 2, color=GREY, lw=0.5, clip_on=False, transform=beside, scalex=False)
    axis.set(xlabel=f"difference, {unit}{note}", ylim=(len(rows) - 0.4, -0.6), yticks=[])
    axis.locator_params(axis="x", nbins=6)
    axis.spines["left"].set_visible(False)


def draw_row(axis, place: int, row, factor: float, beside, label: tuple[str, str]) -> None:
    """One contrast: its name and question, point and intervals, and what follows from them."""
    primary, claim = row.family == "primary", row.verdict not in ("inconclusive", "not_testable")
    colour = INK if claim else "#8c8c8c"
    for low, high, width in ((row.ci_method_lo, row.ci_method_hi, 0.9), (row.ci_ckpt_lo, row.ci_ckpt_hi, 3.2)):
        if not math.isnan(low):
            axis.plot([low * factor, high * factor], [place, place], color=colour, lw=width, solid_capstyle="butt")
    marker = {"marker": "D" if primary else "o", "ms": 5.5 if primary else 5, "mew": 1.1}
    axis.plot(row.estimate * factor, place, color=colour, mfc=colour if claim else "white", **marker)
    text = {"transform": beside, "va": "center"}
    axis.text(PLACES["name"], place - 0.17, label[0], weight="bold" if primary else "normal", **text)
    axis.text(PLACES["name"], place + 0.23, label[1], color=GREY, fontsize=7, **text)
    axis.text(PLACES["difference"], place, number(row.estimate, factor), **text)
    axis.text(PLACES["adj. p"], place, p_value(row.p_adj), **text)
    axis.text(PLACES["verdict"], place, verdict_words(row.verdict), weight="bold" if claim else "normal", **text)


def key_text(rows, decision: dict) -> str:
    """The lines below the figure."""
    level = f"{100 * decision['confidence']:g}%"
    exploratory = (
        "EXPLORATORY: the analysis plan was changed after scores existed.\n" if decision["exploratory"] else ""
    )
    filled = "Filled and black: a verdict after adjustment; open and grey: none."
    if rows["ci_method_lo"].isna().all():
        return f"{exploratory}{level} intervals over prompts, for these checkpoints only. {filled}"
    scopes = {family: own["scope"].iloc[0] for family, own in rows.groupby("family")}
    what = {"method": "the recipe (thin)", "checkpoint": "these checkpoints (thick)"}
    rests = [f"{family} on {what[scopes[family]]}" for family in ("primary", "secondary") if family in scopes]
    return (
        f"{exploratory}{level} intervals: thick = these checkpoints (prompts vary), thin = the recipe (prompts and "
        "seeds vary).\n"
        f"Verdicts rest: {', '.join(rests)}. Diamonds above the line: primary contrasts.\n"
        f"{filled}"
    )
