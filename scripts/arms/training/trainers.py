"""The trainers of the stack that this environment has, under one name each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arms.stacks import NAME

if TYPE_CHECKING or NAME == "pinned":
    from arms.training.trainers_pinned import RENAMED, DPOTrainer, SFTTrainer, dpo_arguments, sft_arguments
else:
    from arms.training.trainers_current import RENAMED, DPOTrainer, SFTTrainer, dpo_arguments, sft_arguments

__all__ = ["RENAMED", "DPOTrainer", "SFTTrainer", "dpo_arguments", "sft_arguments"]
