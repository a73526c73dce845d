"""Training to its end, with what it says on the way and when it saves."""

from __future__ import annotations

import time

import torch
from transformers import Trainer, TrainerCallback

from arms.job import processes
from arms.job.files import sha256_bytes
from arms.job.manifest import Job
from arms.job.progress import SAY_SECONDS
from arms.model.models import trainable_digest
from arms.training.checkpoints import Checkpoints
from arms.training.curves import Curves
from arms.training.gates import require_finite


def train(trainer: Trainer, job: Job, checkpoints: Checkpoints, shown: list[str]) -> None:
    """Train to the end, from the last checkpoint if there is one, saying about every ten seconds where it is.

    SIGTERM ends the optimiser step under way, saves a checkpoint, then ends the process with exit code 143.
    shown: the curves' columns in the progress line. UserError if any loss was not a finite number.
    """
    trainer.add_callback(Steps(job, trainer.curves, checkpoints, shown))
    trainer.checkpoints = checkpoints
    checkpoint = checkpoints.latest()
    processes.require_alike(trainable_digest(trainer.model), "the adapter before training")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    processes.require_alike(trainable_digest(trainer.model), "the trained adapter")
    require_finite(trainer.curves, job.label)


class Steps(TrainerCallback):
    """What happens at the end of each optimiser step: note it in the curves, save if it is time, say where it is."""

    def __init__(self, job: Job, curves: Curves, checkpoints: Checkpoints, shown: list[str]) -> None:
        self.job, self.curves, self.checkpoints, self.shown = job, curves, checkpoints, shown

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self.began = self.said = self.curves.clock = time.monotonic()
        self.first = state.global_step
        self.job.say(f"training: {state.max_steps - self.first} steps")
        if processes.rank() > 0:  # draws of its own for dropout; a checkpoint brings them along
            torch.manual_seed(int(sha256_bytes(f"{args.seed} {processes.rank()}".encode())[:8], 16))

    def on_step_end(self, args, state, control, **kwargs):
        """Ask for a checkpoint if one is due; a line about every ten seconds."""
        self.curves.end_step(state.global_step - 1)
        last = state.global_step == state.max_steps
        # Any process may have got the signal, and they must agree. transformers cannot resume after the last step, so a
        # SIGTERM there lets the job write its results.
        said = processes.gather((self.checkpoints.stopping, self.checkpoints.due()))
        self.stopping, due = (any(column) for column in zip(*said, strict=True))
        control.should_save = due and not last
        now = time.monotonic()
        if not last and now - self.said < SAY_SECONDS:
            return
        self.said = now
        left = (now - self.began) / (state.global_step - self.first) * (state.max_steps - state.global_step)
        metrics = " ".join(f"{name} {self.curves.rows[-1][name]:.3f}" for name in self.shown)
        speed = self.curves.speed[-1]["tokens_per_second"]
        self.job.say(f"step {state.global_step}/{state.max_steps} {metrics} | {speed:.0f} tokens/s, {left:.0f} s left")

    def on_save(self, args, state, control, **kwargs):
        """The checkpoint is written: stop if that was asked for."""
        if self.stopping:
            self.checkpoints.stop(f"step {state.global_step} of {state.max_steps}")
