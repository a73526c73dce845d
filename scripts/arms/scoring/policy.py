"""A policy to be scored or asked: the base model, or an adapter on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from arms.data.tokens import load_tokenizer
from arms.job.files import read_json
from arms.job.program import JobParser
from arms.job.progress import add_checkpoint_arguments
from arms.model import models
from arms.scoring.agreement import check_forward

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Policy:
    """dtype: of matrix products. card: model.json of the base. adapter_sha256: None if the policy is the base."""

    model: PeftModel | PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype
    card: dict
    adapter_sha256: str | None

    @property
    def device(self) -> torch.device:
        """Where its batches have to be."""
        return next(self.model.parameters()).device

    @property
    def origin(self) -> dict[str, str | None]:
        """Which policy it is: checksums of the base model and of the adapter."""
        return {"model_sha256": self.card["sha256"], "adapter_sha256": self.adapter_sha256}


def add_policy_arguments(parser: JobParser) -> None:
    """The flags that scoring and generation share."""
    parser.input("model", help="model.json of the base model")
    parser.input("adapter", default=None, help="arm.json of the policy's adapter; without it the policy is the base")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    add_checkpoint_arguments(parser)


def load_policy(model: str | Path, adapter: str | Path | None, precision: str) -> Policy:
    """The policy of `model` (model.json) and `adapter` (arm.json), both checked, without dropout. Raises UserError."""
    tokenizer, card = load_tokenizer(model), read_json(model)
    policy, dtype = load_checked_base(model, precision)
    adapter_sha256 = None
    if adapter:
        adapter_sha256 = models.read_arm(adapter, card)["adapter_sha256"]
        policy = models.load_adapter(policy, adapter)
    return Policy(policy.eval(), tokenizer, dtype, card, adapter_sha256)


def load_checked_base(model: str | Path, precision: str) -> tuple[PreTrainedModel, torch.dtype]:
    """(The frozen base model, dtype of matrix products), after `check_forward`."""
    dtype = models.compute_dtype(precision)
    base = models.load_base(model, precision)
    check_forward(base, dtype)
    return base, dtype
