"""The data sets of a study. Apart from its other lists: data jobs do not depend on metrics and tables."""

from __future__ import annotations

# key of the config's data section: kind of its rows. development_pairs are only split off, never named.
DATA = {
    "sft": "sft",
    "pairs": "pairs",
    "heldout_pairs": "pairs",
    "heldout_prompts": "prompts",
    "development_pairs": "pairs",
}
HELDOUT = ("heldout_pairs", "heldout_prompts")
DEVELOPMENT = "development_pairs"  # for choosing recipes: no job behind the report reads them
UNTRAINED = (*HELDOUT, DEVELOPMENT)
# data set: (its part of a split, of which data set)
PARTS = {
    "sft": ("training", "sft"),
    "pairs": ("training", "pairs"),
    "heldout_pairs": ("heldout", "pairs"),
    DEVELOPMENT: ("development", "pairs"),
}
# data set of the token files: key of the config's data section
DATASETS = {
    "sft": "sft",
    "train_pairs": "pairs",
    "heldout_pairs": "heldout_pairs",
    "heldout_prompts": "heldout_prompts",
    DEVELOPMENT: DEVELOPMENT,
}
TRAINED = {"sft": "sft", "dpo": "train_pairs"}  # stage: the data set that it trains on
