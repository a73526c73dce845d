"""The trainers of the stack that this environment has, under one name each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arms.stacks import NAME

if TYPE_CHECKING or NAME == "pinned":
    from arms.training.trainers_pinned import RENAMED, DPOTrainer, SFTTrainer, dpo_arguments, sft_arguments
else:
    from arms.training.trainers_current import RENAMED, DPOTrainer, SFTTrainer, dpo_arguments, sft_arguments

__all__ = ["DPOTrainer", "SFTTrainer", "dpo_arguments", "named", "sft_arguments"]


def named(**arguments: Any) -> dict[str, Any]:
    """Arguments of transformers 4.43 under the names that they have on this stack."""
    return {RENAMED.get(name, name): value for name, value in arguments.items()}
