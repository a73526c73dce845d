"""Rule plot: the figures of the study, each as SVG for the report and PNG for slides.

    python scripts/plot.py --job '{"rule": "plot", "settings": {}}' --lock envs/stats.yaml --manifest M.json \
        --stats results/demo/stats --curves results/demo/*/curves.parquet --figures results/demo/figures

forest: paired differences. arms: mean of each arm. seeds: differences seed by seed. categories: differences by prompt
category. power: would more prompts or more seeds help? curves: training. The program sits below the names that figures
and report share. Equal inputs, equal bytes.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from arms.job.files import UserError, atomic_path, exit_with_message, read_json
from arms.job.manifest import Job, add_job_arguments

ARMS = {"base": "base", "sft": "SFT", "sft_dpo": "SFT→DPO", "dpo_only": "DPO-only"}
COLOURS = {"base": "#767676", "sft": "#0072B2", "sft_dpo": "#D55E00", "dpo_only": "#009E73"}  # Okabe & Ito
CONTRASTS = {
    "C1": ("SFT→DPO − SFT", "Does DPO help after SFT?"),
    "C2": ("SFT→DPO − DPO-only", "Does DPO need SFT first?"),
    "C3": ("DPO-only − base", "Does DPO help without SFT?"),
    "C4": ("SFT − base", "Does SFT help?"),
    "C5": ("SFT→DPO − base", "Do both together help?"),
    "C6": ("SFT − DPO-only", "Is SFT better than DPO alone?"),
    "C7": ("DPO gain after SFT − alone", "Does DPO gain more after SFT?"),
}
METRICS = {
    "pref_acc": "Preference accuracy",
    "pass_rate": "Graded pass rate",
    "logp_margin": "Log-probability margin",
}
UNITS = {"logp_margin": "nats per token"}
INK, GREY, PALE = "#1a1a1a", "#767676", "#e4e4e4"


def main() -> None:
    """Read the tables, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    parser.add_argument("--stats", required=True, metavar="DIR", help="tables and decision.json of rule compare")
    parser.add_argument("--curves", nargs="+", required=True, help="<run>/curves.parquet of every trained run")
    parser.add_argument("--figures", required=True, metavar="DIR", help="output: the folder of the figures")
    args = parser.parse_args()
    job = Job(args)

    use_style()
    stats = Path(args.stats)
    tables = {name: stats / f"{name}.parquet" for name in ("contrasts", "arm_means", "seed_effects", "projection")}
    contrasts, arm_means, seed_effects, projection = (read_frame(path) for path in tables.values())
    decision = read_json(stats / "decision.json")
    metrics = metric_order(contrasts, decision["primary_metric"])
    overall = contrasts[contrasts["group_kind"] == "overall"]
    figures = {
        "forest": draw_forest(overall, decision, metrics),
        "arms": draw_arms(arm_means[arm_means["group_kind"] == "overall"], overall, metrics),
        "seeds": draw_seeds(seed_effects[seed_effects["group_kind"] == "overall"], overall, metrics),
        "categories": draw_categories(contrasts[contrasts["group_kind"] == "category"], metrics),
        "power": draw_power(projection, overall[overall["metric"] == metrics[0]]),
        "curves": draw_curves(read_curves(args.curves)),
    }
    outputs = {}
    for name, figure in figures.items():
        outputs |= save(figure, Path(args.figures), name)
    job.say(f"{len(figures)} figures of {len(metrics)} metrics")
    inputs = {**tables, "decision": stats / "decision.json", **{path: path for path in args.curves}}
    job.finish(inputs=inputs, outputs=outputs)


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


def metric_order(contrasts, primary: str) -> list[str]:
    """The metrics in the order of figures and tables: primary, then graded answers, then by name."""
    ranks = {primary: -1} | {name: i for i, name in enumerate(METRICS) if name != primary}
    return sorted(contrasts["metric"].unique(), key=lambda name: (ranks.get(name, len(ranks)), name))


def unit(metric: str, kind: str) -> tuple[float, str]:
    """(factor, unit) in which differences of a metric are shown; a metric that is not ours has no name for its unit."""
    return (100.0, "percentage points") if kind == "binary" else (1.0, UNITS.get(metric, ""))


def number(value: float, factor: float, signed: bool = True) -> str:
    """A difference or mean as text, with a true minus and no sign at zero: +12.3, −0.041, 0.0."""
    text = f"{value * factor:{'+' if signed else ''}.{1 if factor == 100 else 3}f}"
    return text.replace("-", "−") if text.strip("+-0.") else text.lstrip("+-")


