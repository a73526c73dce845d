"""The look of every figure, and how it is written: small, quiet, and the same bytes from the same inputs."""

from __future__ import annotations

from pathlib import Path

from arms.job.files import atomic_path

COLOURS = {"base": "#767676", "sft": "#0072B2", "sft_dpo": "#D55E00", "dpo_only": "#009E73"}  # Okabe & Ito
COLOURS |= {"orpo_only": "#CC79A7", "kto_only": "#8C6D1F", "simpo_only": "#56B4E9", "sft_kto": "#6A3D9A"}  # added arms
INK, GREY, PALE, MARGIN = "#1a1a1a", "#767676", "#e4e4e4", "#f0e442"


def use_style() -> None:
    """Draw without a screen, with matplotlib's own font, no box, and a fixed salt for the ids in SVG files."""
    import matplotlib

    matplotlib.use("Agg")
    text = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    thin = dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6)
    sizes = {"font.size": 8, "axes.titlesize": 9, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5}
    axes = {"axes.titleweight": "bold", "axes.titlelocation": "left", "axes.edgecolor": GREY}
    spines = {"axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none"}
    fixed = {"font.family": "DejaVu Sans", "svg.hashsalt": "sft-vs-dpo", "svg.fonttype": "path"}
    matplotlib.rcParams.update(text | thin | sizes | axes | spines | fixed)
    matplotlib.rcParams["text.parse_math"] = False  # a dollar in a category is a dollar


def new_figure(width: float, height: float, rows: int, columns: int, **options):
    """(figure, flat list of its axes), laid out so that no label is cut. width, height: inches."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **options
    )
    return figure, list(axes.flat)


def shades(items: list) -> dict:
    """Item (a seed, a number of seeds) -> its colour, dark to light."""
    from matplotlib import colormaps

    return {item: colormaps["viridis"](0.85 * i / max(1, len(items) - 1)) for i, item in enumerate(items)}


def save(figure, *paths: str | Path) -> None:
    """Write a figure, as SVG or PNG by each path's suffix, atomically and without a date."""
    figure.draw_without_rendering()  # solves the layout, once for all files
    figure.set_layout_engine("none")
    for path in map(Path, paths):
        svg = path.suffix == ".svg"
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) if svg else {"Software": None}
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=200, metadata=metadata, facecolor="none" if svg else "white")
