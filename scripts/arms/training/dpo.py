"""DPO against a reference that is a table: TRL's DPOTrainer, with its live reference and its tokeniser taken out.

On TRL 0.9.6, `ref_model=None` with a kept SFT adapter silently makes the base the reference, and
`precompute_ref_log_probs` is ignored. Here the reference log-probabilities come with each pair, from the table that the
rule `score_pairs` made, and nothing else can serve as a reference.
"""

from __future__ import annotations

import math

import torch
from trl import DPOTrainer

from arms.data.token_rows import TokenRows
from arms.job.files import UserError
from arms.scoring.logps import pair_batch, pair_logps, takes_forks
from arms.training.checkpoints import Resumable
from arms.training.curves import Curves
from arms.training.data_parallel import DataParallel
from arms.training.recipe import few_steps

STEP0_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
REFERENCE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1.0}


class TableDPOTrainer(Resumable, DataParallel, DPOTrainer):
    """DPOTrainer for pre-tokenised pairs that carry their reference log-probabilities.

    Rows: id, prompt_ids, chosen_ids, rejected_ids, reference_chosen_logps, reference_rejected_logps (sums, in nats;
    divided by the token count beforehand for IPO, whose loss in TRL is on means).
    """

    def __init__(self, *args, dtype: torch.dtype, **kwargs) -> None:
        self.dtype, self.forking = dtype, takes_forks(kwargs["model"])
        pad_id, forking = kwargs["tokenizer"].pad_token_id, self.forking
        super().__init__(*args, data_collator=lambda rows: collate(rows, pad_id, forking), **kwargs)
        self.use_dpo_data_collator = True  # ours makes what policy_logps reads; TRL would warn at each step

    def policy_logps(self, model, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (pairs,) of chosen and rejected under the policy: sums, and for IPO per token."""
        chosen, rejected, chosen_tokens, rejected_tokens = pair_logps(model, batch["pairs"], self.forking, self.dtype)
        if self.loss_type == "ipo":
            return chosen / chosen_tokens, rejected / rejected_tokens
        return chosen, rejected

    def reference_logps(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of the reference, from the table."""
        device = self.accelerator.device
        return batch["reference_chosen_logps"].to(device), batch["reference_rejected_logps"].to(device)

    def get_batch_loss_metrics(self, model, batch, train_eval="train"):
        """(TRL's loss, its metrics) of one micro-batch, the metrics also kept in the curves."""
        policy, reference = self.policy_logps(model, batch), self.reference_logps(batch)
        losses, chosen_rewards, rejected_rewards = self.dpo_loss(*policy, *reference)
        loss = losses.mean()
        logp_chosen, logp_rejected = (logps.detach().mean().cpu() for logps in policy)
        metrics = {
            "reward_chosen": chosen_rewards.mean(),
            "reward_rejected": rejected_rewards.mean(),
            "margin": (chosen_rewards - rejected_rewards).mean(),
            "reward_accuracy": (chosen_rewards > rejected_rewards).float().mean(),
            "logp_chosen": logp_chosen,
            "logp_rejected": logp_rejected,
            "chosen_drift": logp_chosen - batch["reference_chosen_logps"].mean().cpu(),
        }
        metrics = {name: value.item() for name, value in metrics.items()}
        self.curves.add(self.state.global_step, batch["id"], batch["tokens"], loss=loss.item(), **metrics)
        return loss, metrics


def with_reference(pairs: TokenRows, reference: dict[str, dict], loss_type: str) -> TokenRows:
    """The pairs with their reference log-probabilities: sums, and for IPO, whose loss is on means, per token."""
    found = [reference[name] for name in pairs.ids()]
    columns = {}
    for side in ("chosen", "rejected"):
        lengths = [row[f"{side}_tokens"] if loss_type == "ipo" else 1 for row in found]
        columns[f"reference_{side}_logps"] = [
            row[f"{side}_logp"] / length for row, length in zip(found, lengths, strict=True)
        ]
    return pairs.with_columns(**columns)


def collate(rows: list[dict], pad_id: int, forking: bool) -> dict:
    """One batch of pairs: their ids and tokens, and the reference log-probabilities that came with them."""
    return {
        "id": [row["id"] for row in rows],
        "pairs": pair_batch(rows, pad_id, forking),
        "tokens": sum(2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows),
        "reference_chosen_logps": torch.tensor([row["reference_chosen_logps"] for row in rows]),
        "reference_rejected_logps": torch.tensor([row["reference_rejected_logps"] for row in rows]),
    }


def step0_loss(loss_type: str, beta: float, label_smoothing: float) -> float:
    """The loss of a policy that equals its reference, in closed form: each loss of TRL 0.9.6 at log-ratios of zero.

    Raises UserError for a loss without an entry here: a loss that cannot be checked is not offered. TRL's bco_pair is
    not, since it shifts rewards by a running mean that no checkpoint holds.
    """
    smoothing = label_smoothing or 1e-3  # what TRL takes for exo_pair, whose loss has no value at 0
    closed_form = {
        "sigmoid": math.log(2),  # for any label smoothing, as in robust, aot and aot_pair
        "robust": math.log(2),
        "hinge": 1.0,
        "ipo": (1 / (2 * beta)) ** 2,
        "exo_pair": -math.log(2) - math.log(smoothing * (1 - smoothing)) / 2,
        "nca_pair": 2 * math.log(2),
        "sppo_hard": 2 * (1 / (2 * beta)) ** 2,
        "aot": math.log(2),
        "aot_pair": math.log(2),
    }
    if loss_type not in closed_form:
        raise UserError(f"dpo.loss_type {loss_type!r} is not one of {', '.join(closed_form)}")
    return closed_form[loss_type]


def check_step0(trainer: TableDPOTrainer, pairs: int = 16) -> dict:
    """Before the first update: does the policy agree with its reference table, and is the loss its closed form?

    Looks at the first `pairs` training pairs. Raises UserError, which stops the run before any training; returns the
    numbers for the manifest: loss, closed_form, loss_difference, reference_difference (largest, in nats).
    """
    size = trainer.args.per_device_train_batch_size
    rows = list(trainer.train_dataset[:pairs])
    losses, differences = [], []
    trainer.model.eval()
    for start in range(0, len(rows), size):
        batch = trainer._prepare_inputs(trainer.data_collator(rows[start : start + size]))
        with torch.no_grad():
            policy, reference = trainer.policy_logps(trainer.model, batch), trainer.reference_logps(batch)
            losses.append(trainer.dpo_loss(*policy, *reference)[0])
        differences += [(mine - theirs).abs().max().item() for mine, theirs in zip(policy, reference, strict=True)]
    trainer.model.train()
    loss = torch.cat(losses).mean().item()
    expected = step0_loss(trainer.loss_type, trainer.beta, trainer.label_smoothing)
    found = {
        "loss": loss,
        "closed_form": expected,
        "loss_difference": abs(loss - expected),
        "reference_difference": max(differences),
        "pairs": len(rows),
    }
    loss_off = not found["loss_difference"] <= STEP0_TOLERANCE[trainer.dtype] * max(1.0, expected)
    if loss_off or not found["reference_difference"] <= REFERENCE_TOLERANCE[trainer.dtype]:
        raise UserError(
            f"step-0 gate: before the first update the policy must equal its reference, but the loss is {loss:.6f} "
            f"(a {trainer.loss_type} loss starts at {expected:.6f}) and log-probabilities differ from the reference "
            f"table by up to {found['reference_difference']:.4f} nats. The table is of another policy than the one "
            "that starts training (another adapter, seed, precision or data): delete it and run the same command again"
        )
    return found


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