def p_value(p: float, name: str = "") -> str:
    """A p-value for a table cell or, with name "p = ", for a sentence; nothing if it does not exist."""
    if math.isnan(p):
        return ""
    return f"{name.rstrip('= ')} < 0.001".strip() if p < 0.001 else f"{name}{p:.3f}" if p < 0.1 else f"{name}{p:.2f}"


def verdict_words(verdict: str) -> str:
    """A verdict as it is shown: "superior, negligible", "not testable"."""
    return verdict.replace("_negligible", ", negligible").replace("_", " ")


def read_curves(paths: list[str]) -> dict[str, list]:
    """Arm -> curves of its seeds, by the run's folder name (sft_dpo-seed2)."""
    curves: dict[str, list] = {}
    for path in sorted(paths):
        arm, found, seed = Path(path).parent.name.rpartition("-seed")
        if not found or arm not in ARMS or not seed.isdigit():
            raise UserError(f"{path}: its folder must be named <arm>-seed<number>, arm one of {', '.join(ARMS)}")
        curves.setdefault(arm, []).append(read_frame(path))
    return {arm: curves[arm] for arm in ARMS if arm in curves}


def style() -> dict[str, object]:
    """Small, quiet and deterministic: matplotlib's own font, no box, a fixed salt for the ids in SVG files."""
    text = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    thin = dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6)
    sizes = {"font.size": 8, "axes.titlesize": 9, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5}
    axes = {"axes.titleweight": "bold", "axes.titlelocation": "left", "axes.edgecolor": GREY}
    spines = {"axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none"}
    fixed = {"font.family": "DejaVu Sans", "svg.hashsalt": "sft-vs-dpo", "svg.fonttype": "path"}
    fixed["text.parse_math"] = False  # a dollar in a category is a dollar
    return text | thin | sizes | axes | spines | fixed


def save(figure, folder: Path, name: str) -> dict[str, Path]:
    """Write a figure as SVG and PNG, atomically and without a date; {name_svg, name_png: path}."""
    figure.draw_without_rendering()  # solves the layout, once for both files
    figure.set_layout_engine("none")
    outputs = {f"{name}_{kind}": folder / f"{name}.{kind}" for kind in ("svg", "png")}
    for path in outputs.values():
        svg = path.suffix == ".svg"
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) if svg else {"Software": None}
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=200, metadata=metadata, facecolor="none" if svg else "white")
    return outputs


def use_style() -> None:
    """Draw without a screen, in the style of the figures."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(style())


def save_forest(contrasts, decision: dict, folder: Path) -> None:
    """The forest plot of a comparison outside the workflow: its contrasts, and with a single one also every category.

    contrasts: contrasts.parquet. Writes FOLDER/forest.svg and forest.png.
    """
    use_style()
    overall = contrasts["group_kind"] == "overall"
    rows, labels = contrasts[overall], {}
    for name in rows["contrast"].unique():
        plus, _, minus = name.partition(" − ")
        labels[name] = CONTRASTS.get(name, (plus, f"− {minus}" if minus else ""))
    if contrasts["contrast"].nunique() == 1:
        rows = contrasts.assign(contrast=contrasts["contrast"].where(overall, contrasts["group"]))
        for group, sizes in rows[~overall].groupby("contrast")["n_prompts"]:
            labels[group] = group.replace("_", " "), f"n = {' or '.join(map(str, sorted(set(sizes))))}"
    figure = draw_forest(rows, decision, metric_order(contrasts, decision["primary_metric"]), labels)
    save(figure, folder, "forest")


def new_figure(width: float, height: float, rows: int, columns: int, **options):
    """(figure, flat list of its axes), laid out so that no label is cut."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **options
    )
    return figure, list(axes.flat)


def title(metric: str, suffix: str = "") -> str:
    """A panel's title."""
    return METRICS.get(metric, metric) + suffix


def in_order(rows, column: str, names: list[str]):
    """Rows sorted by the place of `column` in `names`."""
    return rows.sort_values(column, key=lambda values: values.map({name: i for i, name in enumerate(names)}))


def contrast_names(rows) -> list[str]:
    """The contrasts, primary ones first, then in order of their names."""
    primary = set(rows.loc[rows["family"] == "primary", "contrast"])
    return sorted(rows["contrast"].unique(), key=lambda name: (name not in primary, name))


# Places across the forest plot, as shares of its width: the panels, and the columns of text beside them.
FOREST = {"left": 0.285, "right": 0.66, "name": 0.012, "difference": 0.675, "adj. p": 0.755, "verdict": 0.83}


