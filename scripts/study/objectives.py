"""Arms beyond the four: the same pairs under other objectives (docs/objectives.md). Nothing of them without `arms`."""

from __future__ import annotations

import difflib

from study.errors import ConfigError
from study.runs import Run
from study.starts import Starts
from study.vocabulary import ADDED_ARMS, ADDED_CONTRASTS, ALL_ARMS, ARMS

OBJECTIVES = ("orpo", "kto", "simpo")  # each has a section of the configuration
# Keys of dpo that are its own; all others go for every objective.
OF_DPO = ("beta", "loss_type", "label_smoothing", "engine")


class Objectives:
    """The added arms of one study. config: the checked configuration of its own recipe."""

    def __init__(self, config: dict) -> None:
        self.config = config
        self.arms = [arm for arm in ADDED_ARMS if arm in config.get("arms", ())]  # in the order of the tables

    @property
    def names(self) -> list[str]:
        """The objectives that are trained, in the order of the tables."""
        return [name for name in OBJECTIVES if any(Run(arm).stage == name for arm in self.arms)]

    def runs(self, variant: str = "") -> list[str]:
        """Their runs. They belong to the study's own recipe: variants are of DPO alone."""
        return [str(Run(arm, "", seed)) for arm in self.arms for seed in self.config["seeds"] if not variant]

    @property
    def contrasts(self) -> dict[str, dict[str, int]]:
        """Contrast -> weights, of what is asked of them."""
        return {name: weights for name, (weights, *_) in ADDED_CONTRASTS.items() if not self.lacking(name)}

    def lacking(self, contrast: str) -> list[str]:
        """The arms of an added contrast that are not trained."""
        return [arm for arm in ADDED_CONTRASTS[contrast][0] if arm not in (*ARMS, *self.arms)]

    def recipe(self, name: str) -> dict:
        """The recipe of an objective: its own keys, and DPO's for what it does not say."""
        shared = {key: value for key, value in self.config["dpo"].items() if key not in OF_DPO}
        return {**shared, **self.config[name]}

    def needs(self, wildcards) -> dict[str, str]:
        """What else an arm is trained on: for KTO the reference tables of the pairs, and of mismatched ones."""
        if Run(wildcards.arm).stage != "kto":
            return {}
        starts = Starts(self.config)
        return {
            "reference": starts.reference(wildcards),
            "mismatched": "<results>/tokens/mismatched_pairs.parquet",
            "mismatched_reference": starts.reference(wildcards, "mismatched"),
        }


def with_sections(config: dict) -> dict:
    """The configuration with an empty section, for defaults to fill, of each objective that is trained.

    ConfigError for arms that are unknown, repeated or missing, or a section that no arm reads.
    """
    if "arms" not in config:
        asked: list[str] = []
    else:
        asked = list(config["arms"])
        for arm in asked:
            if arm not in ALL_ARMS:
                close = difflib.get_close_matches(str(arm), ALL_ARMS, n=1, cutoff=0.5)
                known = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(ALL_ARMS)}"
                raise ConfigError(f"arms: unknown arm {arm!r}; {known}")
            if asked.count(arm) > 1:
                raise ConfigError(f"arms: {arm} is there {asked.count(arm)} times; name each arm once")
        for arm in ARMS:
            if arm not in asked:
                raise ConfigError(
                    f"arms: {arm} is missing; {', '.join(ARMS)} are what the study asks about: name them all, and any "
                    f"of {', '.join(ADDED_ARMS)} besides"
                )
    wanted = {Run(arm).stage for arm in asked if arm in ADDED_ARMS}
    for name in OBJECTIVES:
        if name in config and name not in wanted:
            arms = " or ".join(arm for arm in ADDED_ARMS if Run(arm).stage == name)
            raise ConfigError(f"{name}: no arm is trained with it; add {arms} to arms, or remove it")
    return {**config, **{name: config.get(name, {}) for name in OBJECTIVES if name in wanted}}


def check_objectives(config: dict) -> None:
    """ConfigError for what a checked configuration asks of added arms and cannot be."""
    objectives = Objectives(config)
    if "kto" in objectives.names and config["dpo"]["micro_batch_size"] < 2:
        raise ConfigError(
            f"dpo.micro_batch_size is {config['dpo']['micro_batch_size']}, and KTO estimates its KL term from the "
            "pairs of a micro-batch: make it 2 or more, or leave the KTO arms out"
        )
    for name, judge in config.get("evaluation", {}).get("judges", {}).items():
        for contrast in judge.get("contrasts", ()):
            lacking = objectives.lacking(contrast) if contrast in ADDED_CONTRASTS else []
            if lacking:
                raise ConfigError(
                    f"evaluation.judges.{name}.contrasts: {contrast} ({ADDED_CONTRASTS[contrast][1]}) is about "
                    f"{lacking[0]}, which is not trained; add it to arms, or remove {contrast}"
                )
