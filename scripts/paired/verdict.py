"""Verdicts: of one row, in one word and in one sentence; and of the study, GO / HOLD / NO-GO / INVALID."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
        return "the gain of DPO after SFT minus its gain alone"
    plus = " + ".join(_term(arm, weights) for arm, k in weights.items() if k > 0)
    minus = " + ".join(_term(arm, weights) for arm, k in weights.items() if k < 0)
    return f"{plus} minus {minus}"


def _term(arm: str, weights: dict[str, int]) -> str:
    """An arm with its coefficient; in a comparison with other models, "base" is only somebody's name for one."""
    name = ARM_NAMES[arm] if weights.keys() <= ARM_NAMES.keys() else arm
    return name if abs(weights[arm]) == 1 else f"{abs(weights[arm])}×{name}"


def _is_interaction(weights: dict[str, int]) -> bool:
    return weights == {"sft_dpo": 1, "sft": -1, "dpo_only": -1, "base": 1}


def amount(value: float, unit_interval: bool, *, signed: bool = True, decimals: int | None = None) -> str:
    """A difference with its unit: percentage points on a 0-1 scale, else the metric's own unit.

    decimals: after the point, for a metric with its own unit; None: three significant digits.

    >>> amount(-0.0123, True)
    '−1.2 points'
    """
    sign = "+" if signed else ""
    if unit_interval:
        text = f"{value * 100:{sign}.1f} points"
    else:
        text = f"{value:{sign}.3g}" if decimals is None else f"{value:{sign}.{decimals}f}"
    number = text.split()[0]
    return (text if number.strip("+-0.") else text.lstrip("+-")).replace("-", "−")


