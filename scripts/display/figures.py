"""The other figures: means of the arms, differences by seed and by category, power; and training by step.

metrics: metric -> (factor, unit) of its differences (see `frames.units`).
"""

from __future__ import annotations

import math
from pathlib import Path

from arms.job.files import UserError
from display.frames import arms_in, contrast_order, read_frame
from display.style import COLOURS, GREY, INK, MARGIN, PALE, new_figure, shades
from display.words import ABOUT, contrast_name, metric_name, number, p_value
from study.runs import Run
from study.vocabulary import ADDED_ARMS, ALL_ARMS, DPO_ARMS

Metrics = dict[str, tuple[float, str]]
OBJECTIVES = {"orpo": "ORPO", "kto": "KTO", "simpo": "SimPO"}
PANELS = (  # title, column, arms, label, where a policy that equals its reference stands
    ("SFT loss", "loss", ("sft",), "nats per token", None),
    ("DPO loss", "loss", DPO_ARMS, "loss", None),
    ("Reward margin", "margin", DPO_ARMS, "chosen − rejected", 0.0),
    ("Reward accuracy", "reward_accuracy", DPO_ARMS, "share of pairs", 0.5),
    ("Drift of chosen answers", "chosen_drift", DPO_ARMS, "nats against reference", 0.0),
)
OF_REWARDS = ("margin", "reward_accuracy")
BESIDE, LONG_NAME = 3, 24  # panels of one row; characters of a name above one


