"""The figure of a plan: the chance that a study decides, by prompts and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from display.style import GREY, INK, new_figure, save, shades, use_style
from paired.forecast import ENOUGH
from paired.prospects import Assumptions, Prospect


def save_prospects(rows: Sequence[Prospect], of: Assumptions, folder: Path) -> list[str]:
    """Write power.png and power.svg; returns their names."""
    use_style()
    names = ["power.png", "power.svg"]
    save(draw_prospects(rows, of), *(folder / name for name in names))
    return names


def draw_prospects(rows: Sequence[Prospect], of: Assumptions):
    """A line for each number of seeds: the chance of GO or NO-GO. Ring: the design in mind. rows: see `Prospect`."""
    figure, axes = new_figure(6.2, 3.6, 1, 1)
    axis = axes[0]
    prompts = sorted({row.n_prompts for row in rows})
    axis.axhline(100 * ENOUGH, color=GREY, lw=0.8, ls=(0, (4, 2)))
    axis.annotate(f"{ENOUGH:.0%}", (1.005, 100 * ENOUGH), xycoords=("axes fraction", "data"), color=GREY, va="center")
    for n_seeds, colour in shades(sorted({row.n_seeds for row in rows})).items():
        own = [row for row in rows if row.n_seeds == n_seeds]
        places, chances = [row.n_prompts for row in own], [100 * row.p_decided for row in own]
        label = f"{n_seeds} seed{'s' * (n_seeds != 1)}" + ("" if own[0].scope == "method" else ", checkpoints only")
        axis.plot(places, chances, "o-", ms=3.5, lw=1.5, color=colour, label=label)
    for row in rows:
        if (row.n_seeds, row.n_prompts) == of.design:
            ring = {"ls": "", "marker": "o", "ms": 10, "mfc": "none", "mec": INK, "mew": 1.3}
            axis.plot(row.n_prompts, 100 * row.p_decided, label="the design in mind", **ring)
    axis.set_xscale("log")
    axis.set_xticks(prompts, [str(n) for n in prompts])
    axis.minorticks_off()
    axis.set(xlabel="held-out prompts", ylabel="GO or NO-GO, % of such studies", ylim=(0, 103))
    axis.set_title("Will this study decide?")
    figure.legend(loc="outside right upper", frameon=False)
    figure.supxlabel(wrapped(of.words), fontsize=6.5, color=GREY, x=0.01, ha="left")
    return figure


def wrapped(text: str, width: int = 105) -> str:
    """A text in lines of at most `width` characters."""
    import textwrap

    return "\n".join(textwrap.wrap(text, width))
