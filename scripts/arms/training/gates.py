"""What stops a run, of either engine of DPO: a first loss that it must not have, a policy that stayed where it was."""

from __future__ import annotations

import math

import torch

from arms.job.files import UserError
from arms.training.curves import Curves
from arms.training.recipe import few_steps

STEP0_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
REFERENCE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1.0}


def require_step0(
    loss_type: str, losses: torch.Tensor, expected: float, differences: list[float], dtype: torch.dtype
) -> dict:
    """UserError unless the losses (pairs,) before the first update have the mean that the loss has in closed form.

    expected: that closed form. differences: largest distances, in nats, between the policy's log-probabilities and the
    reference table's. dtype: of matrix products. Returns the numbers for the manifest: loss, closed_form,
    loss_difference, reference_difference, pairs.
    """
    loss = losses.mean().item()
    found = {
        "loss": loss,
        "closed_form": expected,
        "loss_difference": abs(loss - expected),
        "reference_difference": max(differences),
        "pairs": len(losses),
    }
    loss_off = not found["loss_difference"] <= STEP0_TOLERANCE[dtype] * max(1.0, expected)
    if loss_off or not found["reference_difference"] <= REFERENCE_TOLERANCE[dtype]:
        raise UserError(
            f"step-0 gate: before the first update the policy must equal its reference, but the loss is {loss:.6f} "
            f"(a {loss_type} loss starts at {expected:.6f}) and log-probabilities differ from the reference "
            f"table by up to {found['reference_difference']:.4f} nats. The table is of another policy than the one "
            "that starts training (another adapter, seed, precision or data): delete it and run the same command again"
        )
    return found


def reference_free_start(start: list[tuple[float, float]], beta: float, smoothing: float) -> float:
    """What a reference_free loss is before the first update: it depends on the policy that training starts from.

    start: log-probabilities (chosen, rejected) of pairs under that policy, from its table. The mean over them of
    (1 - smoothing) log(1 + exp(-x)) + smoothing log(1 + exp(x)), with x = beta (chosen - rejected).
    """
    losses = []
    for chosen, rejected in start:
        x = beta * (chosen - rejected)
        right = max(-x, 0.0) + math.log1p(math.exp(-abs(x)))
        losses.append(right + smoothing * x)  # log(1 + exp(x)) = log(1 + exp(-x)) + x
    return sum(losses) / len(losses)


def check_moved(before: str, after: str, curves: Curves) -> dict:
    """After training: did the adapter change, and did the margins move? UserError if not."""
    margins = curves.frame()["margin"]
    moved = float(margins.iloc[-1] - margins.iloc[0])
    if before == after or moved == 0.0 or not math.isfinite(moved):
        raise UserError(
            "training left the policy where it was (adapter "
            + ("unchanged" if before == after else "changed")
            + f", margin moved by {moved}); {few_steps('dpo', len(curves.speed))}"
        )
    return {"adapter_moved": True, "margin_first": float(margins.iloc[0]), "margin_last": float(margins.iloc[-1])}


def require_finite(curves: Curves, label: str) -> None:
    """UserError if the loss of any step was not a finite number. label: the job, for the message."""
    bad = [row["step"] for row in curves.rows if not math.isfinite(row["loss"])]
    if bad:
        raise UserError(f"{label}: the loss is not finite at step {bad[0]}; lower the learning rate in the config")
