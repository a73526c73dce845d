"""DPO against a reference that is a table: TRL's DPOTrainer, with its live reference and its tokeniser taken out.

On TRL 0.9.6, `ref_model=None` with a kept SFT adapter silently makes the base the reference, and
`precompute_ref_log_probs` is ignored. Here the reference log-probabilities come with each pair, from the table that the
rule `score_pairs` made, and nothing else can serve as a reference.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from arms.job.files import UserError
from arms.scoring.logps import pair_logps, takes_forks
from arms.training.checkpoints import Resumable
from arms.training.data_parallel import DataParallel
from arms.training.gates import reference_free_start, require_step0
from arms.training.pairs import collate
from arms.training.recipe import REFERENCE_FREE
from arms.training.trainers import DPOTrainer, named

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TableDPOTrainer(Resumable, DataParallel, DPOTrainer):
    """DPOTrainer for pre-tokenised pairs that carry their reference log-probabilities.

    Rows: id, prompt_ids, chosen_ids, rejected_ids, reference_chosen_logps, reference_rejected_logps (sums, in nats;
    divided by the token count beforehand for IPO, whose loss in TRL is on means).
    """

    def __init__(self, *, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype, **kwargs) -> None:
        self.dtype, self.forking = dtype, takes_forks(kwargs["model"])
        pad_id, forking = tokenizer.pad_token_id, self.forking
        kwargs |= named(tokenizer=tokenizer)
        super().__init__(ref_model=None, data_collator=lambda rows: collate(rows, pad_id, forking), **kwargs)
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

    def losses_and_rewards(self, policy, reference):
        """TRL's losses (pairs,) and rewards of both answers. reference_free: of log-probabilities alone.

        TRL would leave the reference out of the loss and still subtract it from the rewards that it logs.
        """
        if self.reference_free:
            reference = tuple(map(torch.zeros_like, reference))
        return self.dpo_loss(*policy, *reference)

    def get_batch_loss_metrics(self, model, batch, train_eval="train"):
        """(TRL's loss, its metrics) of one micro-batch, the metrics also kept in the curves."""
        policy, reference = self.policy_logps(model, batch), self.reference_logps(batch)
        losses, chosen_rewards, rejected_rewards = self.losses_and_rewards(policy, reference)
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
    name, expected = trainer.loss_type, step0_loss(trainer.loss_type, trainer.beta, trainer.label_smoothing)
    size = trainer.args.per_device_train_batch_size
    rows = list(trainer.train_dataset[:pairs])
    losses, differences, start = [], [], list[tuple[float, float]]()
    trainer.model.eval()
    for first in range(0, len(rows), size):
        batch = trainer._prepare_inputs(trainer.data_collator(rows[first : first + size]))
        with torch.no_grad():
            policy, reference = trainer.policy_logps(trainer.model, batch), trainer.reference_logps(batch)
            losses.append(trainer.losses_and_rewards(policy, reference)[0])
        differences += [(mine - theirs).abs().max().item() for mine, theirs in zip(policy, reference, strict=True)]
        start += zip(*(side.tolist() for side in reference), strict=True)
    trainer.model.train()
    if trainer.reference_free:
        name, expected = REFERENCE_FREE, reference_free_start(start, trainer.beta, trainer.label_smoothing)
    return require_step0(name, torch.cat(losses), expected, differences, trainer.dtype)