def draw_forest(overall, decision: dict, metrics: list[str], labels: dict[str, tuple[str, str]] = CONTRASTS):
    """Differences with both intervals, one panel a metric; adjusted p and verdict stand beside each row.

    overall: rows of contrasts.parquet over all prompts. decision: of the same study. labels: contrast -> two lines.
    """
    from matplotlib import pyplot

    names = contrast_names(overall)
    head, body, foot, key = 0.42, 0.33 * (len(names) + 0.2), 0.5, 0.6  # inches
    height = (head + body + foot) * len(metrics) + key
    figure = pyplot.figure(figsize=(8.2, height))
    for i, metric in enumerate(metrics, start=1):
        bottom = height - (head + body + foot) * i + foot
        axis = figure.add_axes((FOREST["left"], bottom / height, FOREST["right"] - FOREST["left"], body / height))
        rows = in_order(overall[overall["metric"] == metric], "contrast", names)
        draw_forest_panel(axis, rows, labels)
        n, seeds = rows["n_prompts"].max(), rows["n_seeds"].iloc[0]
        top = {"y": (bottom + body + 0.1) / height, "va": "baseline"}
        figure.text(FOREST["name"], s=title(metric), weight="bold", fontsize=9, **top)
        size = f"n = {n} prompts, {f'{seeds} training seeds' if seeds > 1 else 'one run of each'}"
        figure.text(FOREST["left"], s=size, color=GREY, fontsize=7, **top)
        for column in ("difference", "adj. p", "verdict"):
            figure.text(FOREST[column], s=column, color=GREY, fontsize=7, **top)
    figure.text(FOREST["name"], 0.1 / height, forest_key(overall, decision), fontsize=7, color=GREY, linespacing=1.4)
    return figure


def draw_forest_panel(axis, rows, labels: dict[str, tuple[str, str]]) -> None:
    """One metric: a row for each contrast, primary ones above the line."""
    from matplotlib.transforms import blended_transform_factory

    factor, label = unit(rows["metric"].iloc[0], rows["kind"].iloc[0])
    margin = rows["margin"].iloc[0]
    note = "" if math.isnan(margin) else f"; shaded: ±{margin * factor:g}, too small to matter"
    if note:
        axis.axvspan(-margin * factor, margin * factor, color="#f0e442", alpha=0.28, lw=0)
    axis.axvline(0, color=INK, lw=0.7)
    beside = blended_transform_factory(axis.figure.transFigure, axis.transData)
    for place, row in enumerate(rows.itertuples()):
        draw_forest_row(axis, place, row, factor, beside, labels[row.contrast])
    primary = (rows["family"] == "primary").sum()
    if 0 < primary < len(rows):
        ends = [FOREST["name"], 1 - FOREST["name"]]
        axis.plot(ends, [primary - 0.5] * 2, color=GREY, lw=0.5, clip_on=False, transform=beside, scalex=False)
    axis.set(xlabel=f"difference, {label}{note}", ylim=(len(rows) - 0.4, -0.6), yticks=[])
    axis.locator_params(axis="x", nbins=6)
    axis.spines["left"].set_visible(False)


def draw_forest_row(axis, place: int, row, factor: float, beside, label: tuple[str, str]) -> None:
    """One contrast: its name and question, point and intervals, and what follows from them."""
    primary, claim = row.family == "primary", row.verdict not in ("inconclusive", "not_testable")
    colour = INK if claim else "#8c8c8c"
    for low, high, width in ((row.ci_method_lo, row.ci_method_hi, 0.9), (row.ci_ckpt_lo, row.ci_ckpt_hi, 3.2)):
        if not math.isnan(low):
            axis.plot([low * factor, high * factor], [place, place], color=colour, lw=width, solid_capstyle="butt")
    marker = {"marker": "D" if primary else "o", "ms": 5.5 if primary else 5, "mew": 1.1}
    axis.plot(row.estimate * factor, place, color=colour, mfc=colour if claim else "white", **marker)
    text = {"transform": beside, "va": "center"}
    # Of other models than the study's, each gets a line: "model-b" above "− model-a".
    axis.text(FOREST["name"], place - 0.17, label[0], weight="bold" if primary else "normal", **text)
    axis.text(FOREST["name"], place + 0.23, label[1], color=GREY, fontsize=7, **text)
    axis.text(FOREST["difference"], place, number(row.estimate, factor), **text)
    axis.text(FOREST["adj. p"], place, p_value(row.p_adj), **text)
    axis.text(FOREST["verdict"], place, verdict_words(row.verdict), weight="bold" if claim else "normal", **text)


