"""The data sets of a study. Apart from its other lists: data jobs do not depend on metrics and tables."""

from __future__ import annotations

# key of the config's data section: kind of its rows
DATA = {"sft": "sft", "pairs": "pairs", "heldout_pairs": "pairs", "heldout_prompts": "prompts"}
HELDOUT = ("heldout_pairs", "heldout_prompts")
# data set of the token files: key of the config's data section
DATASETS = {
    "sft": "sft",
    "train_pairs": "pairs",
    "heldout_pairs": "heldout_pairs",
    "heldout_prompts": "heldout_prompts",
}
TRAINED = {"sft": "sft", "dpo": "train_pairs"}  # stage: the data set that it trains on
