"""Verdicts: of one row, in one word and in one sentence; and of the study, GO / HOLD / NO-GO / INVALID."""

from __future__ import annotations

import math
from collections.abc import Sequence

GATES = ("coverage", "distinct_outputs", "plan_hash", "no_leakage")
ARM_NAMES = {"base": "the base model", "sft": "SFT", "sft_dpo": "SFT→DPO", "dpo_only": "DPO-only"}


def verdict(gain: float, p_adj: float | None, p_tost_adj: float | None, alpha: float) -> str:
    """One row's verdict (spec 1.11): difference first, then equivalence, else inconclusive.

    gain: estimate with positive meaning better. p_adj, p_tost_adj: adjusted within their families, None: no test.

    >>> verdict(0.004, 0.7, 0.02, 0.05)
    'equivalent'
    """
    if p_adj is None or math.isnan(p_adj):
        return "not_testable"
    negligible = p_tost_adj is not None and p_tost_adj <= alpha
    if p_adj <= alpha:
        return ("superior" if gain > 0 else "inferior") + ("_negligible" if negligible else "")
    return "equivalent" if negligible else "inconclusive"


def decision(
    gates: dict[str, bool],
    c1_verdict: str,
    c2_p_noninferior: float | None,
    guardrails: Sequence[dict[str, float | None]],
    n_seeds: int,
    seeds_same_sign: int,
    alpha: float = 0.05,
) -> tuple[str, list[str]]:
    """(decision, reasons): INVALID, NO-GO, GO or HOLD (spec 1.11).

    gates: name -> passed. c1_verdict: of SFT→DPO against SFT. c2_p_noninferior: SFT→DPO not worse than DPO-only by
    the margin. guardrails: {"name", "p_noninferior", "p_harm"} of each metric that must not get worse.
    """
    failed = [name for name in gates if not gates[name]]
    if failed:
        return "INVALID", [f"gate {name} failed" for name in failed]
    harmed = [g for g in guardrails if g["p_harm"] is not None and g["p_harm"] <= alpha]
    if c1_verdict.removesuffix("_negligible") == "inferior":
        return "NO-GO", ["DPO after SFT makes the primary metric worse (C1)"]
    if c1_verdict == "equivalent":
        return "NO-GO", ["DPO after SFT makes no difference that matters (C1 is equivalent)"]
    if harmed:
        return "NO-GO", [f"guardrail {g.get('name', '')} got worse by more than its margin" for g in harmed]
    reasons = []
    if c1_verdict != "superior":
        reasons.append(f"C1 (DPO after SFT) is {c1_verdict.replace('_', ' ')}")
    if c2_p_noninferior is None or c2_p_noninferior > alpha:
        shown = "has no margin to be tested against" if c2_p_noninferior is None else f"p = {c2_p_noninferior:.3g}"
        reasons.append(f"C2: SFT→DPO is not shown to be at least as good as DPO-only ({shown})")
    for guard in guardrails:
        if guard["p_noninferior"] is None or guard["p_noninferior"] > alpha:
            reasons.append(f"guardrail {guard.get('name', '')} is not shown to be safe")
    needed = math.ceil(2 * n_seeds / 3)
    if seeds_same_sign < needed:
        reasons.append(f"only {seeds_same_sign} of {n_seeds} seeds agree in sign on C1 ({needed} needed)")
    if reasons:
        return "HOLD", reasons
    return "GO", ["C1 is superior, C2 non-inferior, every guardrail safe, and the seeds agree"]


def describe_contrast(weights: dict[str, int]) -> str:
    """A contrast in words: "SFT→DPO minus SFT"."""
    if _is_interaction(weights):
        return "gain of DPO after SFT minus gain of DPO alone"
    plus = " + ".join(_term(arm, k) for arm, k in weights.items() if k > 0)
    minus = " + ".join(_term(arm, -k) for arm, k in weights.items() if k < 0)
    return f"{plus} minus {minus}"


def _term(arm: str, weight: int) -> str:
    name = ARM_NAMES.get(arm, arm)
    return name if weight == 1 else f"{weight}×{name}"


def _is_interaction(weights: dict[str, int]) -> bool:
    return weights == {"sft_dpo": 1, "sft": -1, "dpo_only": -1, "base": 1}


def amount(value: float, unit_interval: bool, *, signed: bool = True) -> str:
    """A difference with its unit: percentage points on a 0-1 scale, else the metric's own unit."""
    sign = "+" if signed else ""
    text = f"{value * 100:{sign}.1f} points" if unit_interval else f"{value:{sign}.3g}"
    return text.replace("-", "−")