def forest_key(overall, decision: dict) -> str:
    """The lines below the forest plot."""
    level = f"{100 * decision['confidence']:g}%"
    exploratory = "EXPLORATORY: the analysis plan was changed after scores existed. " if decision["exploratory"] else ""
    filled = "Filled and black: a verdict after adjustment; open and grey: none."
    if overall["ci_method_lo"].isna().all():
        return f"{exploratory}{level} intervals over prompts, for these checkpoints only. {filled}"
    scopes = {family: rows["scope"].iloc[0] for family, rows in overall.groupby("family")}
    what = {"method": "the recipe (thin)", "checkpoint": "these checkpoints (thick)"}
    rests = [f"{family} on {what[scopes[family]]}" for family in ("primary", "secondary") if family in scopes]
    return (
        f"{exploratory}{level} intervals: thick = these checkpoints (prompts vary), thin = the recipe (prompts and "
        "seeds vary).\n"
        f"Verdicts rest: {', '.join(rests)}. Diamonds above the line: primary contrasts.\n"
        f"{filled}"
    )


def draw_arms(means, overall, metrics: list[str]):
    """Mean of each arm with its interval, its seeds as dots."""
    figure, axes = new_figure(7.6, 2.1, 1, len(metrics), sharey=True)
    places = {arm: place for place, arm in enumerate(ARMS)}
    for axis, metric in zip(axes, metrics, strict=True):
        factor, label = unit(metric, overall.loc[overall["metric"] == metric, "kind"].iloc[0])
        for row in means[means["metric"] == metric].itertuples():
            place, colour = places[row.arm], COLOURS[row.arm]
            if row.level == "seed":
                if row.arm == "base":  # it is not trained, so it has no seeds to show
                    continue
                axis.plot(row.mean * factor, place + 0.24, "o", ms=2.8, color=colour, alpha=0.65, mew=0)
                continue
            if not math.isnan(row.ci_lo):
                axis.plot([row.ci_lo * factor, row.ci_hi * factor], [place] * 2, color=colour, lw=1.4)
            axis.plot(row.mean * factor, place, "o", ms=5.5, color=colour)
            text = number(row.mean, factor, signed=False)
            axis.annotate(text, (row.mean * factor, place), (0, 5), textcoords="offset points", ha="center", fontsize=7)
        axis.set(xlabel="%" if factor == 100 else label, ylim=(len(ARMS) - 0.45, -0.65))
        axis.set_title(title(metric))
        axis.tick_params(axis="y", length=0)
        axis.margins(x=0.12)
    axes[0].set_yticks(list(places.values()), list(ARMS.values()))
    for tick, arm in zip(axes[0].get_yticklabels(), ARMS, strict=True):
        tick.set(color=COLOURS[arm], weight="bold", fontsize=8.5)
    return figure


def draw_seeds(effects, overall, metrics: list[str]):
    """Each contrast seed by seed: do the training seeds agree?"""
    from matplotlib import colormaps

    names = contrast_names(overall)
    seeds = sorted(effects["train_seed"].unique())
    shades = {seed: colormaps["viridis"](0.85 * i / max(1, len(seeds) - 1)) for i, seed in enumerate(seeds)}
    figure, axes = new_figure(7.6, 0.34 * len(names) + 0.95, 1, len(metrics), sharey=True)
    for axis, metric in zip(axes, metrics, strict=True):
        factor, label = unit(metric, overall.loc[overall["metric"] == metric, "kind"].iloc[0])
        axis.axvline(0, color=INK, lw=0.7)
        for place, name in enumerate(names):
            own = effects[(effects["metric"] == metric) & (effects["contrast"] == name)]
            axis.axhspan(place - 0.45, place + 0.45, color="#f6f6f6", lw=0, zorder=0)
            axis.plot([own["estimate"].mean() * factor] * 2, [place - 0.36, place + 0.36], color=INK, lw=1.3)
            for row in own.itertuples():
                offset = 0.52 * (seeds.index(row.train_seed) + 0.5) / len(seeds) - 0.26
                axis.plot(row.estimate * factor, place + offset, "o", ms=4, color=shades[row.train_seed], mew=0)
        axis.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
        axis.set_title(title(metric))
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
    axes[0].set_yticks(range(len(names)), [CONTRASTS.get(name, (name,))[0] for name in names])
    dots = [axes[0].plot([], [], "o", ms=4, color=shades[seed], mew=0, label=f"seed {seed}")[0] for seed in seeds]
    bar = axes[0].plot([], [], "|", ms=9, mew=1.3, color=INK, label="mean over seeds")
    figure.legend(handles=dots + bar, loc="outside lower center", ncols=min(8, len(dots) + 1), frameon=False)
    return figure


