"""A comparison in words: one paragraph for a paper, and the table that it rests on, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from .analysis import Analysis
from .families import Claim
from .scopes import CHECKPOINT, METHOD
from .words import amount

ABOUT = {METHOD: "the recipe", CHECKPOINT: "these checkpoints"}
VERDICTS = ("superior", "inferior", "equivalent", "inconclusive")


def write_up(analysis: Analysis, notes: Sequence[str] = ()) -> str:
    """Markdown: the primary sentences, what else was tested, what was missing, how; then every tested row.

    notes: sentences about the input that a reader should know.
    """
    decision = analysis.decision
    secondary = [claim.verdict for claim in analysis.claims if claim.family == "secondary"]
    scopes = {ABOUT[claim.scope.name] for claim in analysis.claims if claim.family == "secondary"}
    text = [decision["headline"]]
    if secondary:
        counts = {name: sum(verdict.startswith(name) for verdict in secondary) for name in VERDICTS}
        found = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        text.append(
            f"Secondary comparisons (other metrics, and every category that is large enough), {len(secondary)} in all, "
            f"after Benjamini-Hochberg, claims about {' or '.join(sorted(scopes))}: {found or 'none can be tested'}."
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
        f"| metric | prompts | comparison | n | difference | {level} CI | adjusted p | verdict | claim about |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(_table_row, sorted(analysis.claims, key=_order)),
    ]
    return " ".join(text) + "\n\n" + "\n".join(table) + "\n"


def _order(claim: Claim) -> tuple:
    of = claim.hypothesis
    return claim.family != "primary", of.metric.name, not of.overall, of.id


def _table_row(claim: Claim) -> str:
    of, inference = claim.hypothesis, claim.finding.inference
    points, ends, p = of.metric.shares, claim.scope.ci, claim.adjusted.p
    interval = "–" if ends is None else f"{amount(ends[0], points)} to {amount(ends[1], points)}"
    cells = (
        of.metric.name + (" (primary)" if claim.family == "primary" else ""),
        "all" if of.overall else of.group,
        claim.plan.question.describe(of.weights),
        inference.n_prompts,
        amount(inference.estimate, points),
        interval.replace(" points to", " to"),
        "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        claim.verdict.replace("_negligible", ", negligible").replace("_", " "),
        ABOUT[claim.scope.name],
    )
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
