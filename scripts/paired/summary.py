"""A comparison in words: one paragraph for a paper, and the table that it rests on, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from .contrasts import Study
from .verdict import amount, describe_contrast

VERDICTS = ("superior", "inferior", "equivalent", "inconclusive")


def write_up(study: Study, contrasts: dict[str, dict[str, int]], notes: Sequence[str] = ()) -> str:
    """Markdown: the primary sentences, what else was tested, what was missing, how; then every tested row.

    contrasts: the plan's. notes: sentences about the input that a reader should know.
    """
    rows = study.tables["contrasts"].to_pylist()
    decision = study.decision
    secondary = [row for row in rows if row["family"] == "secondary"]
    text = [decision["headline"]]
    if secondary:
        counts = {name: sum(row["verdict"].startswith(name) for row in secondary) for name in VERDICTS}
        found = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        text.append(
            f"Secondary comparisons (other metrics, and every category that is large enough), {len(secondary)} in all, "
            f"after Benjamini-Hochberg: {found or 'none can be tested'}."
        )
    text += notes
    text += [f"Attention: {note}." for note in decision["gate_notes"]]
    if "plan_hash" not in decision["gates"]:
        text.append("The analysis plan was not put on record before the scores existed.")
    if decision["banner"]:
        text.append(decision["banner"])
    text.append(
        "All comparisons are paired by prompt. Tests are sign-flip tests on prompt clusters (McNemar's for one run "
        "each and a yes/no score), intervals cluster-robust and not adjusted for the number of comparisons; a claim "
        "about the recipe combines the variances of prompts and training seeds."
    )
    level = f"{100 * decision['confidence']:g}%"
    table = [
        f"| metric | prompts | comparison | n | difference | {level} CI | adjusted p | verdict |",
        "|---|---|---|---|---|---|---|---|",
        *(_table_row(row, describe_contrast(contrasts[row["contrast"]])) for row in sorted(rows, key=_order)),
    ]
    return " ".join(text) + "\n\n" + "\n".join(table) + "\n"


def _order(row: dict) -> tuple:
    return row["family"] != "primary", row["metric"], row["group_kind"] != "overall", row["hypothesis_id"]


def _table_row(row: dict, comparison: str) -> str:
    points = row["kind"] == "binary"
    scope = "method" if row["scope"] == "method" else "ckpt"
    low, high = row[f"ci_{scope}_lo"], row[f"ci_{scope}_hi"]
    ends = "–" if low is None else f"{amount(low, points)} to {amount(high, points)}".replace(" points to", " to")
    p = "–" if row["p_adj"] is None else "< 0.001" if row["p_adj"] < 0.001 else f"{row['p_adj']:.3f}"
    cells = (
        row["metric"] + (" (primary)" if row["family"] == "primary" else ""),
        "all" if row["group_kind"] == "overall" else row["group"],
        comparison,
        row["n_prompts"],
        amount(row["estimate"], points),
        ends,
        p,
        row["verdict"].replace("_negligible", ", negligible").replace("_", " "),
    )
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
