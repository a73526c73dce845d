"""The trainer of a stage, made in one place for training, for probing memory and for predicting it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import PrinterCallback

from arms.data.token_rows import TokenRows
from arms.job import processes
from arms.training import dpo, sft, trainers
from arms.training.curves import Curves
from arms.training.recipe import REFERENCE_FREE, Recipe

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, Trainer


def build_trainer(
    recipe: Recipe,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict],
    dtype: torch.dtype,
    seed: int = 0,
    **options: object,
) -> Trainer:
    """The trainer of recipe.stage for `model`, which `models.prepare_training` has made ready, on these token rows.

    rows: of the SFT tokens, or pairs with their reference log-probabilities (`dpo.with_reference`). dtype: of matrix
    products. options: for transformers' TrainingArguments, beside those of the recipe.
    """
    dataset = rows if isinstance(rows, TokenRows) else TokenRows.of(rows)
    arguments = {**trainer_arguments(recipe, seed), **options}
    shared = {"model": model, "tokenizer": tokenizer, "train_dataset": dataset, "dtype": dtype}
    if recipe.stage == "sft":
        trainer = sft.CompletionSFTTrainer(
            args=trainers.sft_arguments(recipe, arguments),
            data_collator=sft.collate(tokenizer.pad_token_id),
            **shared,
        )
    else:
        loss = {
            "beta": recipe.beta,
            "loss_type": "sigmoid" if recipe.loss_type == REFERENCE_FREE else recipe.loss_type,
            "reference_free": recipe.loss_type == REFERENCE_FREE,
            "label_smoothing": recipe.label_smoothing,
        }
        trainer = dpo.TableDPOTrainer(args=trainers.dpo_arguments(recipe, loss, arguments), **shared)
    trainer.curves = Curves()
    trainer.remove_callback(PrinterCallback)
    return trainer


def trainer_arguments(recipe: Recipe, seed: int) -> dict:
    """Arguments for transformers' TrainingArguments that both stages get from their recipe.

    Autocast is left to `arms.scoring.logps`, so bf16 stays off here.
    """
    arguments = {
        "output_dir": ".cache/trainer",  # nothing is written there: arms.training.checkpoints saves
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": recipe.micro_batch_size,
        "gradient_accumulation_steps": recipe.batch_size // (recipe.micro_batch_size * processes.size()),
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.scheduler,
        "warmup_ratio": recipe.warmup_ratio,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if recipe.gradient_checkpointing else None,
        "optim": "adamw_torch",
        "seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    }
    return trainers.named(**arguments)
