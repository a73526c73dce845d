"""Which rung of the ladder fits: a few steps on the worst micro-batches, with the model and the trainer of training."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Sequence
from heapq import nlargest
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import SequentialSampler

from arms.data.encoding import Encoder, take_in_turn
from arms.data.sources import read_checked
from arms.data.token_rows import TokenRows
from arms.job.out_of_memory import OutOfMemory, out_of_memory
from arms.model import models
from arms.scoring.agreement import check_forward
from arms.scoring.logps import takes_forks
from arms.training.recipe import Recipe, whole_batches
from arms.training.trainer import build_trainer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

# Of a GPU's memory, what a probe leaves free: shuffled batches of many lengths fragment what training allocates, and
# several GPUs exchange gradients through buffers that one does not have.
RESERVE = 0.05


def training_rows(data: str, tokenizer: PreTrainedTokenizerBase, settings: dict) -> Callable[[int], TokenRows]:
    """Token rows that training takes from the file `data`, as a function of the longest row that is allowed."""
    kind = "sft" if settings["stage"] == "sft" else "pairs"

    def rows(max_length: int) -> TokenRows:
        encoder = Encoder(kind, tokenizer, {**settings["tokens"], "max_length": max_length}, data)
        categories = (row["category"] for row in read_checked(data, kind))
        encoded = encoder.rows(take_in_turn(read_checked(data, kind), settings["rows"], categories))
        return whole_batches(TokenRows.of(encoded), settings["batch_size"], settings["micro_batch_size"])

    return rows


def load(card: str, settings: dict) -> PeftModel:
    """The model with the adapters that training has. card: its model.json."""
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1 - RESERVE)
    base = models.load_base(card, settings["precision"])
    check_forward(base, models.compute_dtype(settings["precision"]))
    model = models.new_adapter(base, settings["lora"], seed=0)
    if settings["start"] == "fresh":  # SFT→DPO then has two adapters, which needs more than DPO-only
        with tempfile.TemporaryDirectory() as folder:
            arm = Path(folder, "arm.json")
            models.save_adapter(model, arm, {})
            model = models.stack_adapter(model.unload(), arm, settings["lora"], seed=0)
    models.prepare_training(model, settings["lora"]["dropout"], settings["gradient_checkpointing"])
    return model


def worst_batches(rows: Sequence[dict], size: int, forking: bool) -> list[dict]:
    """Rows of the micro-batches that need the most memory among all that shuffling can make of `rows`.

    Memory follows the padded batch (its longest row) and the completion tokens, whose logits are the widest tensors.
    So: the longest row with those of the most completion tokens, and these alone. Returns 2 * size rows.
    """

    def extent(row: dict) -> tuple[int, int]:
        sides = [row[name] for name in ("completion_ids", "chosen_ids", "rejected_ids") if name in row]
        scored, longest = sum(map(len, sides)), max(map(len, sides))
        if forking and len(sides) == 2:  # a pair is one row, and what both sides begin with is in it once
            longest = scored = scored - len(commonprefix(sides))
        return len(row["prompt_ids"]) + longest, scored

    dense = nlargest(size, rows, key=lambda row: extent(row)[1])
    longest = max(rows, key=extent)
    return [longest, *[row for row in dense if row["id"] != longest["id"]][: size - 1], *dense]


def attempt(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict], rung: dict[str, int], settings: dict
) -> dict[str, object]:
    """Train on the worst micro-batches of `rows` that a rung can make; free everything.

    Returns fits, the peak of allocated GPU memory in MiB (None on a CPU) and, if it did not fit, the message.
    """
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    said = {}
    try:
        with out_of_memory():
            train_some(model, tokenizer, rows, rung, settings)
    except OutOfMemory as error:
        said = {"message": str(error)}
    peak = round(torch.cuda.max_memory_allocated() / 2**20) if gpu else None
    model.zero_grad(set_to_none=True)
    gc.collect()
    if gpu:
        torch.cuda.empty_cache()
    return {"fits": not said, "peak_mib": peak, **said}


def train_some(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict], rung: dict[str, int], settings: dict
) -> None:
    """Optimiser steps on the worst micro-batches, twice: gradients and AdamW's moments are there by then."""
    stage, size = settings["stage"], rung["micro_batch_size"]
    accumulated = min(2, settings["batch_size"] // (size * settings["gpus"]))
    checkpointing = settings["gradient_checkpointing"]
    recipe = Recipe.for_memory(stage, size * accumulated, size, rung["max_length"], checkpointing)
    unread = dict.fromkeys(("reference_chosen_logps", "reference_rejected_logps"), 0.0) if stage == "dpo" else {}
    worst = [{**row, **unread} for row in worst_batches(rows, size, takes_forks(model))]
    trainer = build_trainer(recipe, model, tokenizer, worst * 2, models.compute_dtype(settings["precision"]))
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)  # shuffled rows make other batches
    trainer.train()