def draw_categories(rows, metrics: list[str]):
    """Differences by category and contrast as a heat map; what is too small to be tested stays grey."""
    metrics = [metric for metric in metrics if (rows["metric"] == metric).any()]
    if not metrics:
        figure, axes = new_figure(7.6, 0.8, 1, 1)
        axes[0].text(0, 0.5, "One category only: nothing to compare.", color=GREY)
        axes[0].axis("off")
        return figure
    names = contrast_names(rows)
    heights = [rows.loc[rows["metric"] == metric, "group"].nunique() for metric in metrics]
    size = 0.34 * sum(heights) + 0.75 * len(metrics) + 0.3
    figure, axes = new_figure(7.8, size, len(metrics), 1, gridspec_kw={"height_ratios": heights})
    for axis, metric in zip(axes, metrics, strict=True):
        draw_heat_map(axis, rows[rows["metric"] == metric], names, metric)
    key = "Difference, adjusted p below. Framed: significant after adjustment. Grey: too few prompts to be tested."
    figure.supxlabel(key, fontsize=7, color=GREY, x=0.01, ha="left")
    return figure


def draw_heat_map(axis, rows, names: list[str], metric: str) -> None:
    """One metric's categories (rows) by contrasts (columns)."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba
    from matplotlib.patches import Rectangle

    factor, label = unit(rows["metric"].iloc[0], rows["kind"].iloc[0])
    groups = sorted(rows["group"].unique())
    largest = max(rows.loc[rows["family"].notna(), "estimate"].abs().max(), 1e-9)
    colours = LinearSegmentedColormap.from_list("loss to gain", ["#c4531d", "#f0b28c", "#ffffff", "#8fc1e0", "#1f6aa5"])
    for row in rows.itertuples():
        x, y = names.index(row.contrast), groups.index(row.group)
        tested = isinstance(row.family, str)
        colour = colours(0.5 + row.estimate / largest / 2) if tested else PALE
        significant = tested and row.p_adj == row.p_adj and row.verdict.startswith(("superior", "inferior"))
        axis.add_patch(Rectangle((x + 0.02, y + 0.03), 0.96, 0.94, facecolor=colour, edgecolor=PALE, lw=0.5))
        if significant:
            axis.add_patch(Rectangle((x + 0.035, y + 0.05), 0.93, 0.9, fill=False, edgecolor=INK, lw=1.3))
        red, green, blue, _ = to_rgba(colour)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        ink = GREY if not tested else "white" if dark else INK
        text = {"ha": "center", "va": "center", "color": ink}
        height = 0.36 if tested else 0.5
        axis.text(x + 0.5, y + height, number(row.estimate, factor), weight="bold" if significant else "normal", **text)
        if tested:
            axis.text(x + 0.5, y + 0.72, p_value(row.p_adj, "p = "), fontsize=6.2, **text)
    sizes = rows.groupby("group")["n_prompts"].first()
    axis.set(xlim=(0, len(names)), ylim=(len(groups), 0))
    axis.set_xticks([x + 0.5 for x in range(len(names))], [wrapped(name) for name in names], fontsize=7)
    axis.set_yticks(
        [y + 0.5 for y in range(len(groups))], [f"{group.replace('_', ' ')} ({sizes[group]})" for group in groups]
    )
    axis.set_title(title(metric, f", {label}"), pad=5)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def wrapped(contrast: str) -> str:
    """A contrast's name on two lines, for a narrow column."""
    return CONTRASTS.get(contrast, (contrast,))[0].replace(" − ", "\n− ")


