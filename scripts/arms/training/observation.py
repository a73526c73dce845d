"""What training really used, read from the trainer and never from the settings; check_parity compares the runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arms.job import processes
from arms.job.files import canonical_json, sha256_bytes
from arms.model import models

if TYPE_CHECKING:
    from transformers import Trainer


def observe(trainer: Trainer) -> dict[str, object]:
    """Facts of a trainer that has trained: model, rows and their order, steps, optimiser, and what DPO's loss uses."""
    return {
        **models.trainable_facts(trainer.model),
        **({"processes": processes.size()} if processes.size() > 1 else {}),
        "compute_dtype": str(trainer.dtype),
        "rows": len(trainer.train_dataset),
        "steps": trainer.state.global_step,
        "tokens_seen": trainer.curves.tokens,
        "batch_order_sha256": trainer.curves.order,
        **_update(trainer),
        **(_dpo_loss(trainer) if hasattr(trainer, "loss_type") else {}),
    }


def _update(trainer: Trainer) -> dict[str, object]:
    """Epochs and rows of a step, and how a step changes the weights. Lists hold what groups of weights have."""
    args, groups = trainer.args, [group for group in trainer.optimizer.param_groups if group["params"]]
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    return {
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * processes.size(),
        "epochs": args.num_train_epochs,
        "optimizer": type(trainer.optimizer.optimizer).__name__,  # inside accelerate's wrapper
        "betas": groups[0].get("betas"),
        "eps": groups[0].get("eps"),
        "weight_decay": sorted({group["weight_decay"] for group in groups}),
        "learning_rate": sorted({group["initial_lr"] for group in groups}),
        "scheduler": args.lr_scheduler_type.value,
        "warmup_steps": args.get_warmup_steps(trainer.state.max_steps),
        "learning_rates_sha256": sha256_bytes(canonical_json(rates).encode()),  # of all steps
        "max_grad_norm": args.max_grad_norm,
    }


def _dpo_loss(trainer: Trainer) -> dict[str, object]:
    """What TRL's dpo_loss reads."""
    return {
        "beta": trainer.beta,
        "loss_type": trainer.loss_type,
        "label_smoothing": trainer.label_smoothing,
        "f_divergence": str(getattr(trainer.f_divergence_type, "value", trainer.f_divergence_type)),
        "reference_free": trainer.reference_free,
    }
