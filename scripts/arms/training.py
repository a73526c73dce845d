"""What the SFT and the DPO trainer share: the recipe as trainer arguments, curves, progress, and what was observed."""

from __future__ import annotations

import hashlib
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from arms.files import UserError, atomic_path

if TYPE_CHECKING:
    from transformers import Trainer

    from arms.manifest import Job


def whole_batches(rows: list[dict], recipe: dict) -> list[dict]:
    """The longest head of `rows` that fills whole batches of recipe["batch_size"]; UserError if that is empty.

    A remainder would make the last step of an epoch smaller, and with gradient accumulation transformers 4.43 carries
    it over into the next epoch and cannot resume there. All arms leave out the same rows.
    """
    batch = recipe["batch_size"]
    if batch % recipe["micro_batch_size"]:
        raise UserError(
            f"batch_size {batch} is not a multiple of micro_batch_size {recipe['micro_batch_size']}; "
            "change one of them in the config"
        )
    whole = rows[: len(rows) // batch * batch]
    if not whole:
        raise UserError(f"batch_size {batch} is more than the {len(rows)} training rows; lower it in the config")
    return whole


def trainer_arguments(recipe: dict, seed: int) -> dict:
    """Arguments for transformers' TrainingArguments that both trainers get, from one stage's recipe.

    recipe: epochs, batch_size, micro_batch_size, learning_rate, scheduler, warmup_ratio, weight_decay, max_grad_norm,
    gradient_checkpointing. Autocast is left to `completion_logps`, so bf16 stays off here.
    """
    import torch

    return {
        "output_dir": ".cache/trainer",  # nothing is written there: save_strategy is "no"
        "num_train_epochs": recipe["epochs"],
        "per_device_train_batch_size": recipe["micro_batch_size"],
        "gradient_accumulation_steps": recipe["batch_size"] // recipe["micro_batch_size"],
        "learning_rate": recipe["learning_rate"],
        "lr_scheduler_type": recipe["scheduler"],
        "warmup_ratio": recipe["warmup_ratio"],
        "weight_decay": recipe["weight_decay"],
        "max_grad_norm": recipe["max_grad_norm"],
        "gradient_checkpointing": recipe["gradient_checkpointing"],
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if recipe["gradient_checkpointing"] else None,
        "optim": "adamw_torch",
        "seed": seed,
        "data_seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    }


class Curves:
    """Per-step means of what each micro-batch reported, and a hash of the order in which rows were seen."""

    def __init__(self) -> None:
        self.rows: list[dict] = []
        self.order = hashlib.sha256()
        self.tokens = 0

    def add(self, step: int, ids: list[str], tokens: int, **metrics: float) -> None:
        """One micro-batch of optimiser step `step` (0 is before the first update)."""
        self.order.update("\n".join(ids).encode() + b"\n\n")
        self.tokens += tokens
        self.rows.append({"step": step, **metrics})

    def frame(self) -> object:
        """A data frame with one row a step, the mean over its micro-batches."""
        import pandas

        return pandas.DataFrame(self.rows).groupby("step", as_index=False).mean()

    def write(self, path: str | Path, log_history: list[dict]) -> None:
        """Write the curves with the optimiser's learning rate and gradient norm as parquet."""
        frame = self.frame()
        logged = [entry for entry in log_history if "grad_norm" in entry][: len(frame)]
        frame["grad_norm"] = [float(entry["grad_norm"]) for entry in logged]
        frame["learning_rate"] = [float(entry["learning_rate"]) for entry in logged]
        with atomic_path(path) as temporary:
            frame.to_parquet(temporary, index=False)


def show_progress(trainer: Trainer, job: Job, curves: Curves, shown: list[str]) -> None:
    """Let `trainer` say about every ten seconds where it is: step, the metrics in `shown`, and the time left."""
    from transformers import PrinterCallback, TrainerCallback

    trainer.remove_callback(PrinterCallback)

    class Progress(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.began = self.said = time.monotonic()
            job.say(f"training: {state.max_steps} steps")

        def on_step_end(self, args, state, control, **kwargs):
            now, last = time.monotonic(), state.global_step == state.max_steps
            if not last and now - self.said < 10:
                return
            self.said = now
            left = (now - self.began) / state.global_step * (state.max_steps - state.global_step)
            row = curves.rows[-1]
            metrics = " ".join(f"{name} {row[name]:.3f}" for name in shown)
            job.say(f"step {state.global_step}/{state.max_steps} {metrics} | {left:.0f} s left")

    trainer.add_callback(Progress)


def require_finite(curves: Curves, what: str) -> None:
    """UserError if any loss was not a finite number."""
    bad = [row["step"] for row in curves.rows if not math.isfinite(row["loss"])]
    if bad:
        raise UserError(f"{what}: the loss is not finite at step {bad[0]}; lower the learning rate in the config")