def p_text(p: float) -> str:
    """A p-value for a sentence."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


TESTS = {
    "mcnemar_exact": "exact McNemar test",
    "lattice": "exact sign-flip test",
    "enumeration": "exact sign-flip test",
    "monte_carlo": "Monte Carlo sign-flip test",
}
ADJUSTMENTS = {"holm": "Holm", "bh": "Benjamini-Hochberg"}


@dataclass(frozen=True)
class Sentence:
    """The verdict of one row as a sentence a reviewer would accept.

    row: of contrasts.parquet. weights: the contrast. unit_interval: differences are shown in percentage points.
    alpha: of the intervals. level: that adjusted p is held against. tests: how many p was adjusted for.
    """

    row: dict
    weights: dict[str, int]
    unit_interval: bool
    alpha: float
    level: float
    tests: int

    def __str__(self) -> str:
        row, name = self.row, describe_contrast(self.weights)
        where = row["metric"] + ("" if row["group_kind"] == "overall" else f" in category {row['group']}")
        found = self.amount(row["estimate"])
        if row["gain"] == -row["estimate"] != 0:
            found += ", where lower is better"
        kind = row["verdict"]
        if kind == "not_testable":
            why = "too few prompts to be tested, described only" if "descriptive" in row["flags"] else "not testable"
            return f"On {where}, {name}: {found} ({self.interval()}; {self.size()}); {why}."
        facts = f"({self.interval()}; {self.test()}; {self.size()}; {self.claim()})"
        margin = row["margin"] and amount(row["margin"], self.unit_interval, signed=False)
        if kind.startswith(("superior", "inferior")):
            text = f"On {where}, {_comparison(self.weights, kind)}: {found} {facts}.{self.disagreement()}"
            if kind.endswith("_negligible"):
                text += f" The difference is real but smaller than the margin of {margin} that matters."
            return text
        if kind == "equivalent":
            return f"On {where}, {name} is smaller than the margin of {margin} either way: {found} {facts}."
        return f"On {where}, {name} is inconclusive: {found} {facts}.{self.disagreement()} {self.what_would_settle()}"

    def amount(self, value: float, *, signed: bool = True) -> str:
        """A difference to the decimals that the interval's width is worth (two digits of its half)."""
        decimals, (low, high) = None, self.ends()
        if low is not None and high > low:
            decimals = min(max(0, 1 - math.floor(math.log10((high - low) / 2))), 9)
        return amount(value, self.unit_interval, signed=signed, decimals=decimals)

    def ends(self) -> tuple[float | None, float | None]:
        """The interval of the scope that the verdict rests on."""
        name = "ci_method" if self.row["scope"] == "method" else "ci_ckpt"
        return self.row[f"{name}_lo"], self.row[f"{name}_hi"]

    def interval(self) -> str:
        """The interval with its level."""
        low, high = self.ends()
        if low is None:
            return "no interval is defined"
        text = f"{100 * (1 - self.alpha):g}% CI {self.amount(low)} to {self.amount(high)}"
        return text.replace(" points to", " to")

    def test(self) -> str:
        """The test, its adjusted p, and what it was adjusted for."""
        row = self.row
        if row["verdict"] == "equivalent":
            name, p = "two one-sided tests of equivalence", row["p_tost_adj"]
        else:
            by_seeds = row["scope"] == "method"
            name = "t test over prompts and seeds" if by_seeds else TESTS.get(row["p_ckpt_method"], "sign-flip test")
            p = row["p_adj"]
        if self.tests == 1:
            return f"{name}, {p_text(p)}, the only test of its family"
        return f"{name}, {p_text(p)} after {ADJUSTMENTS[row['p_adj_method']]} over {self.tests} tests"

    def size(self) -> str:
        """Prompts, clusters where they are fewer, and training seeds."""
        n, clusters, seeds = (self.row[key] for key in ("n_prompts", "n_clusters", "n_seeds"))
        text = f"n = {n} prompt{'s' * (n != 1)}" + (f" in {clusters} clusters" if clusters != n else "")
        return text + (f", {seeds} seeds" if seeds > 1 else ", one run of each")

    def claim(self) -> str:
        """The scope."""
        if self.row["scope"] == "method":
            return "a claim about the recipe, over prompts and training seeds"
        return "a claim about these checkpoints only"

    def disagreement(self) -> str:
        """Why interval and verdict seem to differ, where they do."""
        low, high = self.ends()
        if low is None or (low <= 0 <= high) == (self.row["verdict"] == "inconclusive"):
            return ""
        side = "includes" if low <= 0 <= high else "excludes"
        if self.tests > 1 and side == "excludes":
            return " The interval excludes zero since it is not adjusted for the other tests."
        return f" The interval {side} zero, but the verdict follows the test."

    def what_would_settle(self) -> str:
        """What an inconclusive row can and cannot exclude, and the design that would settle it."""
        row, by_seeds = self.row, self.row["scope"] == "method"
        if row["p_min_attainable"] is not None and row["p_min_attainable"] > self.level:
            unit = "prompts" if row["n_clusters"] == row["n_prompts"] else "clusters"
            count = f"Only {row['n_nonzero']}" if row["n_nonzero"] else "Not one"
            few = f"{count} of {row['n_clusters']} {unit} gave a difference"
            return f"{few}, so no result could have been significant: more prompts are needed."
        mde = row["mde_method"] if by_seeds else row["mde_ckpt"]
        if mde is None:
            return "What would settle it cannot be said: the differences do not vary."
        text = f"Differences below {self.amount(mde, signed=False)} are found in fewer than 80% of such studies"
        target, margin = row["target_difference"], row["margin"]
        if not target:
            return text + "."
        goal = self.amount(target, signed=False) if margin is None else amount(margin, self.unit_interval, signed=False)
        if mde <= target:
            if margin is None:
                return f"{text}; it is the adjustment for the other tests that leaves this one open."
            return f"{text}; excluding a difference of the margin of {goal} takes more prompts or seeds all the same."
        ways = []
        if row["n_required"] is not None:
            seeds = f" at {row['n_seeds']} seeds" if row["n_seeds"] > 1 else ""
            ways.append(f"{row['n_required']} prompts{seeds}")
        if by_seeds and row["seeds_required"] is not None:
            ways.append(f"{row['seeds_required']} seeds at {row['n_prompts']} prompts")
        aim = (
            f"a difference of the margin of {goal}"
            if margin is not None
            else f"a true difference like the one seen, {goal},"
        )
        if ways:
            return f"{text}; {' or '.join(ways)} would find {aim} with 80% power (before adjustment)."
        return f"{text}; to find {aim} takes both more prompts and more seeds."


def _comparison(weights: dict[str, int], kind: str) -> str:
    better = kind.startswith("superior")
    if _is_interaction(weights):
        return f"DPO gains {'more' if better else 'less'} after SFT than alone"
    if sorted(weights.values()) == [-1, 1]:
        plus, minus = (next(arm for arm, k in weights.items() if k == sign) for sign in (1, -1))
        return f"{_term(plus, weights)} is {'better' if better else 'worse'} than {_term(minus, weights)}"
    return f"{describe_contrast(weights)} is {'to the good' if better else 'to the bad'}"


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


def headline(rows: dict[str, dict], unit_interval: bool, scope: str, alpha: float) -> str:
    """The answer in one sentence to "does DPO help, and does it need SFT first?" from rows C1, C2 and C3."""

    def shown(row: dict) -> str:
        found = (
            f"{amount(row['estimate'], unit_interval)}, {Sentence(row, {}, unit_interval, alpha, alpha, 0).interval()}"
        )
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
