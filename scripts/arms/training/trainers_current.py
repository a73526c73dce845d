"""What trains on the current stack: transformers' own Trainer, with the losses of `arms.training.minimal`.

TRL 1.16's trainers cannot be told what a row is. Its DPOTrainer has no function of log-probabilities to call: the loss
is written into `_compute_loss`, which runs the model over rows of its own making. Given a PeftModel it adds a second
adapter as the reference, and it makes the adapter of a quantized model bfloat16. Its SFTTrainer tokenises, truncates
and packs. Step by step the losses here are those of TRL 1.16's DPOTrainer and SFTTrainer run by themselves
(tests/unit/current).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainingArguments

from arms.training.minimal import LOSSES, ratios

if TYPE_CHECKING:
    from arms.training.recipe import Recipe

RENAMED = {  # arguments that have another name here than in transformers 4.43
    "tokenizer": "processing_class",
    "warmup_ratio": "warmup_steps",  # below 1 it is a share of all steps
}
if hasattr(TrainingArguments, "activation_checkpointing"):  # earlier versions 5 (benchmarks/gpu.py) have the old names
    RENAMED["gradient_checkpointing"] = "activation_checkpointing"
    RENAMED["gradient_checkpointing_kwargs"] = "activation_checkpointing_kwargs"
SFTTrainer = Trainer


@dataclass
class DPOConfig(TrainingArguments):
    """transformers' arguments, and those of the loss under the names of TRL 0.9.6."""

    beta: float = 0.1
    loss_type: str = "sigmoid"
    label_smoothing: float = 0.0
    reference_free: bool = False


class DPOTrainer(Trainer):
    """What `arms.training.dpo` takes from TRL 0.9.6's DPOTrainer: the names of the loss, and the loss."""

    f_divergence_type = "reverse_kl"

    def __init__(self, *args, ref_model: None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.beta, self.loss_type = self.args.beta, self.args.loss_type
        self.label_smoothing, self.reference_free = self.args.label_smoothing, self.args.reference_free
        if self.loss_type == "exo_pair" and not self.label_smoothing:
            self.label_smoothing = 1e-3  # as TRL 0.9.6: its loss has no value at 0

    def dpo_loss(self, chosen, rejected, reference_chosen, reference_rejected) -> tuple[torch.Tensor, ...]:
        """(Losses, rewards of chosen, of rejected), each (pairs,), of log-probabilities under policy and reference."""
        policy, reference = (chosen, rejected), (reference_chosen, reference_rejected)
        losses = LOSSES[self.loss_type][0](policy, reference, self.beta, self.label_smoothing)
        rewards = (self.beta * ratio.detach() for ratio in ratios(policy, reference))
        return losses, *rewards

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The mean loss of one micro-batch."""
        loss, metrics = self.get_batch_loss_metrics(model, inputs)
        return (loss, metrics) if return_outputs else loss

    def get_batch_loss_metrics(self, model, batch, train_eval="train"):
        """(Loss, metrics): the subclass says what a batch is."""
        raise NotImplementedError


def sft_arguments(recipe: Recipe, arguments: dict[str, Any]) -> TrainingArguments:
    """The arguments of SFTTrainer."""
    return TrainingArguments(**arguments)


def dpo_arguments(recipe: Recipe, loss: dict[str, Any], arguments: dict[str, Any]) -> DPOConfig:
    """The arguments of DPOTrainer. loss: beta, loss_type, label_smoothing and reference_free."""
    return DPOConfig(**loss, **arguments)