def new_panels(width: float, height: float, count: int):
    """A figure of `count` panels that share their rows' names, BESIDE in a row; height: inches, of one row."""
    rows = -(-count // BESIDE)
    figure, axes = new_figure(width, height * rows, rows, min(BESIDE, count), sharey=True)
    for unused in axes[count:]:
        unused.axis("off")
    return figure, axes[:count]


def title(metric: str) -> str:
    """A metric's name above a panel, in lines where it is long."""
    name = metric_name(metric)
    return name if len(name) <= LONG_NAME else name.replace(".", ".\n")


def draw_arms(means, metrics: Metrics):
    """Mean of each arm with its interval, its seeds as dots. means: rows of arm_means.parquet over all prompts."""
    arms = arms_in(means["arm"])
    places = {arm: place for place, arm in enumerate(arms)}
    figure, axes = new_panels(7.6, 2.1 + 0.35 * (len(arms) - 4), len(metrics))
    for axis, (metric, (factor, label)) in zip(axes, metrics.items(), strict=True):
        for row in means[means["metric"] == metric].itertuples():
            place, colour = places[row.arm], COLOURS[row.arm]
            if row.level == "seed":
                if row.arm != "base":  # it is not trained, so it has no seeds to show
                    axis.plot(row.mean * factor, place + 0.24, "o", ms=2.8, color=colour, alpha=0.65, mew=0)
                continue
            if not math.isnan(row.ci_lo):
                axis.plot([row.ci_lo * factor, row.ci_hi * factor], [place] * 2, color=colour, lw=1.4)
            axis.plot(row.mean * factor, place, "o", ms=5.5, color=colour)
            text = number(row.mean, factor, signed=False)
            axis.annotate(text, (row.mean * factor, place), (0, 5), textcoords="offset points", ha="center", fontsize=7)
        axis.set(xlabel="%" if factor == 100 else label, ylim=(len(arms) - 0.45, -0.65))
        axis.set_title(title(metric))
        axis.tick_params(axis="y", length=0)
        axis.margins(x=0.12)
    for first in axes[::BESIDE]:
        first.set_yticks(list(places.values()), [ALL_ARMS[arm] for arm in arms])
        for tick, arm in zip(first.get_yticklabels(), arms, strict=True):
            tick.set(color=COLOURS[arm], weight="bold", fontsize=8.5)
    return figure


def draw_seeds(effects, names: list[str], metrics: Metrics):
    """Each contrast seed by seed: do the training seeds agree?

    effects: rows of seed_effects.parquet over all prompts. names: the contrasts, in order.
    """
    seeds = sorted(effects["train_seed"].unique())
    colours = shades(seeds)
    figure, axes = new_panels(7.6, 0.34 * len(names) + 0.95, len(metrics))
    for axis, (metric, (factor, label)) in zip(axes, metrics.items(), strict=True):
        axis.axvline(0, color=INK, lw=0.7)
        for place, name in enumerate(names):
            own = effects[(effects["metric"] == metric) & (effects["contrast"] == name)]
            axis.axhspan(place - 0.45, place + 0.45, color="#f6f6f6", lw=0, zorder=0)
            axis.plot([own["estimate"].mean() * factor] * 2, [place - 0.36, place + 0.36], color=INK, lw=1.3)
            for row in own.itertuples():
                offset = 0.52 * (seeds.index(row.train_seed) + 0.5) / len(seeds) - 0.26
                axis.plot(row.estimate * factor, place + offset, "o", ms=4, color=colours[row.train_seed], mew=0)
        axis.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
        axis.set_title(title(metric))
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
    for first in axes[::BESIDE]:
        first.set_yticks(range(len(names)), [contrast_name(name) for name in names])
    dots = [axes[0].plot([], [], "o", ms=4, color=colours[seed], mew=0, label=f"seed {seed}")[0] for seed in seeds]
    bar = axes[0].plot([], [], "|", ms=9, mew=1.3, color=INK, label="mean over seeds")
    figure.legend(handles=dots + bar, loc="outside lower center", ncols=min(8, len(dots) + 1), frameon=False)
    return figure


def draw_categories(rows, metrics: Metrics):
    """Differences by category and contrast as a heat map; what is too small to be tested stays grey.

    rows: of contrasts.parquet, by category.
    """
    heights = {metric: rows.loc[rows["metric"] == metric, "group"].nunique() for metric in metrics}
    heights = {metric: count for metric, count in heights.items() if count}
    if not heights:
        figure, axes = new_figure(7.6, 0.8, 1, 1)
        axes[0].text(0, 0.5, "One category only: nothing to compare.", color=GREY)
        axes[0].axis("off")
        return figure
    names = contrast_order(rows)
    size = 0.34 * sum(heights.values()) + 0.75 * len(heights) + 0.3
    ratios = {"height_ratios": list(heights.values())}
    figure, axes = new_figure(7.8, size, len(heights), 1, gridspec_kw=ratios)
    for axis, metric in zip(axes, heights, strict=True):
        factor, label = metrics[metric]
        draw_heat_map(axis, rows[rows["metric"] == metric], names, factor)
        axis.set_title(f"{metric_name(metric)}, {label}", pad=5)
    about = " or ".join(sorted({ABOUT[scope] for scope in rows["scope"]}))
    key = f"Difference, adjusted p below, about {about}. Framed: significant after adjustment. Grey: too few prompts."
    figure.supxlabel(key, fontsize=7, color=GREY, x=0.01, ha="left")
    return figure


def draw_heat_map(axis, rows, names: list[str], factor: float) -> None:
    """One metric's categories (rows) by contrasts (columns)."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba
    from matplotlib.patches import Rectangle

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
    columns = [contrast_name(name).replace(" − ", "\n− ") for name in names]  # two lines: a column is narrow
    axis.set_xticks([x + 0.5 for x in range(len(names))], columns, fontsize=7)
    labels = [f"{group.replace('_', ' ')} ({sizes[group]})" for group in groups]
    axis.set_yticks([y + 0.5 for y in range(len(groups))], labels)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def draw_power(projection, rows, metrics: Metrics):
    """Smallest difference that other numbers of prompts and seeds would find, for each primary contrast.

    projection: projection.parquet, all metrics. rows: of contrasts.parquet, over all prompts.
    """
    primary, (factor, label) = next(iter(metrics.items()))
    rows = rows[(rows["metric"] == primary) & (rows["family"] == "primary")]
    names = contrast_order(rows)
    figure, axes = new_figure(7.8, 2.75, 1, len(names), sharey=True)
    handles: dict = {}
    for axis, name in zip(axes, names, strict=True):
        row = rows[rows["contrast"] == name].iloc[0]
        grid = projection[projection["hypothesis_id"] == row["hypothesis_id"]].sort_values("n_prompts")
        handles |= draw_designs(axis, row, grid, factor)
        axis.set_title(contrast_name(name))
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel(f"smallest difference found\nwith 80% power ({label})")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=8, frameon=False, fontsize=7)
    return figure


def draw_designs(axis, row, grid, factor: float) -> dict:
    """One contrast: what each number of prompts finds, a line for each number of seeds. Label -> line, for the legend.

    row: of contrasts.parquet. grid: its rows of projection.parquet, by number of prompts.
    """
    if row["margin"] == row["margin"]:
        axis.axhspan(0, row["margin"] * factor, color=MARGIN, alpha=0.28, lw=0)
    handles = {}
    for seeds, colour in shades(sorted(grid.loc[grid["mde_method"].notna(), "n_seeds"].unique())).items():
        own = grid[grid["n_seeds"] == seeds]
        line = {"color": colour, "marker": "o", "ms": 3, "lw": 1.3}
        handles[f"{seeds} seeds"] = axis.plot(own["n_prompts"], own["mde_method"] * factor, **line)[0]
    here = grid[grid["n_seeds"] == row["n_seeds"]]
    dashed = {"color": INK, "lw": 1, "ls": (0, (4, 2))}
    handles["these checkpoints"] = axis.plot(here["n_prompts"], here["mde_ckpt"] * factor, **dashed)[0]
    now = here[here["prompts_factor"] == 1]
    column = "mde_method" if row["scope"] == "method" else "mde_ckpt"
    ring = {"ls": "", "marker": "o", "ms": 8, "mfc": "none", "mec": INK, "mew": 1.2}
    handles["this study"] = axis.plot(now["n_prompts"], now[column] * factor, **ring)[0]
    prompts = sorted(grid["n_prompts"].unique())
    axis.set_xscale("log", base=2)
    axis.set_xticks(prompts, [str(n) for n in prompts])
    axis.minorticks_off()
    axis.set_xlabel("prompts")
    return handles


def read_curves(paths: list[str]) -> dict[str, list]:
    """Arm -> curves of its seeds, by the run's folder name (sft_dpo-seed2)."""
    curves: dict[str, list] = {arm: [] for arm in ALL_ARMS}
    for path in sorted(paths):
        try:
            run = Run.parse(Path(path).parent.name)
        except ValueError:
            run = Run("base")
        if run.variant or run.seed is None:
            raise UserError(f"{path}: its folder must be named <arm>-seed<number>, arm one of {', '.join(ALL_ARMS)}")
        curves[run.arm].append(read_frame(path))
    return {arm: found for arm, found in curves.items() if found}


def draw_curves(curves: dict[str, list], reference_free: bool = False):
    """Training by step: a thin line for each seed, a thick one for their mean.

    reference_free: whether rewards are of the policy alone, so that none is known where training starts.
    """
    import pandas
    from matplotlib.ticker import MaxNLocator

    stages = dict.fromkeys(Run(arm).stage for arm in curves if arm in ADDED_ARMS)
    added = [
        (f"{OBJECTIVES[stage]} loss", "loss", [arm for arm in curves if Run(arm).stage == stage], "loss", None)
        for stage in stages
    ]
    panels, rows = [*PANELS, *added], 2 + bool(added)
    figure, axes = new_figure(7.8, 4.1 * rows / 2, rows, 3)
    axes = [*axes[:5], *axes[6:], axes[5]]  # the key is the sixth
    for axis, (name, column, arms, label, level) in zip(axes, panels, strict=False):
        for arm in (arm for arm in arms if arm in curves):
            frames = [frame.set_index("step")[column] for frame in curves[arm]]
            if column == "reward_accuracy":
                frames = [frame[frame.index > 0] for frame in frames]  # before the first update margins may be ties
            for frame in frames:
                axis.plot(frame.index, frame, color=COLOURS[arm], lw=0.5, alpha=0.45)
            mean = pandas.concat(frames, axis=1).mean(axis=1)
            axis.plot(mean.index, mean, color=COLOURS[arm], lw=1.7)
        if level is not None and not (reference_free and column in OF_REWARDS):
            axis.axhline(level, color=GREY, lw=0.7, ls=(0, (4, 3)), zorder=0)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set(xlabel="optimiser step", ylabel=label)
        axis.set_title(name)
    for axis in axes[len(panels) : -1]:
        axis.axis("off")
    draw_curves_key(axes[-1], list(curves), reference_free)
    return figure


def draw_curves_key(axis, arms: list[str], reference_free: bool) -> None:
    """The sixth panel: what the lines are, and what must not be read from them."""
    axis.axis("off")
    axis.set(xlim=(0, 1), ylim=(0, 1))
    rows = max(3, math.ceil(len(arms) / 2))
    for place, arm in enumerate(arms):
        left, high = 0.55 * (place // rows), 0.95 - 0.13 * (place % rows)
        axis.plot([left, left + 0.12], [high] * 2, color=COLOURS[arm], lw=1.7)
        axis.text(left + 0.16, high, ALL_ARMS[arm], color=COLOURS[arm], weight="bold", va="center")
    note = (
        "Thick: mean over seeds. Thin: one seed.\n"
        "Dashed: a policy that equals its reference.\n\n"
        "Margins, accuracy and drift are against each\n"
        "arm's own reference, so their heights are not\n"
        "comparable between the two DPO arms."
    )
    if reference_free:
        note = (
            "Thick: mean over seeds. Thin: one seed.\n"
            "Dashed: a policy that is what it started from.\n\n"
            "The loss is reference_free: margins and accuracy\n"
            "are of the policy's own log-probabilities."
        )
    axis.text(0, 0.89 - 0.13 * rows, note, fontsize=7, color=GREY, va="top", linespacing=1.35)
