"""What trains on the pinned stack: the trainers of TRL 0.9.6."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

if TYPE_CHECKING:
    from arms.training.recipe import Recipe

__all__ = ["RENAMED", "DPOTrainer", "SFTTrainer", "dpo_arguments", "sft_arguments"]
RENAMED: dict[str, str] = {}  # arguments that have another name here than in transformers 4.43


def sft_arguments(recipe: Recipe, arguments: dict[str, Any]) -> SFTConfig:
    """The arguments of SFTTrainer. Rows come tokenised, so max_seq_length cuts nothing."""
    return SFTConfig(max_seq_length=recipe.max_length, **arguments)


def dpo_arguments(recipe: Recipe, loss: dict[str, Any], arguments: dict[str, Any]) -> DPOConfig:
    """The arguments of DPOTrainer. loss: beta, loss_type, label_smoothing and reference_free."""
    return DPOConfig(
        **loss,
        max_length=recipe.max_length,
        max_prompt_length=recipe.max_length,
        disable_dropout=False,  # models.prepare_training has set it, alike in all arms
        **arguments,
    )
