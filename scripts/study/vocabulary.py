"""Every list of the study, once: arms, contrasts, metrics, figures, tables (data sets: study/datasets.py)."""

from __future__ import annotations

# arm: how tables and figures call it
ARMS = {"base": "base", "sft": "SFT", "sft_dpo": "SFT→DPO", "dpo_only": "DPO-only"}
DPO_ARMS = ("sft_dpo", "dpo_only")

# The 2 x 2 factorial (SFT yes/no x DPO yes/no); C7 asks whether DPO's gain depends on SFT.
# contrast: (weights of the arms, short name, the question that it answers)
CONTRASTS = {
    "C1": ({"sft_dpo": 1, "sft": -1}, "SFT→DPO − SFT", "Does DPO help after SFT?"),
    "C2": ({"sft_dpo": 1, "dpo_only": -1}, "SFT→DPO − DPO-only", "Does DPO need SFT first?"),
    "C3": ({"dpo_only": 1, "base": -1}, "DPO-only − base", "Does DPO help without SFT?"),
    "C4": ({"sft": 1, "base": -1}, "SFT − base", "Does SFT help?"),
    "C5": ({"sft_dpo": 1, "base": -1}, "SFT→DPO − base", "Do both together help?"),
    "C6": ({"sft": 1, "dpo_only": -1}, "SFT − DPO-only", "Is SFT better than DPO alone?"),
    "C7": (
        {"sft_dpo": 1, "sft": -1, "dpo_only": -1, "base": 1},
        "DPO gain after SFT − alone",
        "Does DPO gain more after SFT?",
    ),
}
PRIMARY_CONTRASTS = ("C1", "C2", "C3")

# Arms that a configuration may add (study/objectives.py), and what is then asked of each besides. The names are fixed,
# so that another arm renames nothing.
ADDED_ARMS = {"orpo_only": "ORPO-only", "kto_only": "KTO-only", "simpo_only": "SimPO-only", "sft_kto": "SFT→KTO"}
ADDED_CONTRASTS = {
    "C8": ({"orpo_only": 1, "base": -1}, "ORPO-only − base", "Does ORPO help without SFT?"),
    "C9": ({"orpo_only": 1, "dpo_only": -1}, "ORPO-only − DPO-only", "Is ORPO better than DPO alone?"),
    "C10": ({"kto_only": 1, "base": -1}, "KTO-only − base", "Does KTO help without SFT?"),
    "C11": ({"kto_only": 1, "dpo_only": -1}, "KTO-only − DPO-only", "Is KTO better than DPO alone?"),
    "C12": ({"simpo_only": 1, "base": -1}, "SimPO-only − base", "Does SimPO help without SFT?"),
    "C13": ({"simpo_only": 1, "dpo_only": -1}, "SimPO-only − DPO-only", "Is SimPO better than DPO alone?"),
    "C14": ({"sft_kto": 1, "base": -1}, "SFT→KTO − base", "Do SFT and KTO together help?"),
    "C15": ({"sft_kto": 1, "sft_dpo": -1}, "SFT→KTO − SFT→DPO", "Is KTO better than DPO after SFT?"),
}
ALL_ARMS, ALL_CONTRASTS = ARMS | ADDED_ARMS, CONTRASTS | ADDED_CONTRASTS

# metric: (kind, name in figures, unit of its differences, what it is)
METRICS = {
    "pref_acc": (
        "binary",
        "Preference accuracy",
        "percentage points",
        "share of held-out pairs whose chosen answer has the higher log-probability under the policy itself.",
    ),
    "pass_rate": (
        "binary",
        "Graded pass rate",
        "percentage points",
        "share of answers to held-out prompts that pass their prompt's grader, a program such as IFEval's checkers. "
        "An answer that is empty or cut off counts as failed.",
    ),
    "logp_margin": (
        "continuous",
        "Log-probability margin",
        "nats per token",
        "mean log-probability per token of the chosen answer, minus that of the rejected one.",
    ),
}

OF_ANSWERS = ("pass_rate",)  # metrics of answers to held-out prompts; the others are of held-out pairs

FIGURES = ("forest", "arms", "seeds", "categories", "power", "curves", "data")
TABLES = (
    "contrasts", "arm_means", "seed_effects", "variance", "projection", "heterogeneity", "missing", "seed_spread",
    "variation",
)  # fmt: skip
REPORTED_TABLES = (
    "contrasts", "arm_means", "heterogeneity", "projection", "missing", "variation", "seed_spread",
)  # fmt: skip
