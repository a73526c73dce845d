"""A run: one arm, trained with one recipe and one seed. Its text names its folder, its files and its wildcard."""

from __future__ import annotations

import re
from dataclasses import dataclass

ARMS = ("base", "sft", "sft_dpo", "dpo_only")
ADDED_ARMS = ("orpo_only", "kto_only", "simpo_only", "sft_kto")  # whoever asks for them has them besides
PATTERN = re.compile(r"(?P<arm>[a-z_]+?)(?P<variant>(?:-[a-z_]+~[^/]*?)?)(?:-seed(?P<seed>[0-9]+))?")


@dataclass(frozen=True)
class Run:
    """arm; variant: label of the DPO recipe, "" for the study's own; seed: None for the base, which is not trained.

    >>> Run.parse("sft_dpo-beta~0.3-seed1")
    Run(arm='sft_dpo', variant='-beta~0.3', seed=1)
    >>> str(Run("sft", "", 2)), str(Run("base"))
    ('sft-seed2', 'base')
    """

    arm: str
    variant: str = ""
    seed: int | None = None

    def __str__(self) -> str:
        return f"{self.arm}{self.variant}" + ("" if self.seed is None else f"-seed{self.seed}")

    @classmethod
    def parse(cls, text: str) -> Run:
        """The run that `text` names; ValueError if it names none."""
        found = PATTERN.fullmatch(text)
        if not found or found["arm"] not in (*ARMS, *ADDED_ARMS) or (found["seed"] is None) != (found["arm"] == "base"):
            raise ValueError(
                f"{text!r} is no run: <arm>[-<recipe>]-seed<number>, or base; arms: {', '.join((*ARMS, *ADDED_ARMS))}"
            )
        return cls(found["arm"], found["variant"], None if found["seed"] is None else int(found["seed"]))

    @property
    def stage(self) -> str:
        """What trained it: "sft", "dpo", "orpo", "kto" or "simpo", or "" for the base."""
        return self.arm.removeprefix("sft_").removesuffix("_only").removeprefix("base")

    @property
    def parent(self) -> Run | None:
        """The run whose policy its training starts from, which is the reference of DPO and KTO; None for the base."""
        if self.arm == "base":
            return None
        return Run("sft", "", self.seed) if self.arm.startswith("sft_") else Run("base")
