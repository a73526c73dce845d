"""Whether weights fit their configuration, and the model the study: from headers alone, before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from arms.job.files import UserError
from arms.model.architecture import row_limit
from arms.stacks import NAME, stack

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Shapes = dict[str, tuple[int, ...]]  # tensor name -> shape
MASKS_AND_ANGLES = [r"\.(attn|attention|self_attention)\.(masked_)?bias$", r"rotary_emb\.inv_freq$"]  # of old files


def empty_model(config: PretrainedConfig) -> PreTrainedModel:
    """The model of `config` without weights: names and shapes of its layers. Takes 3 GB for 32B, its buffers."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    stack.quiet()
    with init_empty_weights():  # but with buffers: Llama 3 computes with them when it is made
        return AutoModelForCausalLM.from_config(config)


def check_tensors(model: PreTrainedModel, found: Shapes) -> None:
    """UserError unless the weight files hold every tensor of `model`, no other, and each in its shape.

    transformers only warns: what is missing it draws at random, anew in each process, and what is left over it drops.
    """
    try:
        lacking, unread, others = stack.misfits(model, found)
    except ValueError as error:
        raise UserError(
            f"the model's weights do not belong to its config.json: {error}. Fetch the model again"
        ) from None
    unread = [name for name in unread if not any(re.search(pattern, name) for pattern in MASKS_AND_ANGLES)]
    for problem, names in (("lacks", lacking), ("has, unlike config.json,", unread)):
        if names:
            raise UserError(
                f"the model's weights do not belong to its config.json: *.safetensors {problem} {names[0]}"
                f"{f' and {len(names) - 1} more tensors' if names[1:] else ''}. Fetch the model again, or save it anew "
                "with save_pretrained"
            )
    for name, stored, expected in others:
        raise UserError(
            f"the model's weights do not belong to its config.json: {name} has the shape {stored}, and "
            f"config.json means {expected} on the {NAME} transformers. Fetch the model again"
        )


def check_tied(model: PreTrainedModel, folder: Path) -> None:
    """UserError if config.json ties the head to the embedding while the weights in `folder` have a head of their own.

    transformers would drop it without a word.
    """
    import torch
    from safetensors import safe_open

    if not model.config.tie_word_embeddings:
        return
    ends, prefix = (model.get_input_embeddings(), model.get_output_embeddings()), f"{model.base_model_prefix}."
    names = [f"{name}.weight".removeprefix(prefix) for name, module in model.named_modules() if module in ends]
    stored = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            stored += [tensors.get_tensor(name) for name in tensors.keys() if name.removeprefix(prefix) in names]  # noqa: SIM118
    if len(stored) == 2 and not torch.equal(*stored):
        raise UserError(
            f"config.json of the model ties its head to its embedding (tie_word_embeddings), but its weights have two "
            f"different ones ({' and '.join(names)}): set tie_word_embeddings to false in a copy (model.source: path)"
        )


def check_targets(model: PreTrainedModel, targets: str | list[str]) -> None:
    """UserError unless every name in lora.target_modules is one of a layer that can have an adapter."""
    from peft import LoraConfig, get_peft_model

    weights = {name: getattr(module, "weight", None) for name, module in model.named_modules()}
    layers = [name for name, weight in weights.items() if weight is not None and weight.dim() == 2]
    absent = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in layers)]
    if targets != "all-linear" and absent:
        kinds = sorted({name.rpartition(".")[2] for name in layers})
        raise UserError(
            f"lora.target_modules: {absent[0]!r} is no layer of this {type(model).__name__}; it has {', '.join(kinds)}"
        )
    try:
        get_peft_model(model, LoraConfig(r=1, target_modules=targets, task_type="CAUSAL_LM"))
    except ValueError as error:
        raise UserError(f"lora.target_modules {targets}: {str(error).splitlines()[0]}") from None


def check_length(config: PretrainedConfig, tokens: int, key: str) -> None:
    """UserError if rows of so many `tokens`, which the setting `key` allows, are too long for the model."""
    limit = row_limit(config)
    if limit is not None and tokens > limit[0]:
        raise UserError(
            f"{key} makes rows of {tokens} tokens, but this model ({config.model_type}) takes at most {limit[0]}: "
            f"{limit[1]} (config.json). Lower {key}"
        )