def draw_power(projection, rows):
    """Smallest difference that other numbers of prompts and seeds would find, for each primary contrast.

    projection: of all metrics. rows: the overall contrasts of the primary metric, primary family or not.
    """
    from matplotlib import colormaps

    rows = rows[rows["family"] == "primary"]
    names = contrast_names(rows)
    factor, label = unit(rows["metric"].iloc[0], rows["kind"].iloc[0])
    figure, axes = new_figure(7.8, 2.75, 1, len(names), sharey=True)
    handles = {}
    for axis, name in zip(axes, names, strict=True):
        row = rows[rows["contrast"] == name].iloc[0]
        grid = projection[projection["hypothesis_id"] == row["hypothesis_id"]]
        if row["margin"] == row["margin"]:
            axis.axhspan(0, row["margin"] * factor, color="#f0e442", alpha=0.28, lw=0)
        counts = sorted(grid.loc[grid["mde_method"].notna(), "n_seeds"].unique())
        for i, seeds in enumerate(counts):
            own = grid[grid["n_seeds"] == seeds].sort_values("n_prompts")
            line = {
                "color": colormaps["viridis"](0.85 * i / max(1, len(counts) - 1)),
                "marker": "o",
                "ms": 3,
                "lw": 1.3,
            }
            handles[f"{seeds} seeds"] = axis.plot(own["n_prompts"], own["mde_method"] * factor, **line)[0]
        here = grid[grid["n_seeds"] == row["n_seeds"]].sort_values("n_prompts")
        style = {"color": INK, "lw": 1, "ls": (0, (4, 2))}
        handles["these checkpoints"] = axis.plot(here["n_prompts"], here["mde_ckpt"] * factor, **style)[0]
        now = here[here["prompts_factor"] == 1]
        column = "mde_method" if row["scope"] == "method" else "mde_ckpt"
        ring = {"ls": "", "marker": "o", "ms": 8, "mfc": "none", "mec": INK, "mew": 1.2}
        handles["this study"] = axis.plot(now["n_prompts"], now[column] * factor, **ring)[0]
        prompts = sorted(grid["n_prompts"].unique())
        axis.set_xscale("log", base=2)
        axis.set_xticks(prompts, [str(n) for n in prompts])
        axis.minorticks_off()
        axis.set_xlabel("prompts")
        axis.set_title(CONTRASTS.get(name, (name,))[0])
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel(f"smallest difference found\nwith 80% power ({label})")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=8, frameon=False, fontsize=7)
    return figure


DPO = ("sft_dpo", "dpo_only")
PANELS = (  # title, column, arms, label, where a policy that equals its reference stands
    ("SFT loss", "loss", ("sft",), "nats per token", None),
    ("DPO loss", "loss", DPO, "loss", None),
    ("Reward margin", "margin", DPO, "chosen − rejected", 0.0),
    ("Reward accuracy", "reward_accuracy", DPO, "share of pairs", 0.5),
    ("Drift of chosen answers", "chosen_drift", DPO, "nats against reference", 0.0),
)


def draw_curves(curves: dict[str, list]):
    """Training by step: a thin line for each seed, a thick one for their mean."""
    import pandas
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure(7.8, 4.1, 2, 3)
    for axis, (name, column, arms, label, level) in zip(axes, PANELS, strict=False):
        for arm in (arm for arm in arms if arm in curves):
            frames = [frame.set_index("step")[column] for frame in curves[arm]]
            if column == "reward_accuracy":
                frames = [frame[frame.index > 0] for frame in frames]  # before the first update all margins are ties
            for frame in frames:
                axis.plot(frame.index, frame, color=COLOURS[arm], lw=0.5, alpha=0.45)
            mean = pandas.concat(frames, axis=1).mean(axis=1)
            axis.plot(mean.index, mean, color=COLOURS[arm], lw=1.7)
        if level is not None:
            axis.axhline(level, color=GREY, lw=0.7, ls=(0, (4, 3)), zorder=0)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set(xlabel="optimiser step", ylabel=label)
        axis.set_title(name)
    draw_curves_key(axes[-1], list(curves))
    return figure


def draw_curves_key(axis, arms: list[str]) -> None:
    """The sixth panel: what the lines are, and what must not be read from them."""
    axis.axis("off")
    axis.set(xlim=(0, 1), ylim=(0, 1))
    for place, arm in enumerate(arms):
        axis.plot([0, 0.12], [0.95 - 0.13 * place] * 2, color=COLOURS[arm], lw=1.7)
        axis.text(0.16, 0.95 - 0.13 * place, ARMS[arm], color=COLOURS[arm], weight="bold", va="center")
    note = (
        "Thick: mean over seeds. Thin: one seed.\n"
        "Dashed: a policy that equals its reference.\n\n"
        "Margins, accuracy and drift are against each\n"
        "arm's own reference, so their heights are not\n"
        "comparable between the two DPO arms."
    )
    axis.text(0, 0.5, note, fontsize=7, color=GREY, va="top", linespacing=1.35)


if __name__ == "__main__":
    exit_with_message(main)
