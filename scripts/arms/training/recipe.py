"""What one stage trains with, and what of its rows that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arms.job import processes
from arms.job.files import UserError

REFERENCE_FREE = "reference_free"  # the loss_type of a sigmoid loss that subtracts no reference


@dataclass(frozen=True)
class Recipe:
    """The effective recipe of one training stage, "sft" or "dpo": the configuration's, in micro-batches that fit.

    A step takes batch_size rows of up to max_length tokens, micro_batch_size of them in one pass. max_grad_norm: where
    gradients are clipped. beta, loss_type, label_smoothing and engine (what trains: "trl" or "minimal") are DPO's.
    """

    stage: str
    batch_size: int
    micro_batch_size: int
    max_length: int
    gradient_checkpointing: bool
    epochs: float
    learning_rate: float
    scheduler: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    beta: float | None = None
    loss_type: str | None = None
    label_smoothing: float | None = None
    engine: str = "trl"

    @classmethod
    def of(cls, settings: dict, stage: str, **fits: int) -> Recipe:
        """The recipe in a training job's settings. fits: micro_batch_size and max_length, if other ones are used."""
        return cls(stage=stage, **{"max_length": settings["max_length"], **settings[stage], **fits})

    @classmethod
    def for_memory(
        cls, stage: str, batch_size: int, micro_batch_size: int, max_length: int, gradient_checkpointing: bool
    ) -> Recipe:
        """A recipe whose memory is asked for; what does not decide it has any value."""
        anything: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-5, "scheduler": "constant", "warmup_ratio": 0.0}
        anything |= {"weight_decay": 0.0, "max_grad_norm": 1.0}
        anything |= {"beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0} if stage == "dpo" else {}
        return cls(stage, batch_size, micro_batch_size, max_length, gradient_checkpointing, **anything)


def whole_batches(rows: Sequence, batch_size: int, micro_batch_size: int) -> Any:
    """The longest head of `rows` that fills whole batches; UserError if that is empty.

    A remainder would make the last step of an epoch smaller, and with gradient accumulation transformers 4.43 carries
    it over into the next epoch and cannot resume there. All arms leave out the same rows.
    """
    if batch_size % (micro_batch_size * processes.size()):
        raise UserError(
            f"batch_size {batch_size} is not a multiple of micro_batch_size {micro_batch_size}"
            + f" times {processes.size()} GPUs" * (processes.size() > 1)
            + "; change one of them in the config"
        )
    whole = rows[: len(rows) // batch_size * batch_size]
    if not whole:
        raise UserError(f"batch_size {batch_size} is more than the {len(rows)} training rows; lower it in the config")
    return whole


def few_steps(stage: str, steps: int) -> str:
    """The cure for a training that moved nothing. Warm-up starts at a learning rate of 0: one step may be all of it."""
    return (
        f"raise {stage}.learning_rate or {stage}.epochs, or get more than {steps} step{'s' * (steps != 1)} by a "
        f"smaller {stage}.batch_size (the first step of a {stage}.warmup_ratio above 0 has learning rate 0)"
    )
