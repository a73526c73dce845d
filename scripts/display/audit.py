"""The audit of the data on the page: lengths as a figure, what is odd about rows, and the rows to look at first."""

from __future__ import annotations

import re
from itertools import chain, zip_longest
from pathlib import Path

from arms.job.files import read_json
from display.examples import printable
from display.style import COLOURS, GREY, INK, new_figure

SETS = {"pairs": "training pairs", "sft": "SFT rows", "heldout_pairs": "held-out pairs"}
SETS["heldout_prompts"] = "held-out prompts"
FIRST, NAMED = 20, 5  # rows to look at first, and of a kind that are named
SHOWN = ("prompt", "completion", "chosen", "rejected")
FOLDED = 400  # characters of a text from which its rest is folded away
UNSEEN = re.compile("[\u00ad\u200b-\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ue000-\uf8ff\U000f0000-\U0010fffd]")
Line = tuple[str, str, str, str | None, bool]
PANELS: tuple[
    tuple[str, str, list[Line]], ...
] = (  # title, label of the axis, (column, data set, label, colour, dashed) of each line
    ("Prompts", "characters", [("prompt", name, label, None, False) for name, label in SETS.items()]),
    ("SFT completions", "characters", [("completion", "sft", "", COLOURS["sft"], False)]),
    (
        "Answers of training pairs",
        "characters",
        [
            ("chosen", "pairs", "chosen", COLOURS["dpo_only"], False),
            ("rejected", "pairs", "rejected", COLOURS["sft_dpo"], True),
        ],
    ),
    (
        "Chosen minus rejected",
        "characters",
        [("chosen_minus_rejected", name, SETS[name], None, False) for name in ("pairs", "heldout_pairs")],
    ),
    (
        "Words alike at the start of a pair",
        "words",
        [("common_words", name, SETS[name], None, False) for name in ("pairs", "heldout_pairs")],
    ),
)


def read_audits(paths: list[str]) -> dict[str, dict]:
    """Data set -> its audit, of data/<data set>.audit.json; other audits are left out."""
    named = {Path(path).name.removesuffix(".audit.json"): path for path in paths if Path(path).parent.name == "data"}
    return {name: read_json(named[name]) for name in SETS if name in named}


def draw_data(audits: dict[str, dict]):
    """Histograms of the lengths of texts, and of what tells chosen and rejected apart. audits: see `read_audits`."""
    colours = dict(zip(SETS, (COLOURS["dpo_only"], COLOURS["sft"], COLOURS["sft_dpo"], GREY), strict=True))
    figure, axes = new_figure(7.6, 3.6, 2, 3)
    for axis, (title, label, lines) in zip(axes, PANELS, strict=False):
        for column, name, words, colour, dashed in lines:
            found = audits.get(name, {}).get("histograms", {}).get(column)
            if found:
                shares = [100 * count / sum(found["counts"]) for count in found["counts"]]
                style = {"color": colour or colours[name], "lw": 1.1, "ls": "--" if dashed else "-"}
                axis.stairs(shares, found["edges"], label=words, **style)
        if "minus" in title:
            axis.axvline(0, color=INK, lw=0.7)
        axis.set(xlabel=label)
        axis.set_title(title)
        axis.margins(x=0.02)
        if len(axis.get_legend_handles_labels()[1]) > 1:
            axis.legend(frameon=False, fontsize=6.5)
    for axis in axes[::3]:
        axis.set_ylabel("% of rows")
    for axis in axes[len(PANELS) :]:
        axis.axis("off")
    return figure


def oddities(audits: dict[str, dict]) -> dict[str, list]:
    """suspicions: a row for each kind in each data set; look_first: FIRST rows, odd ones of all data sets in turn."""
    suspicions = [
        {**entry, "data": SETS[name], "first": [named(row) for row in entry["first"][:NAMED]]}
        for name, audit in audits.items()
        for entry in audit["suspicions"]
    ]
    shown = [[{**row, "data": SETS[name]} for row in audit["look_first"]] for name, audit in audits.items()]
    turns = [row for row in chain(*zip_longest(*shown)) if row]
    first = sorted(turns, key=lambda row: not row["odd"])[:FIRST]
    texts = [{name: folded(row["texts"][name]) for name in SHOWN if name in row["texts"]} for row in first]
    return {
        "suspicions": suspicions,
        "look_first": [{**row, "id": visible(row["id"]), "texts": own} for row, own in zip(first, texts, strict=True)],
    }


def named(row: dict) -> str:
    """A row's id and its line."""
    return f"{visible(row['id'])} ({row['place'].rpartition(', ')[2]})"


def visible(text: str) -> str:
    """Text in printable form, characters that nobody sees named: ⟨U+200B⟩."""
    return UNSEEN.sub(lambda letter: f"⟨U+{ord(letter[0]):04X}⟩", printable(text))


def folded(text: str) -> dict[str, str]:
    """The first characters of a text, visible, and the rest."""
    whole = visible(text)
    return {"text": whole[:FOLDED], "rest": whole[FOLDED:]}