def p_text(p: float) -> str:
    """A p-value for a sentence."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def sentence(row: dict, weights: dict[str, int], unit_interval: bool, scope: str, level: float) -> str:
    """The verdict of a row as a sentence a reviewer would accept.

    row: of contrasts.parquet. weights: the contrast. unit_interval: differences are shown in percentage points.
    scope: "method" or "checkpoint", the one the verdict rests on. level: the row's alpha or q.
    """
    where = f"{row['metric']}" + ("" if row["group_kind"] == "overall" else f" in category {row['group']}")
    name = describe_contrast(weights)
    short = "method" if scope == "method" else "ckpt"
    low, high = row[f"ci_{short}_lo"], row[f"ci_{short}_hi"]
    found = amount(row["estimate"], unit_interval)
    if low is None:
        around = "no interval is defined"
    else:
        around = f"95% CI {amount(low, unit_interval)} to {amount(high, unit_interval)}".replace(" points to", " to")
    n, s = row["n_prompts"], row["n_seeds"]
    size = f"n = {n} prompt{'s' * (n != 1)}"
    if row["n_clusters"] != n:
        size += f" in {row['n_clusters']} clusters"
    size += f", {s} seed{'s' * (s != 1)}"
    claim = (
        "a claim about the recipe, over prompts and training seeds"
        if scope == "method"
        else "a claim about these checkpoints only"
    )
    test = _test_text(row)
    facts = f"({around}; {test}; {size}; {claim})"
    kind = row["verdict"]
    if kind == "not_testable":
        why = "too few prompts to be tested, described only" if "descriptive" in row["flags"] else "not testable"
        return f"{name} on {where}: {found} ({around}; {size}); {why}."
    if kind.startswith(("superior", "inferior")):
        text = f"{_comparison(weights, kind)} on {where}: {found} {facts}."
        if kind.endswith("_negligible"):
            margin = amount(row["margin"], unit_interval, signed=False)
            text += f" The difference is real but smaller than the margin of {margin} that matters."
        return text
    if kind == "equivalent":
        margin = amount(row["margin"], unit_interval, signed=False)
        tost = f"{p_text(row['p_tost_adj'])} for equivalence"
        return (
            f"{name} on {where}: no difference as large as the margin of {margin}: {found} "
            f"({around}; {tost}, adjusted; {size}; {claim})."
        )
    return f"{name} on {where}: inconclusive, {found} {facts}. {_what_would_settle(row, unit_interval, scope, level)}"


def _test_text(row: dict) -> str:
    if row["p_adj"] is None:
        return "not tested"
    name = {"holm": "Holm", "bh": "Benjamini-Hochberg"}.get(row["p_adj_method"], "")
    return f"{name}-adjusted {p_text(row['p_adj'])}"


def _comparison(weights: dict[str, int], kind: str) -> str:
    better = kind.startswith("superior")
    if _is_interaction(weights):
        return f"DPO gains {'more' if better else 'less'} after SFT than alone"
    plus = [ARM_NAMES.get(arm, arm) for arm, k in weights.items() if k == 1]
    minus = [ARM_NAMES.get(arm, arm) for arm, k in weights.items() if k == -1]
    if len(weights) == 2 and plus and minus:
        first = plus[0][0].upper() + plus[0][1:]
        return f"{first} is {'better' if better else 'worse'} than {minus[0]}"
    return f"{describe_contrast(weights)} is {'positive' if better else 'negative'}"


def _what_would_settle(row: dict, unit_interval: bool, scope: str, level: float) -> str:
    """What an inconclusive row can and cannot exclude, and the design that would settle it."""
    if row["p_min_attainable"] is not None and row["p_min_attainable"] > level:
        unit = "prompts" if row["n_clusters"] == row["n_prompts"] else "clusters"
        few = f"Only {row['n_nonzero']} of {row['n_clusters']} {unit} differ" if row["n_nonzero"] else "Nothing differs"
        return f"{few} at all, so no result could have been significant: more prompts are needed."
    mde = row["mde_method"] if scope == "method" else row["mde_ckpt"]
    if mde is None:
        return "What would settle it cannot be said: the differences do not vary."
    text = f"Differences below {amount(mde, unit_interval, signed=False)} are found in fewer than 80% of such studies"
    target = row["target_difference"]
    ways = []
    if row["n_required"] is not None:
        ways.append(f"{row['n_required']} prompts at {row['n_seeds']} seed{'s' * (row['n_seeds'] != 1)}")
    if scope == "method" and row["seeds_required"] is not None:
        ways.append(f"{row['seeds_required']} seeds at {row['n_prompts']} prompts")
    if not target:
        return text + "."
    goal = amount(target, unit_interval, signed=False)
    aim = f"the margin of {goal}" if row["margin"] is not None else f"a true difference of {goal}"
    if ways:
        return f"{text}; {' or '.join(ways)} would find {aim} with 80% power (before adjustment)."
    return f"{text}; to find {aim} takes both more prompts and more seeds."


HELPS = {
    "superior": "helps",
    "superior_negligible": "helps, but by less than matters",
    "inferior": "hurts",
    "inferior_negligible": "hurts, but by less than matters",
    "equivalent": "makes no difference that matters",
    "inconclusive": "is not shown to help or hurt",
    "not_testable": "could not be tested",
}
NEEDS_SFT = {
    "superior": "SFT first is better than DPO alone",
    "superior_negligible": "SFT first is better than DPO alone, but by less than matters",
    "inferior": "it does not need SFT first: DPO alone is better",
    "inferior_negligible": "it does not need SFT first: DPO alone is better, if by less than matters",
    "equivalent": "it does not need SFT first: both ways end up equally good",
    "inconclusive": "whether it needs SFT first is open",
    "not_testable": "whether it needs SFT first could not be tested",
}


def headline(rows: dict[str, dict], unit_interval: bool, scope: str) -> str:
    """The answer in one sentence to "does DPO help, and does it need SFT first?" from rows C1, C2 and C3."""

    def shown(row: dict) -> str:
        found = amount(row["estimate"], unit_interval)
        return found if row["p_adj"] is None else f"{found}, adjusted {p_text(row['p_adj'])}"

    after, need, alone = rows["C1"], rows["C2"], rows["C3"]
    subject = "For this recipe" if scope == "method" else "For these checkpoints"
    if after["verdict"] == alone["verdict"]:
        first = (
            f"DPO {HELPS[after['verdict']]}, both after SFT ({shown(after)}) and straight from the base model "
            f"({shown(alone)})"
        )
    else:
        first = (
            f"DPO after SFT {HELPS[after['verdict']]} ({shown(after)}), and DPO straight from the base model "
            f"{HELPS[alone['verdict']]} ({shown(alone)})"
        )
    return f"{subject}, on {after['metric']}: {first}; {NEEDS_SFT[need['verdict']]} ({shown(need)})."
