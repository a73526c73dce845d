"""Which micro-batches fit a GPU: who asks for it, and what depends on it. On CPUs there is nothing to ask.

arms/memory/ladder.py is what the jobs do about it.
"""

from __future__ import annotations

from study.config import Study, sorts_a_batch
from study.datasets import TRAINED


class Ladder:
    """The rungs of one study: files that say which micro-batches of a stage, and which rows, fit."""

    def __init__(self, study: Study) -> None:
        self.study, self.config = study, study.config

    def recipe(self, stage: str, variant: str = "") -> dict:
        """What of a stage's recipe decides how much memory it needs, and how far its micro-batches may shrink."""
        recipe = self.config["sft"] if stage == "sft" else self.study.recipes[variant]
        chosen = {name: recipe[name] for name in ("batch_size", "micro_batch_size", "gradient_checkpointing")}
        return {**chosen, "least_micro_batch_size": self.least(stage, recipe)}

    def least(self, stage: str, recipe: dict) -> int:
        """The smallest micro-batch of a stage: all pairs that its loss compares, two for KTO's KL term, or one row."""
        pairs = 2 if stage == "dpo" and "kto" in self.study.objectives.names else 1
        return recipe["batch_size"] if sorts_a_batch(recipe) else pairs

    def stages(self) -> dict[str, dict]:
        """The recipe of each training stage; DPO recipes that need the same memory are one stage, the first of them."""
        stages = {"sft": self.recipe("sft")}
        for variant in self.study.recipes:
            recipe = self.recipe("dpo", variant)
            if recipe not in [found for stage, found in stages.items() if stage != "sft"]:
                stages[f"dpo{variant}"] = recipe
        return stages

    def rung(self, stage: str, variant: str = "") -> str:
        """The file that says which micro-batches of a stage fit: one for all variants that need the same memory."""
        wanted = self.recipe(stage, variant)
        alike = next(label for label in self.study.recipes if self.recipe(stage, label) == wanted)
        return f"<results>/memory/{stage}{alike}.json"

    def training_rungs(self, stage: str, variant: str = "") -> list[str]:
        """What a training job gets: nothing on CPUs; its own rung, and all others if they may shorten its rows."""
        if not self.config["gpus"]:
            return []
        return list(dict.fromkeys([self.rung(stage, variant), *self._length_rungs()]))

    def token_rungs(self, dataset: str) -> list[str]:
        """What tokenising a data set waits for: held-out rows keep their length whatever fits."""
        return self._length_rungs() if dataset in TRAINED.values() else []

    def rungs(self) -> list[str]:
        """Every rung of the study; none on CPUs."""
        rungs = [self.rung("sft"), *(self.rung("dpo", variant) for variant in self.study.recipes)]
        return list(dict.fromkeys(rungs)) if self.config["gpus"] else []

    def _length_rungs(self) -> list[str]:
        """The rungs that decide how long a training row may be: all, or none if the config allows no shorter ones."""
        return self.rungs() if self.config["out_of_memory"]["max_length"] else []
