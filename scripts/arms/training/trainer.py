"""What the SFT and the DPO trainer share: the recipe as trainer arguments, curves, progress, checkpoints."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from arms.job import processes
from arms.job.files import UserError, atomic_path, sha256_bytes
from arms.job.progress import add_checkpoint_arguments

if TYPE_CHECKING:
    import pandas
    from transformers import Trainer

    from arms.job.manifest import Job
    from arms.training.checkpoints import Checkpoints


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that both training programs share."""
    parser.add_argument("--model", required=True, help="model.json of the base model")
    parser.add_argument("--adapter", required=True, help="output: arm.json; the adapter goes beside it")
    parser.add_argument("--curves", required=True, help="output: one row an optimiser step")
    parser.add_argument("--speed", required=True, help="output: tokens and seconds of each step")
    parser.add_argument("--observed", required=True, help="output: what training really used")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of all processes together")
    parser.add_argument("--checkpoints", required=True, metavar="DIR", help="where checkpoints lie")
    add_checkpoint_arguments(parser)
    parser.add_argument("--processes", type=int, default=1, help="processes that share a step's work, one for each GPU")


def whole_batches(rows: list[dict], recipe: dict) -> list[dict]:
    """The longest head of `rows` that fills whole batches of recipe["batch_size"]; UserError if that is empty.

    A remainder would make the last step of an epoch smaller, and with gradient accumulation transformers 4.43 carries
    it over into the next epoch and cannot resume there. All arms leave out the same rows.
    """
    batch = recipe["batch_size"]
    if batch % (recipe["micro_batch_size"] * processes.size()):
        raise UserError(
            f"batch_size {batch} is not a multiple of micro_batch_size {recipe['micro_batch_size']}"
            + f" times {processes.size()} GPUs" * (processes.size() > 1)
            + "; change one of them in the config"
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
        "output_dir": ".cache/trainer",  # nothing is written there: arms.training.checkpoints saves
        "num_train_epochs": recipe["epochs"],
        "per_device_train_batch_size": recipe["micro_batch_size"],
        "gradient_accumulation_steps": recipe["batch_size"] // (recipe["micro_batch_size"] * processes.size()),
        "learning_rate": recipe["learning_rate"],
        "lr_scheduler_type": recipe["scheduler"],
        "warmup_ratio": recipe["warmup_ratio"],
        "weight_decay": recipe["weight_decay"],
        "max_grad_norm": recipe["max_grad_norm"],
        "gradient_checkpointing": recipe["gradient_checkpointing"],
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if recipe["gradient_checkpointing"] else None,
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


def few_steps(stage: str, steps: int) -> str:
    """The cure for a training that moved nothing. Warm-up starts at a learning rate of 0: one step may be all of it."""
    return (
        f"raise {stage}.learning_rate or {stage}.epochs, or get more than {steps} step{'s' * (steps != 1)} by a "
        f"smaller {stage}.batch_size (the first step of a {stage}.warmup_ratio above 0 has learning rate 0)"
    )


class Curves:
    """Per-step means of what each micro-batch reported, and a running hash of the order in which rows were seen.

    All processes of a run have the same ones: each adds its micro-batches, and the end of a step gathers them.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[list[str], int, dict]] = []  # this process's micro-batches of the step under way
        self.rows: list[dict] = []  # one a micro-batch
        self.speed: list[dict] = []  # one a step; kept apart, since times differ from run to run
        self.order = ""
        self.tokens = 0
        self.clock = time.monotonic()

    def add(self, step: int, ids: list[str], tokens: int, **metrics: float) -> None:
        """One micro-batch of optimiser step `step` (0 is before the first update)."""
        self.waiting.append((ids, tokens, {"step": step, **metrics}))

    def end_step(self, step: int) -> None:
        """The optimiser step `step` (0 is the first) is done: gather its micro-batches, note its tokens and seconds."""
        for turn in zip(*processes.gather(self.waiting), strict=True):  # they were dealt out in turn
            for ids, tokens, row in turn:
                self.order = sha256_bytes("\n".join([self.order, *ids]).encode())
                self.tokens += tokens
                self.rows.append(row)
        self.waiting = []
        now, before = time.monotonic(), self.speed[-1]["tokens_seen"] if self.speed else 0
        seconds, tokens = now - self.clock, self.tokens - before
        self.clock = now
        self.speed.append(
            {"step": step, "tokens_seen": self.tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}
        )

    def state(self) -> dict:
        """What a checkpoint keeps, as JSON values."""
        return {"rows": self.rows, "speed": self.speed, "order": self.order, "tokens": self.tokens}

    def restore(self, state: dict) -> None:
        """Go on from a checkpoint's `state`."""
        self.rows, self.speed, self.order, self.tokens = (state[name] for name in ("rows", "speed", "order", "tokens"))

    def frame(self) -> pandas.DataFrame:
        """One row a step, the mean over its micro-batches."""
        import pandas

        return pandas.DataFrame(self.rows).groupby("step", as_index=False).mean()

    def write(self, curves: str | Path, speed: str | Path, log_history: list[dict]) -> None:
        """Write the curves, with the optimiser's learning rate and gradient norm, and the speed, as parquet."""
        import pandas

        frame = self.frame()
        logged = [entry for entry in log_history if "grad_norm" in entry][: len(frame)]
        frame["grad_norm"] = [float(entry["grad_norm"]) for entry in logged]
        frame["learning_rate"] = [float(entry["learning_rate"]) for entry in logged]
        for path, table in ((curves, frame), (speed, pandas.DataFrame(self.speed))):
            with atomic_path(path) as temporary:
                table.to_parquet(temporary, index=False)


def train(trainer: Trainer, job: Job, curves: Curves, checkpoints: Checkpoints, shown: list[str]) -> None:
    """Train to the end, from the last checkpoint if there is one, saying about every ten seconds where it is.

    SIGTERM ends the optimiser step under way, saves a checkpoint, then ends the process with exit code 143.
    shown: the curves' columns in the progress line. UserError if any loss was not a finite number.
    """
    import torch
    from transformers import PrinterCallback, TrainerCallback

    from arms.model.models import trainable_digest

    class Progress(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.began = self.said = curves.clock = time.monotonic()
            self.first = state.global_step
            job.say(f"training: {state.max_steps - self.first} steps")
            if processes.rank() > 0:  # draws of its own for dropout; a checkpoint brings them along
                torch.manual_seed(int(sha256_bytes(f"{args.seed} {processes.rank()}".encode())[:8], 16))

        def on_step_end(self, args, state, control, **kwargs):
            curves.end_step(state.global_step - 1)
            last = state.global_step == state.max_steps
            # Any process may have got the signal, and they must agree. transformers cannot resume after the last step,
            # so a SIGTERM there lets the job write its results.
            said = processes.gather((checkpoints.stopping, checkpoints.due()))
            self.stopping, due = (any(column) for column in zip(*said, strict=True))
            control.should_save = due and not last
            now = time.monotonic()
            if not last and now - self.said < 10:
                return
            self.said = now
            left = (now - self.began) / (state.global_step - self.first) * (state.max_steps - state.global_step)
            metrics = " ".join(f"{name} {curves.rows[-1][name]:.3f}" for name in shown)
            speed = curves.speed[-1]["tokens_per_second"]
            job.say(f"step {state.global_step}/{state.max_steps} {metrics} | {speed:.0f} tokens/s, {left:.0f} s left")

        def on_save(self, args, state, control, **kwargs):
            if self.stopping:
                checkpoints.stop(f"step {state.global_step} of {state.max_steps}")

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress)
    trainer.checkpoints, trainer.curves = checkpoints, curves
    checkpoint = checkpoints.latest()
    processes.require_alike(trainable_digest(trainer.model), "the adapter before training")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    processes.require_alike(trainable_digest(trainer.model), "the trained adapter")
    bad = [row["step"] for row in curves.rows if not math.isfinite(row["loss"])]
    if bad:
        raise UserError(f"{job.label}: the loss is not finite at step {bad[0]}; lower the learning rate in the config")
